"""A member of an MD RAID1 array: the version 1 superblock, `struct mdp_superblock_1` of linux/raid/md_p.h.

Metadata 1.0 stands at the end, so that the member reads like what it holds; 1.1 at the start; 1.2 4 KiB after it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

if TYPE_CHECKING:
    from pvemu.mkimage.layout import Mirror

__all__ = ["METADATA", "member_data", "superblock"]

METADATA = ("1.0", "1.1", "1.2")
_SECTOR = 512
_MAGIC = 0xA92B4EFC
_DATA_OFFSET = 1 << 20
_NEVER = (1 << 64) - 1  # everything is in step
_ROLES = 128
_RAID1 = 1


def member_data(metadata: str, size: int) -> tuple[int, int]:
    """Where the array's content is in a member of `size` bytes: offset and length."""
    if metadata == "1.0":
        return 0, _place(metadata, size)
    return _DATA_OFFSET, size // _SECTOR * _SECTOR - _DATA_OFFSET


def superblock(mirror: Mirror, size: int, epoch: int) -> tuple[int, bytes]:
    """(offset, bytes) of the superblock of a member of `size` bytes, with the array's devices all in step."""
    place = _place(mirror.metadata, size)
    offset, length = member_data(mirror.metadata, size)
    array = UUID(mirror.uuid)
    head = struct.pack("<IIII16s32s", _MAGIC, 1, 0, 0, array.bytes, mirror.name.encode())
    head += struct.pack("<QIIQIIi", epoch, _RAID1, 0, length // _SECTOR, 0, mirror.devices, 0)
    device = uuid5(array, str(mirror.device)).bytes
    own = struct.pack(
        "<QQQQII16sB7x", *(part // _SECTOR for part in (offset, length, place)), 0, mirror.device, 0, device, 0
    )
    roles = b"".join(struct.pack("<H", role if role < mirror.devices else 0xFFFF) for role in range(_ROLES))

    def packed(check: int) -> bytes:
        state = struct.pack("<QQQII32x", epoch, 1, _NEVER, check, _ROLES)
        return head.ljust(128, b"\0") + own + state + roles

    return place, packed(_checksum(packed(0)))


def _place(metadata: str, size: int) -> int:
    """In 1.0 the last multiple of 4 KiB with at least 8 KiB behind it."""
    places: dict[str, int] = {"1.0": (size - 8192) & ~4095, "1.1": 0, "1.2": 4096}
    return places[metadata]


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"<{len(data) // 4}I", data))
    return (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF
