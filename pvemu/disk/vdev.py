"""Virtual device names and their numbers: xvda1 <-> 51713 (xen-vbd-interface(7), tools/libs/light/libxl_device.c).

A vbd is known in xenstore by one decimal number that encodes the kind of disk, the disk and the partition. A guest may
also be given a bare number, which is passed on as it stands.
"""

from __future__ import annotations

import re

from pvemu.errors import DiskError

__all__ = ["default_vdev", "vdev_name", "vdev_number"]

_XVD_MAJOR = 202
_SD_MAJOR = 8
_HD_MAJORS = (3, 22)
_EXTENDED = 1 << 28  # xvd disks or partitions past what 202 << 8 has room for
_MAX_XVD_DISK = (1 << 20) - 1

_NAME = re.compile(r"(xvd|sd|hd)([a-z]+)([1-9][0-9]{0,3})?\Z", re.ASCII)
_DISK_PARTITION = re.compile(r"d([0-9]{1,7})(?:p([0-9]{1,4}))?\Z", re.ASCII)
_NUMBER = re.compile(r"(?:0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})\Z", re.ASCII)


def default_vdev(index: int) -> str:
    """The name of the ``index``-th disk whose name was not given: xvda, xvdb, ..., xvdz, xvdaa, ..."""
    return f"xvd{_letters(index)}"


def vdev_number(vdev: str) -> int:
    """The number xenstore knows ``vdev`` by; DiskError where there is none."""
    if match := _DISK_PARTITION.match(vdev):
        return _xvd(vdev, int(match[1]), int(match[2] or 0))
    if _NUMBER.match(vdev):
        number = int(vdev, 0) if vdev[:2] in ("0x", "0X") or not vdev.startswith("0") else _octal(vdev)
        if number > 0x7FFFFFFF:
            raise DiskError(f"disk name {vdev!r}: a device number is at most 2147483647; use a name such as xvda")
        return number
    match = _NAME.match(vdev)
    if match is None:
        raise DiskError(f"disk name {vdev!r}: not a device name; use xvda, xvdb1, sda, hdc, d0p1 or a number")
    kind, disk, partition = match[1], _index(match[2]), int(match[3] or 0)
    if kind == "xvd":
        return _xvd(vdev, disk, partition)
    if kind == "sd":
        if disk > 15 or partition > 15:
            raise DiskError(f"disk name {vdev!r}: sd has disks a to p and partitions 1 to 15; use an xvd name")
        return _SD_MAJOR << 8 | disk << 4 | partition
    if disk > 3 or partition > 63:
        raise DiskError(f"disk name {vdev!r}: hd has disks a to d and partitions 1 to 63; use an xvd name")
    return _HD_MAJORS[disk >> 1] << 8 | (disk & 1) << 6 | partition


def vdev_name(number: int) -> str:
    """The name of a device number; the number itself, in decimal, where no naming scheme covers it."""
    if number >> 28 == 1:
        return f"xvd{_letters(number >> 8 & _MAX_XVD_DISK)}{_suffix(number & 0xFF)}"
    major, minor = number >> 8, number & 0xFF
    if major == _XVD_MAJOR:
        return f"xvd{_letters(minor >> 4)}{_suffix(minor & 0xF)}"
    if major == _SD_MAJOR:
        return f"sd{_letters(minor >> 4)}{_suffix(minor & 0xF)}"
    if major in _HD_MAJORS and minor < 0x80:
        return f"hd{_letters(_HD_MAJORS.index(major) * 2 + (minor >> 6))}{_suffix(minor & 0x3F)}"
    return str(number)


def _xvd(vdev: str, disk: int, partition: int) -> int:
    if disk > _MAX_XVD_DISK or partition > 255:
        raise DiskError(f"disk name {vdev!r}: at most {_MAX_XVD_DISK + 1} disks of 255 partitions; use a smaller one")
    if disk <= 15 and partition <= 15:
        return _XVD_MAJOR << 8 | disk << 4 | partition
    return _EXTENDED | disk << 8 | partition


def _octal(text: str) -> int:
    """A number with a leading zero is octal to strtoul, which is what reads it in libxl."""
    try:
        return int(text, 8)
    except ValueError:
        raise DiskError(f"disk name {text!r}: a leading 0 means octal; drop it or use a name such as xvda") from None


def _index(letters: str) -> int:
    """a..z are 0..25, aa is 26: bijective base 26."""
    value = -1
    for letter in letters:
        value = (value + 1) * 26 + ord(letter) - ord("a")
    return value


def _letters(index: int) -> str:
    text = ""
    while index >= 0:
        text = chr(ord("a") + index % 26) + text
        index = index // 26 - 1
    return text


def _suffix(partition: int) -> str:
    return str(partition) if partition else ""
