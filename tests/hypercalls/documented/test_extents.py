"""Lists of extents: how far they are done, and what is told of them, where a frame, a list or the memory ends.

Reservations are done one by one for a 64-bit guest, and by batches for a 32-bit one (xen/common/memory.c,
xen/common/compat/memory.c): the two differ in what is done behind the last extent that counts.
"""

from __future__ import annotations

import pytest

from hypercalls.public import errno as e
from hypercalls.public import memory as xm
from hypercalls.public.xen import DOMID_SELF
from pvemu.memory.m2p import INVALID_M2P_ENTRY
from tests.hypercalls.documented.world import FREE, NOWHERE, NR_PAGES, PAGES, READ_ONLY, SPARE_PAGES, WIDTHS, World

BOTH = pytest.mark.parametrize("bits", [64, 32])
LAST = READ_ONLY.stop  #: behind here nothing is mapped


def reserve(world: World, op: int, place: int, count: int, order: int = 0, flags: int = 0, start: int = 0) -> int:
    """A reservation's result."""
    reservation = xm.xen_memory_reservation(
        extent_start=place, nr_extents=count, extent_order=order, mem_flags=flags, domid=DOMID_SELF
    )
    return world.hypercall("memory_op", op | start << 6, reservation)


def exchange(
    world: World, mfns: int, in_nr: int, gpfns: int, out_nr: int, in_order: int = 0, out_order: int = 0, done: int = 0
) -> tuple[int, int]:
    """The result, and ``nr_exchanged`` afterwards."""
    exch = xm.xen_memory_exchange(nr_exchanged=done)
    exch.in_ = xm.xen_memory_reservation(
        extent_start=mfns, nr_extents=in_nr, extent_order=in_order, domid=DOMID_SELF
    )
    exch.out = xm.xen_memory_reservation(
        extent_start=gpfns, nr_extents=out_nr, extent_order=out_order, domid=DOMID_SELF
    )
    place = world.put(exch)
    result = world.hypercall("memory_op", xm.XENMEM_exchange, place)
    return result, world.get(xm.xen_memory_exchange, place).nr_exchanged


def tot_pages(world: World) -> int:
    return world.hypercall("memory_op", xm.XENMEM_current_reservation, xm.xen_memory_domain(domid=DOMID_SELF))


def before_the_end(world: World, values: list[int]) -> int:
    """Longs that end where what is mapped ends, in memory that may be read alone."""
    size = world.abi.long_size
    data = b"".join([value.to_bytes(size, "little") for value in values])
    world.ram.write((world.mfn(LAST - 1) << 12) + 4096 - len(data), data)
    return LAST - len(data)


@BOTH
def test_decrease_ends_at_the_first_frame_that_is_not_the_domains(bits: int) -> None:
    world = World(WIDTHS[bits])
    good = [int(world.mfns[FREE + i]) for i in range(3)]
    place = world.put([good[0], good[1], 5, good[2]])
    assert reserve(world, xm.XENMEM_decrease_reservation, place, 4) == 2
    assert [world.frames.is_guest(mfn) for mfn in good] == [False, False, True]
    assert world.m2p.get(good[0]) == INVALID_M2P_ENTRY
    assert reserve(world, xm.XENMEM_decrease_reservation, place, 4) == 0  # they are gone
    assert reserve(world, xm.XENMEM_decrease_reservation, place, 4, start=3) == 4
    assert tot_pages(world) == NR_PAGES - 3


@BOTH
def test_a_frame_in_use_is_given_up_when_the_use_ends(bits: int) -> None:
    world = World(WIDTHS[bits])
    mfn = world.mfn(PAGES.start)
    assert reserve(world, xm.XENMEM_decrease_reservation, world.put([mfn, mfn], PAGES.start + 0x1000), 2) == 2
    assert world.frames.is_guest(mfn)
    assert world.m2p.get(mfn) == PAGES.start >> 12
    world.mm.update_va_mapping(PAGES.start, 0, 0)
    assert not world.frames.is_guest(mfn)
    assert world.m2p.get(mfn) == INVALID_M2P_ENTRY


@BOTH
@pytest.mark.parametrize("op", [xm.XENMEM_decrease_reservation, xm.XENMEM_populate_physmap])
def test_a_list_that_is_not_all_mapped_is_done_as_far_as_it_is(bits: int, op: int) -> None:
    world = World(WIDTHS[bits])
    size = world.abi.long_size
    world.mm.update_va_mapping(PAGES.start + 0x2000, 0, 0)
    place = world.put([world.mfns[FREE + 1], world.mfns[FREE + 2]], PAGES.start + 0x2000 - 2 * size)
    assert reserve(world, op, place, 5) == 2
    assert tot_pages(world) == NR_PAGES + (-2 if op == xm.XENMEM_decrease_reservation else 2)
    assert reserve(world, op, place, 5, start=2) == 2


@BOTH
@pytest.mark.parametrize("op", [xm.XENMEM_increase_reservation, xm.XENMEM_populate_physmap])
def test_an_extent_that_cannot_be_told_of_is_done_and_does_not_count(bits: int, op: int) -> None:
    """One of them for a 64-bit guest, the whole batch for a 32-bit one."""
    world = World(WIDTHS[bits])
    assert reserve(world, op, before_the_end(world, [10, 11, 12]), 3) == 0
    assert tot_pages(world) == NR_PAGES + (1 if bits == 64 else 3)


@BOTH
def test_increase_needs_no_list_and_looks_at_it_first(bits: int) -> None:
    world = World(WIDTHS[bits])
    assert reserve(world, xm.XENMEM_increase_reservation, 0, 3) == 3
    assert tot_pages(world) == NR_PAGES + 3
    assert reserve(world, xm.XENMEM_increase_reservation, world.xen, 3) == 0
    assert tot_pages(world) == NR_PAGES + 3


def test_a_null_list_of_a_32_bit_guest_is_one_of_64_bit_elements_at_address_0() -> None:
    world = World(WIDTHS[32])
    assert reserve(world, xm.XENMEM_populate_physmap, 0, 2) == 0  # not mapped
    world.mm.update_va_mapping(0, world.mfns[FREE] << 12 | 7, 0)
    world.put((20).to_bytes(8, "little") + (21).to_bytes(8, "little"), 0)
    assert reserve(world, xm.XENMEM_populate_physmap, 0, 2) == 2
    first = int.from_bytes(world.guest.copy_from_guest(8, 8), "little")
    assert world.m2p.get(first) == 21


@BOTH
def test_a_list_that_lies_in_two_pages_at_once(bits: int) -> None:
    world = World(WIDTHS[bits])
    place = world.put([20, 21, 22], PAGES.start + 0x3000 - world.abi.long_size - 1)
    assert reserve(world, xm.XENMEM_populate_physmap, place, 3) == 3
    assert [world.m2p.get(mfn) for mfn in world.longs(place, 3)] == [20, 21, 22]


@BOTH
def test_populate_ends_at_the_limit(bits: int) -> None:
    world = World(WIDTHS[bits])
    place = world.put(list(range(200, 200 + SPARE_PAGES + 2)))
    assert reserve(world, xm.XENMEM_populate_physmap, place, SPARE_PAGES + 2) == SPARE_PAGES
    assert tot_pages(world) == NR_PAGES + SPARE_PAGES
    assert world.longs(place, SPARE_PAGES + 2)[-2:] == [200 + SPARE_PAGES, 201 + SPARE_PAGES]


@BOTH
@pytest.mark.parametrize(
    ("flags", "done"),
    [
        (0, 1), (40, 1), (255, 1),
        (12, 0), (1, 0),  # no address is so short
        (13, 0), (20, 0), (30, 0),  # the machine's memory begins higher
        (31, 1),
        (1 << 8, 1), (xm.XENMEMF_exact_node_request, 1), (xm.XENMEMF_exact_node_request | 1 << 8, 0),
        (xm.XENMEMF_vnode | xm.XENMEMF_exact_node_request | 3 << 8, 1), (xm.XENMEMF_populate_on_demand, 0),
        (0xFFF8_0000, 1),
    ],
)  # fmt: skip
def test_where_memory_is_asked_for(bits: int, flags: int, done: int) -> None:
    world = World(WIDTHS[bits])
    assert reserve(world, xm.XENMEM_populate_physmap, world.put([20]), 1, flags=flags) == done


@BOTH
def test_exchange_tells_how_far_it_came(bits: int) -> None:
    """Of a batch that fails a 32-bit guest is told nothing, though its first extents are exchanged."""
    world = World(WIDTHS[bits])
    old = [int(world.mfns[FREE + i]) for i in range(3)]
    out = world.put([30, 31, 32])
    assert exchange(world, world.put([old[0], 7, old[1]]), 3, out, 3) == (-e.EINVAL, 1 if bits == 64 else 0)
    new = world.longs(out, 3)
    assert (new[0] == 30) is (bits == 32)
    assert world.m2p.get(old[0]) == INVALID_M2P_ENTRY
    assert world.frames.is_guest(old[1])
    assert tot_pages(world) == NR_PAGES


@BOTH
def test_exchange_of_a_frame_twice(bits: int) -> None:
    world = World(WIDTHS[bits])
    mfn = int(world.mfns[FREE])
    result = exchange(world, world.put([mfn, mfn]), 2, world.put([30]), 1, out_order=1)
    assert result == (-e.EINVAL, 0)
    assert world.frames.is_guest(mfn)


@BOTH
def test_what_is_wrong_with_a_frame_comes_before_the_end_of_the_list(bits: int) -> None:
    """Xen reads a frame's number when its turn comes; of 32 bits the whole batch first."""
    world = World(WIDTHS[bits])
    place = before_the_end(world, [7])
    assert exchange(world, place, 2, world.put([30]), 1, out_order=1)[0] == (-e.EINVAL if bits == 64 else -e.EFAULT)


@BOTH
def test_exchange_that_cannot_be_told_of(bits: int) -> None:
    world = World(WIDTHS[bits])
    mfns = world.put([int(world.mfns[FREE + i]) for i in range(2)])
    assert exchange(world, mfns, 2, before_the_end(world, [930, 931]), 2) == (-e.EFAULT, 0 if bits == 64 else 2)
    assert tot_pages(world) == NR_PAGES
    done = {930, 931} & {world.m2p.get(mfn) for mfn in world.memory.allocator.domain_frames}
    assert done == ({930, 931} if bits == 32 else {930})


@BOTH
def test_exchange_into_larger_extents_and_back(bits: int) -> None:
    world = World(WIDTHS[bits])
    out = world.put([40])
    mfns = world.put([int(world.mfns[FREE + i]) for i in range(4)])
    assert exchange(world, mfns, 4, out, 1, out_order=2) == (0, 4)
    (base,) = world.longs(out, 1)
    assert base % 4 == 0
    assert [world.m2p.get(base + i) for i in range(4)] == [40, 41, 42, 43]
    back = world.put([50, 51, 52, 53])
    assert exchange(world, out, 1, back, 4, in_order=2) == (0, 1)
    assert [world.m2p.get(mfn) for mfn in world.longs(back, 4)] == [50, 51, 52, 53]


@BOTH
def test_an_exchange_goes_on_behind_what_is_done(bits: int) -> None:
    world = World(WIDTHS[bits])
    size, (in_at, out_at) = world.abi.long_size, (PAGES.start, PAGES.start + 0x4000)
    world.put([int(world.mfns[FREE])], in_at + size * 599)
    world.put([77], out_at + size * 599)
    assert exchange(world, in_at, 600, out_at, 600, done=599) == (0, 600)
    assert world.m2p.get(world.longs(out_at + size * 599, 1)[0]) == 77


@BOTH
@pytest.mark.parametrize("op", [xm.XENMEM_increase_reservation, xm.XENMEM_decrease_reservation])
def test_what_is_not_even_begun(bits: int, op: int) -> None:
    world = World(WIDTHS[bits])
    place = world.put([world.mfns[FREE]])
    before = tot_pages(world)
    assert reserve(world, op, place, 0x400_0000) == 0  # more than a continuation can name
    assert reserve(world, op, place, 1, order=10) == 0
    assert reserve(world, op, place, 1, start=5) == 5
    assert world.hypercall("memory_op", op, NOWHERE) == 0
    assert tot_pages(world) == before
