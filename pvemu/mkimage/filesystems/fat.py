"""FAT without a mount: mkfs.fat makes an empty one, mtools fills it. It has no owners, modes and links."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.errors import ConfigError
from pvemu.mkimage.filesystems.job import on_disk
from pvemu.mkimage.tree import Directory, Link, Regular

if TYPE_CHECKING:
    from pvemu.mkimage.filesystems.job import Job

__all__ = ["make_fat"]


def make_fat(job: Job) -> None:
    """See Job. Kind `fat` leaves the width of its entries to mkfs.fat, which goes by the size."""
    system, target = job.system, job.target
    width = ("-F", system.kind[3:]) if system.kind[3:] else ()
    label = ("-n", system.label) if system.label else ()
    serial = ("-i", system.uuid.replace("-", ""))
    arguments = ("--invariant", "-S", str(job.sector_size), *serial, *label, *width, *system.options)
    job.tool("mkfs.fat").run(*arguments, target)
    mtools = job.tool("mtools")
    for index, (path, node) in enumerate(job.tree.items()):
        match node:
            case Directory():
                mtools.run("-c", "mmd", "-i", target, f"::{path}", fake_time=job.epoch)
            case Regular():
                source = on_disk(node, target.with_name(f"{target.name}.{index}"))
                mtools.run("-c", "mcopy", "-i", target, source, f"::{path}", fake_time=job.epoch)
            case Link():
                raise ConfigError(f"{system.where}: {path}: expected no link, since FAT has none")
