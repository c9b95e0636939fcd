"""Opening disk images, and every way in which that can fail.

An image is opened for writing only when the caller says ``writable``; otherwise the file is opened ``O_RDONLY`` and the
guest's writes stay in memory (:mod:`pvemu.disk.overlay`).
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pvemu.disk.overlay import OverlayDisk
from pvemu.disk.raw import RawDisk
from pvemu.disk.spec import SECTOR_SIZES, DiskConfig
from pvemu.errors import DiskError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Disk", "open_disk", "open_disks"]

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)


class Disk(Protocol):
    """What a back end does with a disk. Sectors and counts are in 512-byte units, ``sector_size`` is in bytes; a range
    off the disk is a ValueError, failing I/O an OSError.
    """

    @property
    def sectors(self) -> int:
        """How many 512-byte sectors it has."""

    @property
    def sector_size(self) -> int:
        """The logical sector size in bytes, 512 or 4096."""

    @property
    def read_only(self) -> bool:
        """Whether :meth:`write` and :meth:`discard` are refused."""

    def read(self, sector: int, count: int) -> bytes:
        """``count`` sectors from ``sector`` on."""

    def readinto(self, sector: int, buffer: memoryview) -> None:
        """Fill ``buffer`` (whole sectors) from ``sector`` on."""

    def write(self, sector: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` (whole sectors) at ``sector``."""

    def flush(self) -> None:
        """Make what was written last."""

    def discard(self, sector: int, count: int) -> None:
        """Make the sectors read as zeroes."""

    def close(self) -> None:
        """Give the file back."""


def open_disk(path: str, *, writable: bool, sector_size: int = 512) -> Disk:
    """Open a raw image or block device of any size. With ``writable`` writes go through to it; without, it is opened
    read-only and writes stay in memory. DiskError, one line, for everything that cannot be a disk.
    """
    if sector_size not in SECTOR_SIZES:
        raise DiskError(f"disk image {path}: a sector size of {sector_size} is not possible; use 512 or 4096")
    _check_kind(path)
    fd = _open(path, writable)
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
        _check_size(path, size, sector_size)
    except OSError as error:
        os.close(fd)
        raise DiskError(f"disk image {path}: its size cannot be told ({_reason(error)}); use an image file") from None
    except DiskError:
        os.close(fd)
        raise
    raw = RawDisk(fd, size >> 9, sector_size, read_only=not writable)
    return raw if writable else OverlayDisk(raw)


def open_disks(configs: Sequence[DiskConfig], *, write: bool) -> list[Disk]:
    """Open a guest's disks in order; a file is written only where its disk says ``rw`` and ``write`` is given too.
    DiskError where a file is used twice under different names (links) and not read-only each time.
    """
    disks: list[Disk] = []
    seen: dict[tuple[int, int], DiskConfig] = {}
    try:
        for config in configs:
            disks.append(open_disk(config.path, writable=write and config.writable, sector_size=config.sector_size))
            status = Path(config.path).stat()
            other = seen.setdefault((status.st_dev, status.st_ino), config)
            if other is not config and not (config.read_only and other.read_only):
                raise DiskError(
                    f"disk image {config.path}: the same file as {other.path}, and not read-only both times; "
                    "add ,ro to each or use a copy"
                )
    except DiskError:
        for disk in disks:
            disk.close()
        raise
    return disks


def _check_kind(path: str) -> None:
    """Refuse what is not a file or block device before opening it: opening a FIFO would wait for a writer."""
    if not path or "\0" in path:
        raise DiskError(f"disk image {path!r}: not a path; give the path of an image file")
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        raise DiskError(_open_failure(path, error, "read")) from None
    for is_kind, what in _KINDS:
        if is_kind(mode):
            raise DiskError(f"disk image {path}: {what}, not a disk; give an image file or a block device")


def _open(path: str, writable: bool) -> int:
    try:
        return os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    except OSError as error:
        raise DiskError(_open_failure(path, error, "written" if writable else "read")) from None


def _check_size(path: str, size: int, sector_size: int) -> None:
    if size == 0:
        raise DiskError(f"disk image {path}: empty; give an image with at least one sector of {sector_size} bytes")
    if size % sector_size:
        advice = "cut or pad it"
        if sector_size != 512 and size % 512 == 0:
            advice = "drop sector-size=4096, or pad it"
        raise DiskError(
            f"disk image {path}: its size of {size} bytes is not a multiple of the sector size {sector_size}; {advice}"
        )


def _open_failure(path: str, error: OSError, done: str) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        hint = "check the path"
        if "," in path:
            hint += " (options behind it are ro, rw, cdrom, sector-size=512, sector-size=4096)"
        return f"disk image {path}: no such file; {hint}"
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = "check its permissions" if done == "read" else "check its permissions, or leave out rw"
        return f"disk image {path}: may not be {done} (permission denied); {hint}"
    if error.errno == errno.EROFS:
        return f"disk image {path}: lies on a read-only file system; leave out rw, or copy it"
    return f"disk image {path}: cannot be {done} ({_reason(error)}); use a plain image file"


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
