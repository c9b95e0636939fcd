"""An LVM2 volume group on one physical volume: the label, the metadata area's header, the metadata as text.

The layout is that of lvm2's lib/format_text/layout.h and lib/label/label.h; places count in sectors of 512 bytes on
every disk.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvemu.mkimage.layout import LogicalVolume, VolumeGroup

__all__ = ["PE_START", "lvm_id", "physical_volume", "volume_places"]

#: Where the first extent is, in bytes; what comes before it is LVM's own.
PE_START = 1 << 20
_SECTOR = 512
_AREA = 4096
_TEXT = 512  # in the area
_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_GROUPS = (6, 4, 4, 4, 4, 4, 6)
_PHYSICAL = "pv0"


def lvm_id(*names: str) -> str:
    """An identifier as LVM makes them (32 letters and digits, in groups), always the same for the same names."""
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    letters = "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest)
    groups = []
    for length in _GROUPS:
        groups.append(letters[:length])
        letters = letters[length:]
    return "-".join(groups)


def volume_places(group: VolumeGroup) -> Iterator[tuple[LogicalVolume, int]]:
    """Each volume with its offset from the start of the physical volume, in bytes: they lie in a row."""
    place = PE_START
    for volume in group.volumes:
        yield volume, place
        place += volume.size


def physical_volume(group: VolumeGroup, size: int, epoch: int) -> list[tuple[int, bytes]]:
    """The (offset, bytes) of all that is LVM's, for a physical volume of `size` bytes."""
    text = _metadata(group, size, epoch).encode() + b"\0"
    area = _AREA, PE_START - _AREA
    header = b" LVM2 x[5A%r0N*>" + struct.pack("<IQQ", 1, *area)
    header += struct.pack("<QQII", _TEXT, len(text), _crc(text), 0)
    header = header.ljust(_TEXT - 4, b"\0")
    identifier = group.physical_id.replace("-", "").encode()
    areas = (PE_START, 0, 0, 0, *area, 0, 0)  # of data, of metadata; a pair of zeros ends each list
    content = struct.pack("<I8s32sQ8Q", 32, b"LVM2 001", identifier, size, *areas).ljust(_SECTOR - 20, b"\0")
    label = struct.pack("<8sQI", b"LABELONE", 1, _crc(content)) + content
    return [(_SECTOR, label), (_AREA, struct.pack("<I", _crc(header)) + header), (_AREA + _TEXT, text)]


def _crc(data: bytes) -> int:
    """LVM's CRC-32 starts from a number of its own and is not inverted."""
    return crc32(data, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _metadata(group: VolumeGroup, size: int, epoch: int) -> str:
    lines = [
        f"{group.name} {{",
        f'id = "{group.id}"',
        "seqno = 1",
        'format = "lvm2"',
        'status = ["RESIZEABLE", "READ", "WRITE"]',
        "flags = []",
        f"extent_size = {group.extent_size // _SECTOR}",
        "max_lv = 0",
        "max_pv = 0",
        "metadata_copies = 0",
        "",
        "physical_volumes {",
        "",
        f"{_PHYSICAL} {{",
        f'id = "{group.physical_id}"',
        'device = "/dev/null"',
        'status = ["ALLOCATABLE"]',
        "flags = []",
        f"dev_size = {size // _SECTOR}",
        f"pe_start = {PE_START // _SECTOR}",
        f"pe_count = {(size - PE_START) // group.extent_size}",
        "}",
        "}",
        "",
    ]
    if group.volumes:
        lines.append("logical_volumes {")
        start = 0
        for volume in group.volumes:
            count = volume.size // group.extent_size
            lines += _volume(volume, start, count, epoch)
            start += count
        lines.append("}")
    lines += ["", "}", 'contents = "Text Format Volume Group"', "version = 1", "", 'description = ""', ""]
    return "\n".join([*lines, 'creation_host = "pvemu"', f"creation_time = {epoch}", "", ""])


def _volume(volume: LogicalVolume, start: int, count: int, epoch: int) -> list[str]:
    return [
        "",
        f"{volume.name} {{",
        f'id = "{volume.id}"',
        'status = ["READ", "WRITE", "VISIBLE"]',
        "flags = []",
        f"creation_time = {epoch}",
        'creation_host = "pvemu"',
        "segment_count = 1",
        "",
        "segment1 {",
        "start_extent = 0",
        f"extent_count = {count}",
        "",
        'type = "striped"',
        "stripe_count = 1",
        "",
        "stripes = [",
        f'"{_PHYSICAL}", {start}',
        "]",
        "}",
        "}",
    ]
