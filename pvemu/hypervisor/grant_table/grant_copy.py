"""GNTTABOP_copy: an array of copies between frames and grants (xen/common/grant_table.c gnttab_copy).

Xen keeps the frame of either side until a request names another one, and asks for permission only when a side's domain
changes. A guest can see that: entries are not looked at again within an array, and a frame number that equals the
entry held stands for the entry's frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import grant_table as gt
from hypercalls.public import xen
from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Mfn
from pvemu.hypervisor.grant_table.grant_entry import (
    PIN_HSTR,
    PIN_HSTW,
    ActiveEntries,
    GrantRefusedError,
    foreign_status,
)

if TYPE_CHECKING:
    from hypercalls.context import CopySide
    from pvemu.hypervisor.page_types import PageTypes
    from pvemu.memory.ram import Ram

__all__ = ["GrantCopies"]

_WORD = 8


@dataclass(slots=True)
class _Claim:
    """struct gnttab_copy_buf: what is held of one side. ``start`` and ``length`` are what may be copied of the page."""

    number: int
    is_grant: bool
    mfn: int
    start: int
    length: int
    is_typed: bool = False


class GrantCopies:
    """One array of requests of domain ``domid``; what is held at its end must be released."""

    def __init__(self, domid: int, ram: Ram, types: PageTypes, entries: ActiveEntries) -> None:
        self._domid = domid
        self._ram = ram
        self._types = types
        self._entries = entries
        self._domains: tuple[int, int] | None = None
        self._source: _Claim | None = None
        self._dest: _Claim | None = None

    def copy(self, source: CopySide, dest: CopySide, length: int) -> int:
        """gnttab_copy_one: the status of one request."""
        if self._domains != (source[2], dest[2]):
            self.release()
            self._domains = None
            status = self._lock_domain(source) or self._lock_domain(dest)
            if status != gt.GNTST_okay:
                return status
            self._domains = source[2], dest[2]
        try:
            held = self._hold(source, dest)
            _check_bounds(*held, source[3], dest[3], length)
        except GrantRefusedError as refused:
            self.release()
            return refused.status
        self._move(held[0].mfn, source[3], held[1].mfn, dest[3], length)
        return gt.GNTST_okay

    def _hold(self, source: CopySide, dest: CopySide) -> tuple[_Claim, _Claim]:
        """Both sides' frames, claimed where they are not held already."""
        if self._source is None or not _is_held(self._source, source):
            self._put(self._source, readonly=True)
            self._source = None
            self._source = self._claim(source)
        if self._dest is None or not _is_held(self._dest, dest):
            self._put(self._dest, readonly=False)
            self._dest = None
            self._dest = self._claim(dest, readonly=False)
            self._entries.get_writable(self._dest.mfn)
            self._dest.is_typed = True
        return self._source, self._dest

    def release(self) -> None:
        """gnttab_copy_release_buf of both sides."""
        self._put(self._source, readonly=True)
        self._put(self._dest, readonly=False)
        self._source = self._dest = None

    def _lock_domain(self, side: CopySide) -> int:
        """gnttab_copy_lock_domain: only DOMID_SELF may name frames."""
        is_gref, _, dom, _ = side
        if dom != xen.DOMID_SELF and not is_gref:
            return gt.GNTST_permission_denied
        return gt.GNTST_okay if dom in (xen.DOMID_SELF, self._domid, 0) else gt.GNTST_bad_domain

    def _claim(self, side: CopySide, readonly: bool = True) -> _Claim:
        """gnttab_copy_claim_buf, without the destination's type."""
        is_gref, number, dom, _ = side
        if not is_gref:
            if dom == 0 != self._domid:
                raise GrantRefusedError(gt.GNTST_bad_page, f"frame {number:#x} is not domain 0's")
            try:
                self._types.get_page(number)
            except XenError as error:
                raise GrantRefusedError(gt.GNTST_bad_page, error.reason) from error
            return _Claim(number, False, number, 0, PAGE_SIZE)
        if dom == 0 != self._domid:
            raise GrantRefusedError(foreign_status(dom, number), "not the caller's grant")
        return _Claim(number, True, *self._entries.pin_for_copy(number, self._domid, readonly))

    def _put(self, claim: _Claim | None, readonly: bool) -> None:
        if claim is None:
            return
        if claim.is_typed:
            self._types.put_type(claim.mfn)
        if claim.is_grant:
            self._entries.unpin(claim.number, readonly, PIN_HSTR if readonly else PIN_HSTW)
        else:
            self._types.put_page(claim.mfn)

    def _move(self, source: int, source_offset: int, dest: int, dest_offset: int, length: int) -> None:
        """memcpy: words from the first to the last, then bytes, which shows when both sides overlap."""
        if source == dest and source_offset < dest_offset < source_offset + length:
            page = self._ram.frame(Mfn(source))
            words = length - length % _WORD
            steps = [(i, _WORD) for i in range(0, words, _WORD)] + [(i, 1) for i in range(words, length)]
            for i, size in steps:
                page[dest_offset + i : dest_offset + i + size] = bytes(
                    page[source_offset + i : source_offset + i + size]
                )
            return
        data = self._ram.read((source << PAGE_SHIFT) + source_offset, length)
        self._ram.write((dest << PAGE_SHIFT) + dest_offset, data)


def _is_held(claim: _Claim, side: CopySide) -> bool:
    """gnttab_copy_buf_valid: entry and frame number share a union, and which of the two is held is asked for entries
    alone.
    """
    is_gref, number, _, _ = side
    return claim.number == number and (claim.is_grant or not is_gref)


def _check_bounds(source: _Claim, dest: _Claim, source_offset: int, dest_offset: int, length: int) -> None:
    """gnttab_copy_buf's checks."""
    if source_offset + length > PAGE_SIZE or dest_offset + length > PAGE_SIZE:
        raise GrantRefusedError(gt.GNTST_bad_copy_arg, "copy beyond page area")
    for claim, offset in ((source, source_offset), (dest, dest_offset)):
        if offset < claim.start or offset + length > claim.start + claim.length:
            raise GrantRefusedError(gt.GNTST_general_error, "copy out of bounds")
