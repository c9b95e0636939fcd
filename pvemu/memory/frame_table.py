"""The frame table: who owns each machine frame, its type, and how often it is used that way
(struct page_info of xen/arch/x86/include/asm/mm.h).

A frame has one type at a time while its type count is not zero: a page table is never also writable. This module only
counts; what makes a frame valid as a page table is ``pvemu.hypervisor.page_types``.
"""

from __future__ import annotations

from array import array
from enum import IntEnum
from typing import TYPE_CHECKING

from pvemu.frames import Mfn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TABLE_LEVEL", "FrameTable", "Owner", "PageType"]


class Owner(IntEnum):
    """Whose frame it is."""

    FREE = 0
    GUEST = 1
    XEN = 2  #: Xen heap, not shared with the guest
    SHARED = 3  #: Xen heap page that the guest may map writable (shared_info, grant table)


class PageType(IntEnum):
    """PGT_* types, numbered as Xen prints them (type_info's top nibble)."""

    NONE = 0
    L1 = 1
    L2 = 2
    L3 = 3
    L4 = 4
    SEG_DESC = 5
    SHARED = 6
    WRITABLE = 7
    PAE_XEN_L2 = 8  #: PGT_l2_page_table | PGT_pae_xen_l2: the last L2 of a 32-bit guest, which has Xen's slots in it


#: Level of a page-table type, 0 of others.
TABLE_LEVEL = (0, 1, 2, 3, 4, 0, 0, 0, 2)


class FrameTable:
    """Counters for ``nr_frames`` frames from ``first_mfn``. Methods take machine frame numbers; the arrays are indexed
    by ``mfn - first_mfn``.
    """

    def __init__(self, first_mfn: Mfn, nr_frames: int) -> None:
        self.first_mfn = first_mfn
        self.nr_frames = nr_frames
        self.owner = bytearray(nr_frames)
        self.type = bytearray(nr_frames)
        self.type_count = array("I", bytes(4 * nr_frames))
        self.refs = array("I", bytes(4 * nr_frames))
        self.allocated = bytearray(nr_frames)  #: PGC_allocated: whether the owner still holds its own reference
        #: linear_pt_count by frame-table index: entries of a table that point at its own level count up, such uses of
        #: it by others count down; a table has one or the other.
        self.linear: dict[int, int] = {}
        self.pinned: set[int] = set()  #: mfns with PGT_pinned
        self.tot_pages = 0  #: frames the guest owns
        self.on_free: Callable[[Mfn], None] = lambda mfn: None  #: told of each guest frame that has no user left

    def is_guest(self, mfn: int) -> bool:
        """Whether the guest owns ``mfn``."""
        i = mfn - self.first_mfn
        return 0 <= i < self.nr_frames and self.owner[i] == Owner.GUEST

    def owner_of(self, mfn: int) -> Owner:
        """Owner of a frame; FREE for numbers outside the machine."""
        i = mfn - self.first_mfn
        return Owner(self.owner[i]) if 0 <= i < self.nr_frames else Owner.FREE

    def assign(self, mfn: Mfn, count: int, owner: Owner) -> None:
        """Give ``count`` frames to an owner. Frames start with one reference, the allocation's."""
        i = mfn - self.first_mfn
        self.owner[i : i + count] = bytes([owner]) * count
        self.type[i : i + count] = bytes(count)
        self.type_count[i : i + count] = array("I", bytes(4 * count))
        self.refs[i : i + count] = array("I", [1]) * count
        self.allocated[i : i + count] = b"\1" * count
        if owner == Owner.GUEST:
            self.tot_pages += count

    def share(self, mfn: Mfn) -> None:
        """share_xen_page_with_guest: a Xen heap frame that the guest may map writable."""
        self.assign(mfn, 1, Owner.SHARED)
        i = mfn - self.first_mfn
        self.type[i], self.type_count[i] = PageType.WRITABLE, 1

    def unshare(self, mfn: Mfn) -> bool:
        """Make a shared frame Xen's alone again; False, and nothing done, while the guest has it mapped."""
        i = mfn - self.first_mfn
        if self.owner[i] == Owner.SHARED:
            if self.refs[i] != self.allocated[i]:
                return False
            self.assign(mfn, 1, Owner.XEN)
        return True

    def release(self, mfn: Mfn) -> None:
        """The last reference is gone: the frame goes back to the machine; one that Xen shares is Xen's alone again."""
        i = mfn - self.first_mfn
        self.type[i] = self.type_count[i] = 0
        self.linear.pop(i, None)
        if self.owner[i] == Owner.SHARED:
            self.owner[i] = Owner.XEN
            return
        self.tot_pages -= 1
        self.owner[i] = Owner.FREE
        self.on_free(mfn)

    def put_alloc_ref(self, mfn: int) -> bool:
        """put_page_alloc_ref: the owner gives the frame up; it goes back when nothing else refers to it any more.
        False when it is not the guest's.
        """
        i = mfn - self.first_mfn
        if not 0 <= i < self.nr_frames or self.owner[i] not in (Owner.GUEST, Owner.SHARED):
            return False
        if self.allocated[i]:
            self.allocated[i] = 0
            self.refs[i] -= 1
            if not self.refs[i]:
                self.release(Mfn(mfn))
        return True

    def can_steal(self, mfn: int) -> bool:
        """Whether ``steal_page`` would succeed: the guest's own frame, with nothing referring to it."""
        i = mfn - self.first_mfn
        return self.is_guest(mfn) and self.allocated[i] == 1 and self.refs[i] == 1

    def type_of(self, mfn: int) -> PageType:
        """Type in force; NONE while unused and for numbers outside the machine."""
        i = mfn - self.first_mfn
        return PageType(self.type[i]) if 0 <= i < self.nr_frames and self.type_count[i] else PageType.NONE
