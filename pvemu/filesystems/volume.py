"""A stretch of a disk read by bytes, and what its file system says of its files.

Whatever an image holds, a reader raises nothing but :class:`BrokenImageError` (and the disk's own OSError): offsets and
sizes come from the image, so each is checked against the volume before it is used.
"""

from __future__ import annotations

from struct import error as StructError
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "BROKEN",
    "BrokenImageError",
    "Budget",
    "Extent",
    "FileSystem",
    "Node",
    "SectorSource",
    "Volume",
    "cut_extents",
    "merge_extents",
]

_CHUNK_SHIFT = 16
_MAX_CHUNKS = 64
#: Most that is read at once: what a field of the image asks for may be anything.
_MAX_READ = 1 << 30


class BrokenImageError(Exception):
    """A structure on the disk says what cannot be."""


#: What reading a structure that is broken or cut short may raise.
BROKEN: Final = (BrokenImageError, StructError, IndexError)


class Budget:
    """How many blocks of trees and directories there can be: no more than fit on the volume. Pointers that lead in
    circles, or to the same place a million times, end here.
    """

    def __init__(self, blocks: int) -> None:
        self._left = blocks

    def spend(self, blocks: int = 1) -> None:
        """Before reading ``blocks`` of them; BrokenImageError when there were too many."""
        self._left -= blocks
        if self._left < 0:
            raise BrokenImageError("more blocks of structure than the volume has room for")


class SectorSource(Protocol):
    """What a volume needs of a disk (pvemu.disk.image.Disk has it): sectors and counts are in 512-byte units."""

    @property
    def sectors(self) -> int:
        """How many 512-byte sectors it has."""

    @property
    def sector_size(self) -> int:
        """The logical sector size in bytes, 512 or 4096."""

    def read(self, sector: int, count: int) -> bytes:
        """``count`` sectors from ``sector`` on."""


class Extent(NamedTuple):
    """A piece of a file in a row on its volume, in bytes. ``size`` is what it takes there; ``length`` what it holds
    of the file, which is more where ``codec`` names a compression. ``skip`` bytes of what it unpacks to come before.
    """

    file_offset: int
    offset: int
    size: int
    length: int
    codec: str = ""
    skip: int = 0


class Node(NamedTuple):
    """A file, directory or symbolic link; ``path`` is absolute, that of a directory ends in a slash."""

    path: str
    kind: Literal["file", "directory", "link"]
    size: int
    extents: list[Extent]


class FileSystem(Protocol):
    """A file system on a volume. Made by a constructor that raises BrokenImageError where there is none of its kind."""

    @property
    def name(self) -> str:
        """As Linux calls it: ext4, vfat, xfs, btrfs."""

    @property
    def has_pending_journal(self) -> bool:
        """Whether it says that its journal holds changes which the next mount is to write back. Only ext says so."""

    def nodes(self) -> Iterator[Node]:
        """Everything in it, each path once, directories before what is in them. What is broken is left out."""


class Volume:
    """``size`` bytes of a disk from byte ``start`` on; both multiples of 512."""

    def __init__(self, disk: SectorSource, start: int, size: int) -> None:
        self._disk = disk
        self.start = start
        self.size = max(0, min(size, (disk.sectors << 9) - start))
        self._chunks: dict[int, bytes] = {}

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the volume; BrokenImageError where they are not all on it."""
        if offset < 0 or not 0 <= size <= _MAX_READ or offset + size > self.size:
            raise BrokenImageError(f"bytes {offset}+{size} of a volume of {self.size}")
        first, last = offset >> _CHUNK_SHIFT, offset + size - 1 >> _CHUNK_SHIFT
        if last - first > 1:
            return self._read(offset, size)
        data = b"".join(self._chunk(number) for number in range(first, last + 1))
        at = offset - (first << _CHUNK_SHIFT)
        return data[at : at + size]

    def _chunk(self, number: int) -> bytes:
        data = self._chunks.get(number)
        if data is None:
            offset = number << _CHUNK_SHIFT
            data = self._read(offset, min(1 << _CHUNK_SHIFT, self.size - offset))
            if len(self._chunks) >= _MAX_CHUNKS:
                del self._chunks[next(iter(self._chunks))]
            self._chunks[number] = data
        return data

    def _read(self, offset: int, size: int) -> bytes:
        begin, end = self.start + offset, self.start + offset + size
        unit = self._disk.sector_size >> 9  # a 4096-byte sector comes whole
        first, last = (begin >> 9) // unit * unit, -(-end // (unit << 9)) * unit
        data = self._disk.read(first, min(last, self._disk.sectors) - first)
        at = begin - (first << 9)
        return data[at : at + size]


def cut_extents(extents: list[Extent], size: int) -> list[Extent]:
    """Extents without what lies past the file's end in the last block."""
    cut = []
    for extent in extents:
        length = min(extent.length, size - extent.file_offset)
        if length > 0:
            cut.append(extent._replace(length=length, size=extent.size if extent.codec else length))
    return cut


def merge_extents(extents: list[Extent]) -> list[Extent]:
    """Neighbours that follow each other both in the file and on the volume, as one."""
    merged: list[Extent] = []
    for extent in sorted(extents):
        last = merged[-1] if merged else None
        if (
            last is not None and not last.codec and not extent.codec
            and last.file_offset + last.length == extent.file_offset and last.offset + last.size == extent.offset
        ):  # fmt: skip
            merged[-1] = last._replace(size=last.size + extent.size, length=last.length + extent.length)
        else:
            merged.append(extent)
    return merged
