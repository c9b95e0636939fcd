"""Which kernels ran: one stage for each that came to its start of day.

A hand-off is recognised by the PV boot protocol itself, not by what a loader prints: after a switch of page tables,
code is first fetched from a page while rsi points at a start_info whose ``pt_base`` is the table just loaded. A kernel
that only switches its own tables (GRUB does) keeps a start_info with the old base and so is no new stage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hypercalls.errors import XenError
from hypercalls.public import xen
from pvemu.builder.elfnotes import ElfDomParms, find_notes
from pvemu.cpu.paging import PTE_ADDR, PTE_P
from pvemu.frames import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from pvemu.observers import subscribe

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Callable, Iterator

    from hypercalls.abi import Abi
    from pvemu.builder.kernel import KernelImage
    from pvemu.cpu.paging import PageWalker
    from pvemu.hypervisor.guest_access import GuestMemory
    from pvemu.memory.ram import Ram

__all__ = ["GivenFiles", "Origin", "Ramdisk", "Stage", "StageWatch"]

_MAGIC = b"xen-3.0-"
_MAX_CMDLINE = 1024
_IMAGE_REACH = 32 << 20


def _sha256(data: bytes = b"") -> hashlib._Hash:
    import hashlib  # most guests have no ramdisk, and it loads OpenSSL

    return hashlib.sha256(data)


class Ramdisk(NamedTuple):
    """A ramdisk as the kernel finds it: bytes and the hex digest of them."""

    size: int
    sha256: str


class Origin(Protocol):
    """Where a kernel and its ramdisk came from. May take its time to find out."""

    @property
    def file(self) -> str | None:
        """The kernel's file; None where none is known."""

    @property
    def ramdisk_file(self) -> str | None:
        """The ramdisk's."""


class GivenFiles(NamedTuple):
    """The origin of what the domain was built from: the paths that the user gave."""

    file: str | None
    ramdisk_file: str | None


@dataclass(frozen=True, slots=True)
class Stage:
    """One kernel at its start of day. ``start_ns`` is guest time since the run began, ``domid`` the domain's number."""

    guest_os: str | None
    loader: str | None
    guest_version: str | None
    entry: int
    cmdline: str
    ramdisk: Ramdisk | None
    start_ns: int
    domid: int = 1
    origin: Origin | None = field(default=None, repr=False, compare=False)

    @property
    def file(self) -> str | None:
        """``xvda1:/boot/xen/pvboot-x86_64.elf``: what a loader took it from; the host's path for stage 0; None where
        nobody watched the disks or it was no file.
        """
        return self.origin.file if self.origin is not None else None

    @property
    def ramdisk_file(self) -> str | None:
        """The file, or the files joined by `` + ``, that the ramdisk came from."""
        return self.origin.ramdisk_file if self.origin is not None else None


class StageWatch:
    """Tells kernels apart; ``read_entry`` reads rip and rsi. After the guest loaded a new root table: ``check_fetch``
    on each page first fetched from, until it finds one.
    """

    def __init__(
        self, abi: Abi, ram: Ram, walker: PageWalker, guest: GuestMemory, read_entry: Callable[[], list[int]],
        elapsed: Callable[[], int], domid: int = 1,
    ) -> None:  # fmt: skip
        self._abi = abi
        self._ram = ram
        self._walker = walker
        self._guest = guest
        self._read_entry = read_entry
        self._elapsed = elapsed
        self._domid = domid
        self.stages: list[Stage] = []
        self.origin_of: Callable[[int, Ramdisk | None], Origin] | None = None  #: of a kernel that is about to start
        self._l1_for = -1
        self._l1_entries: list[int] = []
        self._observers: list[Callable[[Stage], None]] = []

    def observe(self, callback: Callable[[Stage], None]) -> Callable[[], None]:
        """Be told of each new stage; returns how to stop that."""
        return subscribe(self._observers, callback)

    def first_stage(
        self, image: KernelImage, cmdline: str, ramdisk: bytes | None, ramdisk_file: str | None = None
    ) -> None:
        """Stage 0: the kernel that the domain was built from."""
        digest = Ramdisk(len(ramdisk), _sha256(ramdisk).hexdigest()) if ramdisk is not None else None
        self._add(
            Stage(
                image.guest_os or None,
                image.loader or None,
                image.guest_version or None,
                image.virt_entry,
                cmdline,
                digest,
                self._elapsed(),
                self._domid,
                GivenFiles(image.name, ramdisk_file),
            )
        )

    def _add(self, stage: Stage) -> None:
        self.stages.append(stage)
        for callback in tuple(self._observers):
            callback(stage)

    def check_fetch(self, page: int) -> bool:
        """Code is about to be fetched from ``page`` for the first time since the switch: True when that is a kernel's
        start of day, which is then recorded.
        """
        entry, start_info = self._read_entry()
        if entry & ~PAGE_MASK != page or start_info & PAGE_MASK or not start_info:
            return False
        try:
            raw = self._guest.copy_from_guest(start_info, self._abi.sizeof(xen.start_info))
        except XenError:
            return False
        info = self._abi.unpack(xen.start_info, raw)
        if not info.magic.startswith(_MAGIC) or self._walker.lookup(info.pt_base) != self._walker.root_maddr:
            return False
        self._add(self._describe(entry, info))
        return True

    # -- what a kernel found by a loader says of itself ----------------------------------------------------------------
    def _describe(self, entry: int, info: xen.start_info) -> Stage:
        guest_os = loader = version = None
        self._l1_for = -1
        parms = self._find_notes(entry)
        if parms is not None:
            guest_os, loader, version = parms.guest_os or None, parms.loader or None, parms.guest_ver or None
        cmdline = info.cmd_line.split(b"\0", 1)[0][:_MAX_CMDLINE].decode("utf-8", "replace")
        ramdisk = self._ramdisk(info)
        origin = self.origin_of(entry, ramdisk) if self.origin_of is not None else None
        return Stage(guest_os, loader, version, entry, cmdline, ramdisk, self._elapsed(), self._domid, origin)

    def _find_notes(self, entry: int) -> ElfDomParms | None:
        """Notes whose entry is ours: those of the loaded image if it carries them, else the loader's copy of the file,
        which is still in memory.
        """
        for chunk in (self._loaded_image(entry), None):
            ranges = self._ram.touched_ranges() if chunk is None else [(0, len(chunk))]
            source = self._ram.bytes if chunk is None else memoryview(chunk)
            for offset, size in ranges:
                for group in find_notes(source[offset : offset + size]):
                    if group.parms.virt_entry == entry:
                        return group.parms
        return None

    def _loaded_image(self, entry: int) -> bytes:
        """The pages around the entry that are mapped in a row: where a kernel was put."""
        return b"".join(self._ram.read(maddr, size) for _, maddr, size in self.loaded_runs(entry))

    def loaded_runs(self, entry: int) -> Iterator[tuple[int, int, int]]:
        """The pages around the entry that are mapped in a row, at most 32 MiB each way: virtual address, machine
        address and size of what lies together in machine memory too.
        """
        first = last = entry & ~PAGE_MASK
        while first > 0 and entry - first < _IMAGE_REACH and self._maddr(first - PAGE_SIZE) is not None:
            first -= PAGE_SIZE
        while last - entry < _IMAGE_REACH and self._maddr(last) is not None:
            last += PAGE_SIZE
        start, size = None, 0
        for vaddr in range(first, last, PAGE_SIZE):
            maddr = self._maddr(vaddr)
            if start is not None and maddr == start + size:
                size += PAGE_SIZE
                continue
            if start is not None:
                yield vaddr - size, start, size
            start, size = maddr, PAGE_SIZE
        if start is not None:
            yield last - size, start, size

    def _maddr(self, vaddr: int) -> int | None:
        """Machine address of a page of the guest's, from the L1 table found last where possible."""
        if vaddr >> 21 != self._l1_for:
            self._l1_for, self._l1_entries = vaddr >> 21, self._l1_table(vaddr)
        if not self._l1_entries:
            return None
        entry = self._l1_entries[vaddr >> PAGE_SHIFT & 511]
        maddr = entry & PTE_ADDR
        return maddr if entry & PTE_P and self._ram.contains(maddr >> PAGE_SHIFT) else None

    def _l1_table(self, vaddr: int) -> list[int]:
        """The 512 entries of the L1 table that maps ``vaddr``; none where no table leads there."""
        walk = self._walker.entries(vaddr)
        if len(walk) < 4:
            return []
        start = ((walk[2][2] & PTE_ADDR) - self._ram.base) >> 3
        return self._ram.quads[start : start + 512].tolist()

    def _ramdisk(self, info: xen.start_info) -> Ramdisk | None:
        if not info.mod_len:
            return None
        digest = _sha256()
        left = info.mod_len
        vaddr = info.mod_start
        by_pfn = bool(info.flags & xen.SIF_MOD_START_PFN)
        while left > 0:
            at = self._pfn_maddr(info, vaddr) if by_pfn else self._walker.lookup(vaddr)
            if at is None:
                return None
            chunk = min(left, PAGE_SIZE)
            digest.update(self._ram.read(at, chunk))
            left -= chunk
            vaddr += 1 if by_pfn else PAGE_SIZE
        return Ramdisk(info.mod_len, digest.hexdigest())

    def _pfn_maddr(self, info: xen.start_info, pfn: int) -> int | None:
        try:
            raw = self._guest.copy_from_guest(info.mfn_list + pfn * self._abi.long_size, self._abi.long_size)
        except XenError:
            return None
        mfn = int.from_bytes(raw, "little")
        return mfn << PAGE_SHIFT if self._ram.contains(mfn) else None
