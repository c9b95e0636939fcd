"""ext2, ext3 and ext4 without a mount: mke2fs makes an empty one, debugfs fills it entry by entry.

`mke2fs -d` would take the order of entries, owners and times from the building machine's file system; a script for
debugfs says each of them itself, so the bytes are the same whoever builds, and wherever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.mkimage.filesystems.job import on_disk
from pvemu.mkimage.tree import Directory, Link, Regular

if TYPE_CHECKING:
    from pvemu.mkimage.filesystems.job import Job

__all__ = ["make_ext"]


def make_ext(job: Job) -> None:
    """See Job."""
    system, target = job.system, job.target
    features = ("-O", ",".join(system.features)) if system.features else ()
    label = ("-L", system.label) if system.label else ()
    fixed = ("-E", f"root_owner=0:0,hash_seed={system.uuid}", "-U", system.uuid)
    # A kernel refuses blocks that are smaller than the disk's sectors.
    blocks = ("-b", str(job.sector_size)) if job.sector_size > 1024 else ()
    kind = ("-q", "-F", "-t", system.kind, *blocks)
    arguments = (*kind, *label, *fixed, *features, *system.options)
    job.tool("mke2fs").run(*arguments, target, f"{job.size // 1024}k", fake_time=job.epoch)
    commands = target.with_name(target.name + ".debugfs")
    commands.write_text("".join(f"{line}\n" for line in _script(job)), encoding="utf-8")
    job.tool("debugfs").run("-w", "-f", commands, target, fake_time=job.epoch)


def _script(job: Job) -> list[str]:
    lines = [f"set_current_time @{job.epoch}"]
    for index, (path, node) in enumerate(job.tree.items()):
        parent, _, name = path.rpartition("/")
        lines.append(f'cd "{parent or "/"}"')
        match node:
            case Directory(mode=mode):
                lines += [f'mkdir "{name}"', f'set_inode_field "{name}" mode 04{mode:04o}']
            case Link(target=link):
                lines.append(f'symlink "{name}" "{link}"')
            case Regular(mode=mode):
                source = on_disk(node, job.target.with_name(f"{job.target.name}.{index}"))
                lines += [f'write "{source}" "{name}"', f'set_inode_field "{name}" mode 010{mode:04o}']
        lines += [f'set_inode_field "{name}" {field} 0' for field in ("uid", "gid")]
    return lines
