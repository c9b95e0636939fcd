"""PAE tables of a 32-bit guest: promotion, updates, base pointers, walks (xen/arch/x86/mm.c, its 32-bit branches)."""

from __future__ import annotations

import pytest

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from pvemu.cpu.exits import Access
from pvemu.cpu.paging_pae import PaePageWalker
from pvemu.frames import Mfn
from pvemu.hypervisor.compat.mm import CompatMm, compat_cr3_to_pfn, compat_pfn_to_cr3
from pvemu.hypervisor.compat.page_types import XEN_L2_SLOTS, CompatPageTypes, m2p_entries
from pvemu.hypervisor.guest_access import GuestMemory
from pvemu.hypervisor.memory import Reservation
from pvemu.memory.allocator import FrameAllocator
from pvemu.memory.frame_table import FrameTable, Owner, PageType
from pvemu.memory.m2p import CompatMachineToPhys, MachineToPhys
from pvemu.memory.ram import Ram

FIRST, HEAP, DOMAIN = Mfn(0x40000), 1024, 80
P, RW, US, A, D = 1, 2, 4, 0x20, 0x40


class World32:
    """L3 -> L2 of slots 0 and 3, an L1 under the first; pfn n at ``mfns[n]``."""

    def __init__(self) -> None:
        self.ram = Ram(FIRST, HEAP + DOMAIN)
        self.frames = FrameTable(FIRST, HEAP + DOMAIN)
        self.frames.assign(FIRST, HEAP, Owner.XEN)
        allocator = FrameAllocator(FIRST, HEAP, DOMAIN)
        self.m2p = MachineToPhys(self.ram, allocator.alloc_xen(4))
        self.compat = self.m2p.compat = CompatMachineToPhys(self.ram, allocator.alloc_xen(800))
        self.flushes = 0
        self.walker = PaePageWalker(self.ram, self._flushed, lambda mfn: None)
        self.walker.xen_page = lambda vaddr: self.compat.page_at(vaddr - 0xF5800000)
        self.guest = GuestMemory(self.ram, self.walker)
        self.types = CompatPageTypes(self.ram, self.frames, m2p_entries(self.compat.superpages()))
        self.reservation = Reservation(self.ram, self.frames, self.m2p, 32, allocator.alloc_extent)
        self.mm = CompatMm(self.ram, self.frames, self.types, self.m2p, self.walker, self.reservation)
        self.mfns = [self.reservation.populate_physmap(pfn, 0) for pfn in range(32)]
        self.l3, self.l2, self.xen_l2, self.l1 = self.mfns[:4]
        self.poke(self.l3, 0, self.l2 << 12 | P)
        self.poke(self.l3, 3, self.xen_l2 << 12 | P)
        self.poke(self.l2, 0, self.l1 << 12 | P | RW | US)
        self.poke(self.l1, 8, self.mfns[8] << 12 | P | RW)
        self.poke(self.l1, 9, self.mfns[9] << 12 | P | RW | US)

    def _flushed(self) -> None:
        self.flushes += 1

    def poke(self, mfn: int, slot: int, entry: int) -> None:
        self.ram.write_u64((mfn << 12) + 8 * slot, entry)

    def entry(self, mfn: int, slot: int) -> int:
        return self.ram.read_u64((mfn << 12) + 8 * slot)

    def boot(self) -> World32:
        self.mm.pin_table(3, self.l3)
        self.mm.new_baseptr(self.l3)
        return self

    def counts(self) -> list[tuple[int, int, int]]:
        return [
            (self.frames.type_of(mfn), self.frames.type_count[mfn - FIRST], self.frames.refs[mfn - FIRST])
            for mfn in self.mfns
        ]


@pytest.fixture
def world() -> World32:
    return World32()


def refused(errno: int) -> pytest.RaisesExc[XenError]:
    return pytest.raises(XenError, check=lambda error: error.errno == errno)


def test_pinning_types_every_table_and_unpinning_undoes_it(world: World32) -> None:
    before = world.counts()
    world.poke(world.l3, 4, 0xDEAD)
    world.mm.pin_table(3, world.l3)
    kinds = [world.frames.type_of(mfn) for mfn in (world.l3, world.l2, world.xen_l2, world.l1, world.mfns[8])]
    assert kinds == [PageType.L3, PageType.L2, PageType.PAE_XEN_L2, PageType.L1, PageType.WRITABLE]
    assert world.entry(world.l3, 0) & 0xFFF == P | RW | US  # adjust_guest_l3e
    assert world.entry(world.l3, 4) == 0, "what the guest has no right to is cleared"
    assert world.entry(world.l1, 8) & 0xFFF == P | RW, "entries of level 1 stay the guest's own"
    first = world.entry(world.xen_l2, XEN_L2_SLOTS[0])
    assert first == world.compat.superpages()[0] | 0x81
    world.mm.unpin_table(world.l3)
    assert world.entry(world.l3, 0) & 0xFFF == P
    assert world.counts() == before


@pytest.mark.parametrize(
    ("slot", "entry"),
    [(3, 0), (0, 1 << 12), (1, P | 1 << 63), (1, P | 0x80), (1, P)],
)
def test_an_l3_that_cannot_be(world: World32, slot: int, entry: int) -> None:
    before = world.counts()
    if entry == 1 << 12:
        entry = world.xen_l2 << 12 | P  # the last L2 in another slot as well
    elif entry & P:
        entry |= world.l2 << 12
        entry = entry if entry & ~P & ~(world.l2 << 12) else world.mfns[20] << 12 | P | 8
    world.poke(world.l3, slot, entry)
    with refused(e.EINVAL):
        world.mm.pin_table(3, world.l3)
    assert world.counts() == before


def test_the_last_l2_serves_one_l3(world: World32) -> None:
    world.boot()
    other = world.mfns[10]
    world.poke(other, 3, world.xen_l2 << 12 | P)
    with refused(e.EINVAL):
        world.mm.pin_table(3, other)
    with refused(e.EINVAL):
        world.mm.pin_table(2, world.xen_l2)


def test_updates_stay_out_of_xens_slots(world: World32) -> None:
    world.boot()
    for mfn, slot, errno in (
        (world.l3, 3, e.EINVAL), (world.l3, 4, e.EINVAL), (world.xen_l2, XEN_L2_SLOTS[0], e.EPERM)
    ):  # fmt: skip
        with refused(errno):
            world.mm.mmu_update((mfn << 12) + 8 * slot, 0)
    l1 = world.mfns[11]
    world.mm.mmu_update((world.xen_l2 << 12) + 8, l1 << 12 | P | RW)
    assert world.frames.type_of(l1) == PageType.L1
    world.mm.mmu_update((world.l3 << 12) + 8, world.l2 << 12 | P)
    assert world.entry(world.l3, 1) & 0xFFF == P | RW | US


def test_an_l1_entry_maps_what_is_no_table(world: World32) -> None:
    world.boot()
    world.mm.update_va_mapping(10 << 12, world.l1 << 12 | P, 0)
    with refused(e.EBUSY):
        world.mm.update_va_mapping(10 << 12, world.l1 << 12 | P | RW, 0)
    with refused(e.EINVAL):
        world.mm.update_va_mapping(0xF5800000, 0, 0)


def test_privilege_decides_on_pages_without_user(world: World32) -> None:
    world.boot()
    assert world.walker.translate(8 << 12, Access.WRITE) == (world.mfns[8] << 12, 3)
    is_user = True
    world.walker.is_user = lambda: is_user
    assert world.walker.translate(8 << 12, Access.WRITE) is None
    assert world.walker.error_code == 7
    assert world.walker.translate(9 << 12, Access.READ) is not None
    assert world.walker.translate(0xF5900000, Access.READ) is None
    assert world.walker.error_code == 5
    is_user = False
    assert world.walker.translate(0xF5900000, Access.READ) == (world.compat.page_at(0x100000), 1)
    assert world.walker.translate(0xF5900000, Access.WRITE) is None
    assert world.walker.error_code == 3


def test_xen_reads_and_writes_kernel_pages(world: World32) -> None:
    world.boot()
    world.guest.copy_to_guest(8 << 12, b"abc")
    assert world.guest.copy_from_guest(8 << 12, 3) == b"abc"
    assert world.entry(world.l1, 8) & D
    assert world.guest.copy_from_guest(0xF5900000 + 4 * (world.mfns[5] - FIRST), 4) == (5).to_bytes(4, "little")
    for vaddr in (0xF5900000, 1 << 32, 0xFFFFFFFF):
        with refused(e.EFAULT):
            world.guest.copy_to_guest(vaddr, b"xy")


def test_base_pointers(world: World32) -> None:
    world.boot()
    assert world.mm.read_cr3() == compat_pfn_to_cr3(world.l3)
    with refused(e.EINVAL):
        world.mm.new_user_baseptr(world.l3)
    with refused(e.EINVAL):
        world.mm.write_cr3(compat_pfn_to_cr3(world.l2))
    world.mm.write_cr3(compat_pfn_to_cr3(world.l3))


def test_another_root_keeps_what_both_share(world: World32) -> None:
    world.boot()
    other, xen_l2 = world.mfns[12], world.mfns[13]
    world.poke(other, 0, world.l2 << 12 | P)
    world.poke(other, 1, world.mfns[14] << 12 | P)
    world.poke(other, 3, xen_l2 << 12 | P)
    world.mm.pin_table(3, other)
    assert world.types.fresh_roots == {other}
    assert world.walker.translate(8 << 12, Access.READ) is not None
    assert world.walker.translate(1 << 30 | 8 << 12, Access.READ) is None
    world.mm.new_baseptr(other)
    world.mm.update_va_mapping(8 << 12, world.mfns[15] << 12 | P, 0)
    assert world.walker.translate(8 << 12, Access.READ) == (world.mfns[15] << 12, 1)
    assert world.types.fresh_roots == set()


@pytest.mark.parametrize("pfn", [1, 0x40000, 0xFFFFF, 0x123456])
def test_cr3_holds_frames_beyond_4_gib(pfn: int) -> None:
    assert compat_cr3_to_pfn(compat_pfn_to_cr3(pfn)) == pfn
    assert compat_pfn_to_cr3(0x100000) == 1


def test_m2p_for_the_guest(world: World32) -> None:
    assert world.mm.machphys_mapping() == (0xF5800000, 0xFFE00000, 0x2980000 - 1)
    assert world.mm.machphys_mfn_list() == [world.compat.superpages()[0] >> 12]
    assert world.compat.superpages()[0] % (2 << 20) == 0
    world.m2p.set(world.mfns[7], 0x1_2345_6789)
    at = world.compat.page_at(0x100000)
    assert at is not None
    assert world.ram.read(at + 4 * (world.mfns[7] - FIRST), 4) == (0x23456789).to_bytes(4, "little")


def test_a_pointer_may_point_to_the_m2p(world: World32) -> None:
    """access_ok of Xen's own width (asm/x86_64/uaccess.h): the M2P below 4 GiB can be read through, not written."""
    world.boot()
    world.m2p.set(world.mfns[7], 0x41424344)
    entry = 0xF5800000 + 4 * world.mfns[7]
    assert world.guest.copy_from_guest(entry, 4) == b"DCBA"
    with refused(e.EFAULT):
        world.guest.copy_to_guest(entry, b"1234")
    assert world.guest.copy_from_guest(entry, 4) == b"DCBA"
    with refused(e.EFAULT):
        world.guest.copy_from_guest(0xF5800000 - 4, 8)


def test_entries_of_a_refused_root_are_as_they_were(world: World32) -> None:
    """promote_l3_table: also the one to blame, where its L2 was refused behind the first slot."""
    l1 = world.mfns[11]
    for bad_slot, shown in ((0, P | RW | US), (1, P)):
        l3, l2 = world.mfns[12], world.mfns[13]
        world.poke(l2, 0, 0)
        world.poke(l2, bad_slot, l1 << 12 | P | 0x10)
        world.poke(l2, 5, 0)
        world.poke(l3, 1, l2 << 12 | P | RW | US)
        with refused(e.EINVAL):
            world.mm.pin_table(3, l3)
        assert world.entry(l3, 1) & 0xFFF == shown, bad_slot


def test_a_last_l2_that_two_roots_want_stays_one(world: World32) -> None:
    """pae_xen_mappings_check refuses the second root and keeps the reference that it took."""
    world.boot()
    other = world.mfns[12]
    world.poke(other, 3, world.xen_l2 << 12 | P)
    i = world.xen_l2 - world.frames.first_mfn
    before = world.frames.type_count[i]
    with refused(e.EINVAL):
        world.mm.pin_table(3, other)
    assert (world.frames.type_count[i], world.frames.type_of(other)) == (before + 1, PageType.NONE)
