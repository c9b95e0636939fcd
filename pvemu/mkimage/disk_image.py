"""A disk's layout as bytes in a file: each content at its place, file systems made beside it and copied in."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from pvemu.mkimage.filesystems import FILE_SYSTEMS
from pvemu.mkimage.filesystems.job import Job
from pvemu.mkimage.layout import FileSystem, Mirror, PartitionTable, VolumeGroup
from pvemu.mkimage.partmap import PARTMAPS
from pvemu.mkimage.tools import ToolError
from pvemu.mkimage.volumes.lvm import physical_volume, volume_places
from pvemu.mkimage.volumes.md import member_data, superblock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import BinaryIO

    from pvemu.mkimage.layout import Content, Disk
    from pvemu.mkimage.tools import Tool
    from pvemu.mkimage.tree import Sources

__all__ = ["DiskWriter"]

_CHUNK = 1 << 20


class DiskWriter:
    """Writes disks; `scratch` is a directory for file systems on their way, `epoch` (seconds) every time stamp."""

    def __init__(self, sources: Sources, tool: Callable[[str], Tool], scratch: Path, epoch: int) -> None:
        self._sources = sources
        self._tool = tool
        self._scratch = scratch
        self._epoch = epoch

    def write(self, disk: Disk, path: Path) -> None:
        """Write a disk image, with holes where it is zero. Raises ToolError and ConfigError as file systems do."""
        with path.open("wb") as image:
            image.truncate(disk.size)
            self._content(disk.content, image, 0, disk.size, disk.sector_size)
            _put(image, 0, ((patch.at, patch.replace) for patch in disk.patches))

    def _content(self, content: Content | None, image: BinaryIO, offset: int, size: int, sector_size: int) -> None:
        """Write one content into `size` bytes from `offset` on."""
        match content:
            case PartitionTable(kind=kind, partitions=parts):
                _put(image, offset, PARTMAPS[kind].write(content, size, sector_size))
                for part in parts:
                    self._content(part.content, image, offset + part.start, part.size, sector_size)
            case FileSystem():
                self._file_system(content, image, offset, size, sector_size)
            case Mirror(metadata=metadata, content=inner):
                _put(image, offset, [superblock(content, size, self._epoch)])
                start, length = member_data(metadata, size)
                self._content(inner, image, offset + start, length, sector_size)
            case VolumeGroup():
                _put(image, offset, physical_volume(content, size, self._epoch))
                for volume, place in volume_places(content):
                    self._content(volume.content, image, offset + place, volume.size, sector_size)

    def _file_system(self, system: FileSystem, image: BinaryIO, offset: int, size: int, sector_size: int) -> None:
        place = self._scratch / f"at-{offset}"
        place.mkdir()
        target = place / "content"
        with target.open("wb") as empty:
            empty.truncate(size)
        tree = self._sources.tree(system.entries)
        FILE_SYSTEMS[system.kind].make(Job(target, system, size, sector_size, tree, self._epoch, self._tool))
        grown = target.stat().st_size
        if grown > size:
            raise ToolError(f"{system.kind} needs {grown} bytes here, and there are {size}; make it larger")
        _copy_sparse(target, image, offset)
        shutil.rmtree(place)


def _put(image: BinaryIO, offset: int, pieces: Iterable[tuple[int, bytes]]) -> None:
    for place, data in pieces:
        image.seek(offset + place)
        image.write(data)


def _copy_sparse(source: Path, image: BinaryIO, offset: int) -> None:
    """Copy a file into an image, leaving holes where it is zero."""
    with source.open("rb") as content:
        for position in range(offset, offset + source.stat().st_size, _CHUNK):
            chunk = content.read(_CHUNK)
            if chunk.count(0) != len(chunk):
                image.seek(position)
                image.write(chunk)
