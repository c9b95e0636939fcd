"""Entries of a version 1 grant table in use: pins, and the flags that the guest sees (xen/common/grant_table.c).

An entry that somebody maps or copies is *active*: it is pinned to the frame it named then, whatever the guest writes
into it meanwhile. Every pin made here holds a reference on that frame, so it cannot go away under its user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import grant_table as gt
from pvemu.frames import PAGE_SIZE
from pvemu.memory.frame_table import PageType

if TYPE_CHECKING:
    from pvemu.frames import Mfn
    from pvemu.hypervisor.page_types import PageTypes
    from pvemu.memory.ram import Ram

__all__ = ["PIN_DEVR", "PIN_DEVW", "PIN_HSTR", "PIN_HSTW", "ActiveEntries", "GrantRefusedError"]

#: GNTPIN_*_inc: four counters of eight bits in one number.
PIN_HSTW, PIN_HSTR, PIN_DEVW, PIN_DEVR = 1, 1 << 8, 1 << 16, 1 << 24
_PIN_WRITERS = 0xFF | 0xFF << 16
_OVERFLOW_SHIFT = 7
_ENTRY_SIZE = 8
_ENTRIES_PER_FRAME = PAGE_SIZE // _ENTRY_SIZE


class GrantRefusedError(Exception):
    """A use of a grant that Xen refuses, with its GNTST_* status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


@dataclass(slots=True)
class _Active:
    domid: int
    mfn: int
    pin: int = 0


class ActiveEntries:
    """The shared entries in ``table`` (frames of the grant table, which may grow) and who uses them."""

    def __init__(self, ram: Ram, types: PageTypes, table: list[Mfn]) -> None:
        self._ram = ram
        self._types = types
        self._table = table
        self._active: dict[int, _Active] = {}

    def view(self, ref: int) -> memoryview | None:
        """The 8 bytes of entry ``ref``: flags, domid, frame; None beyond the table."""
        page, index = divmod(ref, _ENTRIES_PER_FRAME)
        if page >= len(self._table):
            return None
        return self._ram.frame(self._table[page])[index * _ENTRY_SIZE : (index + 1) * _ENTRY_SIZE]

    def is_pinned(self, ref: int) -> bool:
        """Whether somebody uses the entry."""
        return ref in self._active

    def frame_of(self, ref: int) -> int:
        """The frame that a pinned entry stands for."""
        return self._active[ref].mfn

    def pin(self, ref: int, domid: int, readonly: bool, increment: int, for_mapping: bool) -> int:
        """Take ``increment`` pins and one reference on the entry's frame, which is returned. ``for_mapping`` tells
        map_grant_ref from acquire_grant_for_copy. GrantRefusedError as Xen refuses.
        """
        view = self.view(ref)
        if view is None:
            raise GrantRefusedError(gt.GNTST_bad_gntref, f"Bad grant reference {ref:#x}")
        active = self._active.get(ref)
        if active is None:
            self._set_status(view, None, domid, readonly, for_mapping)
            active = _Active(domid, int.from_bytes(view[4:8], "little"))
            try:
                self._types.get_page(active.mfn)
            except XenError as error:
                self._reduce_status(view, 0, readonly)
                raise GrantRefusedError(gt.GNTST_bad_page, error.reason) from error
            self._active[ref] = active
        else:
            if active.domid != domid or active.pin & increment << _OVERFLOW_SHIFT:
                raise GrantRefusedError(
                    gt.GNTST_general_error,
                    f"Bad domain ({active.domid} != {domid}), or risk of counter overflow {active.pin:08x}",
                )
            if not readonly and not active.pin & _PIN_WRITERS:
                self._set_status(view, active, domid, readonly, for_mapping)
            try:
                self._types.get_page(active.mfn)
            except XenError as error:  # its mapping was overwritten behind the grant's back, and the frame given up
                raise GrantRefusedError(gt.GNTST_general_error, error.reason) from error
        active.pin += increment
        return active.mfn

    def unpin(self, ref: int, readonly: bool, decrement: int) -> None:
        """Drop ``decrement`` pins and the reference that came with them."""
        active = self._active[ref]
        active.pin -= decrement
        view = self.view(ref)
        assert view is not None, "a grant table never shrinks"
        self._reduce_status(view, active.pin, readonly)
        if not active.pin:
            del self._active[ref]
        self._types.put_page(active.mfn)

    def get_writable(self, mfn: int) -> None:
        """A writable type reference; GNTST_general_error for a page table and the like."""
        try:
            self._types.get_type(mfn, PageType.WRITABLE)
        except XenError as error:
            raise GrantRefusedError(gt.GNTST_general_error, error.reason) from error

    def _set_status(
        self, view: memoryview, active: _Active | None, domid: int, readonly: bool, for_mapping: bool
    ) -> None:
        """_set_status_v1: check the entry and mark it as being read (and written)."""
        flags = int.from_bytes(view[0:2], "little")
        owner = int.from_bytes(view[2:4], "little")
        kind = flags & (gt.GTF_type_mask | (gt.GTF_sub_page if for_mapping else 0))
        if active is None and (kind != gt.GTF_permit_access or owner != domid):
            raise GrantRefusedError(
                gt.GNTST_general_error, f"Bad flags ({flags:x}) or dom ({owner}); expected d{domid}"
            )
        if not readonly:
            if flags & gt.GTF_readonly:
                raise GrantRefusedError(gt.GNTST_general_error, "Attempt to write-pin a r/o grant entry")
            flags |= gt.GTF_writing
        view[0:2] = (flags | gt.GTF_reading).to_bytes(2, "little")

    def _reduce_status(self, view: memoryview, pin: int, readonly: bool) -> None:
        """reduce_status_for_pin: the flags must not claim more than the pins still need."""
        clear = 0 if pin else gt.GTF_reading
        if not readonly and not pin & _PIN_WRITERS:
            clear |= gt.GTF_writing
        if clear:
            view[0:2] = (int.from_bytes(view[0:2], "little") & ~clear).to_bytes(2, "little")
