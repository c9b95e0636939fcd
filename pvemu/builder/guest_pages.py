"""The domain's pages by pfn, over machine memory (``xc_dom_pfn_to_ptr`` of tools/libs/guest/xg_dom_core.c).

Consecutive pfns mostly lie in consecutive frames (2 MiB extents), so data is copied per run of frames, not per page.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from pvemu.frames import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, Mfn, Pfn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvemu.memory.ram import Ram

__all__ = ["GuestPages"]

_EXTENT = 512  #: pages looked at together


class GuestPages:
    """Writes to pseudo-physical pages. The frames are taken to be zero at first, as Xen scrubs what it hands out."""

    def __init__(self, ram: Ram, p2m: array[int]) -> None:
        self.ram = ram
        self.p2m = p2m

    def mfn(self, pfn: int) -> Mfn:
        """The machine frame of a page."""
        return Mfn(self.p2m[pfn])

    def maddr(self, paddr: int) -> int:
        """The machine address of a pseudo-physical one."""
        return (self.p2m[paddr >> PAGE_SHIFT] << PAGE_SHIFT) | (paddr & PAGE_MASK)

    def runs(self, pfn: Pfn, count: int) -> Iterator[tuple[Mfn, int]]:
        """(first frame, number of frames) of consecutive machine frames behind ``count`` pages."""
        first, length = -1, 0
        end = pfn + count
        while pfn < end:
            step = min(_EXTENT - pfn % _EXTENT, end - pfn)
            for start, size in self._runs_within(pfn, step):
                if first + length == start:
                    length += size
                    continue
                if length:
                    yield Mfn(first), length
                first, length = start, size
            pfn = Pfn(pfn + step)
        if length:
            yield Mfn(first), length

    def _runs_within(self, pfn: int, count: int) -> Iterator[tuple[int, int]]:
        """Runs of at most an extent: one, nearly always."""
        piece = self.p2m[pfn : pfn + count]
        if piece == array("Q", range(piece[0], piece[0] + count)):
            yield piece[0], count
        else:
            yield from ((mfn, 1) for mfn in piece)

    def write(self, paddr: int, data: bytes | memoryview) -> None:
        """Store ``data`` at a pseudo-physical address."""
        if not data:
            return
        view = memoryview(data)
        pfn, offset = Pfn(paddr >> PAGE_SHIFT), paddr & PAGE_MASK
        pages = (offset + len(view) + PAGE_MASK) >> PAGE_SHIFT
        done = 0
        for mfn, count in self.runs(pfn, pages):
            size = min(count * PAGE_SIZE - offset, len(view) - done)
            self.ram.write((mfn << PAGE_SHIFT) + offset, view[done : done + size])
            done += size
            offset = 0

    def read(self, paddr: int, size: int) -> bytes:
        """``size`` bytes at a pseudo-physical address."""
        pfn, offset = Pfn(paddr >> PAGE_SHIFT), paddr & PAGE_MASK
        pages = (offset + size + PAGE_MASK) >> PAGE_SHIFT
        raw = b"".join(self.ram.read(mfn << PAGE_SHIFT, count * PAGE_SIZE) for mfn, count in self.runs(pfn, pages))
        return raw[offset : offset + size]
