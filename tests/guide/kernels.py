"""Kernels for the field's bugs: a boot loader that says where it came from, packed as distributions pack Linux."""

from __future__ import annotations

import gzip
import lzma
from typing import TYPE_CHECKING

from hypercalls.public import elfnote
from tests.builder.make_elf import make_bzimage

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PAYLOADS", "bzimage", "with_bad_entry"]

_ENTRY_NOTE = b"".join(number.to_bytes(4, "little") for number in (4, 8, elfnote.XEN_ELFNOTE_ENTRY)) + b"Xen\0"
_UD2 = b"\x0f\x0b"


def _with_size(packed: bytes, kernel: bytes) -> bytes:
    return packed + len(kernel).to_bytes(4, "little")


def _zstd(kernel: bytes) -> bytes:
    """A frame of uncompressed blocks: no package is needed to write one."""
    frame = (0xFD2FB528).to_bytes(4, "little") + bytes((0, 0x48))  # no content size; a window of 512 KiB
    step = 128 << 10
    for start in range(0, len(kernel), step):
        block = kernel[start : start + step]
        frame += (len(block) << 3 | (start + step >= len(kernel))).to_bytes(3, "little") + block
    return _with_size(frame, kernel)


def _lz4(kernel: bytes) -> bytes:
    """A legacy frame of one block that is one run of literals."""
    many, rest = divmod(len(kernel) - 15, 255)
    block = b"\xf0" + b"\xff" * many + bytes((rest,)) + kernel
    return _with_size((0x184C2102).to_bytes(4, "little") + len(block).to_bytes(4, "little") + block, kernel)


#: Compression -> what a bzImage's payload of it is.
PAYLOADS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda kernel: gzip.compress(kernel, mtime=0),
    "xz": lambda kernel: _with_size(lzma.compress(kernel, check=lzma.CHECK_CRC32), kernel),
    "zstd": _zstd,
    "lz4": _lz4,
}


def bzimage(kernel: bytes, compression: str) -> bytes:
    """A bzImage as GRUB insists on it: with the boot sector's signature."""
    image = bytearray(make_bzimage(PAYLOADS[compression](kernel)))
    image[0x1FE:0x200] = b"\x55\xaa"
    return bytes(image)


def with_bad_entry(kernel: bytes, entry: int = 0x2000) -> bytes:
    """A copy whose entry note leads to what a compiler puts at the end of a path that is never taken: UD2."""
    image = bytearray(kernel)
    note = image.index(_ENTRY_NOTE) + len(_ENTRY_NOTE)
    image[note : note + 8] = entry.to_bytes(8, "little")
    text = 0x1000  # where grub-mkimage puts the code that belongs at address 0
    image[text + entry : text + entry + len(_UD2)] = _UD2
    return bytes(image)
