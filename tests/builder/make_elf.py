"""A small ELF and bzImage writer: synthetic kernels for tests, good ones and bad ones.

``make_kernel`` is a loadable PV kernel from some code bytes; ``make_elf`` gives every header field away.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from hypercalls.public import elfnote

__all__ = [
    "Load",
    "Section",
    "make_bzimage",
    "make_elf",
    "make_kernel",
    "note_number",
    "note_string",
    "pv_notes",
    "xen_note",
]

EM_386, EM_X86_64 = 3, 62
ET_EXEC = 2
PT_LOAD, PT_NOTE = 1, 4
SHT_SYMTAB, SHT_STRTAB, SHT_NOTE, SHT_PROGBITS = 2, 3, 7, 1


class Load(NamedTuple):
    """A PT_LOAD program header with its contents; ``memsz`` and ``vaddr`` default to what the rest says."""

    paddr: int
    data: bytes = b""
    memsz: int | None = None
    vaddr: int | None = None
    flags: int = 7
    filesz: int | None = None


class Section(NamedTuple):
    """A section with its contents."""

    name: str
    type: int
    data: bytes
    link: int = 0


def xen_note(note_type: int, desc: bytes, owner: bytes = b"Xen\0") -> bytes:
    """One note, padded."""
    padded = owner.ljust((len(owner) + 3) & ~3, b"\0") + desc.ljust((len(desc) + 3) & ~3, b"\0")
    return struct.pack("<III", len(owner), len(desc), note_type) + padded


def note_string(note_type: int, text: str) -> bytes:
    """A note holding a C string."""
    return xen_note(note_type, text.encode() + b"\0")


def note_number(note_type: int, value: int, size: int = 8) -> bytes:
    """A note holding a number of ``size`` bytes."""
    return xen_note(note_type, value.to_bytes(size, "little"))


def pv_notes(
    bits: int = 64,
    *,
    entry: int | None = None,
    virt_base: int | None = None,
    hypercall_page: int | None = None,
    init_p2m: int | None = None,
    mod_start_pfn: bool = False,
    paddr_offset: int | None = None,
    guest_os: str = "test",
    loader: str = "generic",
    xen_version: str = "xen-3.0",
    extra: bytes = b"",
) -> bytes:
    """The notes of a PV kernel; 32-bit ones say PAE."""
    size = bits // 8
    notes = note_string(elfnote.XEN_ELFNOTE_GUEST_OS, guest_os) + note_string(elfnote.XEN_ELFNOTE_LOADER, loader)
    notes += note_string(elfnote.XEN_ELFNOTE_XEN_VERSION, xen_version)
    for note_type, value in (
        (elfnote.XEN_ELFNOTE_ENTRY, entry),
        (elfnote.XEN_ELFNOTE_VIRT_BASE, virt_base),
        (elfnote.XEN_ELFNOTE_HYPERCALL_PAGE, hypercall_page),
        (elfnote.XEN_ELFNOTE_INIT_P2M, init_p2m),
        (elfnote.XEN_ELFNOTE_PADDR_OFFSET, paddr_offset),
    ):
        if value is not None:
            notes += note_number(note_type, value, size)
    if mod_start_pfn:
        notes += note_number(elfnote.XEN_ELFNOTE_MOD_START_PFN, 1, size)
    if bits == 32:
        notes += note_string(elfnote.XEN_ELFNOTE_PAE_MODE, "yes")
    return notes + extra


def make_elf(
    bits: int,
    loads: list[Load],
    notes: bytes = b"",
    *,
    entry: int = 0,
    machine: int | None = None,
    e_type: int = ET_EXEC,
    sections: list[Section] | None = None,
) -> bytes:
    """An ELF file: headers, the loads' data, notes in a PT_NOTE segment (if any), sections (if any)."""
    ehdr_size, phdr_size = (64, 56) if bits == 64 else (52, 32)
    nr_phdrs = len(loads) + bool(notes)
    offset = ehdr_size + phdr_size * nr_phdrs
    phdrs, body = b"", b""
    for load in loads:
        filesz = len(load.data) if load.filesz is None else load.filesz
        memsz = filesz if load.memsz is None else load.memsz
        vaddr = load.paddr if load.vaddr is None else load.vaddr
        phdrs += _phdr(bits, PT_LOAD, load.flags, offset + len(body), vaddr, load.paddr, filesz, memsz)
        body += load.data
    body += b"\0" * (-(offset + len(body)) % 4)
    if notes:
        phdrs += _phdr(bits, PT_NOTE, 4, offset + len(body), 0, 0, len(notes), 0)
        body += notes
    shoff, shnum, tail = 0, 0, b""
    if sections:
        shoff, shnum, tail = _sections(bits, offset + len(body), sections)
    machine = (EM_X86_64 if bits == 64 else EM_386) if machine is None else machine
    ident = b"\x7fELF" + bytes((2 if bits == 64 else 1, 1, 1)).ljust(12, b"\0")
    rest = struct.pack(
        "<HHIQQQIHHHHHH" if bits == 64 else "<HHIIIIIHHHHHH",
        e_type, machine, 1, entry, ehdr_size if nr_phdrs else 0, shoff, 0,
        ehdr_size, phdr_size, nr_phdrs, 64 if bits == 64 else 40, shnum, 1 if shnum else 0,
    )  # fmt: skip
    return ident + rest + phdrs + body + tail


def _phdr(bits: int, p_type: int, flags: int, offset: int, vaddr: int, paddr: int, filesz: int, memsz: int) -> bytes:
    if bits == 64:
        return struct.pack("<IIQQQQQQ", p_type, flags, offset, vaddr, paddr, filesz, memsz, 1)
    return struct.pack("<8I", p_type, offset, vaddr & 0xFFFFFFFF, paddr, filesz, memsz, flags, 1)


def _sections(bits: int, offset: int, sections: list[Section]) -> tuple[int, int, bytes]:
    """Section contents and headers from ``offset`` on: (e_shoff, e_shnum, bytes). Section 1 is the name table."""
    names = b"\0.shstrtab\0"
    entries = [(1, SHT_STRTAB, b"", 0)]
    for section in sections:
        entries.append((len(names), section.type, section.data, section.link))
        names += section.name.encode() + b"\0"
    entries[0] = (1, SHT_STRTAB, names, 0)
    body, headers = b"", b"\0" * (64 if bits == 64 else 40)
    for name, sh_type, data, link in entries:
        headers += struct.pack(
            "<IIQQQQIIQQ" if bits == 64 else "<10I",
            name, sh_type, 0, 0, offset + len(body), len(data), link, 0, 1, 0,
        )  # fmt: skip
        body += data + b"\0" * (-len(data) % 8)
    return offset + len(body), len(entries) + 1, body + headers


def make_kernel(
    bits: int = 64,
    code: bytes = b"\xf4",
    *,
    virt_base: int = 0,
    paddr: int = 0,
    memsz: int = 0x4000,
    entry: int | None = None,
    hypercall_page: int | None = None,
    init_p2m: int | None = None,
    mod_start_pfn: bool = False,
    extra_notes: bytes = b"",
) -> bytes:
    """A PV kernel: ``code`` at ``virt_base + paddr`` in an image of ``memsz`` bytes, entered at its first byte."""
    vaddr = virt_base + paddr
    notes = pv_notes(
        bits,
        entry=vaddr if entry is None else entry,
        virt_base=virt_base,
        hypercall_page=hypercall_page,
        init_p2m=init_p2m,
        mod_start_pfn=mod_start_pfn,
        extra=extra_notes,
    )
    return make_elf(bits, [Load(paddr, code, max(memsz, len(code)), vaddr)], notes, entry=vaddr)


def make_bzimage(payload: bytes, *, version: int = 0x20F, offset: int = 0, length: int | None = None) -> bytes:
    """A Linux bzImage around a compressed payload (with its size appended where the format has it so)."""
    header = bytearray(0x400)
    header[0x1F1] = 1
    header[0x202:0x206] = b"HdrS"
    header[0x206:0x208] = version.to_bytes(2, "little")
    header[0x248:0x24C] = offset.to_bytes(4, "little")
    header[0x24C:0x250] = (len(payload) if length is None else length).to_bytes(4, "little")
    return bytes(header) + bytes(offset) + payload
