"""Which file a loader refused, from made-up reads: a disk with several kernels, and a console with complaints."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, cast

import pytest

from hypercalls.public.io.blkif import BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY
from pvemu.debug.loader_refusal import LoaderWatch, Refusal
from pvemu.devices.blkback_request import CompletedRequest
from tests.filesystems.memory_disk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable

SECTORS = 4096
NO_KERNEL = b"error: not xen image.\n"
ZSTD, GZIP, XZ = b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08", b"\xfd7zXZ\0"


class FakeBackend:
    """A disk that tells of the reads that a test makes up."""

    def __init__(self, pieces: dict[int, bytes], sector_size: int = 512) -> None:
        self.disk = MemoryDisk(SECTORS << 9, {sector << 9: data for sector, data in pieces.items()}, sector_size)
        self.observers: list[Callable[[CompletedRequest], None]] = []

    def observe(self, observer: Callable[[CompletedRequest], None]) -> None:
        self.observers.append(observer)

    def read(self, first: int, count: int, operation: int = BLKIF_OP_READ, status: int = BLKIF_RSP_OKAY) -> None:
        for observer in self.observers:
            observer(CompletedRequest("xvda", operation, first, count, status, []))


def bzimage(magic: bytes = ZSTD, size: int = 100, bits: int = 64, at: int = 2) -> bytes:
    """A kernel of ``size`` sectors, its payload ``at`` sectors into the file."""
    header = bytearray(size << 9)
    header[0x1F1] = 1
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", header, 0x206, 0x20F)
    struct.pack_into("<H", header, 0x236, bits == 64)
    struct.pack_into("<II", header, 0x248, 0, (size - 2) << 9)
    header[at << 9 : (at << 9) + len(magic)] = magic
    return bytes(header)


def elf(machine: int = 62, kind: int = 2) -> bytes:
    header = bytearray(512)
    header[:5] = b"\x7fELF" + bytes([2 if machine == 62 else 1])
    struct.pack_into("<HH", header, 16, kind, machine)
    return bytes(header)


def watching(backend: FakeBackend, bits: int = 64) -> LoaderWatch:
    return LoaderWatch(cast("Any", {"xvda": backend}), bits)


def refused(watch: LoaderWatch) -> Refusal:
    refusal = watch.refusal()
    assert refusal is not None
    return refusal


def test_what_was_read_before_the_complaint() -> None:
    backend = FakeBackend({40: bzimage()})
    watch = watching(backend)
    for first in range(40, 140, 8):
        backend.read(first, 8)
    assert watch.refusal() is None, "nobody complained"
    watch.take_output(NO_KERNEL)
    refusal = refused(watch)
    assert refusal.error == "error: not xen image."
    assert refusal.kernel == ("xvda", 40, "bzImage", "zstd", 64, None)
    assert "gzip and xz" in refusal.advice
    watch.forget()
    assert watch.refusal() is None


def test_a_complaint_with_colours_and_in_pieces() -> None:
    backend = FakeBackend({40: bzimage(GZIP)})
    watch = watching(backend)
    backend.read(40, 100)
    for piece in (b"\x1b[37mLoading\r\n", b"\x1b[1;31mer", b"ror: no su", b"ch thing.\x1b[0m\r", b"\nPress any key"):
        watch.take_output(piece)
    assert refused(watch).error == "error: no such thing."
    assert "`insmod gzio`" in refused(watch).advice


def test_a_header_that_was_only_read_ahead_is_not_it() -> None:
    """Loaders read a little past a file's end: that is the beginning of whatever comes next."""
    backend = FakeBackend({40: bzimage(XZ, 1000), 1040: bzimage(ZSTD, 100)})
    watch = watching(backend)
    backend.read(40, 1004)
    watch.take_output(NO_KERNEL)
    assert refused(watch).kernel.payload == "xz"
    backend.read(1041, 99)  # and now that file, of which the first sector is known
    watch.take_output(NO_KERNEL)
    assert refused(watch).kernel.sector == 1040


def test_of_what_was_read_around_it_the_last_header_is_it() -> None:
    """A loader that looks at the header alone reads whole stretches for it, with small files before it."""
    backend = FakeBackend({40: elf(machine=3), 100: elf(machine=62)})
    watch = watching(backend, 32)
    backend.read(30, 128)
    watch.take_output(NO_KERNEL)
    assert (refused(watch).kernel.sector, refused(watch).kernel.bits) == (100, 64)


def test_of_several_complaints_the_last_that_follows_a_kernel() -> None:
    backend = FakeBackend({40: bzimage(ZSTD), 200: bzimage(XZ)})
    watch = watching(backend)
    backend.read(40, 100)
    watch.take_output(NO_KERNEL)
    backend.read(200, 100)
    watch.take_output(b"error: file `/x' not found.\n")
    assert refused(watch).kernel.sector == 200
    backend.read(1000, 8)
    watch.take_output(b"error: you need to load the kernel first.\n")
    assert (refused(watch).kernel.sector, refused(watch).error) == (200, "error: file `/x' not found.")


def test_pieces_of_a_file_that_lie_apart_count_together() -> None:
    backend = FakeBackend({40: bzimage(ZSTD, 100), 1000: bzimage(XZ, 3)})
    watch = watching(backend)
    backend.read(1000, 1)
    backend.read(40, 8)
    backend.read(100, 30)
    backend.read(48, 20)
    watch.take_output(NO_KERNEL)
    assert refused(watch).kernel.sector == 40


@pytest.mark.parametrize("at", [2, 9, 60])
def test_a_payload_is_found_where_blocks_of_others_lie_between(at: int) -> None:
    backend = FakeBackend({40: bzimage(XZ, 100, at=at)})
    watch = watching(backend)
    backend.read(40, 100)
    watch.take_output(NO_KERNEL)
    assert refused(watch).kernel.payload == "xz"


def test_a_payload_of_no_known_kind() -> None:
    backend = FakeBackend({40: bzimage(b"\1\2\3\4")})
    watch = watching(backend)
    backend.read(40, 100)
    watch.take_output(NO_KERNEL)
    assert refused(watch).kernel.payload is None
    assert "compress it with gzip or xz" in refused(watch).advice


@pytest.mark.parametrize(("machine", "kernel_bits"), [(62, 64), (3, 32)])
@pytest.mark.parametrize("bits", [64, 32])
def test_the_width_of_a_program(machine: int, kernel_bits: int, bits: int) -> None:
    backend = FakeBackend({40: elf(machine)})
    watch = watching(backend, bits)
    backend.read(40, 64)
    watch.take_output(NO_KERNEL)
    assert (refused(watch).kernel.kind, refused(watch).kernel.bits) == ("ELF", kernel_bits)
    advice = refused(watch).advice
    if bits == kernel_bits:
        assert advice == "it may have no Xen notes"
    else:
        assert advice.startswith(f"this domain is {bits}-bit")
        assert advice.endswith(f"start it by a {kernel_bits}-bit loader")


@pytest.mark.parametrize(
    "pieces", [{40: elf(machine=183)}, {40: elf(kind=1)}, {40: bytes(512)}, {40: bytes(100) + elf()}],
    ids=["another-cpu", "a-module", "nothing", "not-at-a-sector"],
)  # fmt: skip
def test_what_is_no_kernel(pieces: dict[int, bytes]) -> None:
    backend = FakeBackend(pieces)
    watch = watching(backend)
    backend.read(40, 64)
    watch.take_output(NO_KERNEL)
    assert watch.refusal() is None


def test_writes_and_reads_that_failed_are_none() -> None:
    backend = FakeBackend({40: bzimage()})
    watch = watching(backend)
    backend.read(40, 100, operation=BLKIF_OP_WRITE)
    backend.read(40, 100, status=BLKIF_RSP_ERROR)
    watch.take_output(NO_KERNEL)
    assert watch.refusal() is None


def test_sectors_of_4_kib() -> None:
    backend = FakeBackend({48: bzimage()}, sector_size=4096)
    watch = watching(backend)
    backend.read(48, 8)
    backend.read(56, 96)
    watch.take_output(NO_KERNEL)
    assert refused(watch).kernel.sector == 48
