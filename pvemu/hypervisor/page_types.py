"""Typed references to frames: what makes a frame a page table, and keeps it from being writable (xen/arch/x86/mm.c).

A frame becomes a level-n table when the first typed reference is taken: every present entry is checked and takes a
reference of its own on what it points at (``promote_ln_table``); the last reference dropped undoes that
(``demote_ln_table``). Entries are adjusted as Xen does for 64-bit guests (``adjust_guest_lne``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from pvemu.cpu.paging import PTE_A, PTE_ADDR, PTE_NX, PTE_P, PTE_RW, PTE_US
from pvemu.frames import PAGE_SHIFT, Mfn
from pvemu.memory.frame_table import FrameTable, Owner, PageType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvemu.memory.ram import Ram

__all__ = ["PTE_G", "PTE_GUEST_KERNEL", "XEN_L4_SLOTS", "PageTypes", "adjust_l1e"]

PTE_G = 1 << 8
_PTE_D = 1 << 6
PTE_GUEST_KERNEL = 1 << 52  #: Xen's mark on a kernel mapping of a 64-bit guest, which has no supervisor bit
_PTE_CACHE_ATTRS = (1 << 3) | (1 << 4) | (1 << 7)
#: base_disallow_mask: everything but P RW US A D, the available bits and NX (and the address).
_DISALLOW = _PTE_CACHE_ATTRS | PTE_G
_L1_DISALLOW = _PTE_CACHE_ATTRS
_INVALID_MFN = PTE_ADDR >> PAGE_SHIFT

#: L4 slots that belong to Xen in every 64-bit guest (ROOT_PAGETABLE_FIRST/LAST_XEN_SLOT).
XEN_L4_SLOTS = range(256, 272)


def adjust_l1e(entry: int) -> int:
    """adjust_guest_l1e: kernel mappings of a 64-bit guest get USER and a mark, user mappings get GLOBAL."""
    if entry & PTE_P:
        if not entry & PTE_US:
            entry |= PTE_GUEST_KERNEL | PTE_US
        if not entry & PTE_GUEST_KERNEL:
            entry |= PTE_G | PTE_US
    return entry


class PageTypes:
    """Takes and drops references on frames of one domain. ``xen_l4_entries`` are what Xen puts into its own slots of
    every root table: {slot: entry}.
    """

    def __init__(self, ram: Ram, frames: FrameTable, xen_l4_entries: dict[int, int]) -> None:
        self._ram = ram
        self._frames = frames
        self._xen_l4_entries = xen_l4_entries

    # -- references --------------------------------------------------------------------------------------------------
    def get_page(self, mfn: int) -> int:
        """get_page_from_mfn: a general reference on a frame of the domain; its frame-table index."""
        frames = self._frames
        i = mfn - frames.first_mfn
        if not 0 <= i < frames.nr_frames or frames.owner[i] not in (Owner.GUEST, Owner.SHARED):
            raise XenError(e.EINVAL, f"mfn {mfn:#x} is not the domain's")
        frames.refs[i] += 1
        return i

    def put_page(self, mfn: int) -> None:
        """Drop a general reference; a frame given up by its owner goes back with the last one."""
        frames = self._frames
        i = mfn - frames.first_mfn
        frames.refs[i] -= 1
        if not frames.refs[i]:
            frames.release(Mfn(mfn))

    def get_type(self, mfn: int, wanted: PageType) -> None:
        """get_page_type: one more use of ``mfn`` as ``wanted``, validating it on the first. EINVAL on a conflict."""
        frames = self._frames
        i = mfn - frames.first_mfn
        if frames.type_count[i]:
            if frames.type[i] != wanted:
                raise XenError(
                    e.EINVAL, f"Bad type (saw {PageType(frames.type[i]).name} != exp {wanted.name}) for mfn {mfn:x}"
                )
            frames.type_count[i] += 1
            return
        if wanted == PageType.WRITABLE:
            frames.type[i] = wanted
            frames.type_count[i] = 1
            return
        if frames.owner[i] != Owner.GUEST:
            raise XenError(e.EINVAL, f"mfn {mfn:x} is a Xen heap page")
        frames.type[i] = wanted
        frames.type_count[i] = 1
        try:
            self._promote(mfn, wanted)
        except XenError:
            frames.type_count[i] = 0
            frames.type[i] = PageType.NONE
            raise

    def put_type(self, mfn: int) -> None:
        """put_page_type: one use less; the last one of a page table drops what its entries hold."""
        frames = self._frames
        i = mfn - frames.first_mfn
        if frames.type_count[i] == 1 and PageType.L1 <= frames.type[i] <= PageType.L4:
            self._demote(mfn, PageType(frames.type[i]))
        frames.type_count[i] -= 1

    def get_page_and_type(self, mfn: int, wanted: PageType) -> None:
        """A general and a typed reference together."""
        self.get_page(mfn)
        try:
            self.get_type(mfn, wanted)
        except XenError:
            self.put_page(mfn)
            raise

    def put_page_and_type(self, mfn: int) -> None:
        """Drop both."""
        self.put_type(mfn)
        self.put_page(mfn)

    # -- entries -----------------------------------------------------------------------------------------------------
    def get_from_l1e(self, entry: int) -> None:
        """get_page_from_l1e: references for a present level-1 entry (a mapping of a frame)."""
        if entry & _L1_DISALLOW:
            raise XenError(e.EINVAL, f"Bad L1 flags {entry & _L1_DISALLOW:x}")
        frames = self._frames
        mfn = (entry & PTE_ADDR) >> PAGE_SHIFT
        i = mfn - frames.first_mfn
        if not 0 <= i < frames.nr_frames:
            raise XenError(e.EINVAL if mfn == _INVALID_MFN else e.EPERM, f"mfn {mfn:#x} is MMIO space")
        owner = frames.owner[i]
        if owner == Owner.GUEST or owner == Owner.SHARED:
            if entry & PTE_RW:
                if frames.type_count[i] and frames.type[i] != PageType.WRITABLE:
                    raise XenError(
                        e.EBUSY, f"mfn {mfn:x} is in use as {PageType(frames.type[i]).name}: no writable mapping"
                    )
                frames.type[i] = PageType.WRITABLE
                frames.type_count[i] += 1
            frames.refs[i] += 1
            return
        raise XenError(e.EBUSY, f"mfn {mfn:#x} is not the domain's")

    def put_from_l1e(self, entry: int) -> None:
        """Drop what ``get_from_l1e`` took."""
        if entry & PTE_P:
            frames = self._frames
            i = ((entry & PTE_ADDR) >> PAGE_SHIFT) - frames.first_mfn
            if entry & PTE_RW:
                frames.type_count[i] -= 1
            frames.refs[i] -= 1
            if not frames.refs[i]:
                frames.release(Mfn(i + frames.first_mfn))

    def get_from_table_entry(self, entry: int, level: PageType, table_mfn: int) -> None:
        """get_page_from_l2e .. l4e: references for an entry of a level 2..4 table. A read-only entry may also point at
        a table of its own level (a linear page table).
        """
        if entry & _DISALLOW:
            raise XenError(e.EINVAL, f"Bad L{level.value} flags {entry & _DISALLOW:x}")
        mfn = (entry & PTE_ADDR) >> PAGE_SHIFT
        try:
            self.get_page_and_type(mfn, PageType(level - 1))
        except XenError:
            if not self._get_linear(entry, mfn, level, table_mfn):
                raise

    def _get_linear(self, entry: int, mfn: int, level: PageType, table_mfn: int) -> bool:
        frames = self._frames
        i = mfn - frames.first_mfn
        if not 0 <= i < frames.nr_frames or entry & PTE_RW or not frames.type_count[i] or frames.type[i] != level:
            return False
        frames.refs[i] += 1
        if mfn != table_mfn:
            frames.type_count[i] += 1
        return True

    def put_from_table_entry(self, entry: int, level: PageType, table_mfn: int) -> None:
        """Drop what ``get_from_table_entry`` took."""
        if not entry & PTE_P:
            return
        mfn = (entry & PTE_ADDR) >> PAGE_SHIFT
        if mfn == table_mfn:
            self.put_page(mfn)
        else:
            self.put_page_and_type(mfn)

    # -- whole tables ------------------------------------------------------------------------------------------------
    def _table(self, mfn: int) -> int:
        return ((mfn << PAGE_SHIFT) - self._ram.base) >> 3

    def _promote(self, mfn: int, level: PageType) -> None:
        if level == PageType.SEG_DESC:
            return  # descriptors are checked by pvemu.hypervisor.descriptor_tables before this is asked for
        quads, start = self._ram.quads, self._table(mfn)
        entries = quads[start : start + 512].tolist()
        taken = 0
        try:
            if level == PageType.L1:
                for taken, entry in self._promote_l1_entries(entries, start):  # noqa: B007 - needed on failure
                    self.get_from_l1e(entry)
                return
            set_bits = PTE_US | (PTE_A if level == PageType.L4 else 0)
            for taken, entry in enumerate(entries):
                if not entry & PTE_P or (level == PageType.L4 and taken in XEN_L4_SLOTS):
                    continue
                self.get_from_table_entry(entry, level, mfn)
                if entry & set_bits != set_bits:
                    quads[start + taken] = entry | set_bits
        except XenError as error:
            for slot in range(taken):
                self._put_entry(quads[start + slot], slot, level, mfn)
            raise XenError(error.errno, f"{error.reason}: slot {taken:#x} of L{level.value} table {mfn:x}") from error
        if level == PageType.L4:
            for slot in XEN_L4_SLOTS:
                quads[start + slot] = self._xen_l4_entries.get(slot, 0)

    def _promote_l1_entries(self, entries: list[int], start: int) -> Iterator[tuple[int, int]]:
        """Take what most entries need in one sweep (a domain has 100,000s); yield (slot, entry) for the others, which
        the caller must take or refuse before going on.
        """
        frames, quads = self._frames, self._ram.quads
        owner, kinds, counts, refs = frames.owner, frames.type, frames.type_count, frames.refs
        first, limit, writable = frames.first_mfn, frames.nr_frames, int(PageType.WRITABLE)
        marks = PTE_US | PTE_GUEST_KERNEL
        for slot, entry in enumerate(entries):
            if not entry & PTE_P:
                continue
            i = ((entry & PTE_ADDR) >> PAGE_SHIFT) - first
            if entry & _L1_DISALLOW or not 0 <= i < limit or owner[i] != 1:
                yield slot, entry
            elif entry & PTE_RW:
                if counts[i] and kinds[i] != writable:
                    yield slot, entry
                else:
                    kinds[i] = writable
                    counts[i] += 1
                    refs[i] += 1
            else:
                refs[i] += 1
            if entry & marks != marks:
                adjusted = adjust_l1e(entry)
                if adjusted != entry:
                    quads[start + slot] = adjusted

    def _demote(self, mfn: int, level: PageType) -> None:
        start = self._table(mfn)
        entries = self._ram.quads[start : start + 512].tolist()
        if level == PageType.L1:
            put = self.put_from_l1e
            for entry in entries:
                if entry & PTE_P:
                    put(entry)
            return
        for slot, entry in enumerate(entries):
            self._put_entry(entry, slot, level, mfn)

    def _put_entry(self, entry: int, slot: int, level: PageType, table_mfn: int) -> None:
        if not entry & PTE_P or (level == PageType.L4 and slot in XEN_L4_SLOTS):
            return
        if level == PageType.L1:
            self.put_from_l1e(entry)
        else:
            self.put_from_table_entry(entry, level, table_mfn)

    # -- changing one entry ------------------------------------------------------------------------------------------
    def mod_l1_entry(self, maddr: int, new: int, preserve_ad: bool = False) -> int:
        """mod_l1_entry: replace the level-1 entry at ``maddr``; returns the old one."""
        ram = self._ram
        index = (maddr - ram.base) >> 3
        old = ram.quads[index]
        if new & PTE_P:
            if new & _L1_DISALLOW:
                raise XenError(e.EINVAL, f"Bad L1 flags {new & _L1_DISALLOW:x}")
            new = adjust_l1e(new)
            if (old ^ new) & (PTE_ADDR | PTE_P | PTE_RW):
                self.get_from_l1e(new)
                ram.quads[index] = new | (old & (PTE_A | _PTE_D) if preserve_ad else 0)
                self.put_from_l1e(old)
                return old
        else:
            self.put_from_l1e(old)
        ram.quads[index] = new | (old & (PTE_A | _PTE_D) if preserve_ad else 0)
        return old

    def mod_table_entry(self, maddr: int, new: int, level: PageType, preserve_ad: bool = False) -> int:
        """mod_l2_entry .. mod_l4_entry: replace an entry of a level 2..4 table; returns the old one."""
        ram = self._ram
        table_mfn = maddr >> PAGE_SHIFT
        index = (maddr - ram.base) >> 3
        if level == PageType.L4 and (maddr >> 3) & 511 in XEN_L4_SLOTS:
            raise XenError(e.EINVAL, f"L4 update in Xen-private area, slot {(maddr >> 3) & 511:#x}")
        old = ram.quads[index]
        if new & PTE_P:
            if new & _DISALLOW:
                raise XenError(e.EINVAL, f"Bad L{level.value} flags {new & _DISALLOW:x}")
            new |= PTE_US | (PTE_A if level == PageType.L4 else 0)
            if (old ^ new) & (PTE_ADDR | PTE_P | PTE_RW | PTE_NX):
                self.get_from_table_entry(new, level, table_mfn)
                ram.quads[index] = new | (old & (PTE_A | _PTE_D) if preserve_ad else 0)
                self.put_from_table_entry(old, level, table_mfn)
                return old
        else:
            ram.quads[index] = new
            self.put_from_table_entry(old, level, table_mfn)
            return old
        ram.quads[index] = new | (old & (PTE_A | _PTE_D) if preserve_ad else 0)
        return old



