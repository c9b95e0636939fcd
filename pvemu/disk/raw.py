"""A raw image file or block device, read and written in place: sector n is at byte n * 512."""

from __future__ import annotations

import errno
import os

__all__ = ["SECTOR_SHIFT", "RawDisk"]

SECTOR_SHIFT = 9  #: sector numbers and counts are in 512-byte units everywhere, as in blkif

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2


class RawDisk:
    """An open image. Sectors and counts are 512-byte units; ``sector_size`` is what the guest is told, in bytes.

    The file is only ever written when ``read_only`` is false. Failing I/O raises OSError, a range outside the disk
    ValueError. Made by :func:`pvemu.disk.image.open_disk`.
    """

    def __init__(self, fd: int, sectors: int, sector_size: int, *, read_only: bool) -> None:
        self._fd = fd
        self.sectors = sectors
        self.sector_size = sector_size
        self.read_only = read_only

    def read(self, sector: int, count: int) -> bytes:
        """``count`` sectors from ``sector`` on."""
        data = bytearray(count << SECTOR_SHIFT)
        self.readinto(sector, memoryview(data))
        return bytes(data)

    def readinto(self, sector: int, buffer: memoryview) -> None:
        """Fill ``buffer`` (whole sectors) from ``sector`` on."""
        size = len(buffer)
        if sector < 0 or size & 511 or sector + (size >> SECTOR_SHIFT) > self.sectors:
            raise ValueError(f"sectors {sector}+{size / 512:g} are not on a disk of {self.sectors}")
        done = os.preadv(self._fd, (buffer,), sector << SECTOR_SHIFT)
        while done < size:
            more = os.preadv(self._fd, (buffer[done:],), (sector << SECTOR_SHIFT) + done)
            if not more:
                raise OSError(errno.EIO, "the image file became shorter while in use")
            done += more

    def write(self, sector: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` (whole sectors) at ``sector``, in the file itself."""
        size = len(data)
        if sector < 0 or size & 511 or sector + (size >> SECTOR_SHIFT) > self.sectors:
            raise ValueError(f"sectors {sector}+{size / 512:g} are not on a disk of {self.sectors}")
        self._refuse_if_read_only()
        view = memoryview(data)
        done = 0
        while done < size:
            done += os.pwrite(self._fd, view[done:], (sector << SECTOR_SHIFT) + done)

    def flush(self) -> None:
        """Wait until what was written is on the host's disk."""
        if not self.read_only:
            os.fsync(self._fd)

    def discard(self, sector: int, count: int) -> None:
        """Make the sectors read as zeroes and give their space back; OSError(EOPNOTSUPP) where the host cannot."""
        if sector < 0 or count < 0 or sector + count > self.sectors:
            raise ValueError(f"sectors {sector}+{count} are not on a disk of {self.sectors}")
        self._refuse_if_read_only()
        if count:
            _punch_hole(self._fd, sector << SECTOR_SHIFT, count << SECTOR_SHIFT)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _refuse_if_read_only(self) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, "the image is opened read-only")


def _punch_hole(fd: int, offset: int, length: int) -> None:
    import ctypes  # only a discard of a disk opened for writing needs it

    libc = ctypes.CDLL(None, use_errno=True)
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    if libc.fallocate64(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
