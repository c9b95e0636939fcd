"""The ELF inside a Linux bzImage, and gzip as libxc takes it (tools/libs/guest/xg_dom_bzimageloader.c, xg_dom_core.c).

The boot protocol from 2.08 on says where the compressed kernel lies. Every compression but gzip has the uncompressed
size appended as a little-endian u32; what comes out must have exactly that size. gzip, bzip2, xz and lzma are always
there; zstd, lz4 and lzo need a package (imported only when such a kernel comes).
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import zlib
from typing import TYPE_CHECKING, NamedTuple

from pvemu.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

__all__ = [
    "XC_DOM_DECOMPRESS_MAX",
    "bzimage_bits",
    "check_gzip",
    "do_gunzip",
    "extract_payload",
    "is_bzimage",
    "payload_compression",
    "payload_range",
    "try_gunzip",
]

XC_DOM_DECOMPRESS_MAX = 1 << 30  #: libxc uncompresses nothing that claims to be larger
_GZIP_MAGIC = b"\x1f\x8b"
_LZMA_MEMLIMIT = 128 << 20
_ZSTD_WINDOW_MAX = 128 << 20  #: what `zstd -22 --ultra` needs
_LZOP_MAX_BLOCK_SIZE = 64 << 20
_LZOP_HEADER_HAS_FILTER = 0x800
_LZOP_MAGIC = b"\x89LZO\0\r\n\x1a\n"
_LZ4_LEGACY_MAGIC = 0x184C2102
_LZ4_BLOCK_MAX = 8 << 20  #: a legacy frame's blocks hold no more

_SETUP_SECTS = 0x1F1
_HEADER = 0x202
_VERSION = 0x206
_PAYLOAD_OFFSET = 0x248
_PAYLOAD_LENGTH = 0x24C
_XLOADFLAGS = 0x236
_XLF_KERNEL_64 = 1 << 0
_SIZEOF_SETUP_HEADER = 0x250


class _DecodeError(Exception):
    """Why a payload does not decompress, in a few words."""


def _le32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def check_gzip(blob: bytes) -> int:
    """Bytes to set aside for a gzip file's contents (16 more than it says), 0 when it is to be taken as it is."""
    if len(blob) < 6 or not blob.startswith(_GZIP_MAGIC):
        return 0
    unziplen = _le32(blob, len(blob) - 4)
    return 0 if unziplen > XC_DOM_DECOMPRESS_MAX else unziplen + 16


def do_gunzip(blob: bytes, limit: int) -> bytes | None:
    """The first gzip member, when it is whole and fits ``limit`` bytes; else None."""
    stream = zlib.decompressobj(zlib.MAX_WBITS + 32)
    try:
        data = stream.decompress(blob, limit)
    except zlib.error:
        return None
    return data if stream.eof else None


def try_gunzip(blob: bytes, name: str) -> bytes:
    """``blob`` uncompressed when it is gzip, else itself. Raises KernelError for broken gzip."""
    unziplen = check_gzip(blob)
    if not unziplen:
        return blob
    data = do_gunzip(blob, unziplen)
    if data is None:
        raise KernelError(
            f"{name}: gzip data is truncated or corrupted; compress it again (xc_dom_do_gunzip: inflate failed)"
        )
    return data


def is_bzimage(data: bytes) -> bool:
    """Whether ``data`` has a Linux setup header."""
    return len(data) >= _SIZEOF_SETUP_HEADER and data[_HEADER : _HEADER + 4] == b"HdrS"


def payload_range(header: bytes) -> tuple[int, int]:
    """Offset in the file and length of the payload, appended size included, as the setup header has them."""
    return (header[_SETUP_SECTS] + 1) * 512 + _le32(header, _PAYLOAD_OFFSET), _le32(header, _PAYLOAD_LENGTH)


def bzimage_bits(header: bytes) -> int | None:
    """64 or 32, as a setup header of boot protocol 2.12 and on says; None for older ones."""
    if int.from_bytes(header[_VERSION : _VERSION + 2], "little") < 0x20C:
        return None
    return 64 if int.from_bytes(header[_XLOADFLAGS : _XLOADFLAGS + 2], "little") & _XLF_KERNEL_64 else 32


def payload_compression(start: bytes) -> str | None:
    """What a payload that starts so is compressed with, in lower case; None when libxc does not know it."""
    if start.startswith(_GZIP_MAGIC):
        return "gzip"
    return next((codec.name.lower() for codec in _CODECS if start.startswith(codec.magic)), None)


def extract_payload(data: bytes, name: str) -> bytes:
    """The uncompressed kernel (an ELF file) of a bzImage. Raises KernelError."""
    version = int.from_bytes(data[_VERSION : _VERSION + 2], "little")
    if version < 0x208:
        raise KernelError(
            f"{name}: bzImage of boot protocol {version >> 8}.{version & 0xFF:02}, Xen needs 2.08: use a newer kernel "
            f"(xc_dom_probe_bzimage_kernel: boot protocol too old ({version:04x}))"
        )
    offset, length = payload_range(data)
    for what, overflow in (("offset", offset >= len(data)), ("length", offset + length > len(data))):
        if overflow:
            raise KernelError(
                f"{name}: bzImage payload at {offset:#x}, {length:#x} bytes, in a file of {len(data):#x} bytes: "
                f"truncated; copy it again (xc_dom_probe_bzimage_kernel: payload {what} overflow)"
            )
    payload = data[offset : offset + length]
    if payload.startswith(_GZIP_MAGIC):
        return try_gunzip(payload, name)
    for codec in _CODECS:
        if payload.startswith(codec.magic):
            return _decompress(codec, payload, name)
    raise KernelError(
        f"{name}: bzImage compressed in a way Xen does not know (starts {payload[:6].hex(' ')}): "
        "use gzip, bzip2, lzma, xz, lzo, lz4 or zstd (xc_dom_probe_bzimage_kernel: unknown compression format)"
    )


class _Codec(NamedTuple):
    name: str  #: libxc's word
    magic: bytes
    #: (compressed data, uncompressed size); asks for a byte more where that makes the decoder check its sums
    decode: Callable[[bytes, int], bytes]


def _decompress(codec: _Codec, payload: bytes, name: str) -> bytes:
    size = _le32(payload, len(payload) - 4)
    try:
        if len(payload) <= 9:
            raise _DecodeError("insufficient input data")
        if size > XC_DOM_DECOMPRESS_MAX:
            raise _DecodeError("output too large")
        out = codec.decode(payload[:-4], size)
        if len(out) != size:
            raise _DecodeError(f"got {len(out):#x} bytes instead of {size:#x}")
    except _DecodeError as err:
        raise KernelError(
            f"{name}: bzImage payload is broken: {codec.name}: {err}; copy or build it again "
            f"(xc_dom_probe_bzimage_kernel unable to {codec.name} decompress kernel)"
        ) from None
    except ImportError:
        package = _PACKAGES[codec.name]
        raise KernelError(
            f"{name}: bzImage compressed with {codec.name.lower()}: to read it, pip install {package}"
        ) from None
    return out


_PACKAGES = {"ZSTD": "zstandard", "LZ4": "lz4", "LZO": "lzallright"}


def _bzip2(data: bytes, size: int) -> bytes:
    try:
        return bz2.BZ2Decompressor().decompress(data, size + 1)
    except (OSError, EOFError, ValueError) as err:
        raise _DecodeError(str(err)) from None


def _lzma_stream(data: bytes, size: int, alone: bool) -> bytes:
    container = lzma.FORMAT_ALONE if alone else lzma.FORMAT_XZ
    try:
        return lzma.LZMADecompressor(container, memlimit=_LZMA_MEMLIMIT).decompress(data, size + 1)
    except (lzma.LZMAError, EOFError, ValueError) as err:
        raise _DecodeError(str(err)) from None


def _xz(data: bytes, size: int) -> bytes:
    return _lzma_stream(data, size, alone=False)


def _lzma(data: bytes, size: int) -> bytes:
    return _lzma_stream(data, size, alone=True)


def _zstd(data: bytes, size: int) -> bytes:
    zstandard = importlib.import_module("zstandard")
    stream = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
    out: list[bytes] = []
    total = 0
    try:
        with stream.stream_reader(data, read_across_frames=True) as reader:
            while piece := reader.read(min(16 << 20, size + 1 - total)):
                out.append(piece)
                total += len(piece)
    except zstandard.ZstdError as err:
        raise _DecodeError(str(err)) from None
    return b"".join(out)


def _lz4(data: bytes, size: int) -> bytes:
    block: ModuleType = importlib.import_module("lz4.block")
    if _le32(data, 0) != _LZ4_LEGACY_MAGIC:
        raise _DecodeError("invalid header")
    out = bytearray()
    offset = 4
    while offset < len(data):
        if len(data) - offset < 4:
            raise _DecodeError("missing data")
        chunk = _le32(data, offset)
        offset += 4
        if chunk == _LZ4_LEGACY_MAGIC:
            continue
        if chunk > len(data) - offset:
            raise _DecodeError("insufficient input data")
        room = min(size - len(out), _LZ4_BLOCK_MAX)
        try:
            out += block.decompress(data[offset : offset + chunk], uncompressed_size=room)
        except (block.LZ4BlockError, ValueError) as err:
            raise _DecodeError(f"decoding failed ({err})") from None
        offset += chunk
    return bytes(out)


def _lzop_header_size(data: bytes) -> int:
    """Where the blocks of an lzop file start."""
    if not data.startswith(_LZOP_MAGIC) or len(data) < 32:
        raise _DecodeError("Unrecognized magic")
    version = int.from_bytes(data[9:11], "big")
    offset = 17 if version >= 0x0940 else 16
    flags = int.from_bytes(data[offset : offset + 4], "big")
    offset += (8 if flags & _LZOP_HEADER_HAS_FILTER else 4) + 8 + (4 if version >= 0x0940 else 0)
    if offset >= len(data):
        raise _DecodeError("Incomplete header")
    return offset + 1 + data[offset] + 4  # the file's name and a checksum


def _lzo(data: bytes, size: int) -> bytes:
    lzallright = importlib.import_module("lzallright")
    offset = _lzop_header_size(data)
    out = bytearray()
    while True:
        dst_len, src_len = (int.from_bytes(data[offset + at : offset + at + 4], "big") for at in (0, 4))
        if len(data) - offset < 4:
            raise _DecodeError("Short input")
        if not dst_len:
            return bytes(out)
        offset += 12  # the two lengths and a checksum
        if dst_len > _LZOP_MAX_BLOCK_SIZE:
            raise _DecodeError("Block size too large")
        if not 0 < src_len <= dst_len or src_len > len(data) - offset:
            raise _DecodeError("Bad source length")
        if dst_len > size - len(out):
            raise _DecodeError("Output buffer overflow")
        try:
            # libxc does not know stored blocks (as long as their contents), so they are as bad here.
            piece = lzallright.LZOCompressor.decompress(data[offset : offset + src_len], dst_len)
        except lzallright.LZOError as err:
            raise _DecodeError(str(err.args[0]).removeprefix("EResult.")) from None
        if len(piece) != dst_len:
            raise _DecodeError("Input underrun")
        out += piece
        offset += src_len


#: In the order in which libxc looks, after gzip.
_CODECS = (
    _Codec("BZIP2", b"BZh", _bzip2),
    _Codec("XZ", b"\xfd7zXZ\0"[:6], _xz),
    _Codec("ZSTD", b"\x28\xb5\x2f\xfd", _zstd),
    _Codec("LZMA", b"\x5d\x00", _lzma),
    _Codec("LZO", b"\x89LZO\0", _lzo),
    _Codec("LZ4", b"\x02\x21", _lz4),
)
