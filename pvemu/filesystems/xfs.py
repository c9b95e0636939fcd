"""XFS, versions 4 and 5: extent lists and B+trees, all forms of directories.

The layout is that of Linux' fs/xfs/libxfs/xfs_format.h and xfs_da_format.h; everything is big-endian.
"""

from __future__ import annotations

from struct import unpack_from
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from pvemu.filesystems.inodes import walk
from pvemu.filesystems.volume import BrokenImageError, Budget, Extent, cut_extents, merge_extents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvemu.filesystems.volume import Node, Volume

__all__ = ["Xfs"]

_LOCAL, _EXTENTS, _BTREE = 1, 2, 3
_KINDS: Final[dict[int, Literal["file", "directory", "link"]]] = {8: "file", 4: "directory", 10: "link"}
_V5: Final = 5
_INCOMPAT_FTYPE: Final = 1
_FEATURES2_FTYPE: Final = 0x200
_FLAGS2_NREXT64: Final = 1 << 4
_LEAF_OFFSET: Final = 32 << 30  #: directory data lies below, its indexes above
_MAX_DEPTH: Final = 9
_SYMLINK_HEADER: Final = 56


class _Inode(NamedTuple):
    at: int
    kind: Literal["file", "directory", "link"]
    size: int
    format: int
    nr_extents: int
    fork_at: int
    fork: bytes


class Xfs:
    """The file system on ``volume``."""

    name = "xfs"
    has_pending_journal = False

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        raw = volume.read(0, 512)
        if raw[:4] != b"XFSB":
            raise BrokenImageError("no XFS super block")
        (self._block,) = unpack_from(">I", raw, 4)
        self._budget = Budget(0)
        (self._root,) = unpack_from(">Q", raw, 56)
        self._ag_blocks, self._nr_ags = unpack_from(">II", raw, 84)
        version, _, self._inode_size = unpack_from(">HHH", raw, 100)
        self._inode_log, self._inodes_per_block_log, self._ag_log = raw[122:125]
        self._is_v5 = version & 0xF == _V5
        features2, incompat = unpack_from(">I", raw, 200)[0], unpack_from(">I", raw, 216)[0]
        self._has_ftype = bool(incompat & _INCOMPAT_FTYPE if self._is_v5 else features2 & _FEATURES2_FTYPE)
        self._directory_block = self._block << raw[192] if raw[192] < 8 else 0
        if (
            self._block not in {512 << shift for shift in range(8)} or not 256 <= self._inode_size <= 2048
            or self._ag_log > 32 or self._inodes_per_block_log > 8 or self._inode_log > 11 or not self._directory_block
        ):  # fmt: skip
            raise BrokenImageError("an XFS super block that cannot be")

    def nodes(self) -> Iterator[Node]:
        """Everything that a path leads to."""
        self._budget = Budget(self._volume.size // self._block)
        return walk(self._root, self._inode, self._extents, self._entries)

    def _inode(self, number: int) -> _Inode:
        block = number >> self._inodes_per_block_log
        index = number & (1 << self._inodes_per_block_log) - 1
        at = self._byte(block) + (index << self._inode_log)
        raw = self._volume.read(at, self._inode_size)
        kind = _KINDS.get(unpack_from(">H", raw, 2)[0] >> 12)
        if raw[:2] != b"IN" or kind is None:
            raise BrokenImageError(f"inode {number} is neither file nor directory")
        (size,) = unpack_from(">Q", raw, 56)
        start = 176 if raw[4] >= 3 else 100
        has_big_count = raw[4] >= 3 and unpack_from(">Q", raw, 120)[0] & _FLAGS2_NREXT64
        nr_extents = unpack_from(">Q", raw, 24)[0] if has_big_count else unpack_from(">I", raw, 76)[0]
        end = min(start + raw[82] * 8, len(raw)) if raw[82] else len(raw)
        return _Inode(at, kind, size, raw[5], nr_extents, at + start, raw[start:end])

    def _byte(self, number: int) -> int:
        """Where a block is: its number names the allocation group in its high bits."""
        group, block = number >> self._ag_log, number & (1 << self._ag_log) - 1
        if group >= self._nr_ags or block >= self._ag_blocks:
            raise BrokenImageError(f"block {number:#x} of {self._nr_ags} groups of {self._ag_blocks} blocks")
        return int((group * self._ag_blocks + block) * self._block)

    # -- where the data is -------------------------------------------------------------------------------------------
    def _extents(self, inode: _Inode) -> list[Extent]:
        if inode.format == _LOCAL:
            size = min(inode.size, len(inode.fork))
            return [Extent(0, inode.fork_at, size, size)]
        found: list[Extent] = []
        if inode.format == _EXTENTS:
            self._records(inode.fork, 0, min(inode.nr_extents, len(inode.fork) // 16), found)
        elif inode.format == _BTREE:
            level, count = unpack_from(">HH", inode.fork)
            room = (len(inode.fork) - 4) // 16
            pointers = unpack_from(f">{min(count, room)}Q", inode.fork, 4 + room * 8)
            for pointer in pointers:
                self._tree(pointer, level - 1, found)
        if inode.kind == "file":
            found = cut_extents(found, inode.size)
        elif inode.kind == "link" and self._is_v5:
            found = [extent._replace(offset=extent.offset + _SYMLINK_HEADER, size=inode.size, length=inode.size)
                     for extent in found[:1]]  # fmt: skip
        return merge_extents([extent for extent in found if extent.offset + extent.size <= self._volume.size])

    def _tree(self, number: int, level: int, found: list[Extent]) -> None:
        self._budget.spend()
        raw = self._volume.read(self._byte(number), self._block)
        header = 72 if self._is_v5 else 24
        here, count = unpack_from(">HH", raw, 4)
        if raw[:4] not in (b"BMAP", b"BMA3") or here != level or level > _MAX_DEPTH:
            raise BrokenImageError("a tree of extents that cannot be")
        room = (len(raw) - header) // 16
        if not level:
            self._records(raw, header, min(count, room), found)
            return
        for pointer in unpack_from(f">{min(count, room)}Q", raw, header + room * 8):
            self._tree(pointer, level - 1, found)

    def _records(self, raw: bytes, at: int, count: int, found: list[Extent]) -> None:
        """Packed extents of 128 bits: written or not, place in the file, block, number of blocks."""
        for start in range(at, at + count * 16, 16):
            high, low = unpack_from(">QQ", raw, start)
            if not high >> 63:
                size = (low & (1 << 21) - 1) * self._block
                offset = self._byte((high & 0x1FF) << 43 | low >> 21)
                found.append(Extent((high >> 9 & (1 << 54) - 1) * self._block, offset, size, size))

    # -- directories -------------------------------------------------------------------------------------------------
    def _entries(self, inode: _Inode, extents: list[Extent]) -> list[tuple[str, int]]:
        if inode.format == _LOCAL:
            return self._short_entries(inode.fork)
        blocks: dict[int, bytes] = {}
        for extent in extents:
            if extent.file_offset < _LEAF_OFFSET:
                self._budget.spend(extent.size // self._block)
                data = self._volume.read(extent.offset, extent.size)
                for at in range(0, extent.size, self._block):  # an extent need not begin with a directory block
                    number = (extent.file_offset + at) // self._directory_block
                    blocks[number] = blocks.get(number, b"") + data[at : at + self._block]
        entries: list[tuple[str, int]] = []
        for _, block in sorted(blocks.items()):
            self._block_entries(block, entries)
        return entries

    def _short_entries(self, fork: bytes) -> list[tuple[str, int]]:
        count, wide = fork[0] or fork[1], fork[1]
        width = 8 if wide else 4
        at = 2 + width
        entries: list[tuple[str, int]] = []
        for _ in range(count):
            length = fork[at]
            name = fork[at + 3 : at + 3 + length]
            at += 3 + length + self._has_ftype
            self._add(entries, name, int.from_bytes(fork[at : at + width], "big"))
            at += width
            if at + 3 > len(fork):
                break
        return entries

    def _block_entries(self, data: bytes, entries: list[tuple[str, int]]) -> None:
        magic = data[:4]
        end = len(data)
        if magic in (b"XD2B", b"XDB3"):  # its index and a tail stand at the end of the block itself
            end -= 8 + unpack_from(">I", data, end - 8)[0] * 8
        elif magic not in (b"XD2D", b"XDD3"):
            return
        at = 64 if magic in (b"XDB3", b"XDD3") else 16
        while at + 11 <= end:
            tag, length = unpack_from(">HH", data, at)
            if tag == 0xFFFF:
                if not length:
                    return
                at += length
                continue
            (number,) = unpack_from(">Q", data, at)
            self._add(entries, data[at + 9 : at + 9 + data[at + 8]], number)
            at += 9 + data[at + 8] + self._has_ftype + 2 + 7 & ~7

    @staticmethod
    def _add(entries: list[tuple[str, int]], name: bytes, number: int) -> None:
        if name not in (b".", b"..", b"") and b"/" not in name:
            entries.append((name.decode("utf-8", "surrogateescape"), number))
