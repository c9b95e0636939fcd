"""Frames handed out and given back, the machine-to-physical table, the frame table's ownership."""

from __future__ import annotations

import random

import pytest

from hypercalls.context import E820Entry
from hypercalls.public import errno as e
from pvemu.frames import PAGE_SIZE, Mfn
from pvemu.memory.allocator import FrameAllocator
from pvemu.memory.frame_table import Owner, PageType
from pvemu.memory.m2p import INVALID_M2P_ENTRY, MachineToPhys
from pvemu.memory.machine_memory import MachineMemory
from pvemu.memory.ram import Ram
from tests.hypervisor.world import DOMAIN, END, FIRST, HEAP, RWX, P, World, pte, refused


@pytest.fixture
def world() -> World:
    return World()


# -- the allocator -----------------------------------------------------------------------------------------------------
def test_extents_come_from_the_top_down_and_aligned() -> None:
    allocator = FrameAllocator(Mfn(100), 28, 100)
    assert [allocator.alloc_xen(2), allocator.alloc_xen()] == [100, 102]
    assert allocator.alloc_extent(0) == 227
    assert allocator.alloc_extent(4) == 208
    assert allocator.alloc_extent(0) == 226  # what alignment left over is used first
    assert allocator.alloc_extent(7) is None
    with pytest.raises(MemoryError):
        allocator.alloc_xen(26)


def test_frames_given_back_are_used_again_last_first() -> None:
    allocator = FrameAllocator(Mfn(0), 0, 4)
    frames = [allocator.alloc_extent(0) for _ in range(4)]
    assert frames == [3, 2, 1, 0]
    assert allocator.alloc_extent(0) is None
    allocator.free(Mfn(2))
    allocator.free(Mfn(0))
    assert [allocator.alloc_extent(0) for _ in range(3)] == [0, 2, None]
    for bad in (4, 100):
        with pytest.raises(AssertionError):
            allocator.free(Mfn(bad))
    allocator.free(Mfn(1))
    with pytest.raises(AssertionError):
        allocator.free(Mfn(1))


def test_single_frames_grow_together_again() -> None:
    allocator = FrameAllocator(Mfn(0), 0, 16)
    taken = [allocator.alloc_extent(0) for _ in range(16)]
    for mfn in taken:
        assert mfn is not None
        if mfn != 5:
            allocator.free(mfn)
    assert [allocator.alloc_extent(3), allocator.alloc_extent(3)] == [8, None]
    assert [allocator.alloc_extent(2), allocator.alloc_extent(1), allocator.alloc_extent(1)] == [0, 6, None]
    assert allocator.alloc_extent(0) == 4


def test_no_frame_is_handed_out_twice() -> None:
    rng = random.Random(3)
    allocator = FrameAllocator(Mfn(64), 64, 200)
    held: set[int] = set()
    for _ in range(3000):
        if held and rng.random() < 0.5:
            mfn = rng.choice(sorted(held))
            held.remove(mfn)
            allocator.free(Mfn(mfn))
            continue
        order = rng.choice([0, 0, 0, 1, 2, 4])
        base = allocator.alloc_extent(order)
        if base is not None:
            run = set(range(base, base + (1 << order)))
            assert base % (1 << order) == 0
            assert not run & held
            assert 128 <= min(run) <= max(run) < 328
            held |= run


# -- the machine-to-physical table -------------------------------------------------------------------------------------
def test_m2p_entries() -> None:
    ram = Ram(Mfn(1000), 600)
    m2p = MachineToPhys(ram, Mfn(1000))
    assert MachineToPhys.frames_needed(1000, 600) == 3  # mfns 1000 to 1599 touch pages 1, 2 and 3
    assert (m2p.get(1000), m2p.get(999), m2p.get(1600)) == (INVALID_M2P_ENTRY,) * 3
    m2p.set(1599, 7)
    m2p.set(1600, 9)  # nothing there: nothing happens
    m2p.set(5, 9)
    assert m2p.get(1599) == 7
    m2p.set_range(1100, (1 << 64) - 1, 3)
    assert [m2p.get(1100 + i) for i in range(3)] == [INVALID_M2P_ENTRY, 0, 1]
    page = m2p.page_at(8 * 1599)
    assert page is not None
    assert ram.read_u64(page + 8 * 1599 % PAGE_SIZE) == 7
    assert m2p.page_at(0) is None
    assert m2p.page_at(8 * 2048) is None
    assert m2p.page_at(8 * 512) == 1000 << 12


# -- the frame table ---------------------------------------------------------------------------------------------------
def test_m2p_of_frames_that_others_have() -> None:
    """A guest reads pfns there, in the width of its own entries: none is the mark of a frame without a pfn."""
    for is_compat, width in ((False, 8), (True, 4)):
        memory = MachineMemory(16, is_compat)
        table = memory.m2p.compat or memory.m2p
        pages = {table.shown_at(offset) for offset in (0, PAGE_SIZE, memory.ram.first_mfn * width - 1)}
        assert table.shown_at(memory.ram.first_mfn * width) not in pages
        (page,) = pages
        assert page is not None
        words = memoryview(memory.ram.read(page, PAGE_SIZE)).cast("I" if is_compat else "Q")
        assert list(words) == list(range(PAGE_SIZE // width))
        assert memory.m2p.get(5) == INVALID_M2P_ENTRY  # which Xen itself knows nothing of


def test_owners(world: World) -> None:
    frames = world.frames
    assert frames.owner_of(FIRST) == Owner.XEN
    assert frames.owner_of(world.mfns[0]) == Owner.GUEST
    assert frames.owner_of(world.shared_info) == Owner.SHARED
    assert [frames.owner_of(mfn) for mfn in (0, FIRST - 1, END, FIRST + HEAP)] == [Owner.FREE] * 4
    assert [frames.type_of(mfn) for mfn in (0, FIRST - 1, END)] == [PageType.NONE] * 3
    assert not any(frames.is_guest(mfn) for mfn in (0, FIRST, END, world.shared_info, FIRST + HEAP))
    assert frames.tot_pages == 48


def test_a_shared_frame_given_up_stays_xens(world: World) -> None:
    _, _, _, l1 = world.boot({0: pte(world.shared_info, RWX)})
    world.mm.decrease_reservation(world.shared_info, 0)
    assert world.frames.owner_of(world.shared_info) == Owner.SHARED
    world.update(l1, 0, 0)
    assert world.frames.owner_of(world.shared_info) == Owner.XEN
    refused(e.EBUSY, world.update, l1, 0, pte(world.shared_info, P))
    assert world.frames.tot_pages == 48
    world.audit()


# -- the reservation ---------------------------------------------------------------------------------------------------
def test_populate_and_give_back(world: World) -> None:
    mm = world.mm
    refused(e.ENOMEM, mm.populate_physmap, 5, 0)  # at the limit
    refused(e.ENOMEM, mm.increase_reservation, 0)
    mine = Mfn(world.mfns[30])
    world.ram.frame(mine)[:] = b"\xaa" * PAGE_SIZE
    mm.decrease_reservation(mine, 0)
    assert (mm.current_reservation(), mm.maximum_reservation()) == (47, 48)
    assert world.m2p.get(mine) == INVALID_M2P_ENTRY
    assert mm.increase_reservation(0) == mine
    assert world.m2p.get(mine) == INVALID_M2P_ENTRY
    assert bytes(world.ram.frame(mine)) == bytes(PAGE_SIZE)
    mm.decrease_reservation(mine, 0)
    assert mm.populate_physmap(1234, 0) == mine
    assert world.m2p.get(mine) == 1234
    world.audit()


def test_extents(world: World) -> None:
    mm = world.mm
    for mfn in world.mfns[16:32]:
        mm.decrease_reservation(mfn, 0)
    base = mm.populate_physmap(64, 4)
    assert base % 16 == 0
    assert [world.m2p.get(base + i) for i in range(16)] == list(range(64, 80))
    refused(e.ENOMEM, mm.populate_physmap, 0, 0)
    mm.decrease_reservation(base, 4)
    assert mm.current_reservation() == 32
    refused(e.ENOMEM, mm.populate_physmap, 0, 6)  # more than the limit
    refused(e.ENOMEM, mm.increase_reservation, 9)
    for call, args in (
        (mm.populate_physmap, (0, 10)), (mm.increase_reservation, (10,)), (mm.decrease_reservation, (base, 10)),
        (mm.exchange_frames, ([], 10, 0)), (mm.populate_physmap, (0, 1 << 31)),
    ):  # fmt: skip
        refused(e.EPERM, call, *args)
    world.audit()


def test_decrease_refusals(world: World) -> None:
    for mfn in (0, FIRST - 1, END, 1 << 51, (1 << 64) - 1):
        refused(e.EINVAL, world.mm.decrease_reservation, mfn, 0)
    for mfn in (FIRST, FIRST + HEAP, world.m2p.table_mfn):
        refused(e.ENXIO, world.mm.decrease_reservation, mfn, 0)
    last = END - 1
    assert world.frames.is_guest(last)
    refused(e.EINVAL, world.mm.decrease_reservation, last, 1)  # the half that was there is gone
    assert not world.frames.is_guest(last)
    world.audit()


def test_exchange(world: World) -> None:
    mm, frames = world.mm, world.frames
    ins = world.mfns[20:24]
    (out,) = mm.exchange_frames(ins, 2, 1)
    assert out % 4 == 0
    assert world.m2p.get(out) == INVALID_M2P_ENTRY
    mm.place_extent(out, 500, 2)
    assert [world.m2p.get(out + i) for i in range(4)] == [500, 501, 502, 503]
    assert all(world.m2p.get(mfn) == INVALID_M2P_ENTRY for mfn in ins if not out <= mfn < out + 4)
    assert frames.tot_pages == 48
    world.audit()
    mapped, table = world.mfns[30], world.mfns[0]
    world.boot({0: pte(mapped, P)})
    before = world.counts()
    for bad in ([mapped], [table], [END], [ins[0]], [world.mfns[31]] * 2, [world.shared_info], [FIRST]):
        refused(e.EINVAL, mm.exchange_frames, bad, 0, 1)
    assert world.counts() == before
    refused(e.ENOMEM, mm.exchange_frames, [world.mfns[31]], 7, 1)
    refused(e.ENOMEM, mm.exchange_frames, [world.mfns[31]], 3, 9)  # what it could get is given back
    assert world.counts() == before
    world.audit()


def test_numbers(world: World) -> None:
    mm = world.mm
    assert mm.maximum_ram_page() == FIRST + HEAP + DOMAIN
    assert mm.maximum_gpfn() == 0
    world.reservation.guest_max_pfn = lambda: 4096
    assert mm.maximum_gpfn() == 4095


def test_the_memory_map(world: World) -> None:
    refused(e.ENOSYS, world.mm.memory_map)
    rows = [E820Entry(0, 1 << 20, 1), E820Entry(1 << 20, 4096, 2)]
    world.mm.set_memory_map(rows)
    assert world.mm.memory_map() == rows
    refused(e.EINVAL, world.mm.set_memory_map, rows * 513)
