"""btrfs without a mount: mkfs.btrfs copies a directory.

Time stamps and UUIDs are the recipe's, but mkfs.btrfs takes inode numbers from the building machine's file system (and
owners, for whoever is not root): the same recipe gives the same files everywhere, not always the same bytes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pvemu.mkimage.tree import Directory, Link, Regular

if TYPE_CHECKING:
    from pvemu.mkimage.filesystems.job import Job

__all__ = ["make_btrfs"]

# What libfaketime makes random numbers from: UUIDs that no option of mkfs.btrfs sets are such.
_SEED = {"FAKERANDOM_SEED": "0x70766d75696d6167", "FAKETIME_FAKEPID": "77"}


def make_btrfs(job: Job) -> None:
    """See Job."""
    system, target = job.system, job.target
    place = target.with_name(f"{target.name}.root")
    place.mkdir(mode=0o755)
    _copy(job, place)
    label = ("-L", system.label) if system.label else ()
    features = ("-O", ",".join(system.features)) if system.features else ()
    # one copy of everything: the second would only make the image larger
    profiles = ("-m", "single", "-d", "single")
    arguments = ("-q", "-f", "--rootdir", place, "-U", system.uuid, *label, *features, *profiles, *system.options)
    job.tool("mkfs.btrfs").run(*arguments, target, fake_time=job.epoch, extra=_SEED)
    shutil.rmtree(place)


def _copy(job: Job, place: Path) -> None:
    modes: list[tuple[Path, int]] = []
    for path, node in job.tree.items():
        inner = place / path[1:]
        match node:
            case Directory(mode=mode):
                inner.mkdir()
                modes.append((inner, mode))
            case Link(target=link):
                inner.symlink_to(link)
            case Regular(mode=mode, content=content):
                if isinstance(content, Path):
                    shutil.copyfile(content, inner)
                else:
                    inner.write_bytes(content)
                modes.append((inner, mode))
    for inner, mode in [*modes, (place, 0o755)]:
        inner.chmod(mode)
    for inner in [*(inner for inner, _ in reversed(modes)), place]:
        os.utime(inner, (job.epoch, job.epoch))
