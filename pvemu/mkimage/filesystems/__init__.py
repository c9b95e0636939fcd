"""File systems from a tree of files, without a mount: the tools of each, and how they are told what goes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvemu.mkimage.filesystems.btrfs import make_btrfs
from pvemu.mkimage.filesystems.ext import make_ext
from pvemu.mkimage.filesystems.fat import make_fat
from pvemu.mkimage.filesystems.xfs import make_xfs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pvemu.mkimage.filesystems.job import Job

__all__ = ["FILE_SYSTEMS", "Kind"]


class Kind(NamedTuple):
    """How a kind of file system is made: by what, with which tools, how long its label may be (in bytes)."""

    make: Callable[[Job], None]
    tools: tuple[str, ...]
    label_length: int


_EXT = Kind(make_ext, ("mke2fs", "debugfs"), 16)
_FAT = Kind(make_fat, ("mkfs.fat", "mtools"), 11)

FILE_SYSTEMS: Mapping[str, Kind] = {
    "ext2": _EXT,
    "ext3": _EXT,
    "ext4": _EXT,
    "xfs": Kind(make_xfs, ("mkfs.xfs",), 12),
    "btrfs": Kind(make_btrfs, ("mkfs.btrfs",), 255),
    "fat": _FAT,
    "fat12": _FAT,
    "fat16": _FAT,
    "fat32": _FAT,
}
"""Every kind that a recipe may name."""
