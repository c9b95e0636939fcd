"""ext2, ext3 and ext4 without a mount: mke2fs makes an empty one, debugfs fills it entry by entry.

`mke2fs -d` would take the order of entries, owners and times from the building machine's file system; a script for
debugfs says each of them itself, so the bytes are the same whoever builds, and wherever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.mkimage.tree import Directory, Link, Regular, Tree

if TYPE_CHECKING:
    from pathlib import Path

    from pvemu.mkimage.recipe import Partition
    from pvemu.mkimage.tools import Tool

__all__ = ["make_ext"]


def make_ext(target: Path, part: Partition, tree: Tree, epoch: int, mke2fs: Tool, debugfs: Tool) -> None:
    """Write a partition's file system to `target` (scratch files beside it). Raises ToolError when it does not fit."""
    with target.open("wb") as image:
        image.truncate(part.size)
    features = ("-O", ",".join(part.features)) if part.features else ()
    label = ("-L", part.label) if part.label else ()
    fixed = ("-E", f"root_owner=0:0,hash_seed={part.uuid}", "-U", part.uuid)
    kind = ("-q", "-F", "-t", part.file_system)
    mke2fs.run(*kind, *label, *fixed, *features, target, f"{part.size // 1024}k", fake_time=epoch)
    commands = target.with_name(target.name + ".debugfs")
    commands.write_text("".join(f"{line}\n" for line in _script(tree, epoch, target)), encoding="utf-8")
    debugfs.run("-w", "-f", commands, target, fake_time=epoch)


def _script(tree: Tree, epoch: int, target: Path) -> list[str]:
    lines = [f"set_current_time @{epoch}"]
    for index, (path, node) in enumerate(tree.items()):
        parent, _, name = path.rpartition("/")
        lines.append(f'cd "{parent or "/"}"')
        match node:
            case Directory(mode=mode):
                lines += [f'mkdir "{name}"', f'set_inode_field "{name}" mode 04{mode:04o}']
            case Link(target=link):
                lines.append(f'symlink "{name}" "{link}"')
            case Regular(mode=mode):
                source = _on_disk(node, target.with_name(f"{target.name}.{index}"))
                lines += [f'write "{source}" "{name}"', f'set_inode_field "{name}" mode 010{mode:04o}']
        lines += [f'set_inode_field "{name}" {field} 0' for field in ("uid", "gid")]
    return lines


def _on_disk(node: Regular, scratch: Path) -> Path:
    """A file's content as a file, since debugfs reads nothing else."""
    if isinstance(node.content, bytes):
        scratch.write_bytes(node.content)
        return scratch
    return node.content
