"""Why a boot loader would not start a kernel: its own complaint, beside what the kernel file is.

A loader says little ("not xen image"), and what matters is not on the screen: how the kernel is compressed, and for
which width it is. The file is found among what the loader read from its disks before it complained: a Linux setup
header or the ELF header of a program, that of which most was read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from hypercalls.public.io.blkif import BLKIF_OP_READ, BLKIF_RSP_OKAY
from pvemu.builder.bzimage import bzimage_bits, is_bzimage, payload_compression, payload_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pvemu.devices.blkback import Blkback
    from pvemu.devices.blkback_request import CompletedRequest

__all__ = ["KernelFile", "LoaderWatch", "Refusal"]

_SECTOR = 512
_MAGIC_SIZE = 6
#: Where libxc's own magic is short: what follows it always.
_LONGER_MAGICS = {"gzip": b"\x1f\x8b\x08", "lzma": b"\x5d\0\0", "lz4": b"\x02\x21\x4c\x18"}
#: Sectors that a loader may read beside what it was asked for: GRUB fills its cache by 64 at a time.
_READ_AHEAD = 256
_NEAR = 128  # sectors behind the place where a payload would begin
#: A setup header, or an ELF header, at its offset in the file.
_HEADERS = ((b"HdrS", 0x202), (b"\x7fELF", 0))
_HEADER_SIZE = 0x250
_ET_EXEC, _ET_DYN = 2, 3
_EM_386, _EM_X86_64 = 3, 62
_MAX_READS = 1 << 16  # stretches kept: a loader makes a few hundred, a running system any number
_MAX_SEARCH = 64 << 20  # bytes of one stretch of sectors that are looked through
#: What GRUB's ports for Xen can unpack of a bzImage, and the module that does it (grub-core/loader/i386/xen_file.c and
#: grub-core/io of GRUB 2.12). There is an lzopio too, but it wants nothing behind its data, and the kernel's size is.
_GRUB_UNPACKS = {"gzip": "gzio", "xz": "xzio"}
_ERROR = re.compile(rb"^error: [^\n]*", re.MULTILINE)
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[78=>]")


class KernelFile(NamedTuple):
    """A kernel as a loader read it: ``kind`` is bzImage or ELF, ``payload`` the compression of a bzImage's (None: one
    that Xen does not know), ``bits`` its width (None: it does not say), ``sector`` (512 bytes) where the file begins on
    disk ``vdev``, ``file`` its name there (None where that cannot be told: on a volume of several disks, say).
    """

    vdev: str
    sector: int
    kind: str
    payload: str | None
    bits: int | None
    file: str | None = None

    def __str__(self) -> str:
        width = f"{self.bits}-bit " if self.bits is not None else ""
        packed = f" with a payload of format {self.payload or 'unknown'}" if self.kind == "bzImage" else ""
        where = self.file or f"sector {self.sector} of {self.vdev}"
        return f"a {width}{self.kind}{packed}, read from {where}"


class Refusal(NamedTuple):
    """``error`` in the loader's own words, the kernel that it had read, and what would start that one."""

    error: str
    kernel: KernelFile
    advice: str

    def __str__(self) -> str:
        return f"the loader refused the kernel ({self.error}): it is {self.kernel}; {self.advice}"

    def as_json(self) -> dict[str, object]:
        """For ``--json``."""
        return {"error": self.error, "kernel": self.kernel._asdict(), "advice": self.advice}


class _Read:
    __slots__ = ("end", "start", "vdev")

    def __init__(self, vdev: str, start: int, end: int) -> None:
        self.vdev = vdev
        self.start = start
        self.end = end


class LoaderWatch:
    """Keeps what one stage read, and what it complained of, until :meth:`forget` begins the next.

    ``bits`` is the domain's width: a PV domain has one for life.
    """

    def __init__(self, backends: Mapping[str, Blkback], bits: int) -> None:
        self._backends = backends
        self._bits = bits
        self._reads: list[_Read] = []
        self._errors: list[tuple[str, int]] = []  # with the number of reads before it
        self._line = b""
        self._next: tuple[str, int] | None = None  # what the last read goes on with
        for vdev, backend in backends.items():
            backend.observe(self._observer(vdev))

    def _observer(self, vdev: str) -> Callable[[CompletedRequest], None]:
        def note(done: CompletedRequest) -> None:
            if done.operation != BLKIF_OP_READ or done.status != BLKIF_RSP_OKAY:
                return
            sector, reads = done.sector, self._reads
            end = sector + done.nr_sectors
            if self._next == (vdev, sector):
                reads[-1].end = end
            elif len(reads) < _MAX_READS:
                reads.append(_Read(vdev, sector, end))
            else:
                return
            self._next = vdev, end

        return note

    def take_output(self, data: bytes) -> None:
        """Bytes of the console, as they come."""
        self._line += data
        if b"\n" not in data:
            return
        whole, _, self._line = self._line.rpartition(b"\n")
        if b"error: " in whole:
            text = _ESCAPES.sub(b"\n", whole).replace(b"\r", b"")
            for match in _ERROR.findall(text):
                self._errors.append((match.decode("utf-8", "replace").strip(), len(self._reads)))
                self._next = None  # what is read from now on comes after it

    def forget(self) -> None:
        """Another kernel runs: what was read so far started it."""
        self._reads.clear()
        self._errors.clear()
        self._line = b""
        self._next = None

    def refusal(self) -> Refusal | None:
        """The last complaint that follows the reading of a kernel; None when there is none."""
        starts = [0, *(mark for _, mark in self._errors)]
        for (error, mark), start in zip(reversed(self._errors), reversed(starts[:-1]), strict=True):
            kernel = self._kernel_in(self._reads[:mark], self._reads[start:mark])
            if kernel is not None:
                kernel = kernel._replace(file=self._file_name(kernel))
                return Refusal(error, kernel, self._advice(kernel))
        return None

    def _file_name(self, kernel: KernelFile) -> str | None:
        from pvemu.filesystems.disk_map import DiskMap

        location = DiskMap(self._backends[kernel.vdev].disk).locate(kernel.sector)
        return location.on(kernel.vdev) if location is not None and location.offset == 0 else None

    # -- what kind of file it is ---------------------------------------------------------------------------------------
    def _kernel_in(self, known: list[_Read], reads: list[_Read]) -> KernelFile | None:
        """The kernel of which most was read after its header; of several, that whose header came last. Loaders read
        ahead, to the beginning of whatever file comes next, and keep what they read. What was read in a row with the
        header counts where it is more than that.
        """
        most, chosen = -1, None
        for number, read in enumerate(known):
            is_new = number >= len(known) - len(reads)
            later = known[max(number + 1, len(known) - len(reads)) :]
            for kernel, end in self._headers_in(read):
                own = [other for other in later if other.vdev == kernel.vdev]
                count = sum(max(min(other.end, end) - max(other.start, kernel.sector), 0) for other in own)
                here = min(read.end, end) - kernel.sector
                if is_new and here > _READ_AHEAD:
                    count += here
                if count >= most and (count or is_new):
                    most, chosen = count, kernel
        return chosen

    def _headers_in(self, read: _Read) -> Iterator[tuple[KernelFile, int]]:
        """The kernels whose headers are in one stretch of sectors, each with the sector behind it, more or less."""
        data = self._sectors(read.vdev, read.start, min(read.end - read.start, _MAX_SEARCH // _SECTOR))
        for offset in (hit for magic, at in _HEADERS for hit in _hits(data, magic, at)):
            header = data[offset : offset + _HEADER_SIZE]
            sector = read.start + offset // _SECTOR
            if is_bzimage(header):
                start, length = payload_range(header)
                payload = self._payload(read.vdev, sector, start)
                kernel = KernelFile(read.vdev, sector, "bzImage", payload, bzimage_bits(header))
                yield kernel, sector + (start + length) // _SECTOR
            elif header.startswith(b"\x7fELF") and _u16(header, 16) in (_ET_EXEC, _ET_DYN):
                machine = _u16(header, 18)
                if machine in (_EM_386, _EM_X86_64):
                    kernel = KernelFile(read.vdev, sector, "ELF", None, 64 if machine == _EM_X86_64 else 32)
                    yield kernel, sector + min(_elf_end(header), _MAX_SEARCH) // _SECTOR + 1

    def _payload(self, vdev: str, sector: int, offset: int) -> str | None:
        """The compression of what is ``offset`` bytes into a file: right there if the file lies in one piece. Blocks
        of zeros may have been left out of it, or some of another file lie between; so the nearest place near there.
        """
        start = offset // _SECTOR
        data = self._sectors(vdev, sector, start + _NEAR)
        for at in sorted(range(offset % _SECTOR, len(data) - _MAGIC_SIZE, _SECTOR), key=lambda at: abs(at - offset)):
            found = payload_compression(data[at : at + _MAGIC_SIZE])
            if found is not None and data.startswith(_LONGER_MAGICS.get(found, b""), at):
                return found
        return None

    def _sectors(self, vdev: str, sector: int, count: int) -> bytes:
        disk = self._backends[vdev].disk
        step = disk.sector_size // _SECTOR
        first = sector - sector % step
        last = min(-(-(sector + count) // step) * step, disk.sectors)
        if first >= last:
            return b""
        return disk.read(first, last - first)[(sector - first) * _SECTOR :][: count * _SECTOR]

    def _advice(self, kernel: KernelFile) -> str:
        if kernel.bits not in (None, self._bits):
            return (
                f"this domain is {self._bits}-bit, as its first kernel is, and stays so: start it by a "
                f"{kernel.bits}-bit loader"
            )
        if kernel.kind != "bzImage":
            return "it may have no Xen notes"
        if kernel.payload is None:
            return "neither GRUB nor Xen's domain builder unpacks that: compress it with gzip or xz"
        known = " and ".join(_GRUB_UNPACKS)
        if kernel.payload in _GRUB_UNPACKS:
            module = _GRUB_UNPACKS[kernel.payload]
            return f"GRUB's ports for Xen unpack {known}: is the module {module} there (`insmod {module}`)?"
        return (
            f"GRUB's ports for Xen unpack {known} only, Xen's domain builder {kernel.payload} too: boot it directly, "
            "or compress it with one of these"
        )


def _hits(data: bytes, magic: bytes, at: int) -> list[int]:
    """Offsets of files, at the start of a sector, that have ``magic`` at offset ``at``."""
    found, position = [], data.find(magic)
    while position >= 0:
        if position >= at and (position - at) % _SECTOR == 0:
            found.append(position - at)
        position = data.find(magic, position + 1)
    return found


def _elf_end(header: bytes) -> int:
    """Where the last segment of a program ends in its file, or its table of sections begins, if that is later."""
    # e_phoff, e_shoff, e_phentsize; p_offset, p_filesz; their size
    at = (0x20, 0x28, 0x36, 0x08, 0x20, 8) if header[4:5] == b"\2" else (0x1C, 0x20, 0x2A, 0x04, 0x10, 4)
    segments, sections, entry_at, offset_at, size_at, long = at

    def number(offset: int) -> int:
        return int.from_bytes(header[offset : offset + long], "little")

    first, step = number(segments), _u16(header, entry_at)
    tables = [first + step * i for i in range(_u16(header, entry_at + 2))]
    return max([number(sections), *(number(each + offset_at) + number(each + size_at) for each in tables)])


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")
