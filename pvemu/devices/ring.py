"""The back end's half of a shared ring in live guest pages (public/io/ring.h, BACK_RING_*).

Indices are free-running u32 counters. A slot may straddle two pages when a ring has several; with one page, which is
the usual case, every access is a single step on the page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypercalls.public.io.ring import (
    RING_IDX_MASK,
    RING_PUSH_NOTIFY,
    RING_REQUEST_PROD_OVERFLOW,
    RING_SIZE,
    SRING_HEADER_SIZE,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypercalls.abi import Abi

__all__ = ["BackRing", "FrontendProtocolError"]

_PAGE_SHIFT: Final = 12
_PAGE_MASK: Final = (1 << _PAGE_SHIFT) - 1


class FrontendProtocolError(Exception):
    """The front end's producer index claims more requests than the ring holds: the ring is to be left alone."""

    def __init__(self, req_prod: int, rsp_prod_pvt: int) -> None:
        super().__init__(req_prod, rsp_prod_pvt)
        self.req_prod = req_prod
        self.rsp_prod_pvt = rsp_prod_pvt


class BackRing:
    """A ring of the declared structure ``sring`` in the width of ``abi``, over ``pages`` of 4096 live bytes each.

    ``nr_ents`` is RING_SIZE. ``req_cons`` and ``rsp_prod_pvt`` start at 0 and belong to the back end alone; the guest
    may change everything in the pages at any time.
    """

    def __init__(self, pages: Sequence[memoryview], abi: Abi, sring: type) -> None:
        self.entry_size = abi.fieldsize(sring, "ring[0]")
        self.nr_ents = RING_SIZE(self.entry_size, len(pages) << _PAGE_SHIFT)
        self.req_cons = 0
        self.rsp_prod_pvt = 0
        self._pages = tuple(pages)
        self._head = pages[0]
        self._one_page = len(pages) == 1
        self._slots = self.nr_ents - 1
        self._index = abi.reader(sring, "req_prod", "req_event", "rsp_prod", "rsp_event")
        self._req_event, self._rsp_prod = (
            slice(abi.offsetof(sring, field), abi.offsetof(sring, field) + abi.fieldsize(sring, field))
            for field in ("req_event", "rsp_prod")
        )

    def pending(self) -> int:
        """How many requests wait; FrontendProtocolError if the front end claims more than the ring holds."""
        req_prod: int = self._index.unpack_from(self._head)[0]
        if RING_REQUEST_PROD_OVERFLOW(req_prod, self.rsp_prod_pvt, self.nr_ents):
            raise FrontendProtocolError(req_prod, self.rsp_prod_pvt)
        return req_prod - self.req_cons & RING_IDX_MASK

    def take_request(self) -> bytes:
        """A private copy of the next request, which is thereby consumed (RING_COPY_REQUEST)."""
        offset = SRING_HEADER_SIZE + (self.req_cons & self._slots) * self.entry_size
        self.req_cons = self.req_cons + 1 & RING_IDX_MASK
        end = offset + self.entry_size
        if self._one_page:
            return bytes(self._head[offset:end])
        page = self._pages[offset >> _PAGE_SHIFT]
        data = bytes(page[offset & _PAGE_MASK : (offset & _PAGE_MASK) + self.entry_size])
        if len(data) < self.entry_size:
            data += bytes(self._pages[end >> _PAGE_SHIFT][: self.entry_size - len(data)])
        return data

    def put(self, place: int, data: bytes) -> None:
        """Store ``data`` at byte ``place`` of the slot that the next response takes."""
        offset = SRING_HEADER_SIZE + (self.rsp_prod_pvt & self._slots) * self.entry_size + place
        end = offset + len(data)
        if self._one_page:
            self._head[offset:end] = data
            return
        start = offset & _PAGE_MASK
        here = data[: (1 << _PAGE_SHIFT) - start]
        self._pages[offset >> _PAGE_SHIFT][start : start + len(here)] = here
        if len(here) < len(data):
            self._pages[end >> _PAGE_SHIFT][: len(data) - len(here)] = data[len(here) :]

    def push_responses_and_check_notify(self) -> bool:
        """Publish the responses up to ``rsp_prod_pvt``; whether the front end asked to be notified of them."""
        _, _, old, rsp_event = self._index.unpack_from(self._head)
        new = self.rsp_prod_pvt
        self._head[self._rsp_prod] = new.to_bytes(4, "little")
        return RING_PUSH_NOTIFY(new, old, rsp_event)

    def final_check_for_requests(self) -> bool:
        """Whether requests wait, and slots for their responses are free; if not, ask to be notified of the next.

        RING_FINAL_CHECK_FOR_REQUESTS looks twice, because its front end runs meanwhile; a guest here does not.
        """
        req_cons = self.req_cons
        req_prod: int = self._index.unpack_from(self._head)[0]
        if req_prod != req_cons and req_cons - self.rsp_prod_pvt & RING_IDX_MASK != self.nr_ents:
            return True
        self._head[self._req_event] = (req_cons + 1 & RING_IDX_MASK).to_bytes(4, "little")
        return False
