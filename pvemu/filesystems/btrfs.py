"""btrfs on one device: the default subvolume and those that it holds, compressed extents too.

The layout is that of Linux' include/uapi/linux/btrfs_tree.h.
"""

from __future__ import annotations

from bisect import bisect_right
from struct import error as StructError
from struct import unpack_from
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from pvemu.filesystems.volume import BROKEN, BrokenImageError, Budget, Extent, Node, cut_extents, merge_extents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvemu.filesystems.volume import Volume

__all__ = ["Btrfs"]

_SUPER_AT: Final = 64 << 10
_SYS_CHUNKS_AT: Final = 811
_HEADER: Final = 101
_MAX_LEVEL: Final = 8
_INODE_ITEM, _DIR_ITEM, _DIR_INDEX, _EXTENT_DATA, _ROOT_ITEM, _CHUNK_ITEM = 1, 84, 96, 108, 132, 228
_FS_TREE: Final = 5
_FIRST_INODE: Final = 256
_CODECS: Final = {0: "", 1: "zlib", 2: "lzo", 3: "zstd"}
_KINDS: Final[dict[int, Literal["file", "directory", "link"]]] = {8: "file", 4: "directory", 10: "link"}
_INLINE, _REGULAR = 0, 1
_STRIPED: Final = 1 << 3 | 1 << 6 | 1 << 7 | 1 << 8  #: RAID0, 10, 5 and 6 need more than one device


class _Item(NamedTuple):
    objectid: int
    type: int
    offset: int
    at: int  #: of ``data``, on the volume
    data: bytes


class _Tree(NamedTuple):
    """What a subvolume's tree says: inode number -> mode and size, entries (name, type, inode or root), extents."""

    inodes: dict[int, tuple[int, int]]
    entries: dict[int, list[tuple[str, int, int]]]
    extents: dict[int, list[Extent]]


class Btrfs:
    """The file system on ``volume``."""

    name = "btrfs"
    has_pending_journal = False

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        raw = volume.read(_SUPER_AT, 4096)
        if raw[64:72] != b"_BHRfS_M":
            raise BrokenImageError("no btrfs super block")
        self._root, self._chunk_root = unpack_from("<QQ", raw, 80)
        (self._root_dir,) = unpack_from("<Q", raw, 128)
        (self._node,) = unpack_from("<I", raw, 148)
        (self._device,) = unpack_from("<Q", raw, 201)
        if not 4096 <= self._node <= 65536:
            raise BrokenImageError("a btrfs super block that cannot be")
        self._budget = Budget(volume.size // self._node)
        self._chunks: list[tuple[int, int, int]] = []  # logical start, end, place on the volume
        at, end = _SYS_CHUNKS_AT, _SYS_CHUNKS_AT + min(unpack_from("<I", raw, 160)[0], 2048)
        try:
            while at + 17 + 48 <= end:
                (logical,) = unpack_from("<Q", raw, at + 9)
                self._add_chunk(logical, raw[at + 17 :])
                at += 17 + 48 + 32 * unpack_from("<H", raw, at + 17 + 44)[0]
            for item in list(self._items(self._chunk_root)):
                if item.type == _CHUNK_ITEM:
                    self._add_chunk(item.offset, item.data)
        except StructError:
            raise BrokenImageError("a btrfs chunk that cannot be") from None

    def nodes(self) -> Iterator[Node]:
        """Everything that a path from the default subvolume leads to."""
        roots: dict[int, int] = {}
        default = _FS_TREE
        try:
            for item in self._items(self._root):
                if item.type == _ROOT_ITEM:
                    (roots[item.objectid],) = unpack_from("<Q", item.data, 176)
                elif item.type == _DIR_ITEM and item.objectid == self._root_dir:
                    (default,) = unpack_from("<Q", item.data)
        except BROKEN:
            return
        waiting = [("/", default, _FIRST_INODE)]
        trees: dict[int, _Tree] = {}
        seen = {(default, _FIRST_INODE)}
        while waiting:
            path, root, number = waiting.pop()
            if root not in trees:
                trees[root] = self._tree(roots.get(root, 0))
            tree = trees[root]
            yield Node(path, "directory", tree.inodes.get(number, (0, 0))[1], [])
            below = []
            for name, kind, child in tree.entries.get(number, []):
                where = (child, _FIRST_INODE) if kind == _ROOT_ITEM else (root, child)
                mode, size = tree.inodes.get(child, (0, 0))
                found = "directory" if kind == _ROOT_ITEM else _KINDS.get(mode >> 12)
                if found == "directory":
                    if where not in seen:
                        seen.add(where)
                        below.append((f"{path}{name}/", *where))
                elif found is not None:
                    yield Node(path + name, found, size, merge_extents(cut_extents(tree.extents.get(child, []), size)))
            waiting += reversed(below)

    def _tree(self, logical: int) -> _Tree:
        """All of a subvolume's tree; of a broken one, what could be read."""
        tree = _Tree({}, {}, {})
        try:
            for item in self._items(logical):
                if item.type == _INODE_ITEM:
                    mode, size = unpack_from("<I", item.data, 52)[0], unpack_from("<Q", item.data, 16)[0]
                    tree.inodes[item.objectid] = mode, size
                elif item.type == _DIR_INDEX:
                    child, kind = unpack_from("<QB", item.data)
                    (length,) = unpack_from("<H", item.data, 27)
                    name = item.data[30 : 30 + length].decode("utf-8", "surrogateescape")
                    if name and "/" not in name:
                        tree.entries.setdefault(item.objectid, []).append((name, kind, child))
                elif item.type == _EXTENT_DATA:
                    tree.extents.setdefault(item.objectid, []).extend(self._extent(item))
        except BROKEN:
            pass
        return tree

    def _extent(self, item: _Item) -> list[Extent]:
        (memory_size,) = unpack_from("<Q", item.data, 8)
        codec, kind = _CODECS.get(item.data[16], "unknown"), item.data[20]
        if kind == _INLINE:
            size = len(item.data) - 21
            return [Extent(item.offset, item.at + 21, size, memory_size if codec else size, codec)]
        disk, disk_size, skip, length = unpack_from("<QQQQ", item.data, 21)
        if kind != _REGULAR or not disk:
            return []  # allocated and not written, or a hole
        try:
            if codec:
                return [Extent(item.offset, self._byte(disk, disk_size), disk_size, length, codec, skip)]
            return [Extent(item.offset, self._byte(disk + skip, length), length, length)]
        except BrokenImageError:
            return []

    # -- trees -------------------------------------------------------------------------------------------------------
    def _items(self, logical: int, level_above: int = _MAX_LEVEL) -> Iterator[_Item]:
        self._budget.spend()
        at = self._byte(logical, self._node)
        raw = self._volume.read(at, self._node)
        count, level = unpack_from("<IB", raw, 96)
        if unpack_from("<Q", raw, 48)[0] != logical or level >= level_above:
            raise BrokenImageError("a btrfs node that cannot be")
        if level:
            for place in range(_HEADER, _HEADER + 33 * min(count, (self._node - _HEADER) // 33), 33):
                yield from self._items(unpack_from("<Q", raw, place + 17)[0], level)
            return
        for place in range(_HEADER, _HEADER + 25 * min(count, (self._node - _HEADER) // 25), 25):
            objectid, kind, offset, start, size = unpack_from("<QBQII", raw, place)
            data = raw[_HEADER + start : _HEADER + start + size]
            yield _Item(objectid, kind, offset, at + _HEADER + start, data)

    def _add_chunk(self, logical: int, data: bytes) -> None:
        length, _, _, kind = unpack_from("<QQQQ", data)
        (stripes,) = unpack_from("<H", data, 44)
        if kind & _STRIPED and stripes > 1:
            return
        for at in range(48, 48 + 32 * stripes, 32):
            device, offset = unpack_from("<QQ", data, at)
            if device == self._device:
                entry = (logical, logical + length, offset)
                if entry not in self._chunks:
                    self._chunks.append(entry)
                    self._chunks.sort()
                return

    def _byte(self, logical: int, size: int) -> int:
        """Where a logical address is on this device."""
        at = bisect_right(self._chunks, (logical, 1 << 64, 0)) - 1
        if at < 0 or logical + size > self._chunks[at][1]:
            raise BrokenImageError(f"address {logical:#x} is in no chunk")
        start, _, offset = self._chunks[at]
        return offset + logical - start
