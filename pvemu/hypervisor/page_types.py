"""Typed references to frames: what makes a frame a page table, and keeps it from being writable (xen/arch/x86/mm.c).

A frame becomes a level-n table when the first typed reference is taken: every present entry is checked and takes a
reference of its own on what it points at (``promote_ln_table``); the last reference dropped undoes that
(``demote_ln_table``). Entries are adjusted as Xen does for 64-bit guests (``adjust_guest_lne``).
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from pvemu.cpu.paging import PTE_A, PTE_ADDR, PTE_D, PTE_P, PTE_RW, PTE_US
from pvemu.frames import PAGE_SHIFT, Mfn
from pvemu.memory.frame_table import TABLE_LEVEL, FrameTable, Owner, PageType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pvemu.memory.ram import Ram

__all__ = ["PTE_G", "PTE_GUEST_KERNEL", "XEN_L4_SLOTS", "PageTypes", "adjust_l1e"]

PTE_G = 1 << 8
PTE_GUEST_KERNEL = 1 << 52  #: Xen's mark on a kernel mapping of a 64-bit guest, which has no supervisor bit
_PTE_CACHE_ATTRS = (1 << 3) | (1 << 4) | (1 << 7)
#: base_disallow_mask: everything but P RW US A D, the available bits and NX (and the address).
_DISALLOW = _PTE_CACHE_ATTRS | PTE_G
_L1_DISALLOW = _PTE_CACHE_ATTRS
#: What FASTPATH_FLAG_WHITELIST leaves out: a change of these needs references of its own.
_REVALIDATE = PTE_ADDR | PTE_P | PTE_RW | _PTE_CACHE_ATTRS
_AD = PTE_A | PTE_D
_INVALID_MFN = PTE_ADDR >> PAGE_SHIFT

#: L4 slots that belong to Xen in every 64-bit guest (ROOT_PAGETABLE_FIRST/LAST_XEN_SLOT).
XEN_L4_SLOTS = range(256, 272)
_ALL_GUEST = bytes([Owner.GUEST]) * 512
_ALL_WRITABLE = bytes([PageType.WRITABLE]) * 512
_NO_SLOTS = range(0)


def adjust_l1e(entry: int) -> int:
    """adjust_guest_l1e: kernel mappings of a 64-bit guest get USER and a mark, user mappings get GLOBAL."""
    if entry & PTE_P:
        if not entry & PTE_US:
            entry |= PTE_GUEST_KERNEL | PTE_US
        if not entry & PTE_GUEST_KERNEL:
            entry |= PTE_G | PTE_US
    return entry


class PageTypes:
    """Takes and drops references on frames of one domain. ``xen_entries`` are what Xen puts into its own slots of
    a table that has such: {slot: entry}.
    """

    adjust_l1e = staticmethod(adjust_l1e)

    def __init__(self, ram: Ram, frames: FrameTable, xen_entries: dict[int, int]) -> None:
        self._ram = ram
        self._frames = frames
        self._xen_entries = xen_entries
        #: Root tables validated and not loaded since.
        self.fresh_roots: set[int] = set()
        #: validate_segdesc_page: checks and adjusts a frame of descriptors; XenError(EINVAL) if it cannot be one.
        self.validate_segdesc: Callable[[int], None] = lambda mfn: None

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
        frames.type[i] = wanted
        frames.type_count[i] = 1
        if wanted == PageType.WRITABLE:
            return
        try:
            self._promote(mfn, wanted)
        except XenError:
            frames.type_count[i] = 0
            frames.type[i] = PageType.NONE
            raise

    def put_type(self, mfn: int, table_mfn: int | None = None) -> None:
        """put_page_type: one use less; the last one of a page table drops what its entries hold. ``table_mfn`` is the
        table whose entry gives the use up.
        """
        frames = self._frames
        i = mfn - frames.first_mfn
        kind = frames.type[i]
        if frames.type_count[i] == 1 and TABLE_LEVEL[kind]:
            self._demote(mfn, PageType(kind))
        frames.type_count[i] -= 1
        if table_mfn is not None and TABLE_LEVEL[frames.type[table_mfn - frames.first_mfn]] == TABLE_LEVEL[kind]:
            self._count_linear(table_mfn - frames.first_mfn, i, -1)

    def get_page_and_type(self, mfn: int, wanted: PageType) -> None:
        """A general and a typed reference together."""
        self.get_page(mfn)
        try:
            self.get_type(mfn, wanted)
        except XenError:
            self.put_page(mfn)
            raise

    def put_page_and_type(self, mfn: int, table_mfn: int | None = None) -> None:
        """Drop both."""
        self.put_type(mfn, table_mfn)
        self.put_page(mfn)

    def _count_linear(self, table: int, target: int, step: int) -> None:
        """One linear entry more (or less): counted up on the table that has it, down on the one it points at."""
        linear = self._frames.linear
        for index, change in ((table, step), (target, -step)):
            left = linear.get(index, 0) + change
            if left:
                linear[index] = left
            else:
                linear.pop(index, None)

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
        self._check_flags(entry, level)
        mfn = (entry & PTE_ADDR) >> PAGE_SHIFT
        try:
            self.get_page_and_type(mfn, PageType(TABLE_LEVEL[level] - 1))
        except XenError as error:
            if error.errno != e.EINVAL or not self._get_linear(entry, mfn, level, table_mfn):
                raise

    def _check_flags(self, entry: int, level: PageType) -> None:
        if entry & _DISALLOW:
            raise XenError(e.EINVAL, f"Bad L{TABLE_LEVEL[level]} flags {entry & _DISALLOW:x}")

    def _get_linear(self, entry: int, mfn: int, level: PageType, table_mfn: int) -> bool:
        """get_lN_linear_pagetable: an entry for the table itself takes no reference; one for another table of the level
        needs that table validated, without linear entries of its own, and this table not so used by others.
        """
        if entry & PTE_RW:
            return False
        if mfn == table_mfn:
            return True
        frames = self._frames
        i = mfn - frames.first_mfn
        table = table_mfn - frames.first_mfn
        if not frames.is_guest(mfn) or not frames.type_count[i]:
            return False
        if TABLE_LEVEL[frames.type[i]] != TABLE_LEVEL[level]:
            return False
        if frames.linear.get(table, 0) < 0 or frames.linear.get(i, 0) > 0:
            return False
        frames.refs[i] += 1
        frames.type_count[i] += 1
        self._count_linear(table, i, 1)
        return True

    def put_from_table_entry(self, entry: int, table_mfn: int) -> None:
        """put_page_from_l2e .. l4e: drop what ``get_from_table_entry`` took."""
        mfn = (entry & PTE_ADDR) >> PAGE_SHIFT
        if entry & PTE_P and mfn != table_mfn:
            self.put_page_and_type(mfn, table_mfn)

    # -- whole tables ------------------------------------------------------------------------------------------------
    def _table(self, mfn: int) -> int:
        return ((mfn << PAGE_SHIFT) - self._ram.base) >> 3

    def _promote(self, mfn: int, level: PageType) -> None:
        if level == PageType.SEG_DESC:
            self.validate_segdesc(mfn)
            return
        quads, start = self._ram.quads, self._table(mfn)
        entries = quads[start : start + 512].tolist()
        taken = 0
        try:
            if level == PageType.L1:
                if self._promote_uniform(entries, start):
                    return
                for taken, entry in self._promote_l1_entries(entries, start):  # noqa: B007 - needed on failure
                    self.get_from_l1e(entry)
                return
            set_bits, xen_slots = self._forced_bits(level), self._xen_slots(level)
            for taken, entry in enumerate(entries):
                if not entry & PTE_P or taken in xen_slots:
                    continue
                self.get_from_table_entry(entry, level, mfn)
                if entry & set_bits != set_bits:
                    quads[start + taken] = entry | set_bits
        except XenError as error:
            for slot in range(taken):
                self._put_entry(quads[start + slot], slot, level, mfn)
            raise XenError(
                error.errno, f"{error.reason}; failure in promote_l{TABLE_LEVEL[level]}_table {mfn:x}: slot {taken:#x}"
            ) from error
        for slot in xen_slots:
            quads[start + slot] = self._xen_entries.get(slot, 0)
        if level == PageType.L4:
            self.fresh_roots.add(mfn)

    def _forced_bits(self, level: PageType) -> int:
        """adjust_guest_l2e .. l4e: what Xen adds to a present entry of a level 2..4 table."""
        return PTE_US | (PTE_A if level == PageType.L4 else 0)

    def _xen_slots(self, level: PageType) -> range:
        """Slots of a level 2..4 table that are Xen's."""
        return XEN_L4_SLOTS if level == PageType.L4 else _NO_SLOTS

    def _promote_uniform(self, entries: list[int], start: int) -> bool:
        """An L1 table that maps 512 frames in a row, all alike in flags and in use so far, as a loader's map of all
        memory is made of: taken as a whole. False, and nothing done, for any other.
        """
        entry = entries[0]
        frames = self._frames
        i = ((entry & PTE_ADDR) >> PAGE_SHIFT) - frames.first_mfn
        end = i + 512
        if not entry & PTE_P or entry & _L1_DISALLOW or i < 0 or end > frames.nr_frames:
            return False
        if entries != list(range(entry, entry + (512 << PAGE_SHIFT), 1 << PAGE_SHIFT)):
            return False
        uses, refs = frames.type_count[i], frames.refs[i]
        if frames.owner[i:end] != _ALL_GUEST or frames.refs[i:end] != array("I", (refs,)) * 512:
            return False
        if entry & PTE_RW:
            if frames.type_count[i:end] != array("I", (uses,)) * 512 or (uses and frames.type[i:end] != _ALL_WRITABLE):
                return False
            frames.type[i:end] = _ALL_WRITABLE
            frames.type_count[i:end] = array("I", (uses + 1,)) * 512
        frames.refs[i:end] = array("I", (refs + 1,)) * 512
        adjusted = self.adjust_l1e(entry)
        if adjusted != entry:
            self._ram.quads[start : start + 512] = memoryview(
                array("Q", range(adjusted, adjusted + (512 << PAGE_SHIFT), 1 << PAGE_SHIFT))
            )
        return True

    def _promote_l1_entries(self, entries: list[int], start: int) -> Iterator[tuple[int, int]]:
        """Take what most entries need in one sweep (a domain has 100,000s); yield (slot, entry) for the others, which
        the caller must take or refuse before going on.
        """
        frames, quads = self._frames, self._ram.quads
        owner, kinds, counts, refs = frames.owner, frames.type, frames.type_count, frames.refs
        first, limit, writable = frames.first_mfn, frames.nr_frames, int(PageType.WRITABLE)
        marks, adjust = PTE_US | PTE_GUEST_KERNEL, self.adjust_l1e
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
                adjusted = adjust(entry)
                if adjusted != entry:
                    quads[start + slot] = adjusted

    def _demote(self, mfn: int, level: PageType) -> None:
        start = self._table(mfn)
        entries = self._ram.quads[start : start + 512].tolist()
        if level == PageType.L1:
            if not self._demote_uniform(entries):
                self._demote_l1_entries(entries)
            return
        for slot, entry in enumerate(entries):
            self._put_entry(entry, slot, level, mfn)

    def _demote_uniform(self, entries: list[int]) -> bool:
        """The reverse of ``_promote_uniform``, whatever the CPU has marked as accessed since. False, and nothing done,
        for any other table, and where a frame would lose its last reference.
        """
        entry = entries[0] & ~_AD
        frames = self._frames
        i = ((entry & PTE_ADDR) >> PAGE_SHIFT) - frames.first_mfn
        end = i + 512
        if not entry & PTE_P or i < 0 or end > frames.nr_frames or (entries[511] ^ entry + (511 << PAGE_SHIFT)) & ~_AD:
            return False
        uses, refs = frames.type_count[i], frames.refs[i]
        if refs <= 1 or frames.refs[i:end] != array("I", (refs,)) * 512:
            return False
        if entry & PTE_RW and frames.type_count[i:end] != array("I", (uses,)) * 512:
            return False
        if [each & ~_AD for each in entries] != list(range(entry, entry + (512 << PAGE_SHIFT), 1 << PAGE_SHIFT)):
            return False
        if entry & PTE_RW:
            frames.type_count[i:end] = array("I", (uses - 1,)) * 512
        frames.refs[i:end] = array("I", (refs - 1,)) * 512
        return True

    def _demote_l1_entries(self, entries: list[int]) -> None:
        """``put_from_l1e`` for each, in one sweep: a domain has 100,000s."""
        frames = self._frames
        counts, refs, first, release = frames.type_count, frames.refs, frames.first_mfn, frames.release
        for entry in entries:
            if entry & PTE_P:
                i = ((entry & PTE_ADDR) >> PAGE_SHIFT) - first
                if entry & PTE_RW:
                    counts[i] -= 1
                refs[i] -= 1
                if not refs[i]:
                    release(Mfn(i + first))

    def _put_entry(self, entry: int, slot: int, level: PageType, table_mfn: int) -> None:
        if not entry & PTE_P or slot in self._xen_slots(level):
            return
        if level == PageType.L1:
            self.put_from_l1e(entry)
        else:
            self.put_from_table_entry(entry, table_mfn)

    # -- changing one entry ------------------------------------------------------------------------------------------
    def replace_entry(self, maddr: int, new: int) -> int:
        """Store an entry whose references are taken already; returns the old one, whose references the caller drops."""
        old = self._ram.read_u64(maddr)
        self._ram.write_u64(maddr, new)
        return old

    def mod_l1_entry(self, maddr: int, new: int, preserve_ad: bool = False) -> int:
        """mod_l1_entry: replace the level-1 entry at ``maddr``; returns the old one."""
        ram = self._ram
        old = ram.quads[(maddr - ram.base) >> 3]
        if new & PTE_P:
            if new & _L1_DISALLOW:
                raise XenError(e.EINVAL, f"Bad L1 flags {new & _L1_DISALLOW:x}")
            new = self.adjust_l1e(new)
            if not (old ^ new) & _REVALIDATE:
                ram.write_u64(maddr, new | (old & _AD) if preserve_ad else new)
                return old
            self.get_from_l1e(new)
        ram.write_u64(maddr, new | (old & _AD) if preserve_ad else new)
        if old & PTE_P:
            self.put_from_l1e(old)
        return old

    def mod_table_entry(self, maddr: int, new: int, level: PageType, preserve_ad: bool = False) -> int:
        """mod_l2_entry .. mod_l4_entry: replace an entry of a level 2..4 table; returns the old one."""
        ram = self._ram
        table_mfn = maddr >> PAGE_SHIFT
        slot = (maddr >> 3) & 511
        if slot in self._xen_slots(level):
            raise XenError(e.EINVAL, f"L{TABLE_LEVEL[level]} update in Xen-private area, slot {slot:#x}")
        old = ram.quads[(maddr - ram.base) >> 3]
        if new & PTE_P:
            self._check_flags(new, level)
            new |= self._forced_bits(level)
            if not (old ^ new) & _REVALIDATE:
                ram.write_u64(maddr, new | (old & _AD) if preserve_ad else new)
                return old
            self.get_from_table_entry(new, level, table_mfn)
        ram.write_u64(maddr, new | (old & _AD) if preserve_ad else new)
        self.put_from_table_entry(old, table_mfn)
        return old
