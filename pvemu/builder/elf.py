"""ELF headers as libelf reads them: class, machine, loadable extents by physical address, sections on demand.

Mirrors xen/common/libelf/libelf-loader.c (``elf_init``, ``elf_parse_binary``) and libelf-tools.c. Loadable means
``PT_LOAD`` with any of R, W, X; extents and load addresses go by ``p_paddr``, never by ``p_vaddr``. What the headers
say is taken as libelf takes it, however odd; ``doubts`` says what is odd.
"""

from __future__ import annotations

from itertools import pairwise
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from pvemu.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "EM_386",
    "EM_X86_64",
    "NO_LOADER",
    "PT_LOAD",
    "PT_NOTE",
    "SHT_NOTE",
    "SHT_STRTAB",
    "SHT_SYMTAB",
    "ElfBinary",
    "Phdr",
    "Shdr",
    "elf_init",
    "is_elf",
]

NO_LOADER = "xc_dom_find_loader: no loader found: Invalid kernel"  #: what xl prints for any image it cannot parse

ET_REL = 1
EM_386 = 3
EM_X86_64 = 62
PT_LOAD = 1
PT_NOTE = 4
PF_RWX = 7
SHT_SYMTAB = 2
SHT_STRTAB = 3
SHT_NOTE = 7
ELF_MAX_STRING_LENGTH = 4096

_ELFMAG = b"\x7fELF"
_EI_NIDENT = 16
_SIZEOF_EHDR32 = 52  #: libelf's least size of anything it calls ELF
_MACHINES = {
    0: "no machine", 2: "SPARC", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S/390", 40: "ARM", 43: "SPARC v9",
    50: "IA-64", 183: "AArch64", 243: "RISC-V", 258: "LoongArch",
}  # fmt: skip


class Phdr(NamedTuple):
    """A program header, in the order of ``Elf64_Phdr``."""

    p_type: int
    p_flags: int
    p_offset: int
    p_vaddr: int
    p_paddr: int
    p_filesz: int
    p_memsz: int
    p_align: int


class Shdr(NamedTuple):
    """A section header."""

    sh_name: int
    sh_type: int
    sh_flags: int
    sh_addr: int
    sh_offset: int
    sh_size: int
    sh_link: int
    sh_info: int
    sh_addralign: int
    sh_entsize: int


class _Layout(NamedTuple):
    """The structures of one ELF class."""

    bits: int
    ehdr: Struct  #: Ehdr after e_ident
    phdr: Struct
    phdr_order: tuple[int, ...]  #: position in the file of each Phdr field
    shdr: Struct


_LAYOUT32 = _Layout(32, Struct("<HHIIIIIHHHHHH"), Struct("<8I"), (0, 6, 1, 2, 3, 4, 5, 7), Struct("<10I"))
_LAYOUT64 = _Layout(64, Struct("<HHIQQQIHHHHHH"), Struct("<IIQQQQQQ"), tuple(range(8)), Struct("<IIQQQQIIQQ"))


class ElfBinary:
    """One parsed file (``struct elf_binary``): ``pstart``/``pend`` are the physical extent of what it loads."""

    __slots__ = (
        "bits", "data", "doubts", "ehdr_size", "entry", "image", "layout", "loadable", "machine", "name", "pend",
        "phdrs", "pstart", "shdr_size", "shentsize", "shnum", "shoff", "shstrndx",
    )  # fmt: skip

    def __init__(self, data: bytes, name: str, layout: _Layout) -> None:
        header = layout.ehdr.unpack_from(data, _EI_NIDENT)
        e_type, self.machine, _version, self.entry, phoff, self.shoff, _flags = header[:7]
        _ehsize, phentsize, phnum, self.shentsize, shnum, self.shstrndx = header[7:]
        self.data = data
        self.image = memoryview(data)  #: slices of it are the segments' file bytes, not copies
        self.name = name
        self.layout = layout
        self.bits = layout.bits
        self.ehdr_size = _EI_NIDENT + layout.ehdr.size
        self.shdr_size = layout.shdr.size
        self.shnum = min(shnum, len(data) // _LAYOUT32.shdr.size)
        self.doubts: list[str] = []
        self._check_identity(e_type)
        self._check_table("program headers (phdr)", phoff, phentsize, phnum, layout.phdr.size)
        self._check_table("section headers (shdr)", self.shoff, self.shentsize, self.shnum, self.shdr_size)
        self.phdrs = [self._phdr(phoff + i * phentsize) for i in range(phnum)]
        self.loadable = [p for p in self.phdrs if p.p_type == PT_LOAD and p.p_flags & PF_RWX]
        self._doubt_loadable()
        self.pstart = min((p.p_paddr for p in self.loadable), default=0)
        self.pend = max(((p.p_paddr + p.p_memsz) % (1 << 64) for p in self.loadable), default=0)

    @property
    def guest_bits(self) -> int:
        """The width of the guest, which goes by the machine that the file is for."""
        return 64 if self.machine == EM_X86_64 else 32

    def _check_identity(self, e_type: int) -> None:
        if self.machine not in (EM_386, EM_X86_64):
            what = _MACHINES.get(self.machine, "another machine")
            raise KernelError(
                f"{self.name}: ELF for {what} (e_machine {self.machine}); give an x86-64 or i386 PV kernel "
                f"(xc_dom_guest_type: unknown image type {self.machine}: Invalid kernel)"
            )
        if self.guest_bits != self.bits:
            self.doubts.append(f"a {self.bits}-bit ELF file for a {self.guest_bits}-bit machine")
        if e_type == ET_REL:
            self.doubts.append("a relocatable object, not linked")

    def file_bytes(self, phdr: Phdr) -> memoryview:
        """What is loaded of a segment: nothing, when the file ends before it does."""
        end = phdr.p_offset + phdr.p_filesz
        return self.image[phdr.p_offset : end] if end <= len(self.data) else self.image[:0]

    def _check_table(self, what: str, offset: int, stride: int, count: int, least: int) -> None:
        if count and stride < least:
            raise KernelError(
                f"{self.name}: {what} of {stride} bytes each, an ELF{self.bits} has {least}: corrupted; rebuild it"
            )
        end = offset + stride * count
        if end > len(self.data):
            raise KernelError(
                f"{self.name}: {what} run past the end of the file: truncated or corrupted; copy it again "
                f"(ELF: overflow (off {end:x} > size {len(self.data):x}); {NO_LOADER})"
            )

    def _phdr(self, offset: int) -> Phdr:
        fields = self.layout.phdr.unpack_from(self.data, offset)
        return Phdr(*[fields[i] for i in self.layout.phdr_order])

    def _doubt_loadable(self) -> None:
        """What libelf loads in part, twice, or where nobody expects it."""
        limit = 1 << self.bits
        for number, p in enumerate(self.phdrs):
            if p.p_type != PT_LOAD or not p.p_flags & PF_RWX:
                continue
            where = f"program header {number} (paddr {p.p_paddr:#x}, memsz {p.p_memsz:#x})"
            if p.p_filesz > p.p_memsz:
                self.doubts.append(f"{where} has more file ({p.p_filesz:#x} bytes) than memory")
            if p.p_offset + p.p_filesz > len(self.data):
                self.doubts.append(
                    f"{where} ends at {p.p_offset + p.p_filesz:#x} of a file of {len(self.data):#x} bytes: "
                    "truncated or corrupted; nothing of it is loaded"
                )
            if p.p_paddr + p.p_memsz > limit:
                self.doubts.append(f"{where} wraps around the {self.bits}-bit address space")
        extents = sorted((p.p_paddr, p.p_paddr + p.p_memsz) for p in self.loadable if p.p_memsz)
        self.doubts += [
            f"program headers overlap at paddr {start:#x} (the one before ends at {end:#x})"
            for (_, end), (start, _) in pairwise(extents)
            if start < end
        ]

    def section(self, index: int) -> Shdr | None:
        """Section header ``index``, or None when there is none such."""
        if not 0 <= index < self.shnum:
            return None
        return Shdr(*self.layout.shdr.unpack_from(self.data, self.shoff + index * self.shentsize))

    def sections(self) -> Iterator[Shdr]:
        """All section headers but the first (which is no section)."""
        for index in range(1, self.shnum):
            shdr = self.section(index)
            assert shdr is not None
            yield shdr

    def section_by_name(self, name: bytes) -> Shdr | None:
        """The first section of that name."""
        table = self.section(self.shstrndx)
        if table is None:
            return None
        return next((s for s in self.sections() if self.string(table.sh_offset + s.sh_name) == name), None)

    def string(self, offset: int) -> bytes | None:
        """The C string at a file offset; None when it runs out of the file or is excessively long."""
        end = self.data.find(b"\0", offset, offset + ELF_MAX_STRING_LENGTH + 1)
        return None if end < 0 else self.data[offset:end]


def is_elf(data: bytes) -> bool:
    """What libelf calls an ELF file: its magic, and room for the smallest header."""
    return len(data) >= _SIZEOF_EHDR32 and data.startswith(_ELFMAG)


def elf_init(data: bytes, name: str) -> ElfBinary:
    """Parse and check the headers of ``data``; ``name`` is for messages. Raises KernelError."""
    if not is_elf(data):
        if data.startswith(_ELFMAG):
            raise KernelError(f"{name}: ELF header cut short ({len(data)} bytes in all): truncated; copy it again")
        raise KernelError(
            f"{name}: neither an ELF file nor a Linux bzImage (starts {data[:4].hex(' ')}); "
            f"give a PV kernel ({NO_LOADER})"
        )
    elf_class, elf_data = data[4], data[5]
    if elf_data != 1:
        what = "big-endian ELF" if elf_data == 2 else f"ELF of byte order {elf_data}"
        raise KernelError(f"{name}: {what}; give an x86 PV kernel ({NO_LOADER})")
    layout = _LAYOUT64 if elf_class == 2 else _LAYOUT32
    if len(data) < _EI_NIDENT + layout.ehdr.size:
        raise KernelError(f"{name}: ELF header cut short ({len(data)} bytes in all): truncated; copy it again")
    return ElfBinary(data, name, layout)
