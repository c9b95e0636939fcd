"""The symbol table loaded behind a kernel that asks for it with BSD_SYMTAB.

Mirrors ``elf_parse_bsdsyms`` and ``elf_load_bsdsyms`` of xen/common/libelf/libelf-loader.c. In memory: a u32 size, an
ELF header that looks like the kernel's own but has three sections (undefined, symbols, strings), their headers, the
symbols, the strings. The place of the symbols allows for three 64-bit section headers even in a 32-bit file, which the
end of the whole does not: that is libelf's arithmetic.
"""

from __future__ import annotations

from struct import pack_into

from pvemu.builder.elf import SHT_STRTAB, SHT_SYMTAB, ElfBinary, Shdr
from pvemu.frames import PAGE_MASK

__all__ = ["parse_bsdsyms"]

_SECTIONS = 3
_SYMTAB_INDEX, _STRTAB_INDEX = 1, 2
_SIZEOF_EHDR_UNION = 64
_SIZEOF_SHDR_UNION = 64


class _EhdrOffsets:
    """Where the fields that change lie in an Ehdr."""

    def __init__(self, bits: int) -> None:
        self.quad = "<Q" if bits == 64 else "<I"
        self.e_version = 20
        self.e_phoff, self.e_shoff = (32, 40) if bits == 64 else (28, 32)
        self.e_ehsize = 52 if bits == 64 else 40
        self.e_phentsize, self.e_phnum = self.e_ehsize + 2, self.e_ehsize + 4
        self.e_shentsize, self.e_shnum, self.e_shstrndx = (self.e_ehsize + n for n in (6, 8, 10))


def parse_bsdsyms(elf: ElfBinary, pend: int) -> tuple[list[tuple[int, memoryview]], int]:
    """What to load behind physical address ``pend``, as (address, bytes), and the end of the kernel with it.

    Nothing, when the file has no symbol table, or one without a string table; what the file cuts short is left out.
    """
    found = _find_tables(elf)
    if found is None:
        elf.doubts.append("BSD_SYMTAB note, but the file has no symbol table: nothing is loaded of it")
        return [], pend
    symtab, strtab = found
    round_to = elf.bits // 8 - 1
    start = (pend + round_to) & ~round_to
    if strtab.sh_type != SHT_STRTAB:
        return [], pend
    headers = 4 + 4 + _SIZEOF_EHDR_UNION + _SECTIONS * elf.shdr_size  # the size word counts twice
    size = (headers + round_to) & ~round_to
    for section in (symtab, strtab):
        size = (size + section.sh_size + round_to) & ~round_to
    end = start + size
    limit = (end + PAGE_MASK) & ~PAGE_MASK
    symbols_at = (start + 4 + _SIZEOF_EHDR_UNION + _SECTIONS * _SIZEOF_SHDR_UNION + round_to) & ~round_to
    strings_at = (symbols_at + symtab.sh_size + round_to) & ~round_to
    pieces = [(start, _headers(elf, symtab, strtab, symbols_at - start - 4, strings_at - start - 4))]
    for at, section in ((symbols_at, symtab), (strings_at, strtab)):
        if at + section.sh_size <= limit and section.sh_offset + section.sh_size <= len(elf.data):
            pieces.append((at, elf.image[section.sh_offset : section.sh_offset + section.sh_size]))
    return pieces, end


def _find_tables(elf: ElfBinary) -> tuple[Shdr, Shdr] | None:
    symtab = next((s for s in elf.sections() if s.sh_type == SHT_SYMTAB), None)
    strtab = elf.section(symtab.sh_link) if symtab is not None and symtab.sh_link else None
    if symtab is None or strtab is None:
        return None
    return symtab, strtab


def _headers(elf: ElfBinary, symtab: Shdr, strtab: Shdr, symbols: int, strings: int) -> memoryview:
    """Size word, ELF header and section headers; ``symbols`` and ``strings`` count from the ELF header."""
    shdr_size = elf.shdr_size
    out = bytearray(4 + _SIZEOF_EHDR_UNION + _SECTIONS * shdr_size)
    pack_into("<I", out, 0, (strings + strtab.sh_size) & 0xFFFFFFFF)
    out[4 : 4 + elf.ehdr_size] = elf.data[: elf.ehdr_size]
    field = _EhdrOffsets(elf.bits)
    pack_into("<I", out, 4 + field.e_version, 1)
    pack_into(field.quad, out, 4 + field.e_phoff, 0)
    pack_into(field.quad, out, 4 + field.e_shoff, _SIZEOF_EHDR_UNION)
    for at, value in (
        (field.e_ehsize, elf.ehdr_size), (field.e_shentsize, shdr_size), (field.e_shnum, _SECTIONS),
        (field.e_phentsize, 0), (field.e_phnum, 0), (field.e_shstrndx, 0),
    ):  # fmt: skip
        pack_into("<H", out, 4 + at, value)
    first = 4 + _SIZEOF_EHDR_UNION
    symbols_header = symtab._replace(sh_offset=symbols, sh_link=_STRTAB_INDEX)
    strings_header = strtab._replace(sh_offset=strings)
    for index, header in ((_SYMTAB_INDEX, symbols_header), (_STRTAB_INDEX, strings_header)):
        elf.layout.shdr.pack_into(out, first + index * shdr_size, *header)
    return memoryview(bytes(out))
