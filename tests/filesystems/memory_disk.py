"""Disks that a test makes up."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MemoryDisk", "gpt", "mbr"]


class MemoryDisk:
    """A disk of ``size`` zero bytes with ``pieces`` laid over them (byte -> content); refuses what is off the disk."""

    def __init__(self, size: int, pieces: Mapping[int, bytes], sector_size: int = 512) -> None:
        self.sectors = size >> 9
        self.sector_size = sector_size
        self.pieces = dict(pieces)
        self.reads = 0

    def read(self, sector: int, count: int) -> bytes:
        if sector < 0 or sector + count > self.sectors:
            raise ValueError("off the disk")
        if sector % (self.sector_size >> 9) or (sector + count) % (self.sector_size >> 9):
            raise ValueError("half a sector")
        self.reads += 1
        start, size = sector << 9, count << 9
        data = bytearray(size)
        for at, content in self.pieces.items():
            first, last = max(at, start), min(at + len(content), start + size)
            if first < last:
                data[first - start : last - start] = content[first - at : last - at]
        return bytes(data)


def mbr(*entries: tuple[int, int, int], flag: int = 0) -> bytes:
    """A sector with (type, first sector, count) of up to four entries."""
    table = b"".join(struct.pack("<B3xB3xII", flag, *entry) for entry in entries)
    return bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa"


def gpt(sector_size: int, *entries: tuple[int, int]) -> bytes:
    """A protective MBR, a header and entries of (first, last) sector; (0, 0) is an empty one."""
    protective = mbr((0xEE, 1, 0xFFFFFFFF)).ljust(sector_size, b"\0")
    header = struct.pack("<8s64xQII", b"EFI PART", 2, len(entries), 128).ljust(sector_size, b"\0")
    rows = b""
    for low, high in entries:
        rows += struct.pack("<16s16xQQ", b"\1" * 16 if high else bytes(16), low, high).ljust(128, b"\0")
    return protective + header + rows
