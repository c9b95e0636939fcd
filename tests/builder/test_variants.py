"""Some two hundred kernels of every kind, built or refused here as a real Xen did (tests/data/start_of_day)."""

from __future__ import annotations

import json
import re
import zlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hypercalls.abi import ABI32, ABI64
from hypercalls.public import xen
from pvemu.builder.build import BuiltDomain, boot_image, build_image, mem_init, parse_image
from pvemu.errors import KernelError
from pvemu.frames import Mfn
from pvemu.memory.ram import Ram
from tests.builder.variants import Variant, variants

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(__file__).parent.parent / "data" / "start_of_day" / "variants.json"
FIRST_MFN = Mfn(0x20000)
SHARED_INFO = Mfn(0x20001)
ZEROS = bytes(4096)
RECORDED: dict[str, dict[str, Any]] = {
    name: facts for facts in json.loads(DATA.read_text()) for name in facts["kernels"]
}
BUILT = [name for name, facts in RECORDED.items() if "refused" not in facts]
REFUSED = [name for name, facts in RECORDED.items() if "refused" in facts]
#: libxc's words that ours leave out, or say of the first of two reasons.
OTHER_WORDS = {
    "rdempty-64": "zero length file", "rdempty-32": "zero length file", "empty-64": "zero length file",
    "empty-32": "zero length file",
}  # fmt: skip

every = cache(variants)


def build(variant: Variant) -> tuple[BuiltDomain, Ram]:
    """As :class:`pvemu.machine.Machine` does."""
    nr_pages = variant.memory << 8
    image = parse_image(variant.kernel, "kernel")
    ram = Ram(FIRST_MFN, nr_pages + 0x400)
    top = FIRST_MFN + ram.nr_frames

    def alloc_extent(order: int) -> Mfn:
        nonlocal top
        top -= 1 << order
        return Mfn(top)

    p2m = mem_init(alloc_extent, nr_pages)
    cmdline = variant.cmdline.encode()[:1023].decode("utf-8", "surrogateescape")
    built = build_image(image, ram, p2m, variant.ramdisk, cmdline)
    boot_image(built, ram, SHARED_INFO, 1, 2, 0)
    return built, ram


def words(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z_]{7,}", text))


def test_every_kernel_was_seen_by_xen() -> None:
    """But one: libxc never comes to an end with a mapping that ends where addresses end."""
    assert set(every()) - set(RECORDED) == {"at-top2-64"}
    assert set(RECORDED) <= set(every())


@pytest.mark.parametrize("name", REFUSED)
def test_what_xen_refuses_is_refused_in_its_words(name: str) -> None:
    with pytest.raises(KernelError) as caught:
        build(every()[name])
    line = str(caught.value)
    said = OTHER_WORDS.get(name, RECORDED[name]["refused"])
    assert said.partition(": ")[0] in line, (said, line)
    assert words(said) <= words(line), (said, line)


@pytest.mark.parametrize("name", BUILT)
def test_what_xen_builds_is_built_alike(name: str) -> None:
    facts, variant = RECORDED[name], every()[name]
    built, ram = build(variant)
    places = {"ramdisk": "module0"}
    assert [
        f"{places.get(s.name, s.name)} {s.vstart:#x} {s.vend:#x} {s.pfn:#x} {s.pages:#x}" for s in built.segments
    ] == facts["segments"]
    assert f"{built.mapped_end % (1 << 64):#x}" == facts["mapped_end"]
    if "bits" not in facts:  # too large to be looked at
        return
    assert built.bits == facts["bits"]
    assert {key: hex(built.registers[key]) for key in facts["registers"]} == facts["registers"]
    assert built.vm_assist == facts["vm_assist"]
    if "root" in facts:
        check_memory(facts, built, ram)


def check_memory(facts: dict[str, Any], built: BuiltDomain, ram: Ram) -> None:
    """start_info, page tables, the p2m, and the contents of all other pages."""
    page = bytes(ram.frame(built.start_info_mfn))
    info = (ABI64 if built.bits == 64 else ABI32).unpack(xen.start_info, page)
    pfn_of = {mfn: pfn for pfn, mfn in enumerate(built.p2m)}
    for key, value in facts["start_info"].items():
        match key:
            case "store_mfn":
                found = pfn_of[info.store_mfn]
            case "console_mfn":
                found = pfn_of[info.console.domU.mfn]
            case "console_evtchn":
                found = info.console.domU.evtchn
            case _:
                found = getattr(info, key)
        assert found == (value if isinstance(value, int) else int(value, 16)), key
    assert info.magic.rstrip(b"\0").decode() == facts["magic"]
    text = info.cmd_line.rstrip(b"\0")
    assert facts["cmd_line"] in (len(text), text.hex())
    assert hex(built.pt_root_pfn) == facts["root"]
    tables: set[int] = set()
    mapped = dict(walk(built, ram, pfn_of, tables))
    assert runs(mapped) == facts["maps"]
    first = mapped[built.mfn_list & ~0xFFF][0]
    width = built.bits // 8
    p2m_pages = range(first, first + -(-len(built.p2m) * width // 4096))
    raw = b"".join(bytes(ram.frame(Mfn(built.p2m[pfn]))) for pfn in p2m_pages)
    assert list(memoryview(raw).cast("Q" if width == 8 else "I"))[: len(built.p2m)] == list(built.p2m)
    end = max(segment.pfn + segment.pages for segment in built.segments)
    others = set(range(end)) - tables - {built.start_info_pfn} - set(p2m_pages)
    contents = {pfn: bytes(ram.frame(Mfn(built.p2m[pfn]))) for pfn in sorted(others)}
    assert {
        hex(pfn): f"{zlib.crc32(data):08x}" for pfn, data in contents.items() if data != ZEROS
    } == facts["content"]


def walk(
    built: BuiltDomain, ram: Ram, pfn_of: dict[int, int], tables: set[int]
) -> Iterator[tuple[int, tuple[int, int]]]:
    """(address, (pfn, flags)) of each mapped page; ``tables`` gets the pfns of page tables."""

    def descend(table: int, level: int, base: int) -> Iterator[tuple[int, tuple[int, int]]]:
        tables.add(pfn_of[table])
        for index, entry in enumerate(ram.frame(Mfn(table)).cast("Q")):
            if not entry:
                continue
            address, mfn = base | index << (12 + 9 * (level - 1)), entry >> 12 & 0xFF_FFFF_FFFF
            if level > 1:
                assert entry & 0xFFF == 0x67
                yield from descend(mfn, level - 1, address)
            else:
                high = 0xFFFF << 48 if built.bits == 64 and address >> 47 else 0
                yield address | high, (pfn_of[mfn], entry & 0xFFF | entry >> 52 << 52)

    yield from descend(built.pt_root_mfn, 4 if built.bits == 64 else 3, 0)


def runs(mapped: dict[int, tuple[int, int]]) -> list[str]:
    """Consecutive pages with the same flags as one line; without what lies among Xen's own addresses."""
    found: list[list[int]] = []
    for address in sorted(mapped):
        if 0xFFFF800000000000 <= address < 0xFFFF880000000000:
            continue
        pfn, flags = mapped[address]
        if found and found[-1][1] == address and found[-1][2] + (address - found[-1][0] >> 12) == pfn \
                and found[-1][3] == flags:  # fmt: skip
            found[-1][1] += 4096
        else:
            found.append([address, address + 4096, pfn, flags])
    return [" ".join(map(hex, run)) for run in found]
