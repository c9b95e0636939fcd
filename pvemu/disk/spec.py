"""What the user says of a disk: ``[VDEV=]PATH[,ro|rw][,cdrom][,sector-size=512|4096]``.

The rule for paths with commas and equals signs: options are taken off the right end for as long as the piece behind the
last comma is one of ``ro``, ``rw``, ``cdrom`` or ``sector-size=...``; a device name is taken off the left end when what
stands before the first ``=`` looks like one (``xvd``, ``sd``, ``hd`` and letters or digits, ``d0p1``, or a number). All
the rest is the path. A path that would be misread is written with a leading ``./``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pvemu.disk.vdev import default_vdev, vdev_number
from pvemu.errors import DiskError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SECTOR_SIZES", "DiskConfig", "parse_disk_spec", "parse_disk_specs"]

SECTOR_SIZES = (512, 4096)

_VDEV = re.compile(r"(?:(?:xvd|sd|hd)[a-z0-9]*|d[0-9]+(?:p[0-9]+)?|0[xX][0-9a-fA-F]+|[0-9]+)\Z", re.ASCII)
_SECTOR_SIZE = "sector-size="


@dataclass(frozen=True, slots=True)
class DiskConfig:
    """One disk of a guest. ``vdev`` is its name ("" where the next free one is meant), ``read_only`` what the guest may
    do, ``writable`` whether the user allowed (``rw``) that writes reach the file; ``sector_size`` in bytes.
    """

    path: str
    vdev: str = ""
    read_only: bool = False
    writable: bool = False
    cdrom: bool = False
    sector_size: int = 512

    @property
    def number(self) -> int:
        """The vbd's number in xenstore; DiskError for a bad name."""
        return vdev_number(self.vdev)


def parse_disk_spec(spec: str) -> DiskConfig:
    """Read one specification; ``vdev`` stays "" where none is given. DiskError says what is wrong."""
    vdev, rest = _take_vdev(spec)
    path, options = _take_options(rest)
    if not path:
        raise DiskError(f"disk {spec!r}: no path; write [VDEV=]PATH[,ro|rw][,sector-size=512|4096]")
    if "\0" in path:
        raise DiskError(f"disk {spec!r}: a path cannot contain a NUL byte; give the path of an image file")
    if len(set(options)) != len(options) or {"ro", "rw"} <= set(options):
        raise DiskError(f"disk {spec!r}: an option is given twice or both ro and rw are; give one of each")
    cdrom = "cdrom" in options
    if cdrom and "rw" in options:
        raise DiskError(f"disk {spec!r}: a cdrom is read-only; drop rw or cdrom")
    sizes = [option[len(_SECTOR_SIZE) :] for option in options if option.startswith(_SECTOR_SIZE)]
    if len(sizes) > 1 or any(size not in ("512", "4096") for size in sizes):
        raise DiskError(f"disk {spec!r}: the sector size is 512 or 4096; give one sector-size=512 or sector-size=4096")
    if vdev:
        vdev_number(vdev)
    return DiskConfig(
        path=path,
        vdev=vdev,
        read_only=cdrom or "ro" in options,
        writable="rw" in options,
        cdrom=cdrom,
        sector_size=int(sizes[0]) if sizes else 512,
    )


def parse_disk_specs(specs: Iterable[str]) -> tuple[DiskConfig, ...]:
    """Read all of a guest's disks: those without a name become xvda, xvdb, ... in order, passing over names that are
    given. DiskError where a name is used twice, or one file twice unless every use of it is read-only.
    """
    disks = [parse_disk_spec(spec) for spec in specs]
    taken: dict[int, DiskConfig] = {}
    for disk in disks:
        if disk.vdev and (other := taken.setdefault(disk.number, disk)) is not disk:
            raise DiskError(f"disk {disk.vdev}: named twice, for {other.path} and {disk.path}; give each its own name")
    free = (vdev for index in range(2 * len(disks)) if vdev_number(vdev := default_vdev(index)) not in taken)
    named = [disk if disk.vdev else replace(disk, vdev=next(free)) for disk in disks]
    _refuse_shared_writers(named)
    return tuple(named)


def _refuse_shared_writers(disks: list[DiskConfig]) -> None:
    """Two disks on one file must both be read-only, as the hotplug script tools/hotplug/Linux/block insists."""
    seen: dict[str, DiskConfig] = {}
    for disk in disks:
        other = seen.setdefault(os.path.realpath(disk.path), disk)
        if other is not disk and not (disk.read_only and other.read_only):
            raise DiskError(
                f"disk image {disk.path}: used by both {other.vdev} and {disk.vdev}, and not read-only by both; "
                "add ,ro to each or use a copy"
            )


def _take_vdev(spec: str) -> tuple[str, str]:
    before, equals, after = spec.partition("=")
    if equals and _VDEV.match(before):
        return before, after
    return "", spec


def _take_options(text: str) -> tuple[str, list[str]]:
    options: list[str] = []
    while True:
        path, comma, last = text.rpartition(",")
        if not comma or not (last in ("ro", "rw", "cdrom") or last.startswith(_SECTOR_SIZE)):
            return text, options
        options.append(last)
        text = path
