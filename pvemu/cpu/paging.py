"""The walk of the guest's 4-level page tables that a TLB miss triggers (Intel SDM 3A ch. 4), and what it remembers.

Two rules keep the engine fast. Execute permission is granted lazily, only to frames that were fetched from, so that
stores to data stay on the engine's fast path (a store through an executable entry checks for stale code every time).
And what has been handed to the TLB is remembered, so that a change drops the pages it is about and nothing else: a
kernel that patches its text switches roots 17,000 times before it runs its first program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.cpu.exits import PF_INSTR, PF_PRESENT, PF_USER, PF_WRITE, Access
from pvemu.frames import PAGE_MASK, PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.memory.ram import Ram

__all__ = ["PTE_A", "PTE_ADDR", "PTE_D", "PTE_NX", "PTE_P", "PTE_PSE", "PTE_RW", "PTE_US", "PageWalker",
           "access_ok", "is_canonical", "table_slot"]  # fmt: skip

PTE_P = 1 << 0
PTE_RW = 1 << 1
PTE_US = 1 << 2
PTE_A = 1 << 5
PTE_D = 1 << 6
PTE_PSE = 1 << 7
PTE_NX = 1 << 63
PTE_ADDR = 0x000F_FFFF_FFFF_F000

#: Linear addresses from 0xffff8000_00000000 to here are Xen's: no guest pointer may point into them.
_XEN_END = 0xFFFF_8800_0000_0000
_CANONICAL_LOW_END = 0x0000_8000_0000_0000

_READ, _WRITE, _FETCH = int(Access.READ), int(Access.WRITE), int(Access.FETCH)
_PROT_R, _PROT_W, _PROT_X = 1, 2, 4
#: Translations lost to others (the engine's TLB is direct mapped and starts with 256 entries) that show it too small.
_EVICTIONS_PER_FLUSH = 512
#: More pages than this are dropped by emptying the TLB.
_PAGES_PER_FLUSH = 64
_NO_FRAME = -1


def is_canonical(vaddr: int) -> bool:
    """Whether the upper bits of a linear address repeat bit 47."""
    return vaddr >> 47 in (0, 0x1FFFF)


def access_ok(vaddr: int, size: int) -> bool:
    """Whether [vaddr, vaddr + size) lies in a 64-bit guest's part of the address space (__addr_ok, access_ok)."""
    end = vaddr + size
    return end <= _CANONICAL_LOW_END or (vaddr >= _XEN_END and end <= 1 << 64)


def table_slot(vaddr: int, level: int) -> int:
    """Index of the entry for ``vaddr`` in a level 1..4 table."""
    return (vaddr >> (PAGE_SHIFT + 9 * (level - 1))) & 511


def _note(holders: dict[int, int], mfn: int, frame: int) -> None:
    """Remember that linear frame ``frame`` has an entry for ``mfn``."""
    if holders.setdefault(mfn, frame) != frame:
        holders[mfn] = _NO_FRAME


class PageWalker:
    """Translates guest linear addresses through the tables at ``root_maddr``.

    ``flush`` empties the engine's TLB, ``flush_page`` drops one page of it; ``first_fills`` counts the entries that an
    instruction read or wrote through for the first time since the guest had them dropped. Guest time is derived from
    it, so nothing counts that hangs on the engine's ways: not filling again after an eviction, and no fetch (code is
    fetched when it is translated, which a debugger or a tracer has done again).
    """

    #: The levels above the L1 tables, from the root down.
    upper_levels: tuple[int, ...] = (4, 3, 2)
    #: What each entry on the way must have for an access of the guest's: a 64-bit one is in ring 3 always.
    _required = PTE_US
    #: The same for an access by Xen on the guest's behalf.
    _xen_required = PTE_US

    def __init__(
        self, ram: Ram, flush: Callable[[], None], drop_code: Callable[[int], None],
        flush_page: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        self._ram = ram
        self._flush = flush
        self._drop_code = drop_code
        self._flush_page = flush_page if flush_page is not None else lambda vaddr: flush()
        self.root_maddr = 0
        self.on_load_root: Callable[[], None] = lambda: None
        self.first_fills = 0
        self.error_code = 0
        self._refilled: set[int] = set()  # L1 entries filled again since the engine's TLB was last emptied
        self._evictions = 0
        #: Linear frame >> 9 -> how the L1 table is reached: (quad index of the L1 table, combined RW/US, NX, frames
        #: filled in the same L4 slot).
        self._l1_tables: dict[int, tuple[int, int, int, set[int]]] = {}
        self._slots: dict[int, tuple[list[int], set[int]]] = {}  # by root slot: (keys of _l1_tables, frames filled)
        self._upper_entries: set[int] = set()  # quad indices of the upper entries that led there
        #: Quad index of an L1 entry in the TLB -> its linear frame (_NO_FRAME: several).
        self._cached_entries: dict[int, int] = {}
        self._charged: set[int] = set()  # quad indices of the entries that were counted
        self._written: dict[int, int] = {}  # mfn with a data-only writable entry -> linear frame (_NO_FRAME: several)
        self._executable: dict[int, int] = {}  # mfn with an executable entry -> the same

    # -- flushing ----------------------------------------------------------------------------------------------------
    def flush(self) -> None:
        """Empty the TLB and forget what was in it."""
        self._l1_tables.clear()
        self._slots.clear()
        self._upper_entries.clear()
        self._cached_entries.clear()
        self._charged.clear()
        self._written.clear()
        self._executable.clear()
        self._refilled.clear()
        self._flush()

    def _grow_tlb(self) -> None:
        """Empty the engine's TLB only because it is too small: it doubles when a full one is flushed."""
        self._evictions = 0
        self._refilled.clear()
        self._flush()

    def entry_changed(self, maddr: int) -> None:
        """The L1 entry at ``maddr`` was changed: the TLB must not have its old value."""
        index = (maddr - self._ram.base) >> 3
        frame = self._cached_entries.pop(index, None)
        if frame is None:
            return
        self._charged.discard(index)
        if frame == _NO_FRAME:
            self.flush()
        else:
            self._flush_page(frame << PAGE_SHIFT)

    def upper_entry_changed(self, maddr: int) -> None:
        """The entry of a level 2..4 table at ``maddr`` was changed."""
        if (maddr - self._ram.base) >> 3 in self._upper_entries:
            self.flush()

    def load_root(self, maddr: int) -> None:
        """Translate through other tables from now on: what they share with the old ones stays in the TLB."""
        quads, base = self._ram.quads, self._ram.base
        old, new = (self.root_maddr - base) >> 3, (maddr - base) >> 3
        self.root_maddr = maddr
        for slot in [s for s in self._slots if (quads[old + s] ^ quads[new + s]) & ~PTE_A]:
            if slot in self._slots:  # else one before emptied the TLB
                self._drop_slot(slot)
        self._upper_entries.update(new + slot for slot in self._slots)
        self.on_load_root()

    def _drop_slot(self, slot: int) -> None:
        """Take all pages of one slot of the root (512 GiB, or 1 of 32 bits) out of the TLB."""
        keys, frames = self._slots[slot]
        if len(frames) > _PAGES_PER_FLUSH:
            self.flush()
            return
        del self._slots[slot]
        cached = self._cached_entries
        for frame in frames:
            index = self._l1_tables[frame >> 9][0] + (frame & 511)
            if cached.get(index) == frame:
                del cached[index]
                self._charged.discard(index)
                self._flush_page(frame << PAGE_SHIFT)
            elif index in cached:
                self._flush_page(frame << PAGE_SHIFT)
        for key in keys:
            del self._l1_tables[key]

    def _drop_frame(self, holders: dict[int, int], mfn: int) -> None:
        """Take the entries for ``mfn`` that ``holders`` tells of out of the engine's TLB, to be granted anew."""
        frame = holders.pop(mfn, None)
        if frame == _NO_FRAME:
            self._written.clear()
            self._executable.clear()
            self._refilled.clear()
            self._flush()
        elif frame is not None:
            self._flush_page(frame << PAGE_SHIFT)

    def is_entry_cached(self, maddr: int) -> bool:
        """Whether the L1 entry at ``maddr`` may be in the TLB."""
        return (maddr - self._ram.base) >> 3 in self._cached_entries

    @property
    def is_empty(self) -> bool:
        """Whether nothing was handed to the TLB, and nothing of the upper tables remembered, since the last flush."""
        return not self._cached_entries and not self._l1_tables

    @staticmethod
    def is_address(vaddr: int) -> bool:
        """Whether the tables can translate such a linear address at all."""
        return vaddr >> 47 in (0, 0x1FFFF)

    @staticmethod
    def access_ok(vaddr: int, size: int) -> bool:
        """Whether a pointer of the guest's may point to [vaddr, vaddr + size)."""
        return access_ok(vaddr, size)

    # -- walking -----------------------------------------------------------------------------------------------------
    def translate(self, vaddr: int, access: int) -> tuple[int, int] | None:
        """(machine address of the page, engine permissions) for a page-aligned ``vaddr``; None for a page fault, whose
        error code is then in ``error_code``. Sets accessed and dirty bits as the CPU does.
        """
        linear_frame = vaddr >> PAGE_SHIFT
        found = self._l1_tables.get(linear_frame >> 9)
        if found is None:
            found = self._find_l1_table(vaddr, access)
            if found is None:
                return None
        table, rights, nx, filled = found
        quads = self._ram.quads
        index = table + (linear_frame & 511)
        entry = quads[index]
        if not entry & PTE_P:
            self._refuse(access, 0)
            return None
        rights &= entry
        nx |= entry & PTE_NX
        if self._required & ~rights or (access == _WRITE and not rights & PTE_RW) or (access == _FETCH and nx):
            self._refuse(access, PF_PRESENT)
            return None
        if access == _WRITE:
            if entry & (PTE_A | PTE_D) != PTE_A | PTE_D:
                quads[index] = entry = entry | PTE_A | PTE_D
        elif not entry & PTE_A:
            quads[index] = entry = entry | PTE_A
        maddr = entry & PTE_ADDR
        writable = rights & PTE_RW and entry & PTE_D
        is_ram = self._ram.contains(maddr >> PAGE_SHIFT)
        if is_ram:
            prot = self._grant(maddr >> PAGE_SHIFT, linear_frame, access, bool(writable), bool(nx))
        else:
            prot = _PROT_R | (_PROT_W if writable else 0)
        cached = self._cached_entries
        holder = cached.get(index)
        if holder != linear_frame:
            if linear_frame >> 9 in self._l1_tables:
                filled.add(linear_frame)
            else:
                self._find_l1_table(vaddr, access)  # all was dropped meanwhile
                self._l1_tables[linear_frame >> 9][3].add(linear_frame)
            cached[index] = linear_frame if holder is None else _NO_FRAME
        if index not in self._charged:
            if access == _FETCH:
                return maddr, _PROT_X if is_ram else prot  # the first read or write is to be seen
            self._charged.add(index)
            self.first_fills += 1
            return maddr, prot
        if index not in self._refilled:
            self._refilled.add(index)
        else:
            self._evictions += 1
            if self._evictions >= _EVICTIONS_PER_FLUSH:
                self._grow_tlb()
        return maddr, prot

    def _grant(self, mfn: int, frame: int, access: int, writable: bool, nx: bool) -> int:
        """Permissions for one frame at a linear frame, keeping translated code and writable data apart."""
        code = self._ram.code_frames
        if access == _FETCH:
            if mfn not in code:
                code.add(mfn)
                self._drop_frame(self._written, mfn)  # a data-only entry would let later stores go unnoticed
            _note(self._executable, mfn, frame)
            return _PROT_R | _PROT_X | (_PROT_W if writable else 0)
        if mfn in code:
            if not nx:
                _note(self._executable, mfn, frame)
                return _PROT_R | _PROT_X | (_PROT_W if writable else 0)
            if access != _WRITE:
                return _PROT_R
            # Code written through a no-execute alias: it is data until it is fetched from again.
            code.discard(mfn)
            self._drop_code(mfn)
            self._drop_frame(self._executable, mfn)
        if writable:
            _note(self._written, mfn, frame)
            return _PROT_R | _PROT_W
        return _PROT_R

    def _refuse(self, access: int, present: int) -> None:
        code = present | (PF_USER if self._required else 0)
        if access == _WRITE:
            code |= PF_WRITE
        elif access == _FETCH:
            code |= PF_INSTR
        self.error_code = code

    def _find_l1_table(self, vaddr: int, access: int) -> tuple[int, int, int, set[int]] | None:
        ram = self._ram
        quads, base = ram.quads, ram.base
        table = self.root_maddr
        rights, nx = PTE_RW | PTE_US, 0
        path: list[int] = []
        if not self.is_address(vaddr):
            self._refuse(access, 0)
            return None
        for level in self.upper_levels:
            index = ((table - base) >> 3) + table_slot(vaddr, level)
            entry = quads[index]
            if not entry & PTE_P or not ram.contains((entry & PTE_ADDR) >> PAGE_SHIFT):
                self._refuse(access, 0)
                return None
            if not entry & PTE_A:
                quads[index] = entry | PTE_A
            path.append(index)
            rights &= entry
            nx |= entry & PTE_NX
            table = entry & PTE_ADDR
        slot = table_slot(vaddr, self.upper_levels[0])
        of_slot = self._slots.get(slot)
        if of_slot is None:
            of_slot = self._slots[slot] = [], set()
        key = vaddr >> (PAGE_SHIFT + 9)
        of_slot[0].append(key)
        self._upper_entries.update(path)
        found = (table - base) >> 3, rights, nx, of_slot[1]
        self._l1_tables[key] = found
        return found

    def has_l1_table(self, vaddr: int) -> bool:
        """Whether the tables lead to one of level 1 for ``vaddr``, of which 48 bits count."""
        ram, table = self._ram, self.root_maddr
        for level in self.upper_levels:
            if not ram.contains(table >> PAGE_SHIFT):
                return False
            entry = ram.read_u64(table + 8 * table_slot(vaddr, level))
            if not entry & PTE_P:
                return False
            table = entry & PTE_ADDR
        return True

    def lookup(self, vaddr: int, access: Access = Access.READ, root_maddr: int | None = None) -> int | None:
        """Machine address that ``vaddr`` means under the current tables (or those at ``root_maddr``) for an access of
        the guest, without touching the TLB or accessed bits; None where the guest would fault.
        """
        if not self.is_address(vaddr):
            return None
        ram = self._ram
        found = self._l1_tables.get(vaddr >> (PAGE_SHIFT + 9)) if root_maddr is None else None
        if found is not None:  # as a TLB miss would find it
            table = ram.quads[found[0] + table_slot(vaddr, 1)]
            if not table & PTE_P:
                return None
            rights, nx = found[1] & table, found[2] | table & PTE_NX
            table &= PTE_ADDR
        else:
            table = self.root_maddr if root_maddr is None else root_maddr
            rights, nx = PTE_RW | PTE_US, 0
            for level in (*self.upper_levels, 1):
                if not ram.contains(table >> PAGE_SHIFT):
                    return None
                entry = ram.quads[((table - ram.base) >> 3) + table_slot(vaddr, level)]
                if not entry & PTE_P:
                    return None
                rights &= entry
                nx |= entry & PTE_NX
                table = entry & PTE_ADDR
        if self._xen_required & ~rights or (access == Access.FETCH and nx):
            return None
        if access == Access.WRITE and not rights & PTE_RW:
            return None
        return table | (vaddr & PAGE_MASK)

    def _entries_above_root(self) -> list[tuple[int, int, int]]:
        """Xen's own entries that lead to the guest's root table."""
        return []

    def entries(self, vaddr: int) -> list[tuple[int, int, int]]:
        """The walk for people: (level, slot, entry) from level 4 down, ending with the first that is not present."""
        ram = self._ram
        table, found = self.root_maddr, self._entries_above_root()
        for level in (*self.upper_levels, 1):
            if not ram.contains(table >> PAGE_SHIFT):
                break
            slot = table_slot(vaddr, level)
            entry = ram.quads[((table - ram.base) >> 3) + slot]
            found.append((level, slot, entry))
            table = entry & PTE_ADDR
            if not entry & PTE_P or (level == 2 and entry & PTE_PSE):
                break
        return found
