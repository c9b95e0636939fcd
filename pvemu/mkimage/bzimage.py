"""A Linux bzImage with its payload compressed anew: to see which loaders take which kernels.

What follows the payload's old place is kept, but the code of the kernel that unpacks itself does not know the new
compression: such a kernel starts where a loader unpacks it (Xen PV), not from a BIOS.

The commands are those of the kernel's own build (scripts/Makefile.lib), mostly at lower levels: what matters is the
format. lzop has to try hard, or it stores blocks that it cannot make smaller, and libxc does not take those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.mkimage.tools import ToolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.mkimage.tools import Tool

__all__ = ["COMPRESSIONS", "PAYLOAD_TOOLS", "compression_of", "is_bzimage", "recompress"]

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

_SETUP_SECTS, _MAGIC, _PAYLOAD_OFFSET, _PAYLOAD_LENGTH = 0x1F1, 0x202, 0x248, 0x24C
_HEADER_SIZE = 0x250


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
    # gzip says how large its contents are; behind all else the kernel's build puts that as four bytes.
    plain = tool(unpacker).run(*unpack, stdin=packed if old == "gzip" else packed[:-4])
    _, packer, pack, _ = _FORMATS[compression]
    payload = tool(packer).run(*pack, stdin=plain)
    if compression != "gzip":
        payload += len(plain).to_bytes(4, "little")
    out = bytearray(kernel[:start] + payload + kernel[start + length :])
    out[_PAYLOAD_LENGTH : _PAYLOAD_LENGTH + 4] = len(payload).to_bytes(4, "little")
    return bytes(out)


def _payload(kernel: bytes) -> tuple[int, int]:
    """Where the payload is: offset in the file and length."""
    if not is_bzimage(kernel):
        raise ToolError("the kernel is not a bzImage: it has no Linux setup header")
    offset = int.from_bytes(kernel[_PAYLOAD_OFFSET : _PAYLOAD_OFFSET + 4], "little")
    length = int.from_bytes(kernel[_PAYLOAD_LENGTH : _PAYLOAD_LENGTH + 4], "little")
    start = (kernel[_SETUP_SECTS] + 1) * 512 + offset
    if not length or start + length > len(kernel):
        raise ToolError("the kernel is cut short: its payload goes on behind its end")
    return start, length
