"""Kernels inside bzImages, in every compression the toolstack takes."""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import struct
from typing import TYPE_CHECKING, Any

import pytest

from pvemu.builder.bzimage import check_gzip
from pvemu.builder.kernel import parse_image
from pvemu.errors import KernelError
from tests.builder.make_elf import make_bzimage, make_kernel

if TYPE_CHECKING:
    from collections.abc import Callable

KERNEL = make_kernel(code=bytes(range(256)) * 300)


def with_size(compressed: bytes, size: int = len(KERNEL)) -> bytes:
    return compressed + size.to_bytes(4, "little")


def xz(data: bytes) -> bytes:
    return with_size(lzma.compress(data, check=lzma.CHECK_CRC32))


def lzma_alone(data: bytes) -> bytes:
    return with_size(lzma.compress(data, format=lzma.FORMAT_ALONE))


def package(name: str) -> Any:
    return pytest.importorskip(name)


def zstd(data: bytes) -> bytes:
    compressor = package("zstandard").ZstdCompressor().compressobj()  # writes no content size, as `zstd` in a pipe
    return with_size(compressor.compress(data) + compressor.flush())


def zstd_two_frames(data: bytes) -> bytes:
    compressor = package("zstandard").ZstdCompressor()
    return with_size(compressor.compress(data[:1000]) + compressor.compress(data[1000:]))


def lz4(data: bytes) -> bytes:
    block = package("lz4.block")
    out = (0x184C2102).to_bytes(4, "little")
    for start in range(0, len(data), 8 << 20):
        piece = block.compress(data[start : start + (8 << 20)], store_size=False)
        out += len(piece).to_bytes(4, "little") + piece
    return with_size(out)


def lzo(data: bytes, flags: int = 0) -> bytes:
    compressor = package("lzallright").LZOCompressor()
    out = b"\x89LZO\0\r\n\x1a\n" + struct.pack(">HHHBB", 0x1040, 0x20A0, 0x0940, 1, 9)
    out += struct.pack(">I", flags) + (bytes(4) if flags & 0x800 else b"") + bytes(12) + b"\x03abc" + bytes(4)
    for start in range(0, len(data), 1 << 18):
        block = data[start : start + (1 << 18)]
        piece = compressor.compress(block)
        out += struct.pack(">III", len(block), len(piece), 0) + piece
    return with_size(out + bytes(4))


def lzo_with_filter(data: bytes) -> bytes:
    return lzo(data, 0x800)


@pytest.mark.parametrize(
    "compress",
    [
        gzip.compress,
        lambda data: with_size(bz2.compress(data)),
        xz,
        lzma_alone,
        zstd,
        zstd_two_frames,
        lz4,
        lzo,
        lzo_with_filter,
    ],
    ids=["gzip", "bzip2", "xz", "lzma", "zstd", "zstd-frames", "lz4", "lzo", "lzo-filter"],
)
def test_every_compression_gives_the_kernel_back(compress: Callable[[bytes], bytes]) -> None:
    image = parse_image(make_bzimage(compress(KERNEL), offset=0x40), "vmlinuz")
    assert bytes(image.segments[0].data) == bytes(range(256)) * 300
    assert image.bits == 64


def test_a_gzipped_elf_is_taken_too() -> None:
    assert parse_image(gzip.compress(KERNEL), "kernel.gz").v_end == parse_image(KERNEL, "kernel").v_end


def test_a_gzipped_bzimage_is_taken_too() -> None:
    assert parse_image(gzip.compress(make_bzimage(xz(KERNEL))), "x").bits == 64


def refused(data: bytes) -> str:
    with pytest.raises(KernelError) as caught:
        parse_image(data, "vmlinuz")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("vmlinuz: ")
    return text


def test_old_boot_protocols_have_no_payload() -> None:
    assert "boot protocol 2.05, Xen needs 2.08" in refused(make_bzimage(xz(KERNEL), version=0x205))


def test_payload_outside_the_file() -> None:
    assert "payload offset overflow" in refused(make_bzimage(b"", offset=0)[:0x400])
    assert "payload length overflow" in refused(make_bzimage(xz(KERNEL), length=1 << 31))
    assert "payload length overflow" in refused(make_bzimage(xz(KERNEL))[:-1])


@pytest.mark.parametrize("payload", [b"\x00" * 100, b"\x04\x22\x4d\x18" + bytes(96), b"BZ" + bytes(60), b"x"])
def test_unknown_compression(payload: bytes) -> None:
    assert "unknown compression format" in refused(make_bzimage(payload))


@pytest.mark.parametrize(
    ("compress", "word"),
    [
        (gzip.compress, "gzip"),
        (lambda data: with_size(bz2.compress(data)), "BZIP2"),
        (xz, "XZ"),
        (lzma_alone, "LZMA"),
        (zstd, "ZSTD"),
        (lz4, "LZ4"),
        (lzo, "LZO"),
    ],
)
def test_broken_payloads_name_their_compression(compress: Callable[[bytes], bytes], word: str) -> None:
    payload = compress(KERNEL)
    flipped = bytearray(payload)
    for at in range(8, 24):
        flipped[at] ^= 0xFF
    truncated = payload[: len(payload) // 2] + payload[-4:]
    for broken in (bytes(flipped), truncated):
        assert word in refused(make_bzimage(broken))


@pytest.mark.parametrize("off", [-1, 1])
def test_the_size_behind_the_payload_must_agree(off: int) -> None:
    payload = with_size(lzma.compress(KERNEL, check=lzma.CHECK_CRC32), len(KERNEL) + off)
    assert f"instead of {len(KERNEL) + off:#x}" in refused(make_bzimage(payload))


def test_checksums_are_checked() -> None:
    for compressed in (bz2.compress(KERNEL), lzma.compress(KERNEL, check=lzma.CHECK_CRC32)):
        broken = bytearray(compressed)
        broken[len(broken) // 2] ^= 1
        assert "payload is broken" in refused(make_bzimage(with_size(bytes(broken))))


def test_more_than_a_gibibyte_is_not_tried() -> None:
    payload = with_size(lzma.compress(KERNEL, check=lzma.CHECK_CRC32), (1 << 30) + 1)
    assert "output too large" in refused(make_bzimage(payload))


def test_payload_that_is_no_elf() -> None:
    assert "payload is not an ELF file" in refused(make_bzimage(xz(b"\0" * 5000)[:-4] + (5000).to_bytes(4, "little")))


@pytest.mark.parametrize(
    ("magic", "package_name"),
    [
        (b"\x28\xb5\x2f\xfd" + bytes(20), "zstandard"),
        (b"\x02\x21\x4c\x18" + bytes(20), "lz4"),
        (b"\x89LZO\0\r\n\x1a\n" + bytes(30), "lzallright"),
    ],
)
def test_a_missing_package_is_named(magic: bytes, package_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    assert f"pip install {package_name}" in refused(make_bzimage(magic))


def test_gzip_room_is_the_size_it_says_and_sixteen() -> None:
    assert check_gzip(gzip.compress(b"x" * 1000)) == 1016
    assert check_gzip(b"\x1f\x8b") == 0
    assert check_gzip(b"\x1f\x8b" + b"\xff" * 20) == 0
    assert check_gzip(b"plain data") == 0
