"""Which file do these sectors belong to?

Nothing is read before it is asked for: a partition's file system is walked once, the first time that a sector of it is
asked about.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from pvemu.filesystems.btrfs import Btrfs
from pvemu.filesystems.content import read_node
from pvemu.filesystems.ext import Ext
from pvemu.filesystems.fat import Fat
from pvemu.filesystems.partitions import Partition, read_table
from pvemu.filesystems.volume import BROKEN, BrokenImageError, Volume
from pvemu.filesystems.volumes import ContainedVolume, read_volumes
from pvemu.filesystems.xfs import Xfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pvemu.filesystems.volume import FileSystem, Node, SectorSource

__all__ = ["DiskMap", "FileRead", "Location", "MappedVolume", "device_name"]

#: In this order: ext leaves what was in its first kilobyte alone, so a FAT boot sector may stand before one.
_KINDS: Final[tuple[Callable[[Volume], FileSystem], ...]] = (Xfs, Btrfs, Ext, Fat)
_MAX_NESTING: Final = 3
#: Files of one file system that are looked at.
_MAX_NODES: Final = 1_000_000


class Location(NamedTuple):
    """Where a sector is: ``partition`` as Linux counts ("1"; "1p2" for a table inside partition 1; "" for the whole
    disk), ``grub_partition`` as GRUB does ("msdos1", "gpt2", "msdos1,msdos2"); both are the name of a volume of LVM or
    of a mirror ("lvm/vg-root", "md/boot"); the file system's name, the absolute path (that of a directory ends in a
    slash), and the sector's first byte in that file.
    """

    partition: str
    grub_partition: str
    file_system: str
    path: str
    offset: int

    def on(self, vdev: str) -> str:
        """``xvda1:/boot/grub/grub.cfg``, on the disk called ``vdev``."""
        return f"{device_name(vdev, self.partition)}:{self.path}"


class FileRead(NamedTuple):
    """A file that was read from: how many of its bytes, in whole sectors and each counted once."""

    volume: MappedVolume
    node: Node
    size: int

    def on(self, vdev: str) -> str:
        """``xvda1:/boot/grub/grub.cfg``, on the disk called ``vdev``."""
        return f"{device_name(vdev, self.volume.partition)}:{self.node.path}"


class MappedVolume:
    """A stretch of the disk that may hold a file system. Named as in :class:`Location`; ``volume`` reads it."""

    def __init__(
        self, disk: SectorSource, start: int, size: int, partition: str, grub_partition: str, table: str = ""
    ) -> None:
        self.volume = Volume(disk, start, size)
        self.table = table  #: what kind of table it is a partition of
        self.partition = partition
        self.grub_partition = grub_partition

    @cached_property
    def file_system(self) -> FileSystem | None:
        """What is on it; None for nothing that is known here."""
        for kind in _KINDS:
            try:
                return kind(self.volume)
            except (*BROKEN, OSError):
                continue
        return None

    @cached_property
    def nodes(self) -> list[Node]:
        """Everything in the file system, directories before what is in them; of a broken one, what can be read."""
        found: list[Node] = []
        try:
            for node in self.file_system.nodes() if self.file_system is not None else ():
                found.append(node)
                if len(found) == _MAX_NODES:
                    break
        except (*BROKEN, OSError):
            pass
        return found

    def read(self, node: Node) -> bytes | None:
        """A file's content; None where it cannot be read."""
        try:
            return read_node(self.volume, node)
        except (BrokenImageError, OSError):
            return None

    def read_file(self, path: str) -> bytes | None:
        """The content of the file at an absolute path; None where there is none, or it cannot be read."""
        found = (node for node in self.nodes if node.path == path and node.kind != "directory")
        node = next(found, None)
        return self.read(node) if node is not None else None

    def node_at(self, offset: int) -> tuple[Node, int] | None:
        """The file that a byte of the volume belongs to, and which of its bytes that is."""
        starts, pieces = self._index
        at = bisect_right(starts, offset) - 1
        if at < 0 or offset >= pieces[at][1]:
            return None
        start, _, number, file_offset, is_packed = pieces[at]
        return self.nodes[number], file_offset if is_packed else file_offset + offset - start

    def pieces_in(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Which files (index in ``nodes``) bytes ``start`` to ``end`` of the volume belong to, and how many of each."""
        starts, pieces = self._index
        for first, last, number, _, _ in pieces[max(0, bisect_right(starts, start) - 1) : bisect_left(starts, end)]:
            if first < end and last > start:
                yield number, min(last, end) - max(first, start)

    @cached_property
    def _index(self) -> tuple[list[int], list[tuple[int, int, int, int, bool]]]:
        """Pieces of files in the volume's order: start, end (whole sectors), node, place in the file, compressed."""
        pieces = [
            (extent.offset, _whole_sectors(extent.offset + extent.size), number, extent.file_offset, bool(extent.codec))
            for number, node in enumerate(self.nodes)
            for extent in node.extents
            if extent.size
        ]
        pieces.sort()
        return [piece[0] for piece in pieces], pieces


class DiskMap:
    """The files of a disk image, by sector and by path. Never fails on what an image holds: what is broken is not
    found.
    """

    def __init__(self, disk: SectorSource) -> None:
        self._disk = disk

    @cached_property
    def volumes(self) -> list[MappedVolume]:
        """The whole disk where it has no partition table, else its partitions, or what LVM and mirrors make of either,
        in the order of the disk.
        """
        found: list[MappedVolume] = []
        whole = MappedVolume(self._disk, 0, self._disk.sectors << 9, "", "")
        try:
            self._add(whole, found, 0)
        except OSError:
            return [whole]
        return sorted(found, key=lambda mapped: mapped.volume.start)

    def locate(self, sector: int) -> Location | None:
        """The file that a sector (in 512-byte units) belongs to; None for one that belongs to none."""
        byte = sector << 9
        for mapped in self.volumes:
            volume = mapped.volume
            if volume.start <= byte < volume.start + volume.size and mapped.file_system is not None:
                # what stands in an inode begins in the midst of a sector
                for at in (byte - volume.start, byte - volume.start + 511):
                    found = mapped.node_at(at)
                    if found is not None:
                        node, offset = found
                        name = mapped.file_system.name
                        return Location(mapped.partition, mapped.grub_partition, name, node.path, offset & ~511)
        return None

    def files_read(self, runs: Iterable[tuple[int, int]]) -> list[FileRead]:
        """The files that (first sector, count) of reads belong to, in the order of the first read of each."""
        order: dict[tuple[int, int], None] = {}
        runs = list(runs)
        for index, number, _ in self._pieces(runs):
            order.setdefault((index, number))
        sizes: Counter[tuple[int, int]] = Counter()
        for index, number, size in self._pieces(_merged(runs)):
            sizes[index, number] += size
        volumes = self.volumes
        return [FileRead(volumes[index], volumes[index].nodes[number], sizes[index, number]) for index, number in order]

    def _pieces(self, runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
        """Volume, node and bytes of what reads cover."""
        for sector, count in runs:
            for index, mapped in enumerate(self.volumes):
                volume = mapped.volume
                start, end = (sector << 9) - volume.start, (sector + count << 9) - volume.start
                if end > 0 and start < volume.size:
                    for number, size in mapped.pieces_in(start, end):
                        yield index, number, size

    def files(self) -> Iterator[tuple[MappedVolume, Node]]:
        """Every file, directory and link of every volume."""
        for mapped in self.volumes:
            for node in mapped.nodes:
                yield mapped, node

    def read_file(self, partition: str, path: str) -> bytes | None:
        """The content of a file, by its partition ("1", "" for a disk without a table) and absolute path; None where
        there is none.
        """
        volume = self.volume(partition)
        return volume.read_file(path) if volume is not None else None

    def volume(self, partition: str) -> MappedVolume | None:
        """The volume of this name; None where there is none."""
        return next((mapped for mapped in self.volumes if mapped.partition == partition), None)

    def _add(self, mapped: MappedVolume, found: list[MappedVolume], depth: int) -> None:
        volume = mapped.volume
        table: list[Partition] = []
        # what formatted a whole disk once may still be there beside a table; of a FAT, the first sector is its own
        may_have_table = mapped.file_system is None or (not depth and not isinstance(mapped.file_system, Fat))
        if depth < _MAX_NESTING and may_have_table:
            table = read_table(self._disk, volume.start, volume.size, mapped.table)
        volumes: list[ContainedVolume] = []
        if not table and mapped.file_system is None and depth < _MAX_NESTING:
            volumes = read_volumes(self._disk, volume.start, volume.size)
        if not table and not volumes:
            found.append(mapped)
        for inner_volume in volumes:
            start, size, name = inner_volume
            self._add(MappedVolume(self._disk, start, size, name, name), found, depth + 1)
        for part in table:
            partition = device_name(mapped.partition, str(part.number))
            grub_partition = ",".join(filter(None, (mapped.grub_partition, f"{part.table}{part.number}")))
            size = min(part.size, volume.start + volume.size - part.start)
            inner = MappedVolume(self._disk, part.start, size, partition, grub_partition, part.table)
            self._add(inner, found, depth + 1)


def device_name(disk: str, partition: str) -> str:
    """A partition's name: Linux puts a p between a name that ends in a digit and the number. A volume of a group of
    disks has its own (`lvm/vg-root`), whatever disk it is on.
    """
    if "/" in partition:
        return partition
    return f"{disk}p{partition}" if disk[-1:].isdigit() and partition else disk + partition


def _whole_sectors(size: int) -> int:
    return -(-size // 512) * 512


def _merged(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same sectors, each once."""
    merged: list[tuple[int, int]] = []
    for sector, count in sorted(runs):
        if merged and sector <= sum(merged[-1]):
            first = merged[-1][0]
            merged[-1] = (first, max(sum(merged[-1]), sector + count) - first)
        else:
            merged.append((sector, count))
    return merged
