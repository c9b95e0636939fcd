"""Typed references to frames of a 32-bit guest: PAE tables (the ``is_pv_32bit_domain`` branches of xen/arch/x86/mm.c).

An L3 has four entries that count. The last one is always there and leads to an L2 of a type of its own, which no other
slot may have: its upper slots are Xen's. Kernel pages are the guest's own affair, since its kernel runs in ring 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from pvemu.cpu.paging import PTE_A, PTE_ADDR, PTE_P, PTE_RW, PTE_US
from pvemu.frames import PAGE_SHIFT
from pvemu.hypervisor.page_types import PageTypes, PromotionError
from pvemu.memory.frame_table import PageType

if TYPE_CHECKING:
    from pvemu.memory.frame_table import FrameTable
    from pvemu.memory.ram import Ram

__all__ = ["XEN_L2_SLOTS", "CompatPageTypes", "m2p_entries"]

#: COMPAT_L2_PAGETABLE_FIRST_XEN_SLOT and behind it: 0xf5800000 to the end.
XEN_L2_SLOTS = range(428, 512)
_L3_ENTRIES, _XEN_L3_SLOT = 4, 3
#: Slots of an L3 that a guest cannot update: the last that counts, and those that do not.
_FIXED_L3_SLOTS = range(_XEN_L3_SLOT, 512)
#: l3_disallow_mask: everything but P RW US A D and the available bits.
_L3_DISALLOW = 0xFFF << 52 | 0x198
_L3_FORCED = PTE_US | PTE_RW
_M2P_FLAGS = 0x81  # present, 2 MiB
_NO_SLOTS = range(0)


def m2p_entries(superpages: list[int]) -> dict[int, int]:
    """Xen's L2 entries for a machine-to-physical table in such 2 MiB pages (0: none)."""
    return {XEN_L2_SLOTS[i]: maddr | _M2P_FLAGS for i, maddr in enumerate(superpages) if maddr}


def _as_it_is(entry: int) -> int:
    return entry


class CompatPageTypes(PageTypes):
    """As :class:`PageTypes`; ``xen_entries`` are those of the last L2."""

    adjust_l1e = staticmethod(_as_it_is)

    def __init__(self, ram: Ram, frames: FrameTable, xen_entries: dict[int, int]) -> None:
        super().__init__(ram, frames, xen_entries)

    def _forced_bits(self, level: PageType) -> int:
        return _L3_FORCED if level == PageType.L3 else 0

    def _xen_slots(self, level: PageType) -> range:
        return XEN_L2_SLOTS if level == PageType.PAE_XEN_L2 else _NO_SLOTS

    def _check_flags(self, entry: int, level: PageType) -> None:
        if level != PageType.L3:
            super()._check_flags(entry, level)
        elif entry & _L3_DISALLOW:
            raise XenError(e.EINVAL, f"Bad L3 flags {entry & _L3_DISALLOW:x}")

    def _get_linear(self, entry: int, mfn: int, level: PageType, table_mfn: int) -> bool:
        return level != PageType.L3 and super()._get_linear(entry, mfn, level, table_mfn)

    def mod_table_entry(self, maddr: int, new: int, level: PageType, preserve_ad: bool = False) -> int:
        """As in 64 bits, but for the last entry of an L3, which stays."""
        if level == PageType.L3 and (maddr >> 3) & 511 in _FIXED_L3_SLOTS:
            raise XenError(e.EINVAL, "update of the L3 slot with Xen's mappings")
        return super().mod_table_entry(maddr, new, level, preserve_ad)

    def _promote(self, mfn: int, level: PageType, first: int = 0) -> None:
        if level == PageType.L3:
            self._promote_l3(mfn)
        elif level == PageType.L4:
            raise XenError(e.EINVAL, "a 32-bit guest has no L4 tables")
        else:
            super()._promote(mfn, level, first)

    def _promote_l3(self, mfn: int) -> None:
        """promote_l3_table: slots that do not count are cleared, since the CPU of a 64-bit Xen would see them."""
        quads, start = self._ram.quads, self._ram.quad_index(mfn)
        for slot in range(_L3_ENTRIES, 512):
            quads[start + slot] = 0
        slot = 0
        try:
            for slot in range(_L3_ENTRIES):
                entry = quads[start + slot]
                if slot == _XEN_L3_SLOT:
                    self._get_xen_l2(entry)
                elif not entry & PTE_P:
                    continue
                else:
                    self.get_from_table_entry(entry, PageType.L3, mfn)
                quads[start + slot] = entry | _L3_FORCED
        except XenError as error:
            refusal = PromotionError(error, 3, mfn, slot)
            for taken in range(slot):
                self.put_from_table_entry(quads[start + taken], mfn)
            for each in range(slot + 1 if slot and refusal.inner is not None else slot):
                quads[start + each] = _unadjusted(quads[start + each])
            raise refusal from error
        self.fresh_roots.add(mfn)

    def _get_xen_l2(self, entry: int) -> None:
        """The entry that must be there; its table may serve no other L3 (pae_xen_mappings_check). Of one that does, Xen
        keeps the references it took: it stays what it is for good.
        """
        if not entry & PTE_P or entry & _L3_DISALLOW:
            raise XenError(e.EINVAL, f"L3 slot with Xen's mappings is {entry:x}")
        mfn = (entry & PTE_ADDR) >> PAGE_SHIFT
        self.get_page_and_type(mfn, PageType.PAE_XEN_L2)
        if self._frames.type_count[mfn - self._frames.first_mfn] != 1:
            raise XenError(e.EINVAL, "PAE L3 3rd slot is shared")

    def _demote(self, mfn: int, level: PageType) -> None:
        super()._demote(mfn, level)
        if level == PageType.L3:
            quads, start = self._ram.quads, self._ram.quad_index(mfn)
            for slot in range(_L3_ENTRIES):
                quads[start + slot] = _unadjusted(quads[start + slot])


def _unadjusted(entry: int) -> int:
    """unadjust_guest_l3e: as the guest wrote it."""
    return entry & ~(PTE_US | PTE_RW | PTE_A) if entry & PTE_P else entry
