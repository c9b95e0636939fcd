"""memory_op: reservations, exchange, maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hypercalls.abi import ABI32, ABI64, Abi
from hypercalls.errors import XenError
from hypercalls.public import memory as xm
from hypercalls.public.errno import EACCES, EDOM, EFAULT, EINVAL, ENOMEM, ENOSYS, EOPNOTSUPP, EPERM, ESRCH
from hypercalls.public.xen import DOMID_SELF
from tests.hypercalls.fake_context import BASE, BOTH, OWN_DOMID, SIZE, FakeContext

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTHS = pytest.mark.parametrize("abi", BOTH, ids=["64", "32"])
LIST = BASE + 0x8000
OUT = BASE + 0x10000
END = BASE + SIZE


def reservation(context: FakeContext, **fields: int) -> None:
    values = {"extent_start": LIST, "nr_extents": 4, "domid": DOMID_SELF} | fields
    context.put(xm.xen_memory_reservation(**values))


def fail_after(count: int, answer: int = 0) -> Callable[..., int]:
    """A port that works ``count`` times, with rising answers."""
    calls = 0

    def method(*_: object) -> int:
        nonlocal calls
        calls += 1
        if calls > count:
            raise XenError(ENOMEM)
        return answer + calls

    return method


@WIDTHS
def test_populate_physmap(abi: Abi) -> None:
    context = FakeContext(abi, populate_physmap=fail_after(100, 0x500))
    reservation(context, extent_order=1)
    context.put([0x10, 0x20, 0x30, 0x40], LIST)
    assert context.hypercall("memory_op", xm.XENMEM_populate_physmap, BASE) == 4
    assert context.calls == [("populate_physmap", gpfn, 1, 0) for gpfn in (0x10, 0x20, 0x30, 0x40)]
    assert context.longs(LIST, 4) == [0x501, 0x502, 0x503, 0x504]


@WIDTHS
@pytest.mark.parametrize("op", [xm.XENMEM_populate_physmap, xm.XENMEM_increase_reservation])
def test_partial_counts(abi: Abi, op: int) -> None:
    context = FakeContext(abi, populate_physmap=fail_after(2, 0x500), increase_reservation=fail_after(2, 0x500))
    reservation(context)
    context.put([0x10, 0x20, 0x30, 0x40], LIST)
    assert context.hypercall("memory_op", op, BASE) == 2
    assert context.longs(LIST, 4) == [0x501, 0x502, 0x30, 0x40]
    # goes on from the extent in the command
    context = FakeContext(abi)
    reservation(context)
    assert context.hypercall("memory_op", op | 3 << 6, BASE) == 4
    assert len(context.calls) == 1


@WIDTHS
def test_decrease_and_increase(abi: Abi) -> None:
    context = FakeContext(abi, decrease_reservation=fail_after(3))
    reservation(context)
    context.put([5, 6, 7, 8], LIST)
    assert context.hypercall("memory_op", xm.XENMEM_decrease_reservation, BASE) == 3
    assert context.calls[0] == ("decrease_reservation", 5, 0)
    reservation(context, extent_start=0)
    assert context.hypercall("memory_op", xm.XENMEM_increase_reservation, BASE) == 4


@WIDTHS
@pytest.mark.parametrize(
    "fields",
    [
        {"domid": 0},
        {"domid": 99},
        {"extent_order": 10},
        {"nr_extents": 0x4000000},
        {"nr_extents": 2},
        {"mem_flags": 12},
        {"mem_flags": xm.XENMEMF_exact_node_request | 1 << 8},
        {"extent_start": 8},
    ],
)
def test_a_reservation_that_cannot_be_does_nothing(abi: Abi, fields: dict[str, int]) -> None:
    context = FakeContext(abi)
    reservation(context, **fields)
    for op in (xm.XENMEM_decrease_reservation, xm.XENMEM_populate_physmap):
        assert context.hypercall("memory_op", op | 2 << 6, BASE) == 2
    assert context.hypercall("memory_op", xm.XENMEM_populate_physmap, 8) == 0
    assert context.calls == []


def test_populate_on_demand_is_not_for_oneself() -> None:
    context = FakeContext()
    reservation(context, mem_flags=xm.XENMEMF_populate_on_demand)
    assert context.hypercall("memory_op", xm.XENMEM_populate_physmap, BASE) == 0


@WIDTHS
def test_extents_at_the_end_of_memory(abi: Abi) -> None:
    context = FakeContext(abi)
    place = END - 2 * abi.long_size
    context.put([1, 2], place)
    reservation(context, extent_start=place)
    assert context.hypercall("memory_op", xm.XENMEM_populate_physmap, BASE) == 2
    assert context.longs(place, 2) == [0x777, 0x777]
    reservation(context, extent_start=place)
    assert context.hypercall("memory_op", xm.XENMEM_increase_reservation, BASE) == 2


def exchange(context: FakeContext, in_nr: int, in_order: int, out_nr: int, out_order: int, **fields: int) -> None:
    exch = xm.xen_memory_exchange(nr_exchanged=fields.get("nr_exchanged", 0))
    exch.in_ = xm.xen_memory_reservation(
        extent_start=LIST, nr_extents=in_nr, extent_order=in_order, domid=fields.get("domid", DOMID_SELF)
    )
    exch.out = xm.xen_memory_reservation(
        extent_start=OUT,
        nr_extents=out_nr,
        extent_order=out_order,
        domid=fields.get("domid", DOMID_SELF),
        mem_flags=fields.get("mem_flags", 0),
    )
    context.put(exch)


@WIDTHS
def test_exchange_to_larger_extents(abi: Abi) -> None:
    context = FakeContext(abi)
    exchange(context, 4, 0, 2, 1)
    context.put([1, 2, 3, 4], LIST)
    context.put([0x50, 0x60], OUT)
    assert context.hypercall("memory_op", xm.XENMEM_exchange, BASE) == 0
    assert context.calls == [
        ("exchange_frames", [1, 2], 1, 1, 76), ("place_extent", 0x900, 0x50, 1),
        ("exchange_frames", [3, 4], 1, 1, 76), ("place_extent", 0x900, 0x60, 1),
    ]  # fmt: skip
    assert context.longs(OUT, 2) == [0x900, 0x900]
    assert context.get(xm.xen_memory_exchange).nr_exchanged == 4


@WIDTHS
def test_exchange_to_smaller_extents_and_failure(abi: Abi) -> None:
    given = iter([[0x900, 0x901]])

    def exchange_frames(_in_mfns: list[int], _order: int, _count: int, _bits: int) -> list[int]:
        for mfns in given:
            return mfns
        raise XenError(ENOMEM)

    context = FakeContext(abi, exchange_frames=exchange_frames)
    exchange(context, 2, 1, 4, 0)
    context.put([0x10, 0x20], LIST)
    context.put([1, 2, 3, 4], OUT)
    assert context.hypercall("memory_op", xm.XENMEM_exchange, BASE) == -ENOMEM
    assert context.calls == [
        ("exchange_frames", [0x10, 0x11], 0, 2, 76), ("place_extent", 0x900, 1, 0), ("place_extent", 0x901, 2, 0),
        ("exchange_frames", [0x20, 0x21], 0, 2, 76),
    ]  # fmt: skip
    # a 32-bit guest is told nothing of a batch that failed
    assert context.longs(OUT, 4) == ([0x900, 0x901, 3, 4] if abi.bits == 64 else [1, 2, 3, 4])
    assert context.get(xm.xen_memory_exchange).nr_exchanged == (1 if abi.bits == 64 else 0)


def test_a_32_bit_guests_long_exchange_is_done_in_parts() -> None:
    """507 extents fit in at once where they are translated (compat_memory_op)."""
    context = FakeContext(ABI32)
    exchange(context, 600, 0, 600, 0)
    context.put(list(range(1, 601)), LIST)
    context.put(list(range(0x1000, 0x1000 + 600)), OUT)
    assert context.hypercall("memory_op", xm.XENMEM_exchange, BASE) == 0
    assert [call[1] for call in context.calls if call[0] == "exchange_frames"] == [[i] for i in range(1, 601)]
    assert [call[2] for call in context.calls if call[0] == "place_extent"] == list(range(0x1000, 0x1000 + 600))
    assert context.get(xm.xen_memory_exchange).nr_exchanged == 600
    # the second part cannot be exchanged: the first counts, and is told of
    calls = 0

    def fails_later(_in_mfns: list[int], _order: int, _count: int, _bits: int) -> list[int]:
        nonlocal calls
        calls += 1
        if calls > 550:
            raise XenError(ENOMEM)
        return [0x900]

    context = FakeContext(ABI32, exchange_frames=fails_later)
    exchange(context, 600, 0, 600, 0)
    assert context.hypercall("memory_op", xm.XENMEM_exchange, BASE) == -ENOMEM
    assert context.get(xm.xen_memory_exchange).nr_exchanged == 507
    assert context.longs(OUT + 4 * 506, 2) == [0x900, 0]


@WIDTHS
def test_a_chunk_that_cannot_be_told_of_is_done_and_does_not_count(abi: Abi) -> None:
    context = FakeContext(abi)
    exchange(context, 2, 0, 2, 0)
    context.put([1, 2], LIST)
    context.put([0x50, 0x60], OUT)
    context.guest.read_only = range(OUT + abi.long_size, OUT + 2 * abi.long_size)
    assert context.hypercall("memory_op", xm.XENMEM_exchange, BASE) == -EFAULT
    assert context.calls[-1] == ("place_extent", 0x900, 0x60, 0)
    assert context.longs(OUT, 2) == [0x900, 0x60]
    # but for a 32-bit guest, which is told of a batch when all of it is done
    assert context.get(xm.xen_memory_exchange).nr_exchanged == (1 if abi.bits == 64 else 2)


@WIDTHS
@pytest.mark.parametrize(
    ("shape", "fields", "expected"),
    [
        ((4, 10, 4, 10), {}, -EPERM),
        ((4, 0, 3, 0), {}, -EINVAL),
        ((4, 0, 4, 0), {"nr_exchanged": 5}, -EINVAL),
        ((4, 0, 4, 0), {"nr_exchanged": 4}, 0),
        ((4, 0, 4, 0), {"domid": 0}, -EPERM),
        ((4, 0, 4, 0), {"domid": 99}, -ESRCH),
        ((4, 0, 4, 0), {"mem_flags": xm.XENMEMF_exact_node_request | 1 << 8}, -EINVAL),
        ((4, 0, 4, 0), {}, 0),
    ],
)
def test_exchange_checks(abi: Abi, shape: tuple[int, int, int, int], fields: dict[str, int], expected: int) -> None:
    context = FakeContext(abi)
    exchange(context, *shape, **fields)
    assert context.hypercall("memory_op", xm.XENMEM_exchange, BASE) == expected
    assert context.hypercall("memory_op", xm.XENMEM_exchange, 8) == -EFAULT
    assert context.hypercall("memory_op", xm.XENMEM_exchange | 1 << 6, BASE) == -EINVAL


@WIDTHS
def test_numbers(abi: Abi) -> None:
    context = FakeContext(abi)
    for domid, refusal in ((DOMID_SELF, 0), (OWN_DOMID, 0), (0, -EPERM), (9, -ESRCH)):
        context.put(xm.xen_memory_domain(domid=domid))
        for op, value in (
            (xm.XENMEM_current_reservation, 0x2000),
            (xm.XENMEM_maximum_reservation, 0x2100),
            (xm.XENMEM_maximum_gpfn, 0x1FFF),
        ):
            assert context.hypercall("memory_op", op, BASE) == (refusal or value)
            assert context.hypercall("memory_op", op, 0) == -EFAULT
            assert context.hypercall("memory_op", op | 1 << 6, BASE) == -EINVAL
    assert context.hypercall("memory_op", xm.XENMEM_maximum_ram_page, 0) == 0x8000


@WIDTHS
def test_memory_map(abi: Abi) -> None:
    context = FakeContext(abi)
    for room, rows in ((9, 2), (1, 1), (0, 0)):
        context.put(xm.xen_memory_map(nr_entries=room, buffer=LIST))
        assert context.hypercall("memory_op", xm.XENMEM_memory_map, BASE) == 0
        assert context.get(xm.xen_memory_map).nr_entries == rows
    assert context.guest.copy_from_guest(LIST, 20) == bytes(8) + (0xA0000).to_bytes(8, "little") + b"\1\0\0\0"
    assert FakeContext(abi, memory_map=[]).hypercall("memory_op", xm.XENMEM_memory_map, BASE) == -ENOSYS
    fmap = xm.xen_foreign_memory_map(domid=DOMID_SELF, map=xm.xen_memory_map(nr_entries=1, buffer=LIST))
    context.put(fmap)
    assert context.hypercall("memory_op", xm.XENMEM_set_memory_map, BASE) == 0
    assert context.calls[-1] == ("set_memory_map", [(0, 0xA0000, 1)])
    fmap.map.nr_entries = 1025
    context.put(fmap)
    assert context.hypercall("memory_op", xm.XENMEM_set_memory_map, BASE) == -EINVAL


@WIDTHS
def test_machphys(abi: Abi) -> None:
    context = FakeContext(abi)
    context.put(xm.xen_machphys_mfn_list(max_extents=2, extent_start=LIST))
    assert context.hypercall("memory_op", xm.XENMEM_machphys_mfn_list, BASE) == 0
    assert context.longs(LIST, 3) == [0x40, 0x41, 0]
    assert context.get(xm.xen_machphys_mfn_list).nr_extents == 2
    assert context.hypercall("memory_op", xm.XENMEM_machphys_mapping, BASE) == 0
    assert context.get(xm.xen_machphys_mapping).max_mfn == 0x3FFFFF
    context.put(xm.xen_machphys_mfn_list(max_extents=2, extent_start=LIST))
    assert context.hypercall("memory_op", xm.XENMEM_machphys_compat_mfn_list, BASE) == 0
    assert context.longs(LIST, 2) == [0x50, 0x51]


REFUSED: list[tuple[int, object, int]] = [
    (xm.XENMEM_add_to_physmap, xm.xen_add_to_physmap(domid=DOMID_SELF), -EACCES),
    (xm.XENMEM_add_to_physmap, xm.xen_add_to_physmap(domid=99), -ESRCH),
    (xm.XENMEM_add_to_physmap, xm.xen_add_to_physmap(space=xm.XENMAPSPACE_gmfn_foreign), -ENOSYS),
    (xm.XENMEM_add_to_physmap | 0x10000 << 6, xm.xen_add_to_physmap(), -EDOM),
    (xm.XENMEM_add_to_physmap_batch, xm.xen_add_to_physmap_batch(domid=DOMID_SELF), -EACCES),
    (xm.XENMEM_add_to_physmap_batch, xm.xen_add_to_physmap_batch(space=xm.XENMAPSPACE_gmfn_range), -EOPNOTSUPP),
    (xm.XENMEM_remove_from_physmap, xm.xen_remove_from_physmap(domid=DOMID_SELF), -EACCES),
    (xm.XENMEM_machine_memory_map, xm.xen_memory_map(), -EPERM),
    (xm.XENMEM_set_pod_target, xm.xen_pod_target(domid=DOMID_SELF), -EINVAL),
    (xm.XENMEM_get_pod_target, xm.xen_pod_target(domid=99), -ESRCH),
    (xm.XENMEM_get_vnumainfo, xm.xen_vnuma_topology_info(domid=DOMID_SELF), -EOPNOTSUPP),
    (xm.XENMEM_get_vnumainfo, xm.xen_vnuma_topology_info(domid=DOMID_SELF, pad=1), -EINVAL),
    (xm.XENMEM_acquire_resource, xm.xen_mem_acquire_resource(domid=OWN_DOMID), -EPERM),
    (xm.XENMEM_acquire_resource, xm.xen_mem_acquire_resource(domid=DOMID_SELF), -ESRCH),
    (xm.XENMEM_acquire_resource, xm.xen_mem_acquire_resource(pad=1), -EINVAL),
    (21, xm.xen_pod_target(), -EINVAL),
    (18, xm.xen_memory_domain(), 0),
    (20, xm.xen_memory_domain(), -ENOSYS),
    (63, xm.xen_memory_domain(), -ENOSYS),
]


@WIDTHS
@pytest.mark.parametrize(("cmd", "argument", "expected"), REFUSED)
def test_what_a_pv_domain_may_not(abi: Abi, cmd: int, argument: object, expected: int) -> None:
    context = FakeContext(abi)
    context.put(argument)
    assert context.hypercall("memory_op", cmd, BASE) == expected
    assert context.calls == []


def test_a_wide_command_is_cut_in_pv32_only() -> None:
    context = FakeContext(ABI64)
    assert context.hypercall("memory_op", 1 << 40 | xm.XENMEM_maximum_ram_page, 0) == -EINVAL
    assert FakeContext(ABI32).hypercall("memory_op", 1 << 40 | xm.XENMEM_maximum_ram_page, 0) == 0x8000
