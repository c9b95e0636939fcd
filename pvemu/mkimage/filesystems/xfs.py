"""XFS without a mount: mkfs.xfs fills it from a prototype, a list that says every entry, owner and mode itself.

xfs(5) and mkfs.xfs(8) describe the prototype. It has no way to write a blank, so scratch files get names without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.errors import ConfigError
from pvemu.mkimage.filesystems.job import on_disk
from pvemu.mkimage.tree import Directory, Link, Regular

if TYPE_CHECKING:
    from pvemu.mkimage.filesystems.job import Job
    from pvemu.mkimage.tree import Node

__all__ = ["make_xfs"]

# mkfs.xfs refuses to make one below 300 MiB outside its authors' own tests; GRUB and Linux read smaller ones well.
_SMALL = {"TEST_DIR": "/", "TEST_DEV": "/", "QA_CHECK_FS": "/"}


def make_xfs(job: Job) -> None:
    """See Job."""
    system, target = job.system, job.target
    place = target.with_name(f"{target.name}.files")
    place.mkdir()
    (place / "prototype").write_text("".join(f"{line}\n" for line in _prototype(job)), encoding="utf-8")
    label = ("-L", system.label) if system.label else ()
    sector = ("-s", f"size={job.sector_size}")
    arguments = ("-q", "-f", "-p", "prototype", "-m", f"uuid={system.uuid}", *label, *sector, *system.options)
    job.tool("mkfs.xfs").run(*arguments, target.absolute(), fake_time=job.epoch, cwd=place, extra=_SMALL)


def _prototype(job: Job) -> list[str]:
    """The prototype's lines; contents are links in its folder, since a cache's path may have blanks in it."""
    lines = ["/", "0 0", "d--755 0 0"]
    open_directories: list[str] = []
    for index, (path, node) in enumerate(job.tree.items()):
        parent, _, name = path.rpartition("/")
        if any(letter.isspace() for letter in path):
            raise ConfigError(f"{job.system.where}: {path!r}: expected a name without blanks, which XFS's maker needs")
        while open_directories and open_directories[-1] != parent:
            open_directories.pop()
            lines.append("$")
        lines.append(f"{name} {_mode(job, path, node)} 0 0")
        match node:
            case Directory():
                open_directories.append(path)
            case Link(target=target):
                lines[-1] += f" {target}"
            case Regular():
                link = job.target.with_name(f"{job.target.name}.files") / f"f{index}"
                link.symlink_to(on_disk(node, link.with_suffix(".data")).absolute())
                lines[-1] += f" {link.name}"
    return [*lines, *("$" for _ in open_directories), "$"]


def _mode(job: Job, path: str, node: Node) -> str:
    if isinstance(node, Link):
        if any(letter.isspace() for letter in node.target):
            raise ConfigError(f"{job.system.where}: {path}: expected a link's target without blanks for XFS")
        return "l--777"
    if node.mode & 0o1000:
        raise ConfigError(f"{job.system.where}: {path}: mode: expected no sticky bit, which XFS's maker cannot set")
    kind = "d" if isinstance(node, Directory) else "-"
    return f"{kind}{'u' if node.mode & 0o4000 else '-'}{'g' if node.mode & 0o2000 else '-'}{node.mode & 0o777:03o}"
