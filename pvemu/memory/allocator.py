"""Free machine frames: a Xen heap at the bottom, the rest for domains (xen/common/page_alloc.c).

Domain extents are handed out from the top down, as Xen's heap does, so that mfn order is the reverse of pfn order from
one extent to the next and nothing can confuse the two.
"""

from __future__ import annotations

from pvemu.frames import PAGE_SHIFT, Mfn

__all__ = ["FrameAllocator"]


class FrameAllocator:
    """Frames [first_mfn, first_mfn + heap_frames) are Xen's, those above belong to domains."""

    def __init__(self, first_mfn: Mfn, heap_frames: int, domain_frames: int) -> None:
        self._heap_next = int(first_mfn)
        self._heap_end = first_mfn + heap_frames
        self._low = self._heap_end
        self._end = self._high = self._heap_end + domain_frames
        self._free: dict[Mfn, None] = {}  # in the order of being freed: the last is used first

    @property
    def domain_frames(self) -> range:
        """The frames that are, were or may be domains'."""
        return range(self._low, self._end)

    def alloc_xen(self, count: int = 1) -> Mfn:
        """``count`` consecutive frames of the Xen heap. MemoryError when it is used up (it is sized by the machine)."""
        if self._heap_next + count > self._heap_end:
            raise MemoryError("the Xen heap is used up")
        mfn = Mfn(self._heap_next)
        self._heap_next += count
        return mfn

    def alloc_extent(self, order: int, bits: int = 0) -> Mfn | None:
        """1 << order consecutive frames, aligned to their size, at addresses of at most ``bits`` bits (0: any); None
        when there are none.
        """
        limit = min(1 << max(bits - PAGE_SHIFT, 1), self._end) if bits else self._end
        if limit < self._end:
            found = self._take_run(1 << order, limit)
            if found is not None:
                return found
        elif order == 0 and self._free:
            mfn, _ = self._free.popitem()
            return mfn
        base = (min(self._high, limit) >> order) - 1 << order
        if base < self._low:
            return self._take_run(1 << order, limit)
        self._free.update((Mfn(mfn), None) for mfn in range(base + (1 << order), self._high))
        self._high = base
        return Mfn(base)

    def _take_run(self, count: int, limit: int) -> Mfn | None:
        """An aligned run of frames below ``limit`` that were given back one by one, the highest one."""
        free = self._free
        for base in sorted((mfn for mfn in free if not mfn % count and mfn + count <= limit), reverse=True):
            if all(mfn in free for mfn in range(base, base + count)):
                for mfn in range(base, base + count):
                    del free[Mfn(mfn)]
                return base
        return None

    def free(self, mfn: Mfn) -> None:
        """Give one domain frame back."""
        assert self._high <= mfn < self._end, f"frame {mfn:#x} was never handed out"
        assert mfn not in self._free, f"frame {mfn:#x} is free already"
        self._free[mfn] = None
