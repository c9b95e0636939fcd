"""What a disk is made of, as types: tables of partitions, file systems, RAID members and volume groups, in each other.

A disk, a partition, an array and a logical volume are alike: each holds nothing or one `Content`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvemu.mkimage.entries import Entry, Patch

__all__ = [
    "Content",
    "Disk",
    "FileSystem",
    "LogicalVolume",
    "Mirror",
    "Partition",
    "PartitionTable",
    "VolumeGroup",
    "file_systems",
]


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A file system and what is in it; `options` are further arguments for its mkfs."""

    kind: str
    label: str
    uuid: str
    features: tuple[str, ...]
    options: tuple[str, ...]
    entries: tuple[Entry, ...]
    where: str = field(repr=False)  # for messages; the repr is what a build's hash is made of


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition: `start` (from where the table's space begins) and `size` in bytes.

    `type` is a number for an MBR and a BSD label, a GUID for a GPT; `name` and `guid` are a GPT's.
    """

    start: int
    size: int
    type: int | str
    is_bootable: bool
    name: str
    guid: str
    content: Content | None
    where: str = field(repr=False)

    @property
    def end(self) -> int:
        """Where it ends, in bytes from where the table's space begins."""
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class PartitionTable:
    """A table of `kind` mbr, gpt, extended (the logical partitions of an MBR) or bsd.

    `identifier` is an MBR's 32-bit number or a GPT's GUID. `base` is what an MBR's entries count from, in bytes before
    its space: 0, but for one inside a partition of another MBR, which counts from the start of the disk (so Minix).
    """

    kind: str
    identifier: int | str
    partitions: tuple[Partition, ...]
    base: int = 0


@dataclass(frozen=True, slots=True)
class Mirror:
    """One member of an MD RAID1 array of `devices` members; every member holds the whole `content`."""

    metadata: str
    uuid: str
    name: str
    device: int
    devices: int
    content: Content | None


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """A logical volume; `size` in bytes, `id` as LVM writes it (32 letters and digits, in groups)."""

    name: str
    id: str
    size: int
    content: Content | None


@dataclass(frozen=True, slots=True)
class VolumeGroup:
    """An LVM volume group on this one physical volume; `extent_size` in bytes."""

    name: str
    id: str
    physical_id: str
    extent_size: int
    volumes: tuple[LogicalVolume, ...]


Content = FileSystem | PartitionTable | Mirror | VolumeGroup


@dataclass(frozen=True, slots=True)
class Disk:
    """A whole disk; `size` and `sector_size` (512 or 4096) in bytes; `patches` (at places) are written last."""

    size: int
    sector_size: int
    content: Content | None
    patches: tuple[Patch, ...] = ()


def file_systems(content: Content | None) -> Iterator[FileSystem]:
    """Every file system in it, in the order in which they are written."""
    match content:
        case FileSystem():
            yield content
        case PartitionTable(partitions=parts):
            for part in parts:
                yield from file_systems(part.content)
        case Mirror(content=inner):
            yield from file_systems(inner)
        case VolumeGroup(volumes=volumes):
            for volume in volumes:
                yield from file_systems(volume.content)
