"""A kernel packed as distributions pack Linux: a bzImage, whose payload a loader must find and decode.

The header's fields are those of Linux' Documentation/arch/x86/boot.rst; there is no set-up code behind them, which a PV
guest never runs. zstd and lz4 payloads are frames of what was not compressed, so that no library is needed for them.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["PACKERS", "make_bzimage"]

_SECTOR = 512
_SETUP_SECTORS = 1
_PROTOCOL = 0x020F
_LITERALS = 15  # of a run; more are counted in bytes of 255
_ZSTD_BLOCK = 128 << 10


def _size(kernel: bytes) -> bytes:
    """What the kernel's build puts behind all but gzip's, which has it inside."""
    return len(kernel).to_bytes(4, "little")


def _zstd(kernel: bytes) -> bytes:
    frame = (0xFD2FB528).to_bytes(4, "little") + bytes((0, 0x48))  # no content size; a window of 512 KiB
    for start in range(0, len(kernel), _ZSTD_BLOCK):
        block = kernel[start : start + _ZSTD_BLOCK]
        is_last = start + _ZSTD_BLOCK >= len(kernel)
        frame += (len(block) << 3 | is_last).to_bytes(3, "little") + block
    return frame + _size(kernel)


def _lz4(kernel: bytes) -> bytes:
    """The legacy frame, one block, one run of literals."""
    many, rest = divmod(len(kernel) - _LITERALS, 255)
    block = b"\xf0" + b"\xff" * many + bytes((rest,)) + kernel
    return (0x184C2102).to_bytes(4, "little") + len(block).to_bytes(4, "little") + block + _size(kernel)


PACKERS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": lambda kernel: gzip.compress(kernel, mtime=0),
    "bzip2": lambda kernel: bz2.compress(kernel) + _size(kernel),
    "lzma": lambda kernel: lzma.compress(kernel, lzma.FORMAT_ALONE) + _size(kernel),
    "xz": lambda kernel: lzma.compress(kernel, check=lzma.CHECK_CRC32) + _size(kernel),
    "zstd": _zstd,
    "lz4": _lz4,
}
"""What needs no tool, by the compression's name."""


def make_bzimage(kernel: bytes, compression: str) -> bytes:
    """The bzImage around a kernel (an ELF file)."""
    payload = PACKERS[compression](kernel)
    header = bytearray((1 + _SETUP_SECTORS) * _SECTOR)
    header[0x1F1] = _SETUP_SECTORS
    header[0x1FE:0x200] = b"\x55\xaa"
    header[0x202:0x206] = b"HdrS"
    header[0x206:0x208] = _PROTOCOL.to_bytes(2, "little")
    header[0x248:0x24C] = (0).to_bytes(4, "little")  # where the payload is, from here
    header[0x24C:0x250] = len(payload).to_bytes(4, "little")
    return bytes(header) + payload
