"""A small machine without an engine: 48 frames of Xen's and 80 of a domain's, and a check of every reference count.

``World.audit`` recomputes from scratch, from the tables as they stand in memory, what each frame's counts must be, and
that nothing the CPU could have cached differs from the tables.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pvemu.cpu.exits import Access
from pvemu.cpu.paging import PTE_ADDR, PTE_P, PTE_RW, PageWalker
from pvemu.frames import PAGE_SHIFT, Mfn
from pvemu.hypervisor.descriptor_tables import DescriptorTables
from pvemu.hypervisor.domain_page import DomainPages
from pvemu.hypervisor.grant_table import GrantTable
from pvemu.hypervisor.guest_access import GuestMemory
from pvemu.hypervisor.memory import Reservation
from pvemu.hypervisor.mm import Mm
from pvemu.hypervisor.page_types import XEN_L4_SLOTS, PageTypes
from pvemu.memory.allocator import FrameAllocator
from pvemu.memory.frame_table import FrameTable, Owner, PageType
from pvemu.memory.m2p import MachineToPhys
from pvemu.memory.ram import Ram

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST, HEAP, DOMAIN = Mfn(0x40000), 48, 80
END = FIRST + HEAP + DOMAIN
DOMID = 7
#: entry bits: present, writable, user
P, RW, US = 1, 2, 4
RWX = P | RW | US


def pte(mfn: int, flags: int) -> int:
    return mfn << PAGE_SHIFT | flags


class World:
    """``pages`` frames belong to the domain at the start, pfn n at ``mfns[n]``; nothing is mapped."""

    def __init__(self, pages: int = 48) -> None:
        self.ram = Ram(FIRST, HEAP + DOMAIN)
        self.frames = FrameTable(FIRST, HEAP + DOMAIN)
        self.frames.assign(FIRST, HEAP, Owner.XEN)
        self.allocator = FrameAllocator(FIRST, HEAP, DOMAIN)
        self.m2p = MachineToPhys(self.ram, self.allocator.alloc_xen())
        #: what the CPU's TLB may hold: page of linear addresses -> (root, access, machine page)
        self.tlb: dict[tuple[int, int], int] = {}
        self.flushes = 0
        self.pages_flushed: list[int] = []
        self.walker = PageWalker(self.ram, self._flushed, lambda mfn: None, self._page_flushed)
        self.guest = GuestMemory(self.ram, self.walker)
        self.types = PageTypes(self.ram, self.frames, {})
        self.reservation = Reservation(self.ram, self.frames, self.m2p, pages, self.allocator.alloc_extent)
        self.frames.on_free = self._freed
        self.mm = Mm(self.ram, self.frames, self.types, self.m2p, self.walker, self.reservation)
        self.shared_info = self.alloc_shared()
        self.grants = GrantTable(DOMID, self.ram, self.frames, self.types, self.mm, self.reservation, self.alloc_shared)
        self.tables = DescriptorTables(
            self.ram, self.frames, self.types, self.mm, self.allocator.alloc_xen(), self.walker.flush
        )
        self.mfns = [self.reservation.populate_physmap(pfn, 0) for pfn in range(pages)]
        #: references that a test takes itself: (mfn, 1 if it is a typed one too)
        self.held: Counter[int] = Counter()

    def alloc_shared(self) -> Mfn:
        mfn = self.allocator.alloc_xen()
        self.frames.share(mfn)
        return mfn

    def _freed(self, mfn: Mfn) -> None:
        self.reservation.frame_freed(mfn)
        self.allocator.free(mfn)

    def _flushed(self) -> None:
        self.tlb.clear()
        self.flushes += 1

    def _page_flushed(self, vaddr: int) -> None:
        self.pages_flushed.append(vaddr)
        for key in [key for key in self.tlb if key[0] == vaddr >> PAGE_SHIFT]:
            del self.tlb[key]

    # -- tables ------------------------------------------------------------------------------------------------------
    def poke(self, mfn: int, slot: int, entry: int) -> None:
        """Write an entry behind everybody's back: only into frames that are no tables yet."""
        self.ram.write_u64((mfn << PAGE_SHIFT) + 8 * slot, entry)

    def entry(self, mfn: int, slot: int) -> int:
        return self.ram.read_u64((mfn << PAGE_SHIFT) + 8 * slot)

    def update(self, mfn: int, slot: int, entry: int, command: int = 0) -> None:
        """HYPERVISOR_mmu_update with one request."""
        self.mm.mmu_update((mfn << PAGE_SHIFT) + 8 * slot | command, entry)

    def tree(self, l1_entries: dict[int, int], first: int = 0) -> tuple[int, int, int, int]:
        """Four unpinned tables from pfn ``first`` on, L4[0] -> L3[0] -> L2[0] -> L1, with ``l1_entries`` in the L1."""
        l4, l3, l2, l1 = self.mfns[first : first + 4]
        self.poke(l4, 0, pte(l3, RWX))
        self.poke(l3, 0, pte(l2, RWX))
        self.poke(l2, 0, pte(l1, RWX))
        for slot, entry in l1_entries.items():
            self.poke(l1, slot, entry)
        return l4, l3, l2, l1

    def boot(self, l1_entries: dict[int, int], first: int = 0) -> tuple[int, int, int, int]:
        """``tree``, pinned and in use."""
        tables = self.tree(l1_entries, first)
        self.mm.pin_table(4, tables[0])
        self.mm.new_baseptr(tables[0])
        return tables

    def touch(self, vaddr: int, access: Access) -> bool:
        """An access of the guest's: fills the TLB as the engine does. False for a page fault."""
        if (vaddr >> 12, access) in self.tlb:
            return True
        found = self.walker.translate(vaddr & ~0xFFF, access)
        if found is None:
            return False
        self.tlb[vaddr >> 12, Access.READ] = found[0]
        if found[1] & 2:
            self.tlb[vaddr >> 12, Access.WRITE] = found[0]
        return True

    # -- what must hold ----------------------------------------------------------------------------------------------
    def counts(self) -> tuple[bytes, bytes, bytes, int]:
        """All counters, to compare before and after."""
        frames = self.frames
        kinds = bytes(k if n else 0 for k, n in zip(frames.type, frames.type_count, strict=True))
        return kinds, frames.type_count.tobytes(), frames.refs.tobytes(), frames.tot_pages

    def audit(self) -> None:
        """Recompute every count from the tables and the other holders; nothing stale in the TLB."""
        frames = self.frames
        refs: Counter[int] = Counter()
        typed: dict[PageType, Counter[int]] = {kind: Counter() for kind in PageType}
        linear: Counter[int] = Counter()
        for i in range(HEAP + DOMAIN):
            mfn = FIRST + i
            refs[mfn] += frames.allocated[i] if frames.owner[i] in (Owner.GUEST, Owner.SHARED) else 0
            if frames.owner[i] == Owner.SHARED:
                typed[PageType.WRITABLE][mfn] += 1
            if frames.owner[i] == Owner.GUEST and frames.type_count[i] and 1 <= frames.type[i] <= 4:
                self._audit_table(mfn, PageType(frames.type[i]), refs, typed, linear)
        for mfn in frames.pinned:
            self._hold(mfn, PageType(frames.type[mfn - FIRST]), refs, typed)
        for root in (self.mm.guest_root, self.mm.guest_root_user):
            if root:
                self._hold(root, PageType.L4, refs, typed)
        for mfn in (*self.tables.gdt_frames, *self.tables._ldt_frames.values()):
            self._hold(mfn, PageType.SEG_DESC, refs, typed)
        self._audit_grants(refs, typed)
        refs.update(self.held)
        for i in range(HEAP + DOMAIN):
            mfn = FIRST + i
            if frames.owner[i] == Owner.XEN:
                continue
            kind = PageType(frames.type[i]) if frames.type_count[i] else PageType.NONE
            assert frames.refs[i] == refs[mfn], f"{mfn:#x}: {frames.refs[i]} references, {refs[mfn]} holders"
            assert sum(typed[k][mfn] for k in PageType) == frames.type_count[i], f"{mfn:#x} as {kind.name}"
            assert typed[kind][mfn] == frames.type_count[i], f"{mfn:#x} is used as something else than {kind.name}"
            assert (frames.owner[i] != Owner.FREE) == (frames.refs[i] > 0), f"{mfn:#x} is owned by nobody or free"
            assert frames.linear.get(i, 0) == linear[mfn], f"{mfn:#x}: linear entries"
        assert frames.tot_pages == sum(owner == Owner.GUEST for owner in frames.owner)
        self._audit_tlb()

    def _hold(self, mfn: int, kind: PageType, refs: Counter[int], typed: dict[PageType, Counter[int]]) -> None:
        refs[mfn] += 1
        typed[kind][mfn] += 1

    def _audit_table(
        self, mfn: int, level: PageType, refs: Counter[int], typed: dict[PageType, Counter[int]], linear: Counter[int]
    ) -> None:
        for slot in range(512):
            entry = self.entry(mfn, slot)
            target = (entry & PTE_ADDR) >> PAGE_SHIFT
            if not entry & PTE_P or (level == PageType.L4 and slot in XEN_L4_SLOTS):
                continue
            assert self.frames.owner_of(target) in (Owner.GUEST, Owner.SHARED), f"an entry for {target:#x}"
            assert not entry & 0x98, f"entry {entry:#x} has PSE or cache attributes"
            if level == PageType.L1:
                refs[target] += 1
                if entry & PTE_RW:
                    typed[PageType.WRITABLE][target] += 1
            elif target != mfn:
                kind = self.frames.type_of(target)
                assert kind in (level - 1, level), f"an L{level} entry for {kind.name} frame {target:#x}"
                self._hold(target, kind, refs, typed)
                if kind == level:
                    assert not entry & PTE_RW
                    linear[mfn] += 1
                    linear[target] -= 1
            else:
                assert not entry & PTE_RW

    def _audit_grants(self, refs: Counter[int], typed: dict[PageType, Counter[int]]) -> None:
        """Mappings of dom0, and device mappings of the guest's own (host mappings are page-table entries)."""
        for ref, maps in self.grants._backend_maps.items():
            mfn = self.grants._entries.frame_of(ref)
            refs[mfn] += len(maps)
            typed[PageType.WRITABLE][mfn] += maps.count(False)
        for ref, flags in self.grants.mappings.items():
            if flags & 1:
                mfn = self.grants._entries.frame_of(ref)
                refs[mfn] += 1
                typed[PageType.WRITABLE][mfn] += not flags & 4

    def _audit_tlb(self) -> None:
        """A cached translation is what the tables say, and a writable one never leads to a table in use."""
        for (page, access), maddr in self.tlb.items():
            vaddr = page << 12
            assert self.walker.lookup(vaddr, Access(access)) == maddr, f"stale TLB entry for {vaddr:#x}"
            mfn = maddr >> PAGE_SHIFT
            if access == Access.WRITE:
                assert self.frames.type_of(mfn) == PageType.WRITABLE, f"{mfn:#x} can be written"


class FakePages(DomainPages):
    """Frames of the guest's by number, all of which it may write; those in ``refused`` are not its own."""

    def __init__(self) -> None:
        self.frames: dict[int, bytearray] = {}
        self.mapped: Counter[int] = Counter()
        self.refused: frozenset[int] = frozenset()

    def map(self, gfn: int) -> memoryview:
        from hypercalls.errors import XenError
        from hypercalls.public.errno import EINVAL

        if gfn in self.refused:
            raise XenError(EINVAL, f"frame {gfn:x}")
        self.mapped[gfn] += 1
        return memoryview(self.frames.setdefault(gfn, bytearray(4096)))

    def unmap(self, gfn: int) -> None:
        self.mapped[gfn] -= 1


def refused(errno: int, call: Callable[..., object], *args: object) -> None:
    """``call`` is refused with ``errno``."""
    import pytest

    from hypercalls.errors import XenError

    with pytest.raises(XenError) as caught:
        call(*args)
    assert caught.value.errno == errno, caught.value.reason
