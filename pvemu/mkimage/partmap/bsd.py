"""The BSD disk label, in the second sector of a slice (an MBR partition of type 0xa5) or of a whole disk.

`struct disklabel` of FreeBSD's sys/disklabel.h. Places count from where the slice begins, and the third entry (c) is
the whole of it; so partitions are a, b, d, e and on, which GRUB calls bsd1, bsd2, bsd4, bsd5.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvemu.mkimage.layout import PartitionTable

__all__ = ["BSD_PARTITIONS", "SLICE", "bsd_label"]

#: The type of the MBR partition that has a label in it.
SLICE = 0xA5
BSD_PARTITIONS = 7
_MAGIC = 0x82564557
_WHOLE = 2
_HEADS, _SECTORS = 255, 63
_BOOT_SIZE, _SUPERBLOCK_SIZE = 8192, 8192


def bsd_label(table: PartitionTable, size: int, sector_size: int) -> list[tuple[int, bytes]]:
    """The label."""
    named = [(part.start, part.size, int(part.type)) for part in table.partitions]
    unused = [(0, 0, 0)] * (_WHOLE - len(named))
    entries = [*named[:_WHOLE], *unused, (0, size, 0), *named[_WHOLE:]]
    packed = b"".join(
        struct.pack("<IIIBBH", length // sector_size, start // sector_size, 0, kind, 0, 0)
        for start, length, kind in entries
    )
    sectors = size // sector_size
    geometry = (sector_size, _SECTORS, _HEADS, sectors // (_HEADS * _SECTORS), _HEADS * _SECTORS, sectors)
    start = struct.pack("<IHH16s16s6I", _MAGIC, 0, 0, b"", b"", *geometry) + bytes(68)

    def label(check: int) -> bytes:
        return start + struct.pack("<IHHII", _MAGIC, check, len(entries), _BOOT_SIZE, _SUPERBLOCK_SIZE) + packed

    check = 0
    for word in struct.unpack(f"<{len(label(0)) // 2}H", label(0)):
        check ^= word
    return [(sector_size, label(check))]
