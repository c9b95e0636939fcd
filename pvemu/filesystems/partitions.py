"""Partition tables: MBR with logical partitions, GPT, BSD disk labels, and a table inside a partition.

Partitions are counted as GRUB and Linux do: primary MBR partitions 1 to 4 by their place in the table, logical ones
from 5 on, GPT's by their place. Linux' block/partitions/{msdos,efi}.c are the rules;
GRUB's part_bsd counts a, b, c of a BSD label as 1, 2, 3.
"""

from __future__ import annotations

from struct import unpack_from
from typing import TYPE_CHECKING, Final, NamedTuple

from pvemu.filesystems.volume import BrokenImageError, Volume

if TYPE_CHECKING:
    from pvemu.filesystems.volume import SectorSource

__all__ = ["Partition", "read_table"]

_GPT_PROTECTIVE: Final = 0xEE
_EXTENDED: Final = (0x05, 0x0F, 0x85)
_MAX_LOGICAL: Final = 100
_MAX_GPT_ENTRIES: Final = 1024
_BSD_MAGIC: Final = 0x82564557
_BSD_WHOLE: Final = 2
_MAX_BSD: Final = 16


class Partition(NamedTuple):
    """``start`` and ``size`` in bytes on the disk; ``table`` is msdos, gpt or bsd; ``number`` from 1."""

    start: int
    size: int
    table: str
    number: int


def read_table(disk: SectorSource, start: int, size: int, around: str = "") -> list[Partition]:
    """The partitions of the table at the beginning of a stretch of the disk; none where there is no valid table.
    ``around`` is the table that this stretch is a partition of: an MBR in an MBR's partition (Minix had them) counts
    from the disk's beginning.
    """
    volume = Volume(disk, start, size)
    delta = start if around == "msdos" else 0
    try:
        found = _gpt(volume, disk.sector_size) or _bsd(volume, disk.sector_size)
        return found or _msdos(volume, disk.sector_size, delta)
    except BrokenImageError:
        return []


def _gpt(volume: Volume, sector: int) -> list[Partition]:
    header = volume.read(sector, 96)
    if header[:8] != b"EFI PART":
        return []
    first, count, entry_size = unpack_from("<QII", header, 72)
    if not 128 <= entry_size <= 4096:
        return []
    found = []
    for index in range(min(count, _MAX_GPT_ENTRIES)):
        entry = volume.read(first * sector + index * entry_size, 48)
        low, high = unpack_from("<QQ", entry, 32)
        if entry[:16] != bytes(16) and low <= high and high * sector < volume.size:
            found.append(Partition(volume.start + low * sector, (high - low + 1) * sector, "gpt", index + 1))
    return found


def _bsd(volume: Volume, sector: int) -> list[Partition]:
    """The label in the second sector; places count from that of the entry c, which is the whole."""
    raw = volume.read(sector, 512)
    (magic,), (again, _, count) = unpack_from("<I", raw), unpack_from("<IHH", raw, 132)
    if magic != _BSD_MAGIC or again != _BSD_MAGIC or count > _MAX_BSD:
        return []
    entries = [unpack_from("<IIIB", raw, 148 + 16 * index) for index in range(count)]
    whole = entries[_BSD_WHOLE][1] if count > _BSD_WHOLE else 0
    return [
        Partition(volume.start + (first - whole) * sector, length * sector, "bsd", index + 1)
        for index, (length, first, _, _) in enumerate(entries)
        if length and index != _BSD_WHOLE and 0 <= (first - whole) * sector < volume.size
    ]


def _msdos(volume: Volume, sector: int, delta: int) -> list[Partition]:
    found = []
    for index, (kind, first, count) in enumerate(_entries(volume, 0)):
        if kind == _GPT_PROTECTIVE:
            return []
        begin = first * sector - delta
        if kind and count and 0 < begin < volume.size:
            if kind in _EXTENDED:
                found += _logical(volume, begin, sector)
            else:
                found.append(Partition(volume.start + begin, count * sector, "msdos", index + 1))
    return sorted(found, key=lambda part: part.number)


def _logical(volume: Volume, extended: int, sector: int) -> list[Partition]:
    """A chain of tables: in each, a partition relative to it and the next table relative to the extended partition."""
    found: list[Partition] = []
    here, seen = extended, set[int]()
    while here not in seen and len(seen) < _MAX_LOGICAL:
        seen.add(here)
        try:
            entries = _entries(volume, here)
        except BrokenImageError:
            break
        following = None
        for kind, first, count in entries:
            if kind in _EXTENDED:
                following = extended + first * sector
            elif kind and count and here + first * sector < volume.size:
                start = volume.start + here + first * sector
                found.append(Partition(start, count * sector, "msdos", 5 + len(found)))
        if following is None:
            break
        here = following
    return found


def _entries(volume: Volume, at: int) -> list[tuple[int, int, int]]:
    """Type, first sector and count of the four entries; all empty where it is no partition table."""
    raw = volume.read(at, 512)
    flags = [raw[place] for place in range(446, 510, 16)]
    if raw[510:] != b"\x55\xaa" or any(flag & 0x7F for flag in flags):
        return []
    return [(raw[place + 4], *unpack_from("<II", raw, place + 8)) for place in range(446, 510, 16)]
