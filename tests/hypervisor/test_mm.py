"""mmu_update, update_va_mapping and mmuext_op: what each takes, keeps, refuses and flushes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from hypercalls.public import errno as e
from hypercalls.public import xen
from pvemu.cpu.exits import Access
from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Mfn
from pvemu.hypervisor.page_types import xen_l4_entries
from pvemu.memory.frame_table import PageType
from tests.hypervisor.world import END, FIRST, HEAP, RW, RWX, US, P, World, pte, refused

if TYPE_CHECKING:
    from collections.abc import Callable

NX, ACCESSED, DIRTY, GLOBAL, PSE = 1 << 63, 0x20, 0x40, 0x100, 0x80
KERNEL = 1 << 52


@pytest.fixture
def world() -> World:
    return World()


def of(world: World, mfn: int) -> tuple[str, int, int]:
    """(type, type count, references)."""
    i = mfn - FIRST
    return world.frames.type_of(mfn).name, world.frames.type_count[i], world.frames.refs[i]


def test_pinning_a_root_types_the_whole_tree_and_unpinning_undoes_it(world: World) -> None:
    data = world.mfns[20]
    before = world.counts()
    l4, l3, l2, l1 = world.tree({0: pte(data, RWX), 1: pte(data, P | US)})
    world.mm.pin_table(4, l4)
    world.audit()
    assert of(world, l4) == ("L4", 1, 2)
    assert of(world, l3) == ("L3", 1, 2)
    assert of(world, l2) == ("L2", 1, 2)
    assert of(world, l1) == ("L1", 1, 2)
    assert of(world, data) == ("WRITABLE", 1, 3)
    world.mm.unpin_table(l4)
    assert world.counts() == before


def test_promotion_adjusts_entries_as_for_a_64_bit_guest(world: World) -> None:
    data = world.mfns[20]
    l4, l3, l2, l1 = world.tree({0: pte(data, P | RW), 1: pte(data, P | US), 2: pte(data, RW)})
    for table in (l2, l3, l4):
        world.poke(table, 0, world.entry(table, 0) & ~US)
    world.mm.pin_table(4, l4)
    assert world.entry(l1, 0) == pte(data, P | RW | US) | KERNEL
    assert world.entry(l1, 1) == pte(data, P | US | GLOBAL)
    assert world.entry(l1, 2) == pte(data, RW)  # not present: as it was
    assert world.entry(l2, 0) == pte(l1, RWX)
    assert world.entry(l3, 0) == pte(l2, RWX)
    assert world.entry(l4, 0) == pte(l3, RWX | ACCESSED)


def test_xens_slots_of_a_root_are_filled_and_never_looked_at(world: World) -> None:
    world.types._xen_entries.update(xen_l4_entries(FIRST))
    l4, *_ = world.tree({})
    for slot in (256, 258, 259, 271):
        world.poke(l4, slot, pte(END + 7, RWX))
    world.mm.pin_table(4, l4)
    xens = [world.entry(l4, slot) for slot in range(256, 272)]
    assert [entry & (NX | 0xFFF) for entry in xens[:6]] == [0, 0, NX | 0x63, 0, NX | 0x63, 0x63]
    assert xens[2] >> 12 & 0xFFFF_FFFF == l4  # the linear page table
    assert xens[15] == 0
    refused(e.EINVAL, world.update, l4, 256, 0)
    refused(e.EINVAL, world.update, l4, 271, pte(l4, P))
    world.update(l4, 272, 0)


def test_a_root_shows_the_m2p_once_a_kernel_has_used_it(world: World) -> None:
    """fill_ro_mpt, zap_ro_mpt: with m2p_strict every root has it from the start, until it is user mode's."""
    world.types._xen_entries.update(xen_l4_entries(FIRST))
    roots = world.mfns[:4]
    shows = world.types.shows_m2p
    world.mm.pin_table(4, roots[0])
    assert not shows(roots[0])
    world.mm.new_user_baseptr(roots[0])
    assert not shows(roots[0])
    world.mm.new_baseptr(roots[1])
    assert shows(roots[1])
    world.types.is_m2p_strict = lambda: True
    world.mm.pin_table(4, roots[2])
    assert shows(roots[2])
    world.mm.new_user_baseptr(roots[2])
    assert not shows(roots[2])
    world.mm.new_baseptr(roots[0])
    assert not shows(roots[0])


BAD_L1 = [
    pytest.param(lambda w: pte(w.mfns[0], RWX), e.EBUSY, id="a writable mapping of the L4"),
    pytest.param(lambda w: pte(w.mfns[3], RWX), e.EBUSY, id="a writable mapping of the L1 itself"),
    pytest.param(lambda w: pte(w.mfns[20], RWX | PSE), e.EINVAL, id="PAT"),
    pytest.param(lambda w: pte(w.mfns[20], P | 8), e.EINVAL, id="PWT"),
    pytest.param(lambda w: pte(w.mfns[20], P | 16), e.EINVAL, id="PCD"),
    pytest.param(lambda w: pte(END, P), e.EPERM, id="outside the machine"),
    pytest.param(lambda w: pte(0, P), e.EPERM, id="frame 0"),
    pytest.param(lambda w: pte((1 << 40) - 1, P), e.EINVAL, id="INVALID_MFN"),
    pytest.param(lambda w: pte(w.m2p.table_mfn, P), e.EBUSY, id="the M2P"),
    pytest.param(lambda w: pte(END - 80, P), e.EBUSY, id="a free frame"),
]


@pytest.mark.parametrize(("entry", "errno"), BAD_L1)
def test_bad_level_1_entries_leave_no_trace(world: World, entry: Callable[[World], int], errno: int) -> None:
    good = {0: pte(world.mfns[20], RWX), 1: pte(world.mfns[21], P), 3: pte(world.mfns[20], P)}
    l4, _, _, l1 = world.tree(good)
    before = world.counts()
    world.poke(l1, 511, entry(world))
    refused(errno, world.mm.pin_table, 4, l4)
    assert world.counts() == before
    world.poke(l1, 511, 0)
    world.mm.pin_table(4, l4)
    held = world.counts()
    refused(errno, world.update, l1, 5, entry(world))
    assert world.counts() == held
    assert world.entry(l1, 5) == 0
    world.audit()


@pytest.mark.parametrize("level", [2, 3, 4])
@pytest.mark.parametrize(
    ("flags", "what"), [(RWX | PSE, "PSE"), (RWX | GLOBAL, "global"), (RWX | 8, "PWT"), (RWX | 16, "PCD")]
)
def test_bad_flags_of_upper_entries(world: World, level: int, flags: int, what: str) -> None:
    tables = world.tree({})
    table, target = tables[4 - level], tables[5 - level]
    before = world.counts()
    world.poke(table, 9, pte(target, flags))
    refused(e.EINVAL, world.mm.pin_table, 4, tables[0])
    assert world.counts() == before, what
    world.poke(table, 9, 0)
    world.mm.pin_table(4, tables[0])
    refused(e.EINVAL, world.update, table, 9, pte(target, flags))
    world.update(table, 9, pte(target, RWX | NX | 0xE00 | 0x7FE << 52))
    world.audit()


@pytest.mark.parametrize("target", [END, 0, FIRST, (1 << 40) - 1])
def test_upper_entries_need_frames_of_the_domain(world: World, target: int) -> None:
    tables = world.boot({})
    for table in tables[:3]:
        refused(e.EINVAL, world.update, table, 9, pte(target, RWX))
    world.audit()


def test_a_failure_deep_in_a_tree_unwinds_everything(world: World) -> None:
    """L4 -> L3 with two L2s; the second L2's second L1 is bad."""
    mfns = world.mfns
    l4, l3, l2a, l2b, good, bad = mfns[:6]
    world.poke(l4, 0, pte(l3, RWX))
    world.poke(l4, 300, pte(l3, RWX))
    for slot, l2 in ((0, l2a), (1, l2b), (2, l2a)):
        world.poke(l3, slot, pte(l2, RWX))
    for l2 in (l2a, l2b):
        world.poke(l2, 0, pte(good, RWX))
    world.poke(l2b, 7, pte(bad, RWX))
    world.poke(good, 3, pte(mfns[20], RWX))
    world.poke(bad, 200, pte(mfns[20], P))
    world.poke(bad, 201, pte(l4, RWX))
    before = world.counts()
    refused(e.EBUSY, world.mm.pin_table, 4, l4)
    assert world.counts() == before
    world.poke(bad, 201, pte(l4, P))
    world.mm.pin_table(4, l4)
    world.audit()
    assert of(world, l3) == ("L3", 2, 3)
    assert of(world, good) == ("L1", 2, 3)
    world.mm.unpin_table(l4)
    assert world.counts() == before


def test_a_writable_mapping_keeps_a_frame_from_becoming_a_table(world: World) -> None:
    l4, _, _, _ = world.boot({0: pte(world.mfns[20], RWX)})
    for level in range(1, 5):
        refused(e.EINVAL, world.mm.pin_table, level, world.mfns[20])
    refused(e.EINVAL, world.mm.pin_table, 3, l4)
    world.audit()


def test_a_mapped_page_becomes_a_table_once_it_is_read_only(world: World) -> None:
    _, _, _, l1 = world.boot({0: pte(world.mfns[20], RWX)})
    assert world.touch(0, Access.WRITE)
    world.update(l1, 0, pte(world.mfns[20], P))
    world.audit()  # nothing writable is left in the TLB
    world.mm.pin_table(1, world.mfns[20])
    refused(e.EBUSY, world.update, l1, 0, pte(world.mfns[20], RWX))
    assert not world.touch(0, Access.WRITE)
    assert world.walker.error_code == 7
    world.audit()


def test_pin_refusals(world: World) -> None:
    l4, l3, l2, l1 = world.boot({})
    refused(e.EINVAL, world.mm.pin_table, 4, l4)  # pinned already
    for mfn in (END, 0, FIRST, 1 << 51):
        refused(e.EINVAL, world.mm.pin_table, 1, mfn)
        refused(e.EINVAL, world.mm.unpin_table, mfn)
    refused(e.EINVAL, world.mm.unpin_table, l3)  # a table, but not pinned
    before = world.counts()
    world.mm.pin_table(3, l3)
    world.mm.pin_table(1, l1)
    world.audit()
    world.mm.unpin_table(l3)
    world.mm.unpin_table(l1)
    assert world.counts() == before
    assert of(world, l2)[0] == "L2"
    refused(e.EINVAL, world.mm.pin_table, 1, world.shared_info)


def test_the_root_in_use_may_be_unpinned_and_lives_on(world: World) -> None:
    l4, *_ = world.boot({0: pte(world.mfns[20], RWX)})
    world.mm.unpin_table(l4)
    assert of(world, l4) == ("L4", 1, 2)
    world.audit()
    assert world.touch(0, Access.WRITE)
    world.mm.pin_table(4, l4)
    world.audit()


def test_new_baseptr(world: World) -> None:
    l4, *_ = world.boot({0: pte(world.mfns[20], RWX)})
    other, *_ = world.tree({0: pte(world.mfns[21], RWX)}, first=8)
    for mfn in (END, 0, FIRST, world.mfns[20], world.mfns[1]):
        refused(e.EINVAL, world.mm.new_baseptr, mfn)
    assert world.walker.root_maddr == l4 << PAGE_SHIFT
    calls: list[str] = []
    world.mm.on_new_baseptr = lambda is_fresh: calls.append("fresh" if is_fresh else "known")
    world.touch(0, Access.READ)
    world.mm.new_baseptr(other)
    assert world.mm.guest_root == other
    assert world.walker.root_maddr == other << PAGE_SHIFT
    assert of(world, l4) == ("L4", 1, 2)  # the pin is left
    assert (world.tlb, calls) == ({}, ["fresh"])
    world.audit()
    world.mm.new_baseptr(other)
    assert calls == ["fresh"]
    world.mm.unpin_table(l4)
    assert of(world, l4) == ("NONE", 0, 1)
    world.audit()


def test_new_user_baseptr(world: World) -> None:
    l4, *_ = world.boot({})
    user, *_ = world.tree({}, first=8)
    world.mm.new_user_baseptr(user)
    world.audit()
    world.mm.new_user_baseptr(user)
    refused(e.EINVAL, world.mm.new_user_baseptr, END)
    assert world.mm.guest_root_user == user
    world.mm.new_user_baseptr(l4)
    assert of(world, user) == ("NONE", 0, 1)
    world.mm.new_user_baseptr(0)
    assert of(world, l4) == ("L4", 2, 3)
    world.audit()


def test_an_entry_for_the_table_itself_takes_no_reference(world: World) -> None:
    l4, l3, l2, _ = world.tree({})
    before = world.counts()
    for table in (l4, l3, l2):
        world.poke(table, 510, pte(table, P | US))
    world.mm.pin_table(4, l4)
    world.audit()
    assert of(world, l4) == ("L4", 1, 2)
    refused(e.EINVAL, world.update, l4, 509, pte(l4, RWX))
    world.update(l4, 509, pte(l4, P))
    world.update(l4, 510, 0)
    world.audit()
    world.mm.unpin_table(l4)
    assert world.counts() == before


def test_linear_page_tables_one_deep(world: World) -> None:
    """A root may show another one, but not one that shows a third, and not while a third shows it."""
    roots = [world.mfns[i] for i in (0, 8, 16)]
    for first in (0, 8, 16):
        world.mm.pin_table(4, world.tree({}, first)[0])
    a, b, c = roots
    refused(e.EINVAL, world.update, a, 5, pte(b, RWX))
    world.update(a, 5, pte(b, P))
    world.audit()
    assert world.frames.linear == {a - FIRST: 1, b - FIRST: -1}
    refused(e.EINVAL, world.update, b, 5, pte(c, P))
    refused(e.EINVAL, world.update, c, 5, pte(a, P))
    world.update(c, 5, pte(b, P))
    world.audit()
    refused(e.EINVAL, world.update, a, 6, pte(world.mfns[30], P | 0x100))
    refused(e.EINVAL, world.update, a, 6, pte(world.mfns[1 + 8], P | PSE))
    world.update(a, 5, 0)
    world.update(c, 5, 0)
    assert world.frames.linear == {}
    world.update(b, 5, pte(c, P))
    world.mm.unpin_table(b)
    world.audit()
    assert of(world, c) == ("L4", 1, 2)


def test_only_a_validated_table_of_the_level_can_be_shown(world: World) -> None:
    l4, *_ = world.boot({})
    spare = world.mfns[30]
    world.poke(spare, 0, pte(spare, P))  # as an L3: an entry for itself
    world.update(l4, 7, pte(spare, P))
    assert of(world, spare) == ("L3", 1, 2)
    world.audit()


def test_mod_entry_fast_path_and_preserve_ad(world: World) -> None:
    data = world.mfns[20]
    _, _, _, l1 = world.boot({0: pte(data, RWX | ACCESSED | DIRTY)})
    held = of(world, data)
    world.update(l1, 0, pte(data, RWX | 0xE00) | NX, command=xen.MMU_PT_UPDATE_PRESERVE_AD)
    assert world.entry(l1, 0) == pte(data, RWX | ACCESSED | DIRTY | 0xE00 | GLOBAL) | NX
    world.update(l1, 0, pte(data, RWX))
    assert world.entry(l1, 0) == pte(data, RWX | GLOBAL)
    assert of(world, data) == held
    world.update(l1, 0, pte(data, P | ACCESSED))
    assert of(world, data) == ("NONE", 0, 2)
    world.update(l1, 0, pte(world.mfns[21], 0), command=xen.MMU_PT_UPDATE_PRESERVE_AD)
    assert world.entry(l1, 0) == pte(world.mfns[21], ACCESSED)
    world.audit()


def test_upper_entries_keep_ad_too(world: World) -> None:
    l4, l3, l2, l1 = world.boot({0: pte(world.mfns[20], RWX)})
    assert world.touch(0, Access.READ)
    assert world.entry(l2, 0) & ACCESSED
    world.update(l2, 0, pte(l1, RWX), command=xen.MMU_PT_UPDATE_PRESERVE_AD)
    assert world.entry(l2, 0) == pte(l1, RWX | ACCESSED)
    world.update(l4, 0, pte(l3, P | US))
    assert world.entry(l4, 0) == pte(l3, P | US | ACCESSED)
    world.audit()
    assert not world.touch(0, Access.WRITE)


def test_mmu_update_of_other_frames(world: World) -> None:
    world.boot({})
    plain = world.mfns[30]
    world.update(plain, 3, 0xDEAD_BEEF_0000_0001)  # no table: any value
    assert world.entry(plain, 3) == 0xDEAD_BEEF_0000_0001
    world.update(world.shared_info, 500, 7)
    assert world.entry(world.shared_info, 500) == 7
    for mfn in (END, FIRST, world.m2p.table_mfn, 1 << 51):
        refused(e.EINVAL, world.update, mfn, 0, 0)
    refused(e.ENOSYS, world.mm.mmu_update, (plain << 12) | 4, 0)
    refused(e.ENOSYS, world.mm.mmu_update, (plain << 12) | 7, 0)
    world.tables.set_gdt([world.mfns[31]], 1)
    refused(e.EINVAL, world.update, world.mfns[31], 0, 0)
    world.audit()


def test_an_entry_that_maps_nothing_may_hold_anything(world: World) -> None:
    """The CPU is none that L1TF concerns, so that Xen does not look at such entries (pv-l1tf is off by default)."""
    _, l3, l2, l1 = world.boot({0: pte(world.mfns[20], RWX)})
    for table in (l1, l2, l3):
        for entry in (0xDEAD_BEEF_DEAD_BEEE, (1 << 64) - 2, pte(END, 0x80), pte(FIRST, RW | US)):
            world.update(table, 9, entry)
            assert world.entry(table, 9) == entry
    world.audit()


def test_mmu_update_for_domid_io(world: World) -> None:
    update = partial(world.mm.mmu_update, is_io=True)
    *_, l2, l1 = world.boot({0: pte(world.mfns[20], RWX)})
    before = world.counts()
    at = (l1 << 12) + 8 * 4
    update(at, 0x1000)
    assert world.entry(l1, 4) == 0x1000
    update(world.mfns[30] << 12, 7)  # no table
    refused(e.EBUSY, update, at, pte(world.mfns[21], RWX))
    refused(e.EBUSY, update, at, pte(FIRST, RWX))
    mapped = world.entry(l1, 0)
    update(l1 << 12, mapped ^ 0x60)  # what is mapped already may have other flags, if they need no look at the frame
    assert world.entry(l1, 0) == mapped ^ 0x60
    refused(e.EBUSY, update, l1 << 12, mapped & ~RW)
    refused(e.EPERM, update, at, pte(END, RWX))
    refused(e.EINVAL, update, at, pte((1 << 40) - 1, RWX))
    refused(e.EINVAL, update, at, pte(world.mfns[21], RWX | 0x80))
    refused(e.EINVAL, update, (l2 << 12) + 8, 0)
    refused(e.EINVAL, update, END << 12, 0)
    refused(e.EINVAL, update, world.mfns[30] << 12 | xen.MMU_MACHPHYS_UPDATE, 7)
    refused(e.ENOSYS, update, at | 4, 0)
    assert world.counts() == before
    world.audit()


def test_machphys_update(world: World) -> None:
    mfn = world.mfns[9]
    assert world.m2p.get(mfn) == 9
    world.mm.mmu_update(mfn << 12 | xen.MMU_MACHPHYS_UPDATE, (1 << 64) - 2)
    assert world.m2p.get(mfn) == (1 << 64) - 2
    for bad in (END, 5, FIRST):
        refused(e.EINVAL, world.mm.mmu_update, bad << 12 | xen.MMU_MACHPHYS_UPDATE, 1)
    world.audit()


def test_update_va_mapping(world: World) -> None:
    data = world.mfns[20]
    l4, _, l2, l1 = world.boot({0: pte(data, RWX)})
    world.mm.update_va_mapping(0x5000, pte(data, P | US), 0)
    assert world.entry(l1, 5) == pte(data, P | US | GLOBAL)
    refused(e.EBUSY, world.mm.update_va_mapping, 0x5000, pte(l4, RWX), 0)
    refused(e.EINVAL, world.mm.update_va_mapping, 1 << 21, pte(data, P), 0)  # no L1 there
    refused(e.EINVAL, world.mm.update_va_mapping, 1 << 30, 0, 0)
    refused(e.EINVAL, world.mm.update_va_mapping, 1 << 39, 0, 0)
    for vaddr in (1 << 47, 0xFFFF_8000_0000_0000, 0xFFFF_87FF_FFFF_F000):
        refused(e.EINVAL, world.mm.update_va_mapping, vaddr, 0, 0)
    world.update(l2, 9, pte(l2, P))  # a linear entry: what it leads to is no L1
    refused(e.EINVAL, world.mm.update_va_mapping, 9 << 21, 0, 0)
    world.audit()


def test_only_what_may_be_cached_is_dropped(world: World) -> None:
    data = world.mfns[20]
    _, _, l2, l1 = world.boot({0: pte(data, RWX), 1: pte(data, P | US)})
    flushes = world.flushes
    world.update(l1, 9, pte(data, P))
    world.update(l1, 9, 0)
    world.mm.update_va_mapping(0x1000, 0, xen.UVMF_INVLPG)
    assert (world.flushes, world.pages_flushed) == (flushes, [])
    assert world.touch(0, Access.READ)
    world.update(l1, 9, pte(data, P))
    assert (world.flushes, world.pages_flushed) == (flushes, [])
    world.update(l1, 0, 0)
    assert (world.flushes, world.pages_flushed) == (flushes, [0])
    assert not world.touch(0, Access.READ)  # the upper tables are remembered now
    world.update(l2, 0, 0)
    assert world.flushes == flushes + 1
    world.update(l2, 0, pte(l1, RWX))
    world.update(l1, 0, pte(data, RWX))
    assert world.touch(0, Access.READ)
    world.audit()
    world.mm.invlpg(0)  # there is nothing left to flush, ever
    world.mm.tlb_flush()
    assert (world.flushes, world.pages_flushed) == (flushes + 1, [0])


def test_clear_and_copy_page(world: World) -> None:
    l4, *_ = world.boot({})
    a, b = world.mfns[20:22]
    world.ram.frame(Mfn(a))[:] = b"\xaa" * PAGE_SIZE
    world.mm.copy_page(b, a)
    assert bytes(world.ram.frame(Mfn(b))) == b"\xaa" * PAGE_SIZE
    world.mm.clear_page(b)
    assert bytes(world.ram.frame(Mfn(b))) == bytes(PAGE_SIZE)
    world.mm.copy_page(b, l4)  # reading a table is fine
    for bad in (l4, END, 3, FIRST):
        refused(e.EINVAL, world.mm.clear_page, bad)
        refused(e.EINVAL, world.mm.copy_page, bad, a)
    refused(e.EINVAL, world.mm.copy_page, a, END)
    world.audit()


def test_shared_frames_map_writable_but_become_nothing_else(world: World) -> None:
    shared = (world.shared_info, world.grants.table[0])
    _, _, l2, l1 = world.boot({slot: pte(mfn, RWX) for slot, mfn in enumerate(shared)})
    world.audit()
    for mfn in shared:
        refused(e.EINVAL, world.mm.pin_table, 1, mfn)
        refused(e.EINVAL, world.update, l2, 3, pte(mfn, RWX))
        refused(e.EINVAL, world.tables.set_gdt, [mfn], 1)
    world.update(l1, 0, 0)
    world.audit()


def test_a_frame_given_back_while_mapped_goes_with_its_last_mapping(world: World) -> None:
    data = world.mfns[20]
    _, _, _, l1 = world.boot({0: pte(data, RWX)})
    total = world.frames.tot_pages
    world.mm.decrease_reservation(data, 0)
    world.mm.decrease_reservation(data, 0)  # nothing more to give
    assert (of(world, data), world.frames.tot_pages) == (("WRITABLE", 1, 1), total)
    assert world.touch(0, Access.WRITE)
    world.update(l1, 1, pte(data, P))  # it may even be mapped again
    world.update(l1, 0, 0)
    assert world.frames.tot_pages == total
    world.update(l1, 1, 0)
    assert world.frames.tot_pages == total - 1
    assert world.m2p.get(data) == (1 << 64) - 1
    refused(e.ENXIO, world.mm.decrease_reservation, data, 0)
    refused(e.EBUSY, world.update, l1, 0, pte(data, P))
    world.audit()
    again = world.mm.populate_physmap(20, 0)
    assert again == data
    assert bytes(world.ram.frame(Mfn(again))) == bytes(PAGE_SIZE)
    world.audit()


def test_a_table_given_back_stays_a_table_until_it_is_unpinned(world: World) -> None:
    l4, _, _, l1 = world.boot({0: pte(world.mfns[20], RWX)})
    for mfn in (l4, l1):
        world.mm.decrease_reservation(mfn, 0)
    world.audit()
    assert world.touch(0, Access.WRITE)
    other, *_ = world.tree({}, first=8)
    world.mm.new_baseptr(other)
    world.mm.unpin_table(l4)
    world.audit()
    assert not world.frames.is_guest(l4)
    assert not world.frames.is_guest(l1)


def test_machphys_mapping_and_list(world: World) -> None:
    assert world.mm.machphys_mapping() == (0xFFFF_8000_0000_0000, 0xFFFF_8040_0000_0000, (1 << 35) - 1)
    assert world.mm.machphys_mfn_list() == [0, world.m2p.table_mfn]  # below the first frame there is nothing


def test_frame_types_are_numbered_as_xen_prints_them() -> None:
    assert (PageType.L1, PageType.L4, PageType.SEG_DESC, PageType.WRITABLE, HEAP) == (1, 4, 5, 7, 48)


def test_a_table_refused_under_two_others_is_lost_half_validated(world: World) -> None:
    """promote_l4_table keeps one table to undo later. An L3 refused for its first slot leaves it the L2 below; that is
    overwritten with the L4 itself, and the L2 stays as it is: typed, of no use, until it is wanted as an L2 again.
    """
    l4, l3, l2, l1, bad, data = world.mfns[:6]
    world.poke(l1, 0, pte(data, RWX))
    world.poke(l2, 0, pte(l1, RWX))
    world.poke(l2, 1, pte(bad, RWX))
    world.poke(bad, 0, pte(l1, RWX | 0x10))
    world.poke(l3, 0, pte(l2, RWX))
    world.poke(l4, 2, pte(l3, RWX))
    before = world.counts()
    refused(e.EINVAL, world.mm.pin_table, 3, l3)
    assert world.counts() == before  # the L2 is undone where the L3 is not under another
    refused(e.EINVAL, world.mm.pin_table, 4, l4)
    assert [of(world, mfn) for mfn in (l4, l3, l2, l1)] == [
        ("NONE", 0, 1), ("NONE", 0, 1), ("L2", 1, 3), ("L1", 1, 2)
    ]  # fmt: skip
    assert of(world, data) == ("WRITABLE", 1, 2)
    refused(e.EINVAL, world.update, l2, 5, 0)
    refused(e.EINVAL, world.mm.clear_page, l2)
    refused(e.EINVAL, world.mm.pin_table, 1, l2)
    world.poke(bad, 0, 0)
    world.mm.pin_table(2, l2)
    assert (of(world, l2), of(world, bad)) == (("L2", 1, 3), ("L1", 1, 2))
    world.update(l2, 5, 0)
    world.mm.unpin_table(l2)
    assert of(world, l2) == ("NONE", 0, 2)  # one reference is nobody's for good
    assert of(world, l1) == of(world, bad) == ("NONE", 0, 1)


def test_a_lost_table_may_be_refused_again(world: World) -> None:
    l4, l3, l2, l1, bad = world.mfns[:5]
    world.poke(l2, 0, pte(l1, RWX))
    world.poke(l2, 1, pte(bad, RWX))
    world.poke(bad, 0, pte(l1, RWX | 0x10))
    world.poke(l3, 0, pte(l2, RWX))
    world.poke(l4, 2, pte(l3, RWX))
    refused(e.EINVAL, world.mm.pin_table, 4, l4)
    refused(e.EINVAL, world.mm.pin_table, 2, l2)
    assert [of(world, mfn) for mfn in (l2, l1, bad)] == [("NONE", 0, 2), ("NONE", 0, 1), ("NONE", 0, 1)]


def test_memory_of_others_is_busy_and_mmio_space_is_not_permitted(world: World) -> None:
    *_, l1 = world.boot({})
    for mfn, errno in ((0, e.EPERM), (0xFF, e.EPERM), (0x100, e.EBUSY), (FIRST - 1, e.EBUSY), (END, e.EPERM)):
        refused(errno, world.update, l1, 1, pte(mfn, RWX))
