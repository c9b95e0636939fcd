"""An ELF file as a source of symbols: a kernel, a GRUB module (relocatable), a vmlinux; DWARF lines too."""

from __future__ import annotations

import io
import struct
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple

from pvemu.debug.symbols.table import Symbol

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ElfFile", "Section"]

_ET_REL = 1
_SHT_SYMTAB, _SHT_RELA, _SHT_NOBITS, _SHT_REL = 2, 4, 8, 9
_SHF_ALLOC, _SHF_EXECINSTR = 2, 4
_STT_NOTYPE, _STT_OBJECT, _STT_FUNC, _STT_IFUNC = 0, 1, 2, 10
_SHN_ABS = 0xFFF1
_PT_LOAD = 1


class Section(NamedTuple):
    """One section that is loaded; ``data`` is empty for NOBITS."""

    number: int
    name: str
    address: int
    size: int
    data: memoryview
    is_code: bool


class _Header(NamedTuple):
    name: int
    type: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int


class _Raw(NamedTuple):
    """One entry of a symbol table."""

    name: str
    value: int
    size: int
    type: int
    section: int


class ElfFile:
    """A little-endian ELF file in memory. ValueError for bytes that are none, or whose tables lie outside of it."""

    def __init__(self, data: bytes, path: str) -> None:
        self.path = path
        self._data = memoryview(data)
        if len(data) < 64 or data[:4] != b"\x7fELF" or data[4] not in (1, 2) or data[5] != 1:
            raise ValueError("not a little-endian ELF file")
        self.bits = 64 if data[4] == 2 else 32
        try:
            self._headers = self._read_headers()
        except struct.error as error:
            raise ValueError(f"damaged ELF file ({error})") from None
        self._lines: _Lines | None = None

    def _read_headers(self) -> list[_Header]:
        data = self._data
        (self._type,) = struct.unpack_from("<H", data, 16)
        if self.bits == 64:
            phoff, shoff = struct.unpack_from("<QQ", data, 32)
            phentsize, phnum, shentsize, shnum, strndx = struct.unpack_from("<5H", data, 54)
            form = "<IIQQQQII"
        else:
            phoff, shoff = struct.unpack_from("<II", data, 28)
            phentsize, phnum, shentsize, shnum, strndx = struct.unpack_from("<5H", data, 42)
            form = "<IIIIIIII"
        self._phdrs = phoff, phentsize, phnum
        places = [shoff + i * shentsize for i in range(shnum if shoff else 0)]
        headers = [_Header(*struct.unpack_from(form, data, at)) for at in places]
        self._names = self._content(headers[strndx]) if strndx < len(headers) else memoryview(b"")
        return headers

    def _content(self, header: _Header) -> memoryview:
        if header.type == _SHT_NOBITS:
            return memoryview(b"")
        return self._data[header.offset : header.offset + header.size]

    @property
    def is_relocatable(self) -> bool:
        """Whether symbol values are offsets into sections (a GRUB module, an object file)."""
        return bool(self._type == _ET_REL)

    def sections(self) -> list[Section]:
        """The sections that are loaded and not empty, in the file's order."""
        return [
            Section(
                i, _string(self._names, header.name), header.addr, header.size, self._content(header),
                bool(header.flags & _SHF_EXECINSTR),
            )
            for i, header in enumerate(self._headers)
            if header.flags & _SHF_ALLOC and header.size
        ]  # fmt: skip

    def section_text(self, name: str) -> str:
        """The text in a section (GRUB's ``.modname``), empty where there is no such section."""
        for header in self._headers:
            if _string(self._names, header.name) == name:
                return bytes(self._content(header)).split(b"\0", 1)[0].decode("utf-8", "replace")
        return ""

    def segments(self) -> Iterator[tuple[int, memoryview, int]]:
        """(virtual address, bytes of the file, size in memory) of each PT_LOAD."""
        offset, entsize, count = self._phdrs
        for i in range(count):
            at = offset + i * entsize
            try:
                if self.bits == 64:
                    kind, _flags, start, vaddr, _p, filesz, memsz = struct.unpack_from("<IIQQQQQ", self._data, at)
                else:
                    kind, start, vaddr, _p, filesz, memsz = struct.unpack_from("<6I", self._data, at)
            except struct.error:
                return
            if kind == _PT_LOAD and memsz:
                yield vaddr, self._data[start : start + filesz], memsz

    def relocated(self, section: int) -> list[tuple[int, int]]:
        """(offset, size) of what a loader patches in a section of a relocatable file, at the most."""
        found = []
        for header in self._headers:
            if header.type not in (_SHT_REL, _SHT_RELA) or header.info != section:
                continue
            size = {(64, _SHT_RELA): 24, (64, _SHT_REL): 16, (32, _SHT_RELA): 12, (32, _SHT_REL): 8}[
                self.bits, header.type
            ]
            data = self._content(header)
            form, width = ("<Q", 8) if self.bits == 64 else ("<I", 4)
            found += [(struct.unpack_from(form, data, at)[0], width) for at in range(0, len(data) - size + 1, size)]
        return sorted(found)

    def symbols(self, places: dict[int, int] | None = None) -> list[Symbol]:
        """Functions and objects. ``places`` says where the sections (by index) of a relocatable file are; symbols of
        sections that are nowhere are left out.
        """
        found = []
        for name, value, size, kind, section in self._raw_symbols():
            if kind not in (_STT_NOTYPE, _STT_OBJECT, _STT_FUNC, _STT_IFUNC) or not name or not section:
                continue
            if section >= _SHN_ABS or name[0] in "$." or name.startswith("__crc_"):
                continue
            address = value
            if self.is_relocatable:
                if places is None or section not in places:
                    continue
                address += places[section]
            found.append(Symbol(address, size, name, kind != _STT_OBJECT))
        return found

    def _raw_symbols(self) -> Iterator[_Raw]:
        for header in self._headers:
            if header.type != _SHT_SYMTAB or header.link >= len(self._headers):
                continue
            names = bytes(self._content(self._headers[header.link]))
            size = 24 if self.bits == 64 else 16
            data = self._content(header)
            data = data[: len(data) - len(data) % size]
            if self.bits == 64:
                for at, info, _other, section, value, length in struct.iter_unpack("<IBBHQQ", data):
                    yield _Raw(_string(names, at), value, length, info & 15, section)
            else:
                for at, value, length, info, _other, section in struct.iter_unpack("<IIIBBH", data):
                    yield _Raw(_string(names, at), value, length, info & 15, section)

    def line(self, address: int) -> str | None:
        """``file:line`` of an address as the file has it (in a relocatable file: an offset into its code section)."""
        if self._lines is None:
            self._lines = _Lines(self._data)
        return self._lines.find(address)


def _string(names: memoryview | bytes, at: int) -> str:
    raw = bytes(names[at : at + 512]) if isinstance(names, memoryview) else names
    start = 0 if isinstance(names, memoryview) else at
    end = raw.find(b"\0", start)
    return raw[start : end if end >= 0 else len(raw)].decode("utf-8", "replace")


class _Lines:
    """The line programs of a file, decoded when first asked for: one compilation unit each."""

    def __init__(self, data: memoryview) -> None:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile

        self._units: dict[int, list[tuple[int, str | None]]] = {}
        self._dwarf: Any = None
        self._aranges: Any = None
        try:
            elf = ELFFile(io.BytesIO(data))
            if elf.has_dwarf_info():
                self._dwarf = elf.get_dwarf_info()
                self._aranges = self._dwarf.get_aranges()
        except (ELFError, KeyError, ValueError):
            self._dwarf = None  # damaged debug information is none

    def find(self, address: int) -> str | None:
        if self._dwarf is None:
            return None
        for rows in self._candidates(address):
            at = bisect_right(rows, (address, "\U0010ffff")) - 1 if rows else -1
            if at >= 0 and rows[at][1] is not None:
                return rows[at][1]
        return None

    def _candidates(self, address: int) -> Iterator[list[tuple[int, str | None]]]:
        if self._aranges is not None:
            offset = self._aranges.cu_offset_at_addr(address)
            if offset is not None:
                yield self._rows(self._dwarf.get_CU_at(offset))
            return
        for unit in self._dwarf.iter_CUs():
            yield self._rows(unit)

    def _rows(self, unit: Any) -> list[tuple[int, str | None]]:
        known = self._units.get(unit.cu_offset)
        if known is not None:
            return known
        rows: list[tuple[int, str | None]] = []
        program = self._dwarf.line_program_for_CU(unit)
        if program is not None:
            for entry in program.get_entries():
                state = entry.state
                if state is not None:
                    text = None if state.end_sequence else f"{_file_name(program, state.file)}:{state.line}"
                    rows.append((state.address, text))
        rows.sort(key=lambda row: (row[0], row[1] is not None))
        self._units[unit.cu_offset] = rows
        return rows


def _file_name(program: Any, number: int) -> str:
    """The name of a file of a line program; version 5 counts from 0 and names the directory the compiler ran in."""
    is_new = program["version"] >= 5
    files = program["file_entry"]
    at = number if is_new else number - 1
    if not 0 <= at < len(files):
        return "?"
    name = files[at].name.decode("utf-8", "replace")
    directory = files[at].dir_index
    folders = program["include_directory"]
    if is_new:
        folder = folders[directory].decode("utf-8", "replace") if 0 < directory < len(folders) else ""
    else:
        folder = folders[directory - 1].decode("utf-8", "replace") if 0 < directory <= len(folders) else ""
    return f"{folder}/{name}" if folder else name
