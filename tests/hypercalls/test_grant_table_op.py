"""grant_table_op: arrays with statuses."""

from __future__ import annotations

import pytest

from hypercalls.abi import ABI32, Abi
from hypercalls.errors import XenError
from hypercalls.public import grant_table as gt
from hypercalls.public.errno import EBUSY, EFAULT, EINVAL, ENOSYS, EPERM, ESRCH
from hypercalls.public.xen import DOMID_SELF
from tests.hypercalls.fake_context import BASE, BOTH, SIZE, FakeContext

WIDTHS = pytest.mark.parametrize("abi", BOTH, ids=["64", "32"])
LIST = BASE + 0x8000

#: operation, argument, port call, fields stored in every element
ARRAYS: list[tuple[int, object, tuple[object, ...], dict[str, int]]] = [
    (
        gt.GNTTABOP_map_grant_ref,
        gt.gnttab_map_grant_ref(host_addr=1 << 40, flags=2, ref=8, dom=3, status=77),
        ("map_grant_ref", 1 << 40, 2, 8, 3),
        {"status": 0, "handle": 5, "dev_bus_addr": 0x123000, "ref": 8},
    ),
    (
        gt.GNTTABOP_unmap_grant_ref,
        gt.gnttab_unmap_grant_ref(host_addr=1, dev_bus_addr=2, handle=3, status=9),
        ("unmap_grant_ref", 1, 2, 3),
        {"status": 0, "handle": 3},
    ),
    (
        gt.GNTTABOP_unmap_and_replace,
        gt.gnttab_unmap_and_replace(host_addr=1, new_addr=2, handle=3, status=9),
        ("unmap_and_replace", 1, 2, 3),
        {"status": 0},
    ),
    (gt.GNTTABOP_transfer, gt.gnttab_transfer(mfn=5, domid=1, ref=9), ("transfer", 5, 1, 9), {"status": -9}),
    (
        gt.GNTTABOP_swap_grant_ref,
        gt.gnttab_swap_grant_ref(ref_a=8, ref_b=9, status=1),
        ("swap_grant_ref", 8, 9),
        {"status": 0},
    ),
]


@WIDTHS
@pytest.mark.parametrize(("op", "argument", "call", "stored"), ARRAYS)
def test_arrays(abi: Abi, op: int, argument: object, call: tuple[object, ...], stored: dict[str, int]) -> None:
    context, size = FakeContext(abi), abi.sizeof(type(argument))
    context.put(abi.pack(argument) * 3)
    assert context.hypercall("grant_table_op", op, BASE, 3) == 0
    assert context.calls == [call] * 3
    for index in range(3):
        element = context.get(type(argument), BASE + index * size)
        assert {name: getattr(element, name) for name in stored} == stored
    # memory ends after one of two
    end = BASE + SIZE - size
    context.put(argument, end)
    assert context.hypercall("grant_table_op", op, end, 2) == -EFAULT
    # in 32 bits, transfers are read before any is done
    assert len(context.calls) == (3 if abi is ABI32 and op == gt.GNTTABOP_transfer else 4)
    context.guest.read_only = range(BASE, BASE + size)
    assert context.hypercall("grant_table_op", op, BASE, 2) == -EFAULT
    assert context.hypercall("grant_table_op", op, BASE, 0) == 0


@WIDTHS
def test_copy_by_reference_and_by_frame(abi: Abi) -> None:
    context = FakeContext(abi, copy=gt.GNTST_bad_gntref)
    op = gt.gnttab_copy(len=100, flags=gt.GNTCOPY_source_gref)
    op.source.u.ref, op.source.domid, op.source.offset = 8, 0, 16
    op.dest.u.gmfn, op.dest.domid = 0x1234, DOMID_SELF
    context.put(op)
    assert context.hypercall("grant_table_op", gt.GNTTABOP_copy, BASE, 1) == 0
    assert context.calls == [
        ("begin_copy",), ("copy", (True, 8, 0, 16), (False, 0x1234, DOMID_SELF, 0), 100), ("release",),
    ]  # fmt: skip
    assert context.get(gt.gnttab_copy).status == gt.GNTST_bad_gntref


@WIDTHS
def test_setup_table(abi: Abi) -> None:
    context = FakeContext(abi)
    context.put(gt.gnttab_setup_table(dom=DOMID_SELF, nr_frames=2, frame_list=LIST, status=5))
    assert context.hypercall("grant_table_op", gt.GNTTABOP_setup_table, BASE, 1) == 0
    assert context.longs(LIST, 2) == [0x100, 0x101]
    assert context.get(gt.gnttab_setup_table).status == gt.GNTST_okay
    for frame_list in (8, BASE - abi.long_size):
        context.put(gt.gnttab_setup_table(dom=DOMID_SELF, nr_frames=2, frame_list=frame_list), LIST)
        assert context.hypercall("grant_table_op", gt.GNTTABOP_setup_table, LIST, 1) == 0
        status = context.get(gt.gnttab_setup_table, LIST).status
        assert status == (gt.GNTST_okay if abi is ABI32 else gt.GNTST_bad_virt_addr)
    assert context.longs(BASE, 1) == [0x101]  # what can be written is
    context.answers["setup_table"] = (gt.GNTST_bad_domain, [])
    assert context.hypercall("grant_table_op", gt.GNTTABOP_setup_table, BASE, 1) == 0
    assert context.get(gt.gnttab_setup_table).status == gt.GNTST_bad_domain
    assert context.hypercall("grant_table_op", gt.GNTTABOP_setup_table, BASE, 2) == -EINVAL
    assert context.hypercall("grant_table_op", gt.GNTTABOP_setup_table, BASE, 0) == (0 if abi is ABI32 else -EINVAL)


@WIDTHS
def test_sizes_versions_status_frames(abi: Abi) -> None:
    context = FakeContext(abi)
    context.put(gt.gnttab_query_size(dom=DOMID_SELF))
    assert context.hypercall("grant_table_op", gt.GNTTABOP_query_size, BASE, 1) == 0
    assert context.get(gt.gnttab_query_size).max_nr_frames == 32
    assert context.hypercall("grant_table_op", gt.GNTTABOP_query_size, BASE, 2) == -EINVAL

    context.put(gt.gnttab_set_version(version=1))
    assert context.hypercall("grant_table_op", gt.GNTTABOP_set_version, BASE, 1) == 0
    for version, refusal in ((3, -EINVAL), (2, -EBUSY)):
        context.answers["set_version"] = XenError(EBUSY)
        context.put(gt.gnttab_set_version(version=version))
        assert context.hypercall("grant_table_op", gt.GNTTABOP_set_version, BASE, 1) == refusal
        assert context.get(gt.gnttab_set_version).version == 1  # the one in force

    for dom, expected in ((DOMID_SELF, 0), (0, -EPERM), (9, -ESRCH)):
        context.put(gt.gnttab_get_version(dom=dom))
        assert context.hypercall("grant_table_op", gt.GNTTABOP_get_version, BASE, 1) == expected

    context.put(gt.gnttab_get_status_frames(nr_frames=1, dom=DOMID_SELF, frame_list=LIST))
    assert context.hypercall("grant_table_op", gt.GNTTABOP_get_status_frames, BASE, 1) == 0
    assert context.guest.copy_from_guest(LIST, 8) == (0x200).to_bytes(8, "little")  # 64 bits in both widths
    context.put(gt.gnttab_get_status_frames(nr_frames=1, dom=DOMID_SELF, frame_list=8))
    assert context.hypercall("grant_table_op", gt.GNTTABOP_get_status_frames, BASE, 1) == 0
    status = context.get(gt.gnttab_get_status_frames).status
    assert status == (gt.GNTST_okay if abi is ABI32 else gt.GNTST_bad_virt_addr)
    for op in (gt.GNTTABOP_query_size, gt.GNTTABOP_set_version, gt.GNTTABOP_get_version, gt.GNTTABOP_setup_table):
        assert context.hypercall("grant_table_op", op, 0, 1) == -EFAULT


@WIDTHS
@pytest.mark.parametrize(
    ("fields", "expected", "called"),
    [
        ({"length": 64, "op": 1}, 0, True),
        ({"length": 0, "op": 1}, 0, False),
        ({"length": 64, "op": 0}, 0, False),
        ({"offset": 4096, "op": 1}, -EINVAL, False),
        ({"offset": 4000, "length": 100, "op": 1}, -EINVAL, False),
        ({"length": 64, "op": gt.GNTTAB_CACHE_SOURCE_GREF | 1}, -EINVAL, False),
    ],
)
def test_cache_flush(abi: Abi, fields: dict[str, int], expected: int, called: bool) -> None:
    context = FakeContext(abi)
    flush = gt.gnttab_cache_flush()
    for name, value in fields.items():
        setattr(flush, name, value)
    context.put(flush)
    assert context.hypercall("grant_table_op", gt.GNTTABOP_cache_flush, BASE, 1) == expected
    assert bool(context.calls) == called


@WIDTHS
def test_commands(abi: Abi) -> None:
    context = FakeContext(abi)
    assert context.hypercall("grant_table_op", gt.GNTTABOP_map_grant_ref, BASE, 1 << 31) == -EINVAL
    assert context.hypercall("grant_table_op", gt.GNTTABOP_copy | 1 << 12, BASE, 1) == -EINVAL
    assert context.hypercall("grant_table_op", gt.GNTTABOP_cache_flush | 1 << 12, BASE, 0) == 0
    assert context.hypercall("grant_table_op", gt.GNTTABOP_dump_table, BASE, 1) == -ENOSYS
    assert context.hypercall("grant_table_op", 13, BASE, 1) == -ENOSYS
