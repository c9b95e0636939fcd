"""From the root directory to every file, for the file systems whose directories name inodes by number (ext and XFS)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from pvemu.filesystems.volume import BROKEN, Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pvemu.filesystems.volume import Extent

__all__ = ["Inode", "walk"]


class Inode(Protocol):
    """What a walk needs of one: ``size`` is in bytes."""

    @property
    def kind(self) -> Literal["file", "directory", "link"]:
        """What it is."""

    @property
    def size(self) -> int:
        """Bytes in it."""


_InodeT = TypeVar("_InodeT", bound=Inode)


def walk(
    root: int,
    read_inode: Callable[[int], _InodeT],
    read_extents: Callable[[_InodeT], list[Extent]],
    read_entries: Callable[[_InodeT, list[Extent]], Iterable[tuple[str, int]]],
) -> Iterator[Node]:
    """Everything below ``root``, in the order of the directories; a directory that is named twice is walked once. What
    is broken is left out.
    """
    seen = {root}
    waiting = [("/", root)]
    while waiting:
        path, number = waiting.pop()
        try:
            inode = read_inode(number)
            extents = read_extents(inode)
            yield Node(path, inode.kind, inode.size, extents)
            entries = read_entries(inode, extents) if inode.kind == "directory" else []
        except BROKEN:
            continue
        below = []
        for name, child in entries:
            try:
                kind = read_inode(child).kind
            except BROKEN:
                continue
            if kind == "directory":
                if child not in seen:
                    seen.add(child)
                    below.append((f"{path}{name}/", child))
            else:
                below.append((path + name, child))
        waiting += reversed(below)
