"""Corrupted kernels: refused with one line or built, never anything else, in bounded time and memory."""

from __future__ import annotations

import lzma
import random
import struct

import pytest

from hypercalls.public import elfnote
from pvemu.builder.build import boot_image, build_image, mem_init, parse_image
from pvemu.builder.elfnotes import find_notes
from pvemu.errors import KernelError
from pvemu.frames import Mfn
from pvemu.memory.ram import Ram
from tests.builder.make_elf import (
    SHT_PROGBITS,
    SHT_STRTAB,
    SHT_SYMTAB,
    Load,
    Section,
    make_bzimage,
    make_elf,
    make_kernel,
    note_string,
    pv_notes,
)

MIB = 12
FIRST = Mfn(0x400)


def symbol_kernel(bits: int) -> bytes:
    notes = pv_notes(bits, entry=0, virt_base=0, extra=note_string(elfnote.XEN_ELFNOTE_BSD_SYMTAB, "yes"))
    sections = [Section(".symtab", SHT_SYMTAB, bytes(96), 3), Section(".strtab", SHT_STRTAB, b"\0a\0")]
    return make_elf(bits, [Load(0, b"\xf4" * 20, 0x1003), Load(0x2000, b"data", 0x100)], notes, sections=sections)


def legacy_kernel() -> bytes:
    text = (
        b"LOADER=generic,XEN_VER=xen-3.0,VIRT_BASE=0xC0000000,PAE=yes,HYPERCALL_PAGE=0x1,FEATURES=!dom0|x,BSD_SYMTAB\0"
    )
    sections = [
        Section("__xen_guest", SHT_PROGBITS, text.replace(b"!dom0|", b"")),
        Section(".symtab", SHT_SYMTAB, bytes(32), 4),
        Section(".strtab", SHT_STRTAB, b"\0"),
    ]
    return make_elf(32, [Load(0xC0000000, b"\xf4", 0x4000)], entry=0xC0000000, sections=sections)


SEEDS = {
    "pv64": make_kernel(virt_base=0xFFFFFFFF80000000, hypercall_page=0xFFFFFFFF80001000, init_p2m=0x8000000000),
    "pv32": make_kernel(32, virt_base=0xC0000000, mod_start_pfn=True),
    "symbols64": symbol_kernel(64),
    "symbols32": symbol_kernel(32),
    "legacy": legacy_kernel(),
}
WORDS = [0, 1, 0x7F, 0xFF, 0x1000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 46, 1 << 60, 1 << 63, (1 << 64) - 1]


def corrupt(data: bytes, rng: random.Random) -> bytes:
    """A few bytes or words changed, perhaps cut."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(out))
        if rng.random() < 0.5:
            out[at] = rng.randrange(256)
        else:
            size = rng.choice((2, 4, 8))
            word = struct.pack("<Q", rng.choice(WORDS))[:size]
            at -= at % size
            out[at : at + size] = word[: len(out) - at]
    if rng.random() < 0.1:
        del out[rng.randrange(len(out)) :]
    return bytes(out)


def start(data: bytes) -> bool:
    """Take a kernel all the way; whether it was built."""
    try:
        take(data)
    except KernelError as err:
        text = str(err)
    else:
        return True
    assert "\n" not in text
    assert text.startswith("kernel: ")
    return False


def take(data: bytes) -> None:
    """All stages; the domain that comes out lies within its memory."""
    top = int(FIRST)

    def alloc_extent(order: int) -> Mfn:
        nonlocal top
        top += 1 << order
        return Mfn(top - (1 << order))

    image = parse_image(data, "kernel")
    p2m = mem_init(alloc_extent, MIB << 8)
    ram = Ram(FIRST, MIB << 8)
    built = build_image(image, ram, p2m, b"ramdisk", "")
    boot_image(built, ram, FIRST, 1, 2, 0)
    assert max(segment.pfn + segment.pages for segment in built.segments) <= MIB << 8


@pytest.mark.parametrize("name", SEEDS)
def test_uncorrupted_seeds_start(name: str) -> None:
    assert start(SEEDS[name])


@pytest.mark.parametrize("name", SEEDS)
def test_corrupted_elfs(name: str) -> None:
    rng = random.Random(name)
    built = sum(start(corrupt(SEEDS[name], rng)) for _ in range(500))
    assert 0 < built < 500


def test_corrupted_bzimages() -> None:
    rng = random.Random("bzimage")
    kernel = SEEDS["pv64"]
    payload = lzma.compress(kernel, check=lzma.CHECK_CRC32) + len(kernel).to_bytes(4, "little")
    image = make_bzimage(payload)[0x1F0:]
    prefix = bytes(0x1F0)
    assert start(prefix + image)
    for _ in range(400):
        start(prefix + corrupt(image, rng))


def test_corrupted_memory_never_upsets_the_search() -> None:
    rng = random.Random("memory")
    for name, seed in SEEDS.items():
        for _ in range(200):
            groups = find_notes(corrupt(seed * 3, rng))
            assert all(group.parms.nr_notes for group in groups), name


def test_random_bytes() -> None:
    rng = random.Random("noise")
    for magic in (b"", b"\x7fELF", b"\x1f\x8b\x08", b"\x7fELF\x02\x01\x01", b"\x7fELF\x01\x01\x01"):
        for _ in range(200):
            assert not start(magic + rng.randbytes(rng.randrange(1, 1000)))
