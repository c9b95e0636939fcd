"""The GUID partition table: a protective MBR, a header and 128 entries at the start, both again at the end.

The UEFI specification describes it in its chapter "GUID Partition Table (GPT) Disk Layout".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING
from uuid import UUID
from zlib import crc32

from pvemu.mkimage.partmap.mbr import record

if TYPE_CHECKING:
    from pvemu.mkimage.layout import Partition, PartitionTable

__all__ = ["GPT_PARTITIONS", "GPT_TYPES", "gpt", "gpt_space"]

GPT_PARTITIONS = 128
_ENTRY_SIZE = 128
_HEADER_SIZE = 92
_LEGACY_BOOTABLE = 1 << 2

#: Names that a recipe may give for a partition's type.
GPT_TYPES = {
    "linux": "0fc63daf-8483-4772-8e79-3d69d8477de4",
    "efi": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    "bios": "21686148-6449-6e6f-744e-656564454649",
    "boot": "bc13c2ff-59e6-4262-a352-b275fd6f7172",
    "data": "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7",
    "lvm": "e6d6d379-f507-44c2-a23c-238f2a3df928",
    "raid": "a19d880f-05fc-4d3b-a006-743f0f84911e",
    "swap": "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f",
}


def gpt_space(sector_size: int) -> int:
    """The bytes that a header and its entries take; at the start a sector for the protective MBR comes before them."""
    return sector_size + GPT_PARTITIONS * _ENTRY_SIZE


def gpt(table: PartitionTable, size: int, sector_size: int) -> list[tuple[int, bytes]]:
    """Both copies of the table, for a space of `size` bytes."""
    last = size // sector_size - 1
    entries = b"".join(_entry(part, sector_size) for part in table.partitions)
    entries = entries.ljust(GPT_PARTITIONS * _ENTRY_SIZE, b"\0")
    taken = gpt_space(sector_size) // sector_size

    def header(at: int, other: int, entries_at: int) -> bytes:
        fields = (at, other, taken + 1, last - taken, UUID(str(table.identifier)).bytes_le, entries_at)
        rest = (GPT_PARTITIONS, _ENTRY_SIZE, crc32(entries))

        def packed(check: int) -> bytes:
            return struct.pack("<8sIIII4Q", b"EFI PART", 0x10000, _HEADER_SIZE, check, 0, *fields[:4]) + struct.pack(
                "<16sQIII", *fields[4:], *rest
            )

        return packed(crc32(packed(0)))

    protective = record(0, [(False, 0xEE, 1, min(last, 0xFFFFFFFF))])
    return [
        (0, protective),
        (sector_size, header(1, last, 2)),
        (2 * sector_size, entries),
        ((last - taken + 1) * sector_size, entries),
        (last * sector_size, header(last, 1, last - taken + 1)),
    ]


def _entry(part: Partition, sector_size: int) -> bytes:
    first, last = part.start // sector_size, part.end // sector_size - 1
    flags = _LEGACY_BOOTABLE if part.is_bootable else 0
    kind, guid = UUID(str(part.type)).bytes_le, UUID(part.guid).bytes_le
    return struct.pack("<16s16sQQQ72s", kind, guid, first, last, flags, part.name.encode("utf-16-le"))
