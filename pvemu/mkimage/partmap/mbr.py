"""The master boot record: 446 bytes nobody runs here, an identifier, four entries of 16 bytes, 55 AA.

Logical partitions are a chain of such sectors inside an extended partition, each with one partition and the next link.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pvemu.errors import ConfigError

if TYPE_CHECKING:
    from pvemu.mkimage.layout import PartitionTable

__all__ = ["EXTENDED", "MINIX", "extended", "mbr", "record"]

#: The types of an extended partition, and of one that has an MBR of its own.
EXTENDED, MINIX = 0x05, 0x81
_HEADS, _SECTORS = 255, 63


def mbr(table: PartitionTable, size: int, sector_size: int) -> list[tuple[int, bytes]]:
    """The first sector. Raises ConfigError for a partition that 32 bits of sectors cannot reach."""
    entries = []
    for part in table.partitions:
        if part.end // sector_size > 0xFFFFFFFF:
            raise ConfigError(f"{part.where}: expected an end below 2 TiB, which is where an MBR ends")
        start = (table.base + part.start) // sector_size
        entries.append((part.is_bootable, int(part.type), start, part.size // sector_size))
    return [(0, record(int(table.identifier), entries))]


def extended(table: PartitionTable, size: int, sector_size: int) -> list[tuple[int, bytes]]:
    """The records of the logical partitions; each stands where the partition before it ends.

    A partition counts from its own record, a link to the next record from the start of the extended partition.
    """
    records = []
    place = 0
    for part, following in zip(table.partitions, [*table.partitions[1:], None], strict=True):
        entries = [(False, int(part.type), (part.start - place) // sector_size, part.size // sector_size)]
        if following is not None:
            length = following.end - part.end
            entries.append((False, EXTENDED, part.end // sector_size, length // sector_size))
        records.append((place, record(0, entries)))
        place = part.end
    return records


def record(identifier: int, entries: list[tuple[bool, int, int, int]]) -> bytes:
    """A record of 512 bytes; an entry is bootable, type, first sector and number of sectors."""
    packed = b"".join(_entry(*entry) for entry in entries)
    return bytes(440) + struct.pack("<IH", identifier, 0) + packed.ljust(64, b"\0") + b"\x55\xaa"


def _entry(is_bootable: bool, kind: int, start: int, count: int) -> bytes:
    flag = 0x80 if is_bootable else 0
    return struct.pack("<B3sB3sII", flag, _chs(start), kind, _chs(start + count - 1), start, count)


def _chs(sector: int) -> bytes:
    """Cylinder, head, sector as the BIOS packed them; the last that can be written, for any beyond."""
    cylinder, rest = divmod(sector, _HEADS * _SECTORS)
    if cylinder > 1023:
        return b"\xfe\xff\xff"
    head, offset = divmod(rest, _SECTORS)
    return bytes((head, (offset + 1) | (cylinder >> 2 & 0xC0), cylinder & 0xFF))
