"""A copy-on-write overlay in memory: the guest writes, the image file does not change.

Written 4 KiB chunks are kept by number; discarded ranges are kept as ranges, so that a guest which discards a huge disk
costs nothing. A chunk that is held comes before a discarded range, which comes before the image.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from pvemu.disk.raw import SECTOR_SHIFT, RawDisk

__all__ = ["OverlayDisk"]

_CHUNK_SHIFT = 12
_CHUNK = 1 << _CHUNK_SHIFT
_ZEROES = bytes(_CHUNK)


class OverlayDisk:
    """``image`` with the guest's writes over it. Same units, same errors as :class:`pvemu.disk.raw.RawDisk`."""

    def __init__(self, image: RawDisk) -> None:
        self._image = image
        self._chunks: dict[int, bytearray] = {}
        self._zero_starts: list[int] = []  # discarded ranges of chunks, sorted, apart from each other
        self._zero_ends: list[int] = []
        self.sectors = image.sectors
        self.sector_size = image.sector_size
        self.read_only = False

    def read(self, sector: int, count: int) -> bytes:
        """``count`` sectors from ``sector`` on."""
        data = bytearray(count << SECTOR_SHIFT)
        self.readinto(sector, memoryview(data))
        return bytes(data)

    def readinto(self, sector: int, buffer: memoryview) -> None:
        """Fill ``buffer`` (whole sectors) from ``sector`` on."""
        self._image.readinto(sector, buffer)
        if not self._chunks and not self._zero_starts:
            return
        start = sector << SECTOR_SHIFT
        end = start + len(buffer)
        chunks = self._chunks
        for chunk in range(start >> _CHUNK_SHIFT, (end - 1 >> _CHUNK_SHIFT) + 1):
            data = chunks.get(chunk)
            if data is None and not self._is_zeroed(chunk):
                continue
            base = chunk << _CHUNK_SHIFT
            first, last = max(start, base), min(end, base + _CHUNK)
            source = _ZEROES if data is None else data
            buffer[first - start : last - start] = memoryview(source)[first - base : last - base]

    def write(self, sector: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` (whole sectors) at ``sector``, in memory only."""
        size = len(data)
        if sector < 0 or size & 511 or sector + (size >> SECTOR_SHIFT) > self.sectors:
            raise ValueError(f"sectors {sector}+{size / 512:g} are not on a disk of {self.sectors}")
        start = sector << SECTOR_SHIFT
        end = start + size
        view = memoryview(data)
        position = start
        while position < end:
            chunk = position >> _CHUNK_SHIFT
            base = chunk << _CHUNK_SHIFT
            last = min(end, base + _CHUNK)
            target = self._chunks.get(chunk)
            if target is None:
                whole = last - position == _CHUNK
                target = self._chunks[chunk] = bytearray(_CHUNK) if whole else self._old_chunk(chunk)
            target[position - base : last - base] = view[position - start : last - start]
            position = last

    def flush(self) -> None:
        """Nothing to do: nothing is on its way to the host."""

    def discard(self, sector: int, count: int) -> None:
        """Make the sectors read as zeroes."""
        if sector < 0 or count < 0 or sector + count > self.sectors:
            raise ValueError(f"sectors {sector}+{count} are not on a disk of {self.sectors}")
        start, end = sector << SECTOR_SHIFT, sector + count << SECTOR_SHIFT
        first, last = start + _CHUNK - 1 >> _CHUNK_SHIFT, end >> _CHUNK_SHIFT
        if end == self.sectors << SECTOR_SHIFT:  # the last chunk may hang over the end of the disk
            last = end + _CHUNK - 1 >> _CHUNK_SHIFT
        if first >= last:
            self.write(sector, bytes(end - start))
            return
        head = (first << _CHUNK_SHIFT) - start
        if head:
            self.write(sector, bytes(head))
        tail = end - (last << _CHUNK_SHIFT)
        if tail > 0:
            self.write(last << _CHUNK_SHIFT - SECTOR_SHIFT, bytes(tail))
        self._zero(first, last)

    def close(self) -> None:
        """Drop the overlay and close the image."""
        self._chunks.clear()
        self._image.close()

    def _zero(self, first: int, last: int) -> None:
        """Discard the chunks ``first`` to ``last`` - 1, merging ranges that touch."""
        chunks = self._chunks
        held = range(first, last) if last - first < len(chunks) else list(chunks)
        for chunk in held:
            if first <= chunk < last:
                chunks.pop(chunk, None)
        low = bisect_left(self._zero_ends, first)
        high = bisect_right(self._zero_starts, last)
        if low < high:
            first = min(first, self._zero_starts[low])
            last = max(last, self._zero_ends[high - 1])
        self._zero_starts[low:high] = [first]
        self._zero_ends[low:high] = [last]

    def _is_zeroed(self, chunk: int) -> bool:
        at = bisect_right(self._zero_starts, chunk) - 1
        return at >= 0 and chunk < self._zero_ends[at]

    def _old_chunk(self, chunk: int) -> bytearray:
        """What a chunk that is not held reads as; past the end of the disk it is padded with zeroes."""
        data = bytearray(_CHUNK)
        if not self._is_zeroed(chunk):
            sector = chunk << _CHUNK_SHIFT - SECTOR_SHIFT
            count = min(_CHUNK >> SECTOR_SHIFT, self.sectors - sector)
            self._image.readinto(sector, memoryview(data)[: count << SECTOR_SHIFT])
        return data
