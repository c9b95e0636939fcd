"""Symbol tables, ELF files, System.maps and what is no such thing."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

import pytest

from pvemu.builder.kernel import parse_image
from pvemu.debug.symbols.elf_file import ElfFile
from pvemu.debug.symbols.files import SymbolFiles
from pvemu.debug.symbols.kallsyms import find_kallsyms
from pvemu.debug.symbols.linux import read_system_map
from pvemu.debug.symbols.table import Location, Symbol, SymbolTable
from pvemu.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Assemble


def test_the_nearest_symbol_before_an_address_names_it() -> None:
    table = SymbolTable([Symbol(0x100, 0x10, "first", True), Symbol(0x200, 0, "open_ended", True)])
    found = [symbol.name if symbol else None for symbol in map(table.at, (0xFF, 0x100, 0x10F, 0x110, 0x200, 0x9999))]
    assert found == [None, "first", "first", None, "open_ended", "open_ended"]


def test_of_two_symbols_at_one_address_the_more_telling_one_is_shown_and_both_are_found() -> None:
    marks = [Symbol(0x10, 0, "_start", True), Symbol(0x10, 8, "begin", True), Symbol(0x10, 0, "mark", False)]
    table = SymbolTable(marks)
    at = table.at(0x10)
    assert at is not None
    assert at.name == "begin"
    assert table.named("_start") == table.named("mark") == [0x10]
    assert table.named("nothing") == []


def test_a_location_as_text() -> None:
    assert str(Location(1, "normal", 0x5F, "execute", 0x1A)) == "stage1:normal:execute+0x1a"
    assert str(Location(0, "kernel", 0x5F, "main", 0)) == "stage0:kernel:main"
    assert str(Location(0, "kernel", 0x5F, None, 0)) == "stage0:kernel+0x5f"
    assert str(Location(0, "relocator", 4, "go", 4, is_copy=True)) == "stage0:relocator:go+0x4 (copy)"


@pytest.mark.parametrize("bits", [32, 64])
def test_symbols_of_an_executable(assemble: Assemble, bits: int) -> None:
    source = ".globl _start\n.type _start, @function\n_start: ret\n.size _start, 1\n.data\n.globl word\nword: .long 7\n"
    elf = ElfFile((path := assemble(source, bits=bits)).read_bytes(), str(path))
    found = {symbol.name: symbol for symbol in elf.symbols()}
    assert found["_start"][:2] == (0x100000, 1)
    assert elf.bits == bits
    assert not elf.is_relocatable
    assert "word" in found
    assert elf.line(0x100000) is None


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(200), b"MZ" + bytes(100)])
def test_what_is_no_elf_file(data: bytes) -> None:
    if data.startswith(b"\x7fELF") and len(data) > 64:
        assert ElfFile(data, "x").symbols() == []
    else:
        with pytest.raises(ValueError, match="not a little-endian ELF"):
            ElfFile(data, "x")


def test_a_damaged_elf_file_is_refused_or_empty(assemble: Assemble) -> None:
    whole = assemble(".globl _start\n_start: ret\n").read_bytes()
    refused = 0
    for cut in range(64, len(whole), 97):
        try:
            ElfFile(whole[:cut], "x").symbols()
        except ValueError:
            refused += 1
    assert refused


def test_files_that_are_not_there_or_not_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; give an ELF file"):
        SymbolFiles([tmp_path / "nothing"])
    other = tmp_path / "notes.txt"
    other.write_text("to do\n")
    with pytest.raises(ConfigError, match=r"neither an ELF file nor a System\.map"):
        SymbolFiles([other])


def test_a_folder_is_searched_for_what_has_symbols(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/System.map-6.1").write_text("ffffffff81000000 T _text\n")
    (tmp_path / "a/readme").write_text("no symbols")
    (tmp_path / "a/x.mod").write_bytes(b"not an ELF file")
    files = SymbolFiles([tmp_path])
    assert [path.name for path in files.system_maps] == ["System.map-6.1"]
    assert files.modules("x", 64) == []


def test_a_system_map_under_any_name(tmp_path: Path) -> None:
    path = tmp_path / "symbols"
    path.write_text(
        "0000000000001000 D per_cpu\nffffffff81000000 T _text\nffffffff81000040 t helper\n"
        "damaged\nzzz T bad\nffffffff82000000 D linux_banner\n"
    )
    assert SymbolFiles([path]).system_maps == [path]
    assert read_system_map(path) == [
        Symbol(0xFFFFFFFF81000000, 0, "_text", True),
        Symbol(0xFFFFFFFF81000040, 0, "helper", True),
        Symbol(0xFFFFFFFF82000000, 0, "linux_banner", False),
    ]


BASE = 0xFFFFFFFF81000000


def kallsyms_image(*, is_new: bool, has_absolute: bool, count: int = 5000) -> bytes:
    """The tables as scripts/kallsyms.c lays them out, in the order of Linux 6.1 or of 6.4 and later."""
    tokens = [bytes([i]) if 0x30 <= i < 0x3A or 0x41 <= i < 0x7B else b"_t%d" % i for i in range(256)]
    names = [b"tfunction_%d" % i for i in range(count)]
    packed, markers = b"", []
    for i, name in enumerate(names):
        if i % 256 == 0:
            markers.append(len(packed))
        codes = bytes(code if code != ord("_") else 0x5F for code in name)
        packed += bytes([len(codes)]) + codes

    def align(data: bytes) -> bytes:
        return data + bytes(-len(data) % 8)

    values = [-1 - 16 * i if has_absolute else 16 * i for i in range(count)]
    if has_absolute:
        values[0] = 0x40  # a per-cpu symbol
    offsets = align(struct.pack(f"<{count}i", *values)) + struct.pack("<Q", BASE)
    table = align(b"".join(token + b"\0" for token in tokens))
    starts = [sum(len(token) + 1 for token in tokens[:i]) for i in range(256)]
    index = struct.pack("<256H", *starts)
    middle = struct.pack("<Q", count) + align(packed) + align(struct.pack(f"<{len(markers)}I", *markers))
    tokens_part = table + index
    body = middle + tokens_part + offsets if is_new else offsets + middle + tokens_part
    return bytes(4096) + b"Linux version 6" + bytes(4081) + body + bytes(4096)


@pytest.mark.parametrize("is_new", [False, True])
@pytest.mark.parametrize("has_absolute", [False, True])
def test_kallsyms_are_found_by_their_shape(is_new: bool, has_absolute: bool) -> None:
    table = find_kallsyms(kallsyms_image(is_new=is_new, has_absolute=has_absolute), BASE)
    assert table is not None
    found = list(table)
    skipped = int(has_absolute)
    assert len(found) == 5000 - skipped
    assert found[99 - skipped].address == BASE + 16 * 99
    assert re.match(r"function_t?.*99$", found[99 - skipped].name)
    assert found[99 - skipped].is_function
    assert table.named(found[99 - skipped].name) == [BASE + 16 * 99]
    assert table.at(BASE + 16 * 99 + 5) == found[99 - skipped]
    assert table.at(BASE - 1) is None


def test_debians_kernel_names_its_functions_without_any_file(guest: Callable[[str, str], Path]) -> None:
    image = parse_image(guest("debian-kernel", "vmlinuz").read_bytes(), "vmlinuz")
    table = find_kallsyms(bytes(image.segments[0].data), image.segments[0].vaddr)
    assert table is not None
    assert len(table) > 50_000
    assert table.named("startup_xen") == [image.virt_entry]
    entry = table.at(image.virt_entry + 3)
    assert entry is not None
    assert entry.name == "startup_xen"


def test_no_kallsyms_in_something_else() -> None:
    image = kallsyms_image(is_new=False, has_absolute=True)
    assert find_kallsyms(b"\0" * 5000, BASE) is None
    assert find_kallsyms(bytes(range(256)) * 64, BASE) is None
    damaged = bytearray(image)
    damaged[len(image) - 4096 - 700] ^= 0x55  # in the token table or its index
    assert find_kallsyms(bytes(damaged), BASE) is None
