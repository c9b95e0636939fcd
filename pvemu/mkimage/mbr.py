"""The master boot record: 446 bytes nobody runs here, an identifier, four entries of 16 bytes, 55 AA."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pvemu.errors import ConfigError

if TYPE_CHECKING:
    from pvemu.mkimage.recipe import Disk, Partition

__all__ = ["SECTOR_SIZE", "mbr"]

SECTOR_SIZE = 512
_HEADS, _SECTORS = 255, 63


def mbr(disk: Disk) -> bytes:
    """The first sector of the disk. Raises ConfigError for a partition that 32 bits of sectors cannot reach."""
    entries = b"".join(_entry(part) for part in disk.partitions)
    return bytes(440) + struct.pack("<IH", disk.identifier, 0) + entries.ljust(64, b"\0") + b"\x55\xaa"


def _entry(part: Partition) -> bytes:
    start, count = part.start // SECTOR_SIZE, part.size // SECTOR_SIZE
    if start + count > 0xFFFFFFFF:
        raise ConfigError(f"{part.where}: expected an end below 2 TiB, which is where an MBR ends")
    flag = 0x80 if part.is_bootable else 0
    return struct.pack("<B3sB3sII", flag, _chs(start), part.type, _chs(start + count - 1), start, count)


def _chs(sector: int) -> bytes:
    """Cylinder, head, sector as the BIOS packed them; the last that can be written, for any beyond."""
    cylinder, rest = divmod(sector, _HEADS * _SECTORS)
    if cylinder > 1023:
        return b"\xfe\xff\xff"
    head, offset = divmod(rest, _SECTORS)
    return bytes((head, (offset + 1) | (cylinder >> 2 & 0xC0), cylinder & 0xFF))
