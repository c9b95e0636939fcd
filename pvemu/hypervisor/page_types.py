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
from pvemu.hypervisor.l1_tables import PTE_AD, PTE_CACHE_ATTRS, PTE_G, REVALIDATE, L1Tables, adjust_l1e
from pvemu.memory.frame_table import TABLE_LEVEL, FrameTable, Owner, PageType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.memory.ram import Ram

__all__ = ["XEN_L4_SLOTS", "PageTypes", "PromotionError", "xen_l4_entries"]

#: base_disallow_mask: everything but P RW US A D, the available bits and NX (and the address).
_DISALLOW = PTE_CACHE_ATTRS | PTE_G

#: L4 slots that belong to Xen in every 64-bit guest (ROOT_PAGETABLE_FIRST/LAST_XEN_SLOT).
XEN_L4_SLOTS = range(256, 272)
_NO_SLOTS = range(0)
_RO_MPT_SLOT, _LINEAR_PT_SLOT, _PERDOMAIN_SLOT, _XEN_SLOT, _DIRECTMAP_SLOT = 256, 258, 260, 261, 262
_HYPERVISOR_RW = 0x63
_RO_MPT_FLAGS = 0x27


def xen_l4_entries(mfn: int) -> dict[int, int]:
    """What Xen has in its slots of an L4, but for the linear page table; all of it leads to frame ``mfn`` here, since
    nobody walks there (init_xen_l4_slots).
    """
    entry = mfn << PAGE_SHIFT | _HYPERVISOR_RW
    return {
        _RO_MPT_SLOT: mfn << PAGE_SHIFT | _RO_MPT_FLAGS, _PERDOMAIN_SLOT: entry | PTE_NX, _XEN_SLOT: entry,
        _DIRECTMAP_SLOT: entry | PTE_NX,
    }  # fmt: skip


class PromotionError(XenError):
    """A table cannot be one. ``undone`` is what Xen undoes later (v->arch.old_guest_table): a table that was refused
    behind its first slot and how many slots it had by then; None where the first slot was to blame.
    """

    def __init__(self, cause: XenError, level: int, mfn: int, slot: int) -> None:
        super().__init__(cause.errno, f"{cause.reason}; failure in promote_l{level}_table {mfn:x}: slot {slot:#x}")
        inner: tuple[int, int] | None = cause.undone if isinstance(cause, PromotionError) else None
        self.undone: tuple[int, int] | None = (mfn, slot) if slot else inner
        #: The table of the entry's own that Xen undoes as a part of this one.
        self.inner = inner


class PageTypes:
    """Takes and drops references on frames of one domain. ``xen_entries`` are what Xen puts into its own slots of
    a table that has such: {slot: entry}.
    """

    adjust_l1e = staticmethod(adjust_l1e)

    def __init__(self, ram: Ram, frames: FrameTable, xen_entries: dict[int, int]) -> None:
        self._ram = ram
        self._frames = frames
        self._xen_entries = xen_entries
        self.l1_tables = L1Tables(ram, frames, self.adjust_l1e)
        self.get_from_l1e = self.l1_tables.get_from_l1e
        self.put_from_l1e = self.l1_tables.put_from_l1e
        self.mod_l1_entry = self.l1_tables.mod_l1_entry
        #: Tables that Xen has lost sight of while it refused what led to them: how many of their slots are validated.
        #: They keep their type, and cannot be used, until somebody wants them as what they are.
        self.partial: dict[int, int] = {}
        #: VMASST_TYPE_m2p_strict: whether only the kernel's root tables show the machine-to-physical table.
        self.is_m2p_strict: Callable[[], bool] = lambda: False
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
            if mfn in self.partial:
                self._resume(mfn, wanted)
                return
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

    def _resume(self, mfn: int, level: PageType) -> None:
        """The use of a table with PGT_partial: it is validated from where Xen had stopped."""
        frames = self._frames
        try:
            self._promote(mfn, level, self.partial.pop(mfn))
        except XenError:
            frames.type_count[mfn - frames.first_mfn] = 0
            frames.type[mfn - frames.first_mfn] = PageType.NONE
            raise
        finally:
            self.put_page(mfn)

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
        if TABLE_LEVEL[frames.type[i]] != TABLE_LEVEL[level] or mfn in self.partial:
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
    def _promote(self, mfn: int, level: PageType, first: int = 0) -> None:
        """promote_ln_table, from slot ``first`` on; PromotionError and nothing taken where an entry cannot be."""
        if level == PageType.L1:
            self.l1_tables.promote(mfn)
            return
        if level == PageType.SEG_DESC:
            self.validate_segdesc(mfn)
            return
        quads, start = self._ram.quads, self._ram.quad_index(mfn)
        slot = first
        try:
            set_bits, xen_slots = self._forced_bits(level), self._xen_slots(level)
            for slot, entry in enumerate(quads[start + first : start + 512].tolist(), first):
                if not entry & PTE_P or slot in xen_slots:
                    continue
                self.get_from_table_entry(entry, level, mfn)
                if entry & set_bits != set_bits:
                    quads[start + slot] = entry | set_bits
        except XenError as error:
            for taken in range(slot):
                self._put_entry(quads[start + taken], taken, level, mfn)
            refusal = PromotionError(error, TABLE_LEVEL[level], mfn, slot)
            inner = refusal.inner
            if slot and inner is not None and inner[0] != (quads[start + slot] & PTE_ADDR) >> PAGE_SHIFT:
                self._lose(*inner)
            raise refusal from error
        for slot in xen_slots:
            quads[start + slot] = self._xen_entries.get(slot, 0)
        if level == PageType.L4:
            quads[start + _LINEAR_PT_SLOT] = mfn << PAGE_SHIFT | _HYPERVISOR_RW | PTE_NX
            if not self.is_m2p_strict():
                self.zap_ro_mpt(mfn)
            self.fresh_roots.add(mfn)

    def fill_ro_mpt(self, mfn: int) -> None:
        """fill_ro_mpt: the root table in frame ``mfn`` shows the machine-to-physical table; one has it from the start
        where another must not.
        """
        if not self.is_m2p_strict() and _RO_MPT_SLOT in self._xen_entries:
            self._ram.quads[self._ram.quad_index(mfn) + _RO_MPT_SLOT] = self._xen_entries[_RO_MPT_SLOT]

    def zap_ro_mpt(self, mfn: int) -> None:
        """zap_ro_mpt: the root table in frame ``mfn`` does not."""
        self._ram.quads[self._ram.quad_index(mfn) + _RO_MPT_SLOT] = 0

    def shows_m2p(self, mfn: int) -> bool:
        """Whether the root table in frame ``mfn`` shows the machine-to-physical table."""
        return bool(self._ram.quads[self._ram.quad_index(mfn) + _RO_MPT_SLOT] & PTE_P)

    def _lose(self, mfn: int, slots: int) -> None:
        """An L2 refused behind its first slot, under an L3 refused for its first slot, under an L4 refused behind its
        own first: v->arch.old_guest_table has no room for the L2 any more, which stays half validated for good.
        """
        frames = self._frames
        i = mfn - frames.first_mfn
        frames.type[i], frames.type_count[i] = PageType.L2, 1
        frames.refs[i] += 2  # old_guest_table's and PGT_partial's
        start = self._ram.quad_index(mfn)
        for entry in self._ram.quads[start : start + slots].tolist():
            if entry & PTE_P:
                self.get_from_table_entry(entry, PageType.L2, mfn)
        self.partial[mfn] = slots

    def _forced_bits(self, level: PageType) -> int:
        """adjust_guest_l2e .. l4e: what Xen adds to a present entry of a level 2..4 table."""
        return PTE_US | (PTE_A if level == PageType.L4 else 0)

    def _xen_slots(self, level: PageType) -> range:
        """Slots of a level 2..4 table that are Xen's."""
        return XEN_L4_SLOTS if level == PageType.L4 else _NO_SLOTS

    def _demote(self, mfn: int, level: PageType) -> None:
        if level == PageType.L1:
            self.l1_tables.demote(mfn)
            return
        start = self._ram.quad_index(mfn)
        for slot, entry in enumerate(self._ram.quads[start : start + 512].tolist()):
            self._put_entry(entry, slot, level, mfn)

    def _put_entry(self, entry: int, slot: int, level: PageType, table_mfn: int) -> None:
        if entry & PTE_P and slot not in self._xen_slots(level):
            self.put_from_table_entry(entry, table_mfn)

    # -- changing one entry ------------------------------------------------------------------------------------------
    def mod_table_entry(self, maddr: int, new: int, level: PageType, preserve_ad: bool = False) -> int:
        """mod_l2_entry .. mod_l4_entry: replace an entry of a level 2..4 table; returns the old one."""
        ram = self._ram
        table_mfn = maddr >> PAGE_SHIFT
        slot = (maddr >> 3) & 511
        if slot in self._xen_slots(level):
            errno = e.EINVAL if level == PageType.L4 else e.EPERM
            raise XenError(errno, f"L{TABLE_LEVEL[level]} update in Xen-private area, slot {slot:#x}")
        old = ram.quads[(maddr - ram.base) >> 3]
        if new & PTE_P:
            self._check_flags(new, level)
            new |= self._forced_bits(level)
            if not (old ^ new) & REVALIDATE:
                ram.write_u64(maddr, new | (old & PTE_AD) if preserve_ad else new)
                return old
            self.get_from_table_entry(new, level, table_mfn)
        ram.write_u64(maddr, new | (old & PTE_AD) if preserve_ad else new)
        self.put_from_table_entry(old, table_mfn)
        return old
