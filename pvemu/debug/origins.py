"""Which file a kernel came from: found from the sectors that its loader read, not from what the loader prints.

A loader reads many files (configuration, modules, several kernels). The one that a kernel came from is that among the
files read whose segments are what now lies in memory where it starts. What a loader carries in its own image (GRUB's
memdisk, a tar) is looked through as well.

While the guest runs, only the places of reads are noted, and a copy is made of a new kernel as it was loaded. All else
waits until somebody asks, and then reads the image files anew.
"""

from __future__ import annotations

import lzma
from functools import cached_property
from hashlib import sha256
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from pvemu.builder.bzimage import is_bzimage
from pvemu.builder.elf import is_elf
from pvemu.builder.kernel import parse_image
from pvemu.debug.stages import GivenFiles
from pvemu.devices.blkback_trace import ReadRanges
from pvemu.disk.image import open_disk
from pvemu.errors import DiskError, KernelError
from pvemu.filesystems.disk_map import DiskMap
from pvemu.frames import PAGE_MASK, PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pvemu.builder.kernel import KernelImage
    from pvemu.debug.stages import Ramdisk, StageWatch
    from pvemu.devices.blkback import Blkback
    from pvemu.disk.image import Disk
    from pvemu.disk.spec import DiskConfig
    from pvemu.filesystems.disk_map import FileRead
    from pvemu.memory.ram import Ram

__all__ = ["Origins"]

_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\0"
_TAR_MAGIC, _TAR_MAGIC_AT, _TAR_BLOCK = b"ustar", 257, 512
#: How many files a ramdisk may be put together from.
_MAX_PARTS: Final = 3


class _Loaded(NamedTuple):
    """A kernel in memory: what was there at which addresses, in pieces in a row."""

    pieces: list[tuple[int, bytes]]

    def holds(self, vaddr: int, data: memoryview, hypercall_page: int) -> bool:
        """Whether ``data``, which belongs at ``vaddr``, is in memory; a loader may have filled in the one page."""
        is_there = False
        for start, content in self.pieces:
            first, last = max(start, vaddr), min(start + len(content), vaddr + len(data))
            memory = memoryview(content)
            while first < last:
                page = first & ~PAGE_MASK
                until = min(page + PAGE_SIZE, last)
                is_same = memory[first - start : until - start] == data[first - vaddr : until - vaddr]
                if not is_same and page != hypercall_page:
                    return False
                first, is_there = until, True
        return is_there


class Origins:
    """Watches ``stages`` and the disks of a guest from now on, and gives each stage its origin."""

    def __init__(
        self, stages: StageWatch, ram: Ram, backends: Mapping[str, Blkback], disks: Sequence[DiskConfig]
    ) -> None:
        self._stages = stages
        self._ram = ram
        self._disks = {disk.vdev: disk for disk in disks}
        self._reads = {vdev: ReadRanges() for vdev in backends}
        self._seen = dict.fromkeys(backends, 0)
        for vdev, backend in backends.items():
            backend.observe(self._reads[vdev])
        stages.origin_of = self._origin_of

    def _origin_of(self, entry: int, ramdisk: Ramdisk | None) -> _DiskOrigin:
        loaded = _Loaded(
            [(vaddr, self._ram.read(maddr, size)) for vaddr, maddr, size in self._stages.loaded_runs(entry)]
        )
        fresh = {}
        for vdev, reads in self._reads.items():
            runs = reads.in_order()
            fresh[vdev] = runs[max(0, self._seen[vdev] - 1) :]  # the last run may have grown since
            self._seen[vdev] = len(runs)
        number = len(self._stages.stages)
        return _DiskOrigin(self, number, loaded, ramdisk, fresh)

    @cached_property
    def maps(self) -> dict[str, DiskMap]:
        """The files on each disk, as the images are without what the guest wrote."""
        maps = {}
        for vdev, disk in self._disks.items():
            try:
                source: Disk = open_disk(disk.path, writable=False, sector_size=disk.sector_size)
            except DiskError:
                continue  # it is gone
            maps[vdev] = DiskMap(source)
        return maps

    def content_before(self, number: int) -> bytes:
        """The file of the stage before ``number``: the loader and what it carries."""
        origin = self._stages.stages[number - 1].origin
        if isinstance(origin, _DiskOrigin):
            return origin.content
        try:
            return Path(origin.file).read_bytes() if origin is not None and origin.file is not None else b""
        except OSError:
            return b""


class _DiskOrigin:
    """The origin of a kernel that a loader started. ``reads`` are the reads since the stage before, by disk."""

    def __init__(
        self, origins: Origins, number: int, loaded: _Loaded, ramdisk: Ramdisk | None,
        reads: dict[str, list[tuple[int, int]]],
    ) -> None:  # fmt: skip
        self._origins = origins
        self._number = number
        self._loaded = loaded
        self._ramdisk = ramdisk
        self._reads = reads

    def __reduce__(self) -> tuple[type[GivenFiles], tuple[str | None, str | None]]:
        """To another process goes what it comes to."""
        return GivenFiles, (self.file, self.ramdisk_file)

    @property
    def file(self) -> str | None:
        """Partition and path, ``(memdisk)`` and path, or None."""
        return self._found[0]

    @property
    def content(self) -> bytes:
        """What is in the file; empty where none is known."""
        return self._found[1]

    @cached_property
    def ramdisk_file(self) -> str | None:
        """Likewise, of the ramdisk; of one put together from several files, all."""
        if self._ramdisk is None:
            return None
        read = [(vdev, file) for vdev, file in self._files if file.size >= file.node.size > 0]
        by_size: dict[int, list[tuple[str, FileRead]]] = {}
        for entry in read:
            by_size.setdefault(entry[1].node.size, []).append(entry)
        for others in range(_MAX_PARTS):  # each but the last is padded to a multiple of 4
            for before in permutations(read, others):
                rest = self._ramdisk.size - sum(file.node.size + 3 & ~3 for _, file in before)
                for last in by_size.get(rest, []):
                    parts = [*before, last]
                    if sha256(_joined(parts)).hexdigest() == self._ramdisk.sha256:
                        return " + ".join(file.on(vdev) for vdev, file in parts)
        for name, content in _tar_members(self._origins.content_before(self._number)):
            if len(content) == self._ramdisk.size and sha256(content).hexdigest() == self._ramdisk.sha256:
                return f"(memdisk)/{name}"
        return None

    @cached_property
    def _files(self) -> list[tuple[str, FileRead]]:
        """The disk and the file, of each file that was read, in that order."""
        maps = self._origins.maps
        found = [
            (vdev, read)
            for vdev, runs in self._reads.items()
            if vdev in maps
            for read in maps[vdev].files_read(runs)
        ]
        return [(vdev, read) for vdev, read in found if read.node.kind == "file"]

    @cached_property
    def _found(self) -> tuple[str | None, bytes]:
        found = [(vdev, read) for vdev, read in self._files if read.size * 2 >= read.node.size]
        # of a large file, a loader may leave out symbols; of most others, only their beginnings were read by the way
        rest = [file for file in self._files if file not in found]
        for vdev, read in [*sorted(found, key=_share, reverse=True), *rest]:
            content = read.volume.read(read.node) or b""
            if _is_loaded(self._loaded, content, read.node.path):
                return read.on(vdev), content
        for name, content in _tar_members(self._origins.content_before(self._number)):
            if _is_loaded(self._loaded, content, name):
                return f"(memdisk)/{name}", content
        return None, b""


def _share(file: tuple[str, FileRead]) -> float:
    """How much of a file was read."""
    return file[1].size / max(file[1].node.size, 1)


def _joined(parts: list[tuple[str, FileRead]]) -> bytes:
    """Files one behind the other, as a loader puts a ramdisk together."""
    joined = b""
    for _, file in parts:
        joined += bytes(-len(joined) % 4) + (file.volume.read(file.node) or b"")
    return joined


def _is_loaded(loaded: _Loaded, content: bytes, name: str) -> bool:
    """Whether a file is a kernel that is in memory where it would have been loaded."""
    image = _parse(content, name)
    if image is None:
        return False
    hypercall_page = image.virt_hypercall if image.virt_hypercall is not None else -1
    segments = [segment for segment in image.segments if len(segment.data)]
    return bool(segments) and all(loaded.holds(vaddr, data, hypercall_page) for vaddr, data, *_ in segments)


def _parse(content: bytes, name: str) -> KernelImage | None:
    try:
        if content.startswith(_XZ):
            content = lzma.decompress(content)
        if is_elf(content) or is_bzimage(content) or content.startswith(_GZIP):
            return parse_image(content, name)
    except (KernelError, lzma.LZMAError):
        pass
    return None


def _tar_members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files of a tar somewhere in ``data``."""
    at = data.find(_TAR_MAGIC)
    while at >= 0:
        header = data[max(0, at - _TAR_MAGIC_AT) :][:_TAR_BLOCK]
        try:
            size = int(header[124:136].rstrip(b" \0") or b"0", 8)
            name = header[:100].rstrip(b"\0").decode()
        except ValueError:
            size, name = 0, ""
        start = at - _TAR_MAGIC_AT + _TAR_BLOCK
        if name and size and start + size <= len(data):
            yield name, data[start : start + size]
            at = data.find(_TAR_MAGIC, start + size)
        else:
            at = data.find(_TAR_MAGIC, at + 1)
