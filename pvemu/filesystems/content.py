"""What a file holds, from where its pieces are."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from pvemu.filesystems.volume import BrokenImageError

if TYPE_CHECKING:
    from pvemu.filesystems.volume import Extent, Node, Volume

__all__ = ["MAX_FILE", "read_node"]

#: The largest file that is read whole, in bytes.
MAX_FILE = 1 << 30


def read_node(volume: Volume, node: Node) -> bytes:
    """The whole content of a file, holes as zeroes. BrokenImageError for one that cannot be, is too large, or is
    compressed in a way that no installed package unpacks.
    """
    if node.size > MAX_FILE:
        raise BrokenImageError(f"{node.path}: {node.size} bytes are too many")
    data = bytearray(node.size)
    for extent in node.extents:
        piece = _piece(volume, extent)[: max(0, node.size - extent.file_offset)]
        data[extent.file_offset : extent.file_offset + len(piece)] = piece
    return bytes(data)


def _piece(volume: Volume, extent: Extent) -> bytes:
    raw = volume.read(extent.offset, extent.size)
    if not extent.codec:
        return raw
    end = extent.skip + extent.length
    try:
        if extent.codec == "zlib":
            return zlib.decompressobj().decompress(raw, end)[extent.skip :]
        if extent.codec == "zstd":
            import zstandard

            return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(raw))[extent.skip : end]
    except ImportError:
        raise BrokenImageError("zstd: the package zstandard is not installed") from None
    except (zlib.error, _zstd_error()) as error:
        raise BrokenImageError(f"{extent.codec}: {error}") from None
    raise BrokenImageError(f"{extent.codec} is not unpacked")


def _zstd_error() -> type[Exception]:
    try:
        import zstandard
    except ImportError:
        return zlib.error
    return zstandard.ZstdError
