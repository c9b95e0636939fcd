"""Building domains: memory that does not suffice, ramdisks, awkward frames, the hypercall page, symbol tables."""

from __future__ import annotations

import gzip
import struct
import time
from array import array
from typing import TYPE_CHECKING

import pytest

from hypercalls.abi import ABI32, ABI64
from hypercalls.public import elfnote, xen
from pvemu.builder.build import BuiltDomain, boot_image, build_image, mem_init, parse_image
from pvemu.builder.hypercall_page import hypercall_page
from pvemu.errors import KernelError
from pvemu.frames import Mfn
from pvemu.memory.ram import Ram
from tests.builder.make_elf import (
    SHT_PROGBITS,
    SHT_STRTAB,
    SHT_SYMTAB,
    Load,
    Section,
    make_elf,
    make_kernel,
    note_string,
    pv_notes,
)

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST = Mfn(0x1000)
LINUX_BASE = 0xFFFFFFFF80000000


def upwards() -> Callable[[int], Mfn]:
    top = int(FIRST)

    def alloc_extent(order: int) -> Mfn:
        nonlocal top
        top = -(-top // (1 << order)) << order
        top += 1 << order
        return Mfn(top - (1 << order))

    return alloc_extent


def build(
    kernel: bytes, mib: int = 16, ramdisk: bytes | None = None, cmdline: str = "", p2m: array[int] | None = None
) -> tuple[BuiltDomain, Ram]:
    if p2m is None:
        p2m = mem_init(upwards(), mib << 8)
    ram = Ram(FIRST, max(p2m) + 1 - FIRST)
    built = build_image(parse_image(kernel, "kernel"), ram, p2m, ramdisk, cmdline)
    boot_image(built, ram, Mfn(FIRST), 1, 2, 0)
    return built, ram


def contents(built: BuiltDomain, ram: Ram, vaddr: int, size: int) -> bytes:
    """Bytes at a virtual address of the initial mapping."""
    out = b""
    while size:
        at = vaddr - built.image.virt_base
        step = min(size, 0x1000 - at % 0x1000)
        out += ram.read((built.p2m[at >> 12] << 12) + at % 0x1000, step)
        vaddr, size = vaddr + step, size - step
    return out


def start_info(built: BuiltDomain, ram: Ram) -> xen.start_info:
    return (ABI64 if built.bits == 64 else ABI32).unpack(xen.start_info, ram.frame(built.start_info_mfn))


def refused(kernel: bytes, mib: int = 16, ramdisk: bytes | None = None) -> str:
    with pytest.raises(KernelError) as caught:
        build(kernel, mib, ramdisk)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("kernel: ")
    return text


def test_mem_init_takes_large_extents_first() -> None:
    asked: list[int] = []
    alloc = upwards()

    def alloc_extent(order: int) -> Mfn:
        asked.append(order)
        return alloc(order)

    p2m = mem_init(alloc_extent, 1024 + 3)
    assert asked == [9, 9, 0, 0, 0]
    assert p2m.typecode == "Q"
    assert len(p2m) == len(set(p2m)) == 1027
    assert list(p2m[:512]) == list(range(p2m[0], p2m[0] + 512))


def test_scattered_frames() -> None:
    """Frames in no order at all: contents, tables and p2m follow the p2m."""
    frames = list(range(FIRST, FIRST + (16 << 8)))
    scattered = array("Q", frames[1::2] + frames[::-2])
    code = bytes(range(251)) * 100
    built, ram = build(make_kernel(code=code, virt_base=0x400000), p2m=scattered)
    assert contents(built, ram, 0x400000, len(code)) == code
    assert contents(built, ram, built.mfn_list, len(scattered) * 8) == scattered.tobytes()
    l4 = ram.frame(built.pt_root_mfn).cast("Q")
    l3 = ram.frame(Mfn(l4[0] >> 12)).cast("Q")
    l2 = ram.frame(Mfn(l3[0] >> 12)).cast("Q")
    l1 = ram.frame(Mfn(l2[2] >> 12)).cast("Q")
    assert [entry >> 12 & 0xFFFFFFFFFF for entry in l1] == list(scattered[:512])


@pytest.mark.parametrize("bits", [64, 32])
def test_start_info_of_both_widths(bits: int) -> None:
    built, ram = build(make_kernel(bits, virt_base=0x100000), cmdline="console=hvc0 ünï")
    info = start_info(built, ram)
    assert info.magic.rstrip(b"\0") == {64: b"xen-3.0-x86_64", 32: b"xen-3.0-x86_32p"}[bits]
    assert info.cmd_line.rstrip(b"\0").decode() == "console=hvc0 ünï"
    assert (info.nr_pages, info.flags, info.mod_start, info.mod_len) == (16 << 8, 0, 0, 0)
    assert info.shared_info == FIRST << 12


def test_flags_of_the_caller_are_added() -> None:
    kernel = parse_image(make_kernel(mod_start_pfn=True), "kernel")
    p2m = mem_init(upwards(), 16 << 8)
    ram = Ram(FIRST, max(p2m) + 1 - FIRST)
    built = build_image(kernel, ram, p2m, b"initrd", "")
    boot_image(built, ram, FIRST, 3, 4, xen.SIF_PRIVILEGED)
    info = start_info(built, ram)
    assert info.flags == xen.SIF_PRIVILEGED | xen.SIF_MOD_START_PFN
    assert (info.store_evtchn, info.console.domU.evtchn) == (3, 4)


def test_long_command_lines_are_cut() -> None:
    built, ram = build(make_kernel(), cmdline="x" * 5000)
    assert start_info(built, ram).cmd_line == b"x" * 1023 + b"\0"
    built, ram = build(make_kernel(), cmdline="one\0two")
    assert start_info(built, ram).cmd_line.rstrip(b"\0") == b"one"


def test_mapped_ramdisk() -> None:
    ramdisk = bytes(range(256)) * 20
    built, ram = build(make_kernel(virt_base=0x400000), ramdisk=ramdisk)
    info = start_info(built, ram)
    assert (info.mod_start, info.mod_len, info.flags) == (0x404000, len(ramdisk), 0)
    assert contents(built, ram, info.mod_start, info.mod_len) == ramdisk
    assert [segment.name for segment in built.segments[:3]] == ["kernel", "ramdisk", "phys2mach"]


def test_unmapped_ramdisk_lies_behind_the_mapping() -> None:
    ramdisk = bytes(range(256)) * 20
    built, ram = build(make_kernel(mod_start_pfn=True), ramdisk=ramdisk)
    info = start_info(built, ram)
    assert info.flags == xen.SIF_MOD_START_PFN
    assert info.mod_start == built.mapped_end >> 12
    assert info.mod_len == 0x2000
    assert contents(built, ram, info.mod_start << 12, info.mod_len) == ramdisk.ljust(0x2000, b"\0")


def test_gzip_ramdisks_are_uncompressed_with_room_to_spare() -> None:
    built, ram = build(make_kernel(), ramdisk=gzip.compress(b"cpio" * 1000))
    info = start_info(built, ram)
    assert info.mod_len == 4016
    assert contents(built, ram, info.mod_start, info.mod_len) == b"cpio" * 1000 + bytes(16)


def test_a_ramdisk_that_does_not_uncompress_goes_in_as_it_is() -> None:
    broken = gzip.compress(bytes(range(256)) * 40)
    broken = broken[:30] + b"\xff" * 30 + broken[60:]
    built, ram = build(make_kernel(), ramdisk=broken)
    info = start_info(built, ram)
    assert info.mod_len == 10240 + 16
    assert contents(built, ram, info.mod_start, len(broken)) == broken
    assert not any(contents(built, ram, info.mod_start + len(broken), info.mod_len - len(broken)))


def test_only_the_first_member_of_a_gzip_ramdisk_counts() -> None:
    two = gzip.compress(b"first") + gzip.compress(b"second member")
    built, ram = build(make_kernel(), ramdisk=two)
    info = start_info(built, ram)
    assert info.mod_len == len(two)
    assert contents(built, ram, info.mod_start, info.mod_len).rstrip(b"\0") == b"first"


def test_too_little_memory() -> None:
    assert "not enough memory for initial mapping" in refused(make_kernel(), 3)
    assert "segment kernel too large" in refused(make_kernel(memsz=32 << 20), 16)
    assert "segment kernel too large" in refused(make_kernel(memsz=1 << 46), 16)
    assert "segment padding too large" in refused(make_kernel(paddr=32 << 20), 16)
    assert "16 MiB" in refused(make_kernel(memsz=32 << 20), 16)


@pytest.mark.parametrize("mod_start_pfn", [False, True])
def test_ramdisk_too_large(mod_start_pfn: bool) -> None:
    kernel = make_kernel(mod_start_pfn=mod_start_pfn)
    assert "segment module0 too large" in refused(kernel, 16, bytes(17 << 20))
    assert "segment module0 too large" in refused(kernel, 16, gzip.compress(bytes(40 << 20), 1))
    assert "give more memory" in refused(kernel, 16, bytes((16 << 20) - 0x1000))


def test_empty_ramdisk() -> None:
    assert "zero length file" in refused(make_kernel(), 16, b"")


def test_initial_mapping_that_reaches_no_addresses() -> None:
    not_canonical = "is no canonical address: link the kernel elsewhere (vcpu_x86_64: SETVCPUCONTEXT failed)"
    assert f"the boot stack at 0x800000016000 {not_canonical}" in refused(make_kernel(virt_base=0x7FFFFFFFE000), 16)
    assert f"the entry at 0x800000000000 {not_canonical}" in refused(make_kernel(virt_base=0x800000000000), 16)
    for bits, base in ((64, 0xFFFFFFFFFFFF0000), (32, 0xFFFF0000)):
        text = refused(make_kernel(bits, virt_base=base), 16)
        assert "does not fit below the end" in text
        assert "(get_pg_table: xc_dom_pfn_to_ptr failed)" in text


def test_addresses_of_xen_are_mapped_like_others() -> None:
    """Xen puts its own entries in their place when the table is pinned."""
    for bits, base in ((64, 0xFFFF800000000000), (32, 0xF5800000)):
        built, _ = build(make_kernel(bits, virt_base=base), 16)
        assert built.mapped_end == base + (4 << 20)
        assert "reaches into addresses" in built.image.doubts[0]


def test_unmapped_p2m_that_overlaps() -> None:
    """Which libxc sees in the lower half of the address space alone."""
    kernel = make_kernel(virt_base=0x40000000, init_p2m=0x3FFFF000)
    assert "overlapping mappings" in refused(kernel, 16)
    built, _ = build(make_kernel(virt_base=LINUX_BASE, init_p2m=LINUX_BASE - 0x1000), 16)
    assert built.mfn_list == LINUX_BASE - 0x1000


def test_unmapped_p2m_shares_tables_where_it_can() -> None:
    """An INIT_P2M just below the kernel's gigabyte: the L4 and L3 are there already."""
    built, ram = build(make_kernel(virt_base=LINUX_BASE, init_p2m=LINUX_BASE - (64 << 20)))
    assert len(built.p2m_pt_pfns) == 2
    assert built.nr_p2m_frames == 8 + 2
    assert built.first_p2m_pfn == built.mapped_end - LINUX_BASE >> 12
    l4 = ram.frame(built.pt_root_mfn).cast("Q")
    l3 = ram.frame(Mfn(l4[511] >> 12)).cast("Q")
    assert [index for index, entry in enumerate(l3) if entry] == [509, 510]
    l2 = ram.frame(Mfn(l3[509] >> 12)).cast("Q")
    assert [index for index, entry in enumerate(l2) if entry] == [480]
    l1 = ram.frame(Mfn(l2[480] >> 12)).cast("Q")
    assert [entry >> 12 & 0xFFFFFFFFFF for entry in l1 if entry] == list(
        built.p2m[built.first_p2m_pfn : built.first_p2m_pfn + 8]
    )


def test_pae_above_three_gib_takes_no_extra_l2() -> None:
    built, _ = build(make_kernel(32, virt_base=0xC0000000))
    assert len(built.pt_pfns) == 1 + 1 + 2
    built, _ = build(make_kernel(32, virt_base=0x80000000))
    assert len(built.pt_pfns) == 1 + 2 + 2


def test_hypercall_page_is_written() -> None:
    for bits in (64, 32):
        built, ram = build(make_kernel(bits, virt_base=0x100000, hypercall_page=0x102000))
        assert contents(built, ram, 0x102000, 0x1000) == hypercall_page(bits)
        assert built.hypercall_mfn == built.p2m[2]


def test_hypercall_slots() -> None:
    page64, page32 = hypercall_page(64), hypercall_page(32)
    assert len(page64) == len(page32) == 4096
    assert page64[29 * 32 : 30 * 32] == bytes.fromhex("514153b81d0000000f05415b59c3").ljust(32, b"\xcc")
    assert page64[23 * 32 : 24 * 32] == bytes.fromhex("51415350b8170000000f05").ljust(32, b"\xcc")
    assert page32[29 * 32 : 30 * 32] == bytes.fromhex("b81d000000cd82c3").ljust(32, b"\xcc")
    assert page32[23 * 32 : 24 * 32] == bytes.fromhex("50b817000000cd82").ljust(32, b"\xcc")


def symbol_kernel(bits: int, symbols: bytes, strings: bytes) -> bytes:
    notes = pv_notes(bits, entry=0, virt_base=0, extra=note_string(elfnote.XEN_ELFNOTE_BSD_SYMTAB, "yes"))
    sections = [
        Section(".text", SHT_PROGBITS, b"\xf4"),
        Section(".symtab", SHT_SYMTAB, symbols, 4),
        Section(".strtab", SHT_STRTAB, strings),
    ]
    return make_elf(bits, [Load(0, b"\xf4", 0x1003)], notes, sections=sections)


@pytest.mark.parametrize("bits", [64, 32])
def test_symbols_are_loaded_behind_a_bsd_kernel(bits: int) -> None:
    symbols, strings = bytes(range(48)), b"\0start\0end\0"
    built, ram = build(symbol_kernel(bits, symbols, strings))
    start = 0x1008 if bits == 64 else 0x1004
    (size,) = struct.unpack("<I", contents(built, ram, start, 4))
    image = contents(built, ram, start + 4, size)
    assert image[:4] == b"\x7fELF"
    shoff, (phnum, _, shnum, shstrndx) = (
        (struct.unpack_from("<Q", image, 40)[0], struct.unpack_from("<4H", image, 56))
        if bits == 64
        else (struct.unpack_from("<I", image, 32)[0], struct.unpack_from("<4H", image, 44))
    )
    assert (phnum, shnum, shstrndx) == (0, 3, 0)
    shdr = struct.Struct("<IIQQQQIIQQ" if bits == 64 else "<10I")
    undefined, symtab, strtab = (shdr.unpack_from(image, shoff + i * shdr.size) for i in range(3))
    assert not any(undefined)
    assert (symtab[1], symtab[6], strtab[1]) == (SHT_SYMTAB, 2, SHT_STRTAB)
    assert image[symtab[4] : symtab[4] + symtab[5]] == symbols
    assert image[strtab[4] : strtab[4] + strtab[5]] == strings
    assert built.image.v_end > start + 4 + 64 + 3 * shdr.size


def test_bsd_symtab_without_symbols() -> None:
    """libelf calls the file broken and goes on."""
    notes = pv_notes(entry=0, virt_base=0, extra=note_string(elfnote.XEN_ELFNOTE_BSD_SYMTAB, "yes"))
    built, _ = build(make_elf(64, [Load(0, b"\xf4", 0x1000)], notes))
    assert built.image.v_end == 0x1000
    assert "the file has no symbol table" in built.image.doubts[0]


@pytest.mark.slow
def test_large_guests_are_built_in_no_time() -> None:
    """A mapping of 512 MiB and a kernel of 64 MiB; generous against busy machines."""
    kernel = parse_image(make_kernel(code=bytes(64 << 20), virt_base=LINUX_BASE, memsz=500 << 20), "kernel")
    p2m = mem_init(upwards(), 1024 << 8)
    ram = Ram(FIRST, max(p2m) + 1 - FIRST)
    started = time.process_time()
    built = build_image(kernel, ram, p2m, None, "")
    assert time.process_time() - started < 1.0
    assert built.mapped_end - LINUX_BASE == 504 << 20
