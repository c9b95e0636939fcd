"""Linux bzImages: made around a kernel as distributions pack Linux, and packed anew, to see which loaders take which.

The header's fields are those of Linux' Documentation/arch/x86/boot.rst. One that is made here has no set-up code behind
its header, and one that is packed anew has code that does not know the new compression: such a kernel starts where a
loader unpacks it (Xen PV), not from a BIOS.

``make_bzimage`` needs no tool: zstd and lz4 payloads are frames of what was not compressed. ``recompress`` runs the
commands of the kernel's own build (scripts/Makefile.lib), mostly at lower levels: what matters is the format. lzop has
to try hard, or it stores blocks that it cannot make smaller, and libxc does not take those.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
from typing import TYPE_CHECKING

from pvemu.mkimage.tools import ToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pvemu.mkimage.tools import Tool

__all__ = ["COMPRESSIONS", "PACKERS", "PAYLOAD_TOOLS", "compression_of", "is_bzimage", "make_bzimage", "recompress"]

#: compression -> (first bytes, tool, options that pack, options that unpack)
_FORMATS: dict[str, tuple[bytes, str, tuple[str, ...], tuple[str, ...]]] = {
    "gzip": (b"\x1f\x8b", "gzip", ("-6", "-n", "-c"), ("-d", "-c")),
    "bzip2": (b"BZh", "bzip2", ("-1", "-c"), ("-d", "-c")),
    "xz": (b"\xfd7zXZ\0", "xz", ("--check=crc32", "--x86", "--lzma2=preset=0,dict=32MiB", "-c"), ("-d", "-c")),
    "lzma": (b"\x5d\0\0", "xz", ("--format=lzma", "-0", "-c"), ("--format=lzma", "-d", "-c")),
    "lzo": (b"\x89LZO\0\r\n\x1a\n", "lzop", ("-7", "-c"), ("-d", "-c")),
    "lz4": (b"\x02\x21\x4c\x18", "lz4", ("-l", "-1", "-c"), ("-d", "-c")),
    "zstd": (b"\x28\xb5\x2f\xfd", "zstd", ("-3", "-q", "-c"), ("-d", "-q", "-c")),
}
COMPRESSIONS = tuple(_FORMATS)
#: To make any of them out of any other.
PAYLOAD_TOOLS = frozenset(tool for _, tool, _, _ in _FORMATS.values())

# Fields of the set-up header, by their offset in the file.
_SETUP_SECTS, _BOOT_FLAG, _MAGIC, _VERSION, _PAYLOAD_OFFSET, _PAYLOAD_LENGTH = 0x1F1, 0x1FE, 0x202, 0x206, 0x248, 0x24C
_HEADER_SIZE = 0x250
_SECTOR = 512
_PROTOCOL = 0x020F
_LITERALS = 15  # of an lz4 run; more are counted in bytes of 255
_ZSTD_BLOCK = 128 << 10


def _size(kernel: bytes) -> bytes:
    """What the kernel's build puts behind every payload but gzip's, which has it inside."""
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
    """The bzImage around a kernel (an ELF file), packed by one of PACKERS."""
    payload = PACKERS[compression](kernel)
    header = bytearray(2 * _SECTOR)  # the boot sector, and one of set-up code
    header[_SETUP_SECTS] = 1
    header[_BOOT_FLAG : _BOOT_FLAG + 2] = b"\x55\xaa"
    header[_MAGIC : _MAGIC + 4] = b"HdrS"
    _put(header, _VERSION, 2, _PROTOCOL)
    _put(header, _PAYLOAD_OFFSET, 4, 0)  # from here
    _put(header, _PAYLOAD_LENGTH, 4, len(payload))
    return bytes(header) + payload


def is_bzimage(kernel: bytes) -> bool:
    """Whether it has a Linux setup header."""
    return len(kernel) >= _HEADER_SIZE and kernel[_MAGIC : _MAGIC + 4] == b"HdrS"


def compression_of(kernel: bytes) -> str:
    """How a bzImage's payload is compressed. Raises ToolError for a file that is none, or is compressed otherwise."""
    start, _ = _payload(kernel)
    found = next((name for name, (magic, *_) in _FORMATS.items() if kernel.startswith(magic, start)), None)
    if found is None:
        first = kernel[start : start + 6].hex(" ")
        raise ToolError(f"the kernel's payload is compressed in no way known (it starts {first})")
    return found


def recompress(kernel: bytes, compression: str, tool: Callable[[str], Tool]) -> bytes:
    """The kernel with its payload compressed as one of COMPRESSIONS. Raises ToolError."""
    start, length = _payload(kernel)
    old = compression_of(kernel)
    _, unpacker, _, unpack = _FORMATS[old]
    packed = kernel[start : start + length]
    plain = tool(unpacker).run(*unpack, stdin=packed if old == "gzip" else packed[:-4])
    _, packer, pack, _ = _FORMATS[compression]
    payload = tool(packer).run(*pack, stdin=plain)
    if compression != "gzip":
        payload += _size(plain)
    out = bytearray(kernel[:start] + payload + kernel[start + length :])
    _put(out, _PAYLOAD_LENGTH, 4, len(payload))
    return bytes(out)


def _put(data: bytearray, offset: int, size: int, number: int) -> None:
    data[offset : offset + size] = number.to_bytes(size, "little")


def _payload(kernel: bytes) -> tuple[int, int]:
    """Where the payload is: offset in the file and length."""
    if not is_bzimage(kernel):
        raise ToolError("the kernel is not a bzImage: it has no Linux setup header")
    offset = int.from_bytes(kernel[_PAYLOAD_OFFSET : _PAYLOAD_OFFSET + 4], "little")
    length = int.from_bytes(kernel[_PAYLOAD_LENGTH : _PAYLOAD_LENGTH + 4], "little")
    start = (kernel[_SETUP_SECTS] + 1) * _SECTOR + offset
    if not length or start + length > len(kernel):
        raise ToolError("the kernel is cut short: its payload goes on behind its end")
    return start, length
