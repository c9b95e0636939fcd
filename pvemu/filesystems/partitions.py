"""Partition tables: MBR with logical partitions, GPT, and a table inside a partition.

Partitions are counted as GRUB and Linux do: primary MBR partitions 1 to 4 by their place in the table, logical ones
from 5 on, GPT's by their place. Linux' block/partitions/{msdos,efi}.c are the rules.
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


class Partition(NamedTuple):
    """``start`` and ``size`` in bytes on the disk; ``table`` is msdos or gpt; ``number`` from 1."""

    start: int
    size: int
    table: str
    number: int


def read_table(disk: SectorSource, start: int, size: int) -> list[Partition]:
    """The partitions of the table at the beginning of a stretch of the disk; none where there is no valid table."""
    volume = Volume(disk, start, size)
    try:
        return _gpt(volume, disk.sector_size) or _msdos(volume, disk.sector_size)
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


def _msdos(volume: Volume, sector: int) -> list[Partition]:
    found = []
    for index, (kind, first, count) in enumerate(_entries(volume, 0)):
        if kind == _GPT_PROTECTIVE:
            return []
        begin = first * sector
        if kind and count and first and begin < volume.size:
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
