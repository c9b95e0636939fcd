"""ext2, ext3 and ext4: block maps and extents, inline data, any block and inode size. Checksums are not looked at, and
a journal is not replayed, as GRUB does not either.

The layout is that of Linux' fs/ext4/ext4.h.
"""

from __future__ import annotations

from struct import Struct, unpack_from
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from pvemu.filesystems.inodes import walk
from pvemu.filesystems.volume import BrokenImageError, Budget, Extent, cut_extents, merge_extents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvemu.filesystems.volume import Node, Volume

__all__ = ["Ext"]

_SUPER_AT: Final = 1024
_MAGIC: Final = 0xEF53
_COMPAT_HAS_JOURNAL: Final = 0x4
_INCOMPAT_FILETYPE, _INCOMPAT_RECOVER, _INCOMPAT_META_BG, _INCOMPAT_EXTENTS = 0x2, 0x4, 0x10, 0x40
_INCOMPAT_64BIT, _INCOMPAT_FLEX_BG = 0x80, 0x200
_FLAG_EXTENTS: Final = 0x80000
_FLAG_INLINE_DATA: Final = 0x10000000
_EXTENT_MAGIC: Final = 0xF30A
_MAX_DEPTH: Final = 5  #: of an extent tree
_UNWRITTEN: Final = 32768  #: lengths past this are allocated and not written: they read as zeroes
_ROOT_INODE: Final = 2
_KINDS: Final[dict[int, Literal["file", "directory", "link"]]] = {8: "file", 4: "directory", 10: "link"}
_XATTR_MAGIC: Final = 0xEA020000
_XATTR_ENTRY: Final = Struct("<BBHIII")
_INLINE: Final = 60  #: bytes of an inode's block map


class _Inode(NamedTuple):
    at: int
    kind: Literal["file", "directory", "link"]
    size: int
    flags: int
    raw: bytes


class Ext:
    """The file system on ``volume``."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        raw = volume.read(_SUPER_AT, 1024)
        (magic,) = unpack_from("<H", raw, 56)
        (log_block_size,) = unpack_from("<I", raw, 24)
        if magic != _MAGIC or log_block_size > 6:
            raise BrokenImageError("no ext super block")
        self._block = 1024 << log_block_size
        self._budget = Budget(0)
        self._first_data_block, self._blocks_per_group, self._inodes_per_group = (
            unpack_from("<I", raw, at)[0] for at in (20, 32, 40)
        )
        (self._nr_inodes,) = unpack_from("<I", raw, 0)
        (revision,) = unpack_from("<I", raw, 76)
        compat, self._incompat = unpack_from("<II", raw, 92) if revision else (0, 0)
        self._inode_size = unpack_from("<H", raw, 88)[0] if revision else 128
        self._desc_size = (unpack_from("<H", raw, 254)[0] or 32) if self._incompat & _INCOMPAT_64BIT else 32
        (self._first_meta_bg,) = unpack_from("<I", raw, 260)
        is_size_possible = 128 <= self._inode_size <= self._block and 32 <= self._desc_size <= 1024
        if not self._inodes_per_group or not is_size_possible:
            raise BrokenImageError("an ext super block that cannot be")
        is_ext4 = self._incompat & (_INCOMPAT_EXTENTS | _INCOMPAT_64BIT | _INCOMPAT_FLEX_BG)
        self.has_pending_journal = bool(self._incompat & _INCOMPAT_RECOVER)
        self.name = "ext4" if is_ext4 else "ext3" if compat & _COMPAT_HAS_JOURNAL else "ext2"

    def nodes(self) -> Iterator[Node]:
        """Everything that a path leads to."""
        self._budget = Budget(self._volume.size // self._block)
        return walk(_ROOT_INODE, self._inode, self._extents, self._entries)

    def _inode(self, number: int) -> _Inode:
        if not 0 < number <= self._nr_inodes:
            raise BrokenImageError(f"inode {number} of {self._nr_inodes}")
        group, index = divmod(number - 1, self._inodes_per_group)
        at = self._inode_table(group) * self._block + index * self._inode_size
        raw = self._volume.read(at, self._inode_size)
        kind = _KINDS.get(unpack_from("<H", raw, 0)[0] >> 12)
        if kind is None:
            raise BrokenImageError(f"inode {number} is neither file nor directory")
        low, flags, high = unpack_from("<I", raw, 4)[0], unpack_from("<I", raw, 32)[0], unpack_from("<I", raw, 108)[0]
        return _Inode(at, kind, low | high << 32 if kind == "file" else low, flags, raw)

    def _inode_table(self, group: int) -> int:
        """The block where the inodes of a group begin, from the group's descriptor."""
        per_block = self._block // self._desc_size
        meta, index = divmod(group, per_block)
        if self._incompat & _INCOMPAT_META_BG and meta >= self._first_meta_bg:
            first = self._first_data_block + meta * per_block * self._blocks_per_group
            block = first + self._has_super(meta * per_block)
        else:
            block = self._first_data_block + 1 + meta
        raw = self._volume.read(block * self._block + index * self._desc_size, self._desc_size)
        table = int(unpack_from("<I", raw, 8)[0])
        return table | unpack_from("<I", raw, 40)[0] << 32 if self._desc_size >= 64 else table

    @staticmethod
    def _has_super(group: int) -> bool:
        """sparse_super: copies of the super block are in groups 0, 1 and the powers of 3, 5 and 7."""
        if group <= 1:
            return True
        for base in (3, 5, 7):
            power = base
            while power < group:
                power *= base
            if power == group:
                return True
        return False

    # -- where the data is -------------------------------------------------------------------------------------------
    def _extents(self, inode: _Inode) -> list[Extent]:
        if inode.flags & _FLAG_INLINE_DATA or (inode.kind == "link" and inode.size < _INLINE):
            return self._inline(inode)
        block_map = inode.raw[40 : 40 + _INLINE]
        found: list[Extent] = []
        if inode.flags & _FLAG_EXTENTS:
            self._extent_tree(block_map, found, _MAX_DEPTH)
        else:
            self._block_map(inode, found)
        inside = [extent for extent in found if extent.offset + extent.size <= self._volume.size]
        return merge_extents(cut_extents(inside, inode.size))

    def _extent_tree(self, raw: bytes, found: list[Extent], depth_left: int) -> None:
        magic, entries, _, depth = unpack_from("<HHHH", raw)
        if magic != _EXTENT_MAGIC or not depth_left:
            raise BrokenImageError("an extent tree that cannot be")
        for at in range(12, 12 + 12 * min(entries, (len(raw) - 12) // 12), 12):
            if depth:
                self._budget.spend()
                _, low, high = unpack_from("<IIH", raw, at)
                block = low | high << 32
                self._extent_tree(self._volume.read(block * self._block, self._block), found, depth_left - 1)
            else:
                logical, count, high, low = unpack_from("<IHHI", raw, at)
                if count <= _UNWRITTEN:
                    self._found(found, logical, low | high << 32, count)

    def _block_map(self, inode: _Inode, found: list[Extent]) -> None:
        """12 blocks, and trees of one, two and three levels of blocks of numbers."""
        numbers = unpack_from("<15I", inode.raw, 40)
        last = -(-inode.size // self._block)
        per_block = self._block // 4
        for logical, block in enumerate(numbers[:12]):
            if logical < last:
                self._found(found, logical, block, 1)
        logical = 12
        for level, block in enumerate(numbers[12:], start=1):
            self._indirect(block, level, logical, last, found)
            logical += per_block**level

    def _indirect(self, block: int, level: int, logical: int, last: int, found: list[Extent]) -> None:
        if not block or logical >= last:
            return
        self._budget.spend()
        per_block = self._block // 4
        reach = per_block ** (level - 1)
        for number in unpack_from(f"<{per_block}I", self._volume.read(block * self._block, self._block)):
            if logical >= last:
                return
            if level == 1:
                self._found(found, logical, number, 1)
            else:
                self._indirect(number, level - 1, logical, last, found)
            logical += reach

    def _found(self, found: list[Extent], logical: int, block: int, count: int) -> None:
        if not block:
            return  # a hole
        last = found[-1] if found else None
        offset, file_offset, size = block * self._block, logical * self._block, count * self._block
        if last is not None and last.offset + last.size == offset and last.file_offset + last.size == file_offset:
            found[-1] = last._replace(size=last.size + size, length=last.length + size)
        else:
            found.append(Extent(file_offset, offset, size, size))

    def _inline(self, inode: _Inode) -> list[Extent]:
        """What stands in the inode itself: in place of the block map, and behind that as an attribute."""
        size = min(inode.size, _INLINE)
        found = [Extent(0, inode.at + 40, size, size)]
        if inode.size > _INLINE and inode.flags & _FLAG_INLINE_DATA:
            raw = inode.raw
            first = 128 + unpack_from("<H", raw, 128)[0] + 4
            if unpack_from("<I", raw, first - 4)[0] != _XATTR_MAGIC:
                raise BrokenImageError("inline data without its attribute")
            at = first
            while raw[at : at + 4] != bytes(4):
                length, index, offset, _, size, _ = _XATTR_ENTRY.unpack_from(raw, at)
                name = raw[at + _XATTR_ENTRY.size :][:length]
                if index == 7 and name == b"data":
                    size = min(size, inode.size - _INLINE)
                    found.append(Extent(_INLINE, inode.at + first + offset, size, size))
                    break
                at += _XATTR_ENTRY.size + (length + 3 & ~3)
        return found

    # -- directories -------------------------------------------------------------------------------------------------
    def _entries(self, inode: _Inode, extents: list[Extent]) -> list[tuple[str, int]]:
        """Names and inode numbers; the blocks of an index look like blocks of no entries."""
        is_inline = bool(inode.flags & _FLAG_INLINE_DATA)
        entries: list[tuple[str, int]] = []
        for extent in extents:
            self._budget.spend(extent.size // self._block)
            data = self._volume.read(extent.offset, extent.size)
            if is_inline and not extent.file_offset:
                data = data[4:]  # the parent's number
            step = len(data) if is_inline else self._block
            for start in range(0, len(data), step):
                self._block_entries(data[start : start + step], entries)
        return entries

    def _block_entries(self, data: bytes, entries: list[tuple[str, int]]) -> None:
        at = 0
        has_type = self._incompat & _INCOMPAT_FILETYPE
        while at + 8 <= len(data):
            number, length, name_length = unpack_from("<IHH", data, at)
            if length < 8:
                return
            name = data[at + 8 : at + 8 + (name_length & 0xFF if has_type else name_length)]
            if number and name not in (b".", b"..", b"") and b"/" not in name:
                entries.append((name.decode("utf-8", "surrogateescape"), number))
            at += length
