"""Five guests that real Xen built: the same kernels' shapes, built here, come out at the same places."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from hypercalls.abi import ABI32, ABI64
from hypercalls.public import elfnote, xen
from pvemu.builder.build import BuiltDomain, boot_image, build_image, mem_init, parse_image
from pvemu.frames import Mfn
from pvemu.memory.ram import Ram
from tests.builder.make_elf import Load, make_elf, note_number, note_string

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(__file__).parent.parent / "data" / "start_of_day"
GUESTS = ["grub64-menu", "grub64-timeout", "grub32-menu", "linux-direct", "linux-2disks"]
FIRST_MFN = Mfn(0x20000)
SHARED_INFO = Mfn(0x20001)
RAMDISK_SIZE = 0x1E4600


class Recorded(NamedTuple):
    """One guest's recorded facts."""

    log: str
    entry: str

    @property
    def bits(self) -> int:
        return int(self.find(r"guest width: (\d+) bits"))

    @property
    def nr_pages(self) -> int:
        return int(self.find(r"mem_init: mem \d+ MB, pages (0x\w+)"), 16)

    def find(self, pattern: str) -> str:
        match = re.search(pattern, self.log + self.entry)
        assert match is not None, pattern
        return match[1]

    def field(self, name: str) -> str:
        """A start_info field as printed: a number, or text in quotes."""
        return self.find(rf"\n  {name} +(\S.*)")

    def number(self, name: str) -> int:
        return int(self.field(name).split()[0], 16)

    def pfn(self, name: str) -> int:
        return int(self.find(rf"\n  {name} +\w+ = pfn (0x\w+)"), 16)

    def segments(self) -> Iterator[tuple[str, int, int, int, int]]:
        pattern = r"xc_dom_alloc_segment: +(.*?) +: (0x\w+) -> (0x\w+)  \(pfn (0x\w+) \+ (0x\w+) pages"
        for name, *numbers in re.findall(pattern, self.log):
            start, end, pfn, pages = (int(n, 16) for n in numbers)
            yield {"module0": "ramdisk"}.get(name, name), start, end, pfn, pages
        for name, start_text, pfn_text in re.findall(r"xc_dom_alloc_page +: +(.*?) +: (0x\w+) \(pfn (0x\w+)", self.log):
            start, pfn = int(start_text, 16), int(pfn_text, 16)
            yield name, start, start + 0x1000, pfn, 1

    def mappings(self) -> list[tuple[int, int, int, int]]:
        """(first address, last, first pfn, flags) of what the guest has mapped itself, not through Xen's window."""
        pattern = r"\n +(0x\w+)-(0x\w+) -> pfn (0x\w+) .*flags (0x\w+)"
        rows = [tuple(int(n, 16) for n in row) for row in re.findall(pattern, self.entry)]
        return [(a, b, c, d) for a, b, c, d in rows if not 0xFFFF800000000000 <= a < 0xFFFF880000000000]


def recorded(name: str) -> Recorded:
    return Recorded((DATA / name / "domainbuilder.log").read_text(), (DATA / name / "entry.txt").read_text())


def synthetic_kernel(facts: Recorded) -> bytes:
    """An ELF with the recorded program headers and notes, nearly empty."""
    loads = [
        Load(int(paddr, 16), b"KERN", int(memsz, 16))
        for paddr, memsz in re.findall(r"phdr: paddr=(\w+) memsz=(\w+)", facts.log)
    ]
    types = {name.removeprefix("XEN_ELFNOTE_"): value for name, value in vars(elfnote).items() if name[:4] == "XEN_"}
    notes = b""
    for name, value in re.findall(r"note: (\w+) = (.*)", facts.log):
        if value.startswith('"'):
            notes += note_string(types[name], value.strip('"'))
        else:
            size = 4 if facts.bits == 32 or name == "SUPPORTED_FEATURES" else 8
            notes += note_number(types[name], int(value, 16), size)
    return make_elf(facts.bits, loads, notes)


def build(facts: Recorded, image_bytes: bytes) -> tuple[BuiltDomain, Ram]:
    nr_pages = facts.nr_pages
    ram = Ram(FIRST_MFN, nr_pages + 0x400)
    top = FIRST_MFN + ram.nr_frames

    def alloc_extent(order: int) -> Mfn:
        nonlocal top
        top -= 1 << order
        return Mfn(top)

    image = parse_image(image_bytes, "kernel")
    p2m = mem_init(alloc_extent, nr_pages)
    ramdisk = gzip.compress(bytes(RAMDISK_SIZE), mtime=0) if image.guest_os == "linux" else None
    built = build_image(image, ram, p2m, ramdisk, facts.field("cmd_line").strip("'"))
    boot_image(built, ram, SHARED_INFO, 1, 2, 0)
    return built, ram


@pytest.fixture(scope="module", params=GUESTS)
def guest(request: pytest.FixtureRequest) -> tuple[Recorded, BuiltDomain, Ram]:
    facts = recorded(request.param)
    return facts, *build(facts, synthetic_kernel(facts))


def test_segments_lie_where_xen_put_them(guest: tuple[Recorded, BuiltDomain, Ram]) -> None:
    facts, built, _ = guest
    assert sorted(built.segments) == sorted(facts.segments())
    assert built.mapped_end == int(facts.find(r"virt_pgtab_end : (0x\w+)"), 16)


def test_start_info_says_what_xen_wrote(guest: tuple[Recorded, BuiltDomain, Ram]) -> None:
    facts, built, ram = guest
    page = bytes(ram.frame(built.start_info_mfn))
    abi = ABI64 if facts.bits == 64 else ABI32
    info = abi.unpack(xen.start_info, page)
    assert info.magic.rstrip(b"\0").decode() == facts.field("magic").strip("'")
    assert info.cmd_line.rstrip(b"\0").decode() == facts.field("cmd_line").strip("'")
    for name in (
        "nr_pages", "flags", "store_evtchn", "pt_base", "nr_pt_frames", "mfn_list", "mod_start", "mod_len",
        "first_p2m_pfn", "nr_p2m_frames",
    ):  # fmt: skip
        assert getattr(info, name) == facts.number(name), name
    assert info.console.domU.evtchn == facts.number("console_evtchn")
    assert info.shared_info == SHARED_INFO << 12
    assert info.store_mfn == built.store_mfn == built.p2m[facts.pfn("store_mfn")]
    assert info.console.domU.mfn == built.console_mfn == built.p2m[facts.pfn("console_mfn")]
    assert not any(page[abi.sizeof(xen.start_info) :])


def walk(ram: Ram, bits: int, root: int) -> dict[int, int]:
    """Every mapped page: address -> level 1 entry; checks the flags of upper entries."""
    found: dict[int, int] = {}

    def descend(table: int, level: int, base: int) -> None:
        start = ((table << 12) - ram.base) >> 3
        for index, entry in enumerate(ram.quads[start : start + 512]):
            if not entry:
                continue
            address = base + (index << (12 + 9 * (level - 1)))
            if level == 1:
                found[address | (0xFFFF << 48 if bits == 64 and address >> 47 else 0)] = entry
            else:
                assert entry & 0xFFF == 0x67
                descend(entry >> 12, level - 1, address)

    descend(root, 4 if bits == 64 else 3, 0)
    return found


def test_page_tables_map_what_xen_mapped(guest: tuple[Recorded, BuiltDomain, Ram]) -> None:
    facts, built, ram = guest
    pfn_of = {mfn: pfn for pfn, mfn in enumerate(built.p2m)}
    expected = {}
    for first, last, pfn, flags in facts.mappings():
        for offset in range(0, last + 1 - first, 0x1000):
            expected[first + offset] = (pfn + (offset >> 12), flags)
    mask = 0xFFFF_FFFF_F000
    found = walk(ram, facts.bits, built.pt_root_mfn)
    assert {va: (pfn_of[(e & mask) >> 12], e & ~mask) for va, e in found.items()} == expected


def test_the_root_is_the_recorded_page(guest: tuple[Recorded, BuiltDomain, Ram]) -> None:
    facts, built, _ = guest
    assert built.pt_root_pfn == int(facts.find(r"pt root: cr3 mfn \w+ = pfn (0x\w+)"), 16)


def test_registers_at_entry(guest: tuple[Recorded, BuiltDomain, Ram]) -> None:
    facts, built, _ = guest
    names = {"rip": "eip", "rsp": "esp", "rsi": "esi", "rflags": "eflags"} if facts.bits == 32 else {}
    for name, value in built.registers.items():
        assert value == int(facts.find(rf"[ :]{names.get(name, name)}=(0x\w+)"), 16), name
    assert built.vm_assist == int(facts.find(r"vm_assist=(0x\w+)"), 16)
    assert built.stack_top == int(facts.find(r"kernel_sp=(0x\w+)"), 16)


def test_p2m_in_memory_is_the_p2m(guest: tuple[Recorded, BuiltDomain, Ram]) -> None:
    facts, built, ram = guest
    segment = next(s for s in built.segments if s.name == "phys2mach")
    raw = b"".join(bytes(ram.frame(Mfn(built.p2m[segment.pfn + i]))) for i in range(segment.pages))
    size = facts.bits // 8
    assert memoryview(raw[: facts.nr_pages * size]).cast("Q" if size == 8 else "I").tolist() == list(built.p2m)


def test_rings_and_stack_are_zero(guest: tuple[Recorded, BuiltDomain, Ram]) -> None:
    _, built, ram = guest
    stack = Mfn(built.p2m[(built.stack_top - built.image.virt_base >> 12) - 1])
    for mfn in (built.store_mfn, built.console_mfn, stack):
        assert not any(ram.frame(mfn))
