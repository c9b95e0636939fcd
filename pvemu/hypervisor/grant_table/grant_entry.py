"""Grant entries in use: pins, and the flags that the guest sees (xen/common/grant_table.c, struct active_grant_entry).

An entry that somebody maps or copies is *active*: it is pinned to the frame it named then, whatever the guest writes
into it meanwhile. Every pin made here holds a reference on that frame, so it cannot go away under its user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import grant_table as gt
from pvemu.frames import PAGE_SIZE
from pvemu.hypervisor.grant_table.grant_shared import SharedV2
from pvemu.memory.frame_table import PageType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.grant_table.grant_shared import SharedEntries
    from pvemu.hypervisor.page_types import PageTypes

__all__ = ["PIN_DEVR", "PIN_DEVW", "PIN_HSTR", "PIN_HSTW", "ActiveEntries", "GrantRefusedError", "foreign_status"]

#: GNTPIN_*_inc: four counters of eight bits in one number.
PIN_HSTW, PIN_HSTR, PIN_DEVW, PIN_DEVR = 1, 1 << 8, 1 << 16, 1 << 24
_PIN_WRITERS = 0xFF | 0xFF << 16
_OVERFLOW_SHIFT = 7
#: dom0's own table has at least one frame, none of it granted to this guest.
_DOM0_ENTRIES = 512


class GrantRefusedError(Exception):
    """A use of a grant that Xen refuses, with its GNTST_* status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


def foreign_status(dom: int, ref: int) -> int:
    """Status of using entry ``ref`` of another domain: only dom0 is there, and it grants this guest nothing."""
    if dom:
        return gt.GNTST_bad_domain
    return gt.GNTST_general_error if ref < _DOM0_ENTRIES else gt.GNTST_bad_gntref


@dataclass(slots=True)
class _Active:
    domid: int
    mfn: int
    start: int = 0
    length: int = PAGE_SIZE
    is_sub_page: bool = False
    pin: int = 0


class ActiveEntries:
    """Who uses the domain's entries; ``shared`` are the entries of the version in force."""

    def __init__(self, types: PageTypes, shared: Callable[[], SharedEntries]) -> None:
        self._types = types
        self._shared = shared
        self._active: dict[int, _Active] = {}

    def is_pinned(self, ref: int) -> bool:
        """Whether somebody uses the entry."""
        return ref in self._active

    def pinned_beyond(self, first: int) -> bool:
        """Whether any entry from ``first`` on is in use."""
        return any(ref >= first for ref in self._active)

    @property
    def is_sub_page_in_use(self) -> bool:
        """nr_v2_ops: whether a part of a page is in use, which version 1 cannot express."""
        return any(active.is_sub_page for active in self._active.values())

    def frame_of(self, ref: int) -> int:
        """The frame that a pinned entry stands for."""
        return self._active[ref].mfn

    def _pinned(self, ref: int, domid: int, increment: int) -> _Active | None:
        """The entry if it is active, checked for another user of the same kind."""
        if ref >= self._shared().count:
            raise GrantRefusedError(gt.GNTST_bad_gntref, f"Bad grant reference {ref:#x}")
        active = self._active.get(ref)
        if active is not None and (active.domid != domid or active.pin & increment << _OVERFLOW_SHIFT):
            raise GrantRefusedError(
                gt.GNTST_general_error,
                f"Bad domain ({active.domid} != {domid}), or risk of counter overflow {active.pin:08x}",
            )
        return active

    def pin_for_mapping(self, ref: int, domid: int, readonly: bool, increment: int) -> int:
        """map_grant_ref's: take ``increment`` pins and one reference on the entry's frame, which is returned.
        GrantRefusedError as Xen refuses.
        """
        active = self._pinned(ref, domid, increment)
        if active is None:
            self._set_status(ref, None, domid, readonly, for_mapping=True)
            active = _Active(domid, self._take_frame(ref, 0, readonly))
            self._active[ref] = active
        else:
            if active.is_sub_page:
                raise GrantRefusedError(gt.GNTST_general_error, "a part of a page cannot be mapped")
            if not readonly and not active.pin & _PIN_WRITERS:
                self._set_status(ref, active, domid, readonly, for_mapping=True)
            try:
                self._types.get_page(active.mfn)
            except XenError as error:  # its mapping was overwritten behind the grant's back, and the frame given up
                self._reduce_status(ref, active.pin, readonly)
                raise GrantRefusedError(gt.GNTST_general_error, error.reason) from error
        active.pin += increment
        return active.mfn

    def pin_for_copy(self, ref: int, domid: int, readonly: bool) -> tuple[int, int, int]:
        """acquire_grant_for_copy: (frame, first byte, length) of what may be copied."""
        increment = PIN_HSTR if readonly else PIN_HSTW
        active = self._pinned(ref, domid, increment)
        if self._is_transitive(ref):
            self._refuse_transitive(ref, active, domid, readonly)
        if active is None or (not readonly and not active.pin & _PIN_WRITERS):
            active = self._pin_afresh(ref, active, domid, readonly)
        else:
            try:
                self._types.get_page(active.mfn)
            except XenError as error:
                self._reduce_status(ref, active.pin, readonly)
                raise GrantRefusedError(gt.GNTST_bad_domain, error.reason) from error
        active.pin += increment
        return active.mfn, active.start, active.length

    def _pin_afresh(self, ref: int, active: _Active | None, domid: int, readonly: bool) -> _Active:
        """The entry is read: for its first use, or its first to write, when it must say what it did before."""
        self._set_status(ref, active, domid, readonly, for_mapping=False)
        pin = active.pin if active is not None else 0
        mfn = self._take_frame(ref, pin, readonly)
        extent = self._shared().extent(ref)
        start, length = extent or (0, PAGE_SIZE)
        if active is None:
            active = self._active[ref] = _Active(domid, mfn, start, length, extent is not None)
        elif active.mfn != mfn or (active.is_sub_page and (active.start, active.length) != extent):
            self._types.put_page(mfn)
            self._reduce_status(ref, pin, readonly)
            raise GrantRefusedError(gt.GNTST_general_error, "the entry was changed while in use")
        return active

    def _is_transitive(self, ref: int) -> bool:
        shared = self._shared()
        return shared.version == 2 and shared.header(ref)[0] & gt.GTF_type_mask == gt.GTF_transitive

    def _refuse_transitive(self, ref: int, active: _Active | None, domid: int, readonly: bool) -> None:
        """An entry that passes on another domain's: there is only dom0, and it has none for this one."""
        pin = active.pin if active is not None else 0
        if active is None or (not readonly and not pin & _PIN_WRITERS):
            self._set_status(ref, active, domid, readonly, for_mapping=False)
        shared = self._shared()
        assert isinstance(shared, SharedV2)
        trans_domid, trans_gref = shared.transitive(ref)
        self._reduce_status(ref, pin, readonly)
        status = gt.GNTST_general_error if trans_domid else foreign_status(trans_domid, trans_gref)
        raise GrantRefusedError(status, f"transitive grant of domain {trans_domid}")

    def _take_frame(self, ref: int, pin: int, readonly: bool) -> int:
        """get_paged_frame: the entry's frame, with a reference on it."""
        mfn = self._shared().frame(ref)
        try:
            self._types.get_page(mfn)
        except XenError as error:
            self._reduce_status(ref, pin, readonly)
            raise GrantRefusedError(gt.GNTST_bad_page, error.reason) from error
        return mfn

    def unpin(self, ref: int, readonly: bool, decrement: int) -> None:
        """Drop ``decrement`` pins and the reference that came with them."""
        active = self._active[ref]
        active.pin -= decrement
        self._reduce_status(ref, active.pin, readonly)
        if not active.pin:
            del self._active[ref]
        self._types.put_page(active.mfn)

    def get_writable(self, mfn: int) -> None:
        """A writable type reference; GNTST_general_error for a page table and the like."""
        try:
            self._types.get_type(mfn, PageType.WRITABLE)
        except XenError as error:
            raise GrantRefusedError(gt.GNTST_general_error, error.reason) from error

    def _set_status(self, ref: int, active: _Active | None, domid: int, readonly: bool, for_mapping: bool) -> None:
        """_set_status_v1, _set_status_v2: check the entry and mark it as being read (and written)."""
        shared = self._shared()
        flags, owner = shared.header(ref)
        kind = flags & (gt.GTF_type_mask | (gt.GTF_sub_page if for_mapping else 0))
        wanted = kind == gt.GTF_permit_access or (
            kind == gt.GTF_transitive and shared.version == 2 and not for_mapping
        )
        if active is None and (not wanted or owner != domid):
            raise GrantRefusedError(
                gt.GNTST_general_error, f"Bad flags ({flags:x}) or dom ({owner}); expected d{domid}"
            )
        if not readonly and flags & gt.GTF_readonly:
            raise GrantRefusedError(gt.GNTST_general_error, "Attempt to write-pin a r/o grant entry")
        shared.add_status(ref, gt.GTF_reading if readonly else gt.GTF_reading | gt.GTF_writing)

    def _reduce_status(self, ref: int, pin: int, readonly: bool) -> None:
        """reduce_status_for_pin: the flags must not claim more than the pins still need."""
        clear = 0 if pin else gt.GTF_reading
        if not readonly and not pin & _PIN_WRITERS:
            clear |= gt.GTF_writing
        if clear:
            self._shared().clear_status(ref, clear)
