"""Kernels of every kind that Xen's domain builder was asked to start, for tests/data/start_of_day/variants.json.

Each is a few instructions that power the domain off (SCHEDOP_shutdown), in an ELF file with the notes, headers and
addresses that its name tells; ``-64`` and ``-32`` are the widths. What Xen made of each is recorded; the kernels are
made here, so that both see the same file.
"""

from __future__ import annotations

import gzip
import struct
from typing import TYPE_CHECKING, NamedTuple

from hypercalls.public import elfnote
from tests.builder.make_elf import (
    SHT_NOTE,
    SHT_PROGBITS,
    SHT_STRTAB,
    SHT_SYMTAB,
    Load,
    Section,
    make_elf,
    make_kernel,
    note_number,
    note_string,
    xen_note,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CODE", "Variant", "variants"]

#: push 0 (SHUTDOWN_poweroff); its address; SCHEDOP_shutdown; the hypercall; and for ever.
CODE = {
    64: bytes.fromhex("6a00 4889e6 bf02000000 b81d000000 0f05 ebfe"),
    32: bytes.fromhex("6a00 89e1 bb02000000 b81d000000 cd82 ebfe"),
}
_HIGH = {64: 0xFFFFFFFF80000000, 32: 0xC0000000}
_P2M = 0x8000000000
_GUEST_OS, _LOADER, _XEN_VERSION = (
    elfnote.XEN_ELFNOTE_GUEST_OS,
    elfnote.XEN_ELFNOTE_LOADER,
    elfnote.XEN_ELFNOTE_XEN_VERSION,
)
_PAE_MODE, _ENTRY, _VIRT_BASE = elfnote.XEN_ELFNOTE_PAE_MODE, elfnote.XEN_ELFNOTE_ENTRY, elfnote.XEN_ELFNOTE_VIRT_BASE
_HYPERCALL_PAGE, _INIT_P2M = elfnote.XEN_ELFNOTE_HYPERCALL_PAGE, elfnote.XEN_ELFNOTE_INIT_P2M
_PADDR_OFFSET, _FEATURES = elfnote.XEN_ELFNOTE_PADDR_OFFSET, elfnote.XEN_ELFNOTE_FEATURES
_PHYS32, _MOD_START_PFN = elfnote.XEN_ELFNOTE_PHYS32_ENTRY, elfnote.XEN_ELFNOTE_MOD_START_PFN
_HV_START_LOW = elfnote.XEN_ELFNOTE_HV_START_LOW

#: A note: its type, and a text, a number of the guest's width, a number of so many bytes, or raw bytes.
_Note = tuple[int, str | int | tuple[int, int] | bytes]


class Variant(NamedTuple):
    """A domain: ``memory`` in MiB, ``cmdline`` as ``extra =`` says it."""

    kernel: bytes
    memory: int = 16
    ramdisk: bytes | None = None
    cmdline: str = ""


def variants() -> dict[str, Variant]:
    """All of them by name."""
    found: dict[str, Variant] = {}
    for bits in (64, 32):
        for family in (_memory, _ramdisks, _cmdlines, _notes, _features, _legacy, _headers, _files, _addresses, _bsd):
            for name, variant in family(bits):
                assert f"{name}-{bits}" not in found, name
                found[f"{name}-{bits}"] = variant
    return found


def _kernel(bits: int, **more: object) -> bytes:
    return make_kernel(bits, CODE[bits], **more)  # type: ignore[arg-type]  # make_kernel's own keywords


def _encoded(bits: int, notes: list[_Note]) -> bytes:
    out = b""
    for note_type, value in notes:
        match value:
            case str():
                out += note_string(note_type, value)
            case bytes():
                out += xen_note(note_type, value)
            case tuple():
                out += note_number(note_type, *value)
            case _:
                out += note_number(note_type, value, bits // 8)
    return out


def _base(bits: int, *, without: int | None = None) -> list[_Note]:
    notes: list[_Note] = [(_GUEST_OS, "test"), (_LOADER, "generic"), (_XEN_VERSION, "xen-3.0")]
    if bits == 32:
        notes.append((_PAE_MODE, "yes"))
    return [note for note in notes if note[0] != without]


def _elf(bits: int, *notes: _Note, base: list[_Note] | None = None, loads: list[Load] | None = None,
         **more: object) -> bytes:  # fmt: skip
    """A kernel of 16 KiB at physical address 0 with these notes behind the usual ones."""
    loads = [Load(0, CODE[bits], 0x4000)] if loads is None else loads
    every = (_base(bits) if base is None else base) + list(notes)
    return make_elf(bits, loads, _encoded(bits, every), **more)  # type: ignore[arg-type]  # make_elf's own keywords


def _memory(bits: int) -> Iterator[tuple[str, Variant]]:
    """Memory sizes, for a kernel at 0 and for one as high as Linux is, with its p2m elsewhere (64 bit)."""
    for memory in (4, 5, 6, 8, 9, 63, 255, 1024):
        yield f"m{memory}", Variant(_kernel(bits), memory)
    for memory in (8, 64, 1024):
        p2m = _P2M if bits == 64 else None
        high = _kernel(bits, virt_base=_HIGH[bits], paddr=0x100000, init_p2m=p2m, mod_start_pfn=True)
        yield f"high{memory}", Variant(high, memory)


def _ramdisks(bits: int) -> Iterator[tuple[str, Variant]]:
    low, unmapped = _kernel(bits), _kernel(bits, mod_start_pfn=True)
    yield "rd", Variant(low, 32, b"R" * 5000)
    yield "rdgz", Variant(low, 32, gzip.compress(b"cpio" * 5000, mtime=0))
    yield "rdpfn", Variant(unmapped, 32, b"R" * 5000)
    p2m = _P2M if bits == 64 else None
    yield "rdpfnp2m", Variant(_kernel(bits, virt_base=_HIGH[bits], init_p2m=p2m, mod_start_pfn=True), 32, b"R" * 9000)
    yield "rdbadgz", Variant(low, 32, b"\x1f\x8b" + bytes(range(1, 200)) + struct.pack("<I", 8000))
    yield "rdbig", Variant(low, 16, bytes(17 << 20))
    yield "rdtight", Variant(low, 16, bytes((16 << 20) - 0x10000))
    yield "rdempty", Variant(low, 16, b"")
    yield "rd1", Variant(low, 16, b"a")
    yield "modpfn0", Variant(_elf(bits, (_ENTRY, 0), (_MOD_START_PFN, 0)), ramdisk=b"r" * 100)


def _cmdlines(bits: int) -> Iterator[tuple[str, Variant]]:
    for length in (1, 1022, 1023, 1024, 1025, 2000):
        yield f"cmd{length}", Variant(_kernel(bits), cmdline=("0123456789abcdef" * 200)[:length])
    yield "cmdutf", Variant(_kernel(bits), cmdline="grüß=€ a\b")


def _notes(bits: int) -> Iterator[tuple[str, Variant]]:
    """Entries, bases and offsets; notes that are missing, repeated, of odd sizes, of unknown types."""

    def elf(*notes: _Note, base: list[_Note] | None = None, loads: list[Load] | None = None, entry: int = 0) -> Variant:
        return Variant(_elf(bits, *notes, base=base, loads=loads, entry=entry))

    above = [Load(0, CODE[bits], 0x4000, 0x100000)]
    high = _HIGH[bits]
    yield "noentry", elf((_VIRT_BASE, 0), entry=0)
    yield "noentrye", elf((_VIRT_BASE, 0x100000), loads=above, entry=0x100000)
    yield "noentrybad", elf((_VIRT_BASE, 0x100000), loads=above, entry=0)
    yield "novirtbase", elf((_ENTRY, 0))
    offset = _elf(
        bits, (_VIRT_BASE, 0x400000), (_PADDR_OFFSET, 0x7000000), (_ENTRY, 0x401000),
        loads=[Load(0x7001000, CODE[bits], 0x3000, 0)],
    )  # fmt: skip
    yield "paddroff", Variant(offset, 32)
    yield "paddroffonly", elf((_PADDR_OFFSET, 0), (_ENTRY, 0))
    yield "paddroffneg", elf(
        (_VIRT_BASE, 0), (_PADDR_OFFSET, 0x100000), (_ENTRY, 0), loads=[Load(0x100000, CODE[bits], 0x4000, 0)]
    )
    anyone: list[_Note] = [(_LOADER, "generic"), (_XEN_VERSION, "xen-3.0"), (_PAE_MODE, "yes")]
    yield "noos", elf((_ENTRY, 0), base=anyone)
    yield "noloader", elf((_ENTRY, 0), base=_base(bits, without=_LOADER))
    linux: list[_Note] = [(_GUEST_OS, "linuxish"), (_XEN_VERSION, "xen-3.0"), (_PAE_MODE, "yes")]
    yield "linuxnoloader", elf((_ENTRY, 0), base=linux)
    yield "noxenver", elf((_ENTRY, 0), base=_base(bits, without=_XEN_VERSION))
    yield (
        "xenver31",
        elf((_XEN_VERSION, "xen-3.0-unstable-very-long"), (_ENTRY, 0), base=_base(bits, without=_XEN_VERSION)),
    )
    yield "entryout", elf((_ENTRY, 0x4001))
    yield "entryend", elf((_ENTRY, 0x4000))
    yield "twice", elf((_ENTRY, 0x1000), (_ENTRY, 0), (_VIRT_BASE, 0x1000000), (_VIRT_BASE, 0))
    yield "size2", elf((_ENTRY, (0, 2)), (_VIRT_BASE, (0, 1)), (_HYPERCALL_PAGE, (0x2000, 2)))
    yield "size3", elf((_ENTRY, b"\1\2\3"), (_VIRT_BASE, 0))
    yield "hcoutside", elf((_ENTRY, 0), (_HYPERCALL_PAGE, 0x8000))
    yield "hcunaligned", elf((_ENTRY, 0), (_HYPERCALL_PAGE, 0x1234))
    low = [Load(0, CODE[bits], 0x4000)]
    yield "hcbelow", elf((_VIRT_BASE, 0x100000), (_ENTRY, 0x100000), (_HYPERCALL_PAGE, 0x1000), loads=low)
    yield "hcfar", elf((_ENTRY, 0), (_HYPERCALL_PAGE, 0x40000000))
    yield (
        "l1mfn",
        elf(
            (_ENTRY, 0), (elfnote.XEN_ELFNOTE_L1_MFN_VALID, struct.pack("<QQ", 1, 1)),
            (elfnote.XEN_ELFNOTE_SUSPEND_CANCEL, (1, 4)),
            (_HV_START_LOW, 0xF5800000 if bits == 32 else 0xFFFF800000000000), (99, "unknown"),
        ),
    )  # fmt: skip
    yield "hvlow", elf((_ENTRY, 0), (_HV_START_LOW, 0xFC000000))
    yield "phys32", elf((_ENTRY, 0), (_PHYS32, (0x1000, 4)))
    yield "phys32only", elf((_PHYS32, (0, 4)), base=[])
    yield "phys32noentry", elf((_PHYS32, (0x1000, 4)), entry=0)
    unaligned = [Load(0xF00, bytes(0x100) + CODE[bits], 0x4000)]
    yield "virtunaligned", elf((_VIRT_BASE, 0x100), (_ENTRY, 0x1100), loads=unaligned)
    yield "imgunaligned", elf((_VIRT_BASE, 0), (_ENTRY, 0x123), loads=[Load(0x123, CODE[bits], 0x4000)])
    yield "p2minside", elf((_VIRT_BASE, high), (_ENTRY, high), (_INIT_P2M, high + 0x1000))
    yield "p2mabove", elf((_VIRT_BASE, 0), (_ENTRY, 0), (_INIT_P2M, 0x40000000))
    yield "p2munaligned", elf((_VIRT_BASE, high), (_ENTRY, high), (_INIT_P2M, 0x40000123))
    yield "p2mlow", elf((_VIRT_BASE, high), (_ENTRY, high), (_INIT_P2M, 0x40000000))
    yield "longstr", elf((_ENTRY, 0), (elfnote.XEN_ELFNOTE_GUEST_VERSION, "v" * 5000))


def _features(bits: int) -> Iterator[tuple[str, Variant]]:
    for name, text in (
        ("featok", "writable_page_tables|auto_translated_physmap|!pae_pgdir_above_4gb|nonsense"),
        ("featreq", "!writable_page_tables|!nonsense"),
        ("featauto", "!auto_translated_physmap"),
        ("featsuper", "!supervisor_mode_kernel|!writable_page_tables|!writable_descriptor_tables|!hvm_callback_vector"),
        ("featdom0", "!dom0"),
    ):
        yield name, Variant(_elf(bits, (_ENTRY, 0), (_FEATURES, text)))
    supported = (elfnote.XEN_ELFNOTE_SUPPORTED_FEATURES, (1 << 11, 4))
    yield "featdom0s", Variant(_elf(bits, (_ENTRY, 0), supported, (_FEATURES, "dom0")))


def _legacy(bits: int) -> Iterator[tuple[str, Variant]]:
    """A string in the section ``__xen_guest`` instead of notes."""
    good = "LOADER=generic,XEN_VER=xen-3.0"
    for name, text in (
        (
            "leg",
            f"GUEST_OS=test,{good},VIRT_BASE=0x100000,ELF_PADDR_OFFSET=0,VIRT_ENTRY=0x100000,HYPERCALL_PAGE=2,PAE=yes",
        ),
        ("legoff", f"GUEST_OS=test,{good},VIRT_BASE=0x100000,PAE=yes[extended-cr3]"),
        ("legfeat", f"GUEST_OS=test,{good},PAE=yes,FEATURES=!nonsense|writable_page_tables,VIRT_BASE=0x100000"),
        ("legsmall", f"{good},PAE=yes[extended-cr3]"),
        ("legnopae", good),
        ("legempty", ""),
        ("legbimodal", f"{good},PAE=bimodal"),
        ("leglong", f"A_NAME_THAT_IS_LONGER_THAN_THIRTY_ONE=5,{good},PAE=yes,GUEST_OS={'x' * 200},VIRT_BASE=0"),
        ("legoct", f"{good},PAE=yes,VIRT_BASE=010,VIRT_ENTRY= 0x0zz"),
    ):  # fmt: skip
        at = 0x100000 if name == "legoff" else 0
        sections = [Section("__xen_guest", SHT_PROGBITS, text.encode() + b"\0")]
        yield name, Variant(make_elf(bits, [Load(at, CODE[bits], 0x4000)], sections=sections, entry=at))


def _headers(bits: int) -> Iterator[tuple[str, Variant]]:
    """ELF headers and segments that are odd or broken."""
    code, entry = CODE[bits], (_ENTRY, 0)
    good = _elf(bits, entry)
    for name, loads in (
        ("overlap", [Load(0, code + b"\x90" * 0x2000, 0x3000), Load(0x1000, b"B" * 16, 0x2000)]),
        ("filemore", [Load(0, code + b"Z" * 100, 0x20), Load(0x1000, b"B", 0x1000)]),
        ("trunc", [Load(0, code, 0x1000), Load(0x1000, b"B" * 16, 0x90000, filesz=0x80000)]),
        ("wrap", [Load(0, code, 0x1000), Load((1 << bits) - 0x1000, b"B", 0x2000)]),
        ("noload", [Load(0, code, 0x1000, flags=0)]),
        ("gap", [Load(0, code, 0x1000), Load(0x200000, b"B" * 16, 0x1001)]),
    ):
        yield name, Variant(_elf(bits, entry, loads=loads))
    yield "etrel", Variant(_elf(bits, entry, e_type=1))
    yield "etdyn", Variant(_elf(bits, entry, e_type=3))
    yield "data0", Variant(good[:5] + b"\0" + good[6:])
    yield "data2", Variant(good[:5] + b"\2" + good[6:])
    yield "class0", Variant(good[:4] + b"\0" + good[5:])
    pae: list[_Note] = [(_PAE_MODE, "yes")] if bits == 64 else []
    other = _elf(bits, entry, *pae, loads=[Load(0, CODE[96 - bits], 0x4000)], machine=62 if bits == 32 else 3)
    yield "othermachine", Variant(other)
    yield "arm", Variant(_elf(bits, entry, machine=40))
    at, field = (40, struct.pack("<Q", 1 << 40)) if bits == 64 else (32, struct.pack("<I", 1 << 30))
    yield "shdrover", Variant(good[:at] + field + good[at + len(field) :])


def _files(bits: int) -> Iterator[tuple[str, Variant]]:
    """Files that are no ELF file, or one within gzip."""
    packed, load = gzip.compress(_kernel(bits), mtime=0), Load(0, CODE[bits], 0x4000)
    yield "empty", Variant(b"")
    yield "text", Variant(b"#!/bin/sh\n" * 20)
    yield "gz", Variant(packed)
    yield "badgz", Variant(packed[:-20] + struct.pack("<I", 5000))
    yield "nonotes", Variant(make_elf(bits, [load]))
    yield "gnunote", Variant(make_elf(bits, [load], xen_note(3, b"12345678", b"GNU\0")))
    notes = _encoded(bits, [*_base(bits), (_ENTRY, 0), (_VIRT_BASE, 0)])
    yield "shtnote", Variant(make_elf(bits, [load], sections=[Section(".note.Xen", SHT_NOTE, notes)]))


def _addresses(bits: int) -> Iterator[tuple[str, Variant]]:
    """Kernels near what is Xen's, and where the number of page tables changes."""
    places = {
        64: {
            "hole": 0xFFFF800000000000, "holeend": 0xFFFF87FFFFFFF000, "noncanon": 0x0000800000000000,
            "lowerend": 0x00007FFFFFFFE000, "above": 0xFFFF880000000000, "lowerok": 0x00007FFFFF000000,
            "top": 0xFFFFFFFFFFFF0000, "top2": 0xFFFFFFFFFFC00000,
        },
        32: {
            "hole": 0xF5800000, "below": 0xF5400000, "below2": 0xF5000000, "top": 0xFFFF0000, "c0": 0xBFC00000,
            "c1": 0xC0000000, "c2": 0xB0000000,
        },
    }  # fmt: skip
    for name, base in places[bits].items():
        yield f"at-{name}", Variant(_kernel(bits, virt_base=base))
    if bits == 64:
        high = _HIGH[64]
        for name, p2m in (
            ("p2mclose", high - (64 << 20)), ("p2mtouch", high - 0x8000), ("p2moverlap", high - 0x1000),
            ("p2mhole", 0xFFFF800000000000), ("p2mnoncanon", 0x0000800000000000), ("p2mzero", 0),
        ):  # fmt: skip
            yield name, Variant(_kernel(64, virt_base=high, init_p2m=p2m))
        return
    for name, pae in (
        ("pae-no", None), ("pae-bimodal", "bimodal"), ("pae-extcr3", "yes[extended-cr3]"), ("pae-bim2", "yes,bimodal"),
    ):  # fmt: skip
        notes: list[_Note] = [] if pae is None else [(_PAE_MODE, pae)]
        yield name, Variant(_elf(32, *notes, (_ENTRY, 0), base=_base(32, without=_PAE_MODE)))


def _bsd(bits: int) -> Iterator[tuple[str, Variant]]:
    """A kernel that wants its symbol table loaded, with one and without."""
    notes = _encoded(bits, [*_base(bits), (_ENTRY, 0), (elfnote.XEN_ELFNOTE_BSD_SYMTAB, "yes")])
    sections = [
        Section(".text", SHT_PROGBITS, b"\xf4"),
        Section(".symtab", SHT_SYMTAB, bytes(range(48)), 4),
        Section(".strtab", SHT_STRTAB, b"\0start\0end\0"),
    ]
    load = Load(0, CODE[bits], 0x1003)
    yield "bsd", Variant(make_elf(bits, [load], notes, sections=sections))
    yield "bsdnone", Variant(make_elf(bits, [load], notes))
