"""What every maker of a file system is handed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pvemu.mkimage.layout import FileSystem
    from pvemu.mkimage.tools import Tool
    from pvemu.mkimage.tree import Regular, Tree

__all__ = ["Job", "on_disk"]


@dataclass(frozen=True, slots=True)
class Job:
    """Write `system` with the files of `tree` to `target`, a file of `size` zero bytes, scratch files beside it.

    `epoch` (seconds) is every time stamp; `sector_size` is that of the disk it is for. Makers raise ToolError when
    the files do not fit, and ConfigError for what the file system cannot hold.
    """

    target: Path
    system: FileSystem
    size: int
    sector_size: int
    tree: Tree
    epoch: int
    tool: Callable[[str], Tool]


def on_disk(node: Regular, scratch: Path) -> Path:
    """A file's content as a file, since most tools read nothing else: `scratch` when it is in memory."""
    if isinstance(node.content, bytes):
        scratch.write_bytes(node.content)
        return scratch
    return node.content
