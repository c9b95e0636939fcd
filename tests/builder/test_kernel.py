"""Kernels that cannot be used: one line each, saying what, where and what to do, with Xen's own words."""

from __future__ import annotations

import struct

import pytest

from hypercalls.public import elfnote
from pvemu.builder.kernel import parse_image
from pvemu.errors import KernelError
from tests.builder.make_elf import Load, make_bzimage, make_elf, make_kernel, note_number, note_string, pv_notes

GOOD = make_kernel()
NO_LOADER = "xc_dom_find_loader: no loader found: Invalid kernel"


def refused(data: bytes) -> str:
    with pytest.raises(KernelError) as caught:
        parse_image(data, "kernel")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("kernel: ")
    assert len(text) < 400
    return text


def kernel(*loads: Load, bits: int = 64, notes: bytes | None = None) -> bytes:
    if notes is None:
        notes = pv_notes(bits, entry=loads[0].paddr, virt_base=0)
    return make_elf(bits, list(loads), notes)


def test_a_good_kernel() -> None:
    image = parse_image(make_kernel(64, b"\xf4" * 5, virt_base=0xFFFFFFFF80000000, paddr=0x1000000), "kernel")
    assert (image.name, image.bits, image.virt_base) == ("kernel", 64, 0xFFFFFFFF80000000)
    assert (image.v_start, image.v_end) == (0xFFFFFFFF81000000, 0xFFFFFFFF81004000)
    (segment,) = image.segments
    assert (segment.vaddr, bytes(segment.data), segment.memsz) == (0xFFFFFFFF81000000, b"\xf4" * 5, 0x4000)


def test_extents_go_by_paddr_not_by_vaddr() -> None:
    """Linux' per-cpu segment has p_vaddr 0."""
    data = kernel(Load(0, b"text", 0x1000), Load(0x1000, b"percpu", 0x1000, vaddr=0x7000000))
    assert [segment.vaddr for segment in parse_image(data, "kernel").segments] == [0, 0x1000]


def test_segments_nobody_may_touch_are_not_loaded() -> None:
    data = kernel(Load(0, b"text", 0x1000), Load(0x100000000, b"gap", flags=0))
    assert parse_image(data, "kernel").v_end == 0x1000


def test_empty_and_short_files() -> None:
    assert "zero length file" in refused(b"")
    assert NO_LOADER in refused(b"\x7fEL")
    assert "header cut short" in refused(GOOD[:20])
    assert "header cut short" in refused(GOOD[:60])
    assert "(phdr) run past the end" in refused(GOOD[:80])


def test_no_elf_at_all() -> None:
    assert NO_LOADER in refused(b"#!/bin/sh\n" * 100)
    assert NO_LOADER in refused(b"\xef\xbe\xad\xde" * 100)


def test_no_xen_notes() -> None:
    text = refused(make_elf(64, [Load(0, b"\xf4", 0x1000)]))
    assert "not a PV kernel" in text
    assert "No ELF notes or '__xen_guest' section found" in text


@pytest.mark.parametrize(("machine", "word"), [(40, "ARM"), (183, "AArch64"), (243, "RISC-V"), (9999, "another")])
def test_other_machines(machine: int, word: str) -> None:
    text = refused(make_elf(64, [Load(0, b"\0", 0x1000)], pv_notes(), machine=machine))
    assert word in text
    assert f"unknown image type {machine}: Invalid kernel" in text


def test_the_width_goes_by_the_machine_not_by_the_file() -> None:
    image = parse_image(make_elf(32, [Load(0, b"\0", 0x1000)], pv_notes(32), machine=62), "kernel")
    assert (image.bits, image.guest_type) == (64, "xen-3.0-x86_64")
    assert image.doubts == ("kernel: a 32-bit ELF file for a 64-bit machine",)


def test_big_endian() -> None:
    assert "big-endian" in refused(GOOD[:5] + b"\x02" + GOOD[6:])


def test_unknown_class() -> None:
    """libelf knows 64 bits, and all others are 32."""
    good = make_kernel(32)
    assert parse_image(good[:4] + b"\x07" + good[5:], "kernel").bits == 32


def test_relocatable_object() -> None:
    image = parse_image(make_elf(64, [Load(0, b"\0", 0x1000)], pv_notes(), e_type=1), "kernel")
    assert image.doubts == ("kernel: a relocatable object, not linked",)


def test_i386_without_pae() -> None:
    notes = pv_notes(32, entry=0, virt_base=0).replace(note_string(elfnote.XEN_ELFNOTE_PAE_MODE, "yes"), b"")
    assert "guest type xen-3.0-x86_32 not supported by xen kernel, sorry" in refused(
        kernel(Load(0, b"\0", 0x1000), bits=32, notes=notes)
    )


def test_truncated_segment() -> None:
    data = kernel(Load(0, b"\xf4" * 64, 0x1000, filesz=0x800))
    (doubt,) = parse_image(data, "kernel").doubts
    assert doubt.startswith("kernel: program header 0 (paddr 0x0, memsz 0x1000) ends at ")
    assert doubt.endswith(": truncated or corrupted; nothing of it is loaded")


def test_more_file_than_memory() -> None:
    (doubt,) = parse_image(kernel(Load(0, b"\xf4" * 64, 0x20)), "kernel").doubts
    assert doubt == "kernel: program header 0 (paddr 0x0, memsz 0x20) has more file (0x40 bytes) than memory"


def test_overlapping_segments() -> None:
    (doubt,) = parse_image(kernel(Load(0, b"a", 0x1000), Load(0xFFF, b"b", 0x1000)), "kernel").doubts
    assert doubt == "kernel: program headers overlap at paddr 0xfff (the one before ends at 0x1000)"


def test_segments_that_wrap_the_address_space() -> None:
    image = parse_image(kernel(Load(0, b"a", 0x1000), Load((1 << 64) - 0x1000, b"b", 0x2000)), "kernel")
    assert (image.v_start, image.v_end) == (0, 0x1000)  # of which the second one has no part
    assert "wraps around the 64-bit" in image.doubts[0]
    image = parse_image(kernel(Load(0, b"a", 0x1000), Load((1 << 32) - 0x1000, b"b", 0x2000), bits=32), "kernel")
    assert image.v_end == (1 << 32) + 0x1000


def test_nothing_to_load() -> None:
    assert "nothing to load" in refused(make_elf(64, [], pv_notes(entry=0, virt_base=0)))


def test_entry_outside_the_image() -> None:
    text = refused(make_kernel(entry=0x4001))
    assert "entry 0x4001 lies outside the image 0x0-0x4000" in text
    assert "ELF start or entries are out of bounds" in text


def test_an_entry_at_the_very_end_is_within_bounds_as_xen_counts() -> None:
    assert parse_image(make_kernel(entry=0x4000), "kernel").virt_entry == 0x4000


def test_virt_base_above_the_image() -> None:
    notes = pv_notes(entry=0, virt_base=0x10000, paddr_offset=0x10000)
    assert "correct the VIRT_BASE and PADDR_OFFSET notes" in refused(kernel(Load(0, b"\0", 0x1000), notes=notes))


def test_paddr_offset_without_virt_base() -> None:
    notes = pv_notes(entry=0, paddr_offset=0)
    assert "ELF_PADDR_OFFSET set, VIRT_BASE unset" in refused(kernel(Load(0, b"\0", 0x1000), notes=notes))


def test_paddr_offset_shifts_the_image() -> None:
    notes = pv_notes(entry=0x401000, virt_base=0x400000, paddr_offset=0x7000000)
    image = parse_image(kernel(Load(0x7001000, b"\0", 0x1000), notes=notes), "kernel")
    assert (image.v_start, image.paddr_offset) == (0x401000, 0x7000000)


def test_unaligned_image() -> None:
    assert "segment boundary isn't page aligned" in refused(kernel(Load(0x123, b"\0", 0x1000)))


@pytest.mark.parametrize("base", [0xFFFF800000000000, 0xFFFF87FFFFFFF000, 0x0000800000000000, 0x00007FFFFFFFE000])
def test_addresses_a_64_bit_guest_may_not_have(base: int) -> None:
    (doubt,) = parse_image(make_kernel(virt_base=base), "kernel").doubts
    assert "reaches into addresses a 64-bit PV guest may not have" in doubt


def test_addresses_above_and_below_the_hole_are_fine() -> None:
    for base in (0x00007FFFFFF00000, 0xFFFF880000000000):
        assert parse_image(make_kernel(virt_base=base), "kernel").doubts == ()


def test_addresses_a_32_bit_guest_may_not_have() -> None:
    for base in (0xF5800000, 0xF57FF000):
        (doubt,) = parse_image(make_kernel(32, virt_base=base), "kernel").doubts
        assert "32-bit PV guest may not have" in doubt


def test_32_bit_notes_with_64_bit_numbers() -> None:
    notes = pv_notes(32, entry=0, extra=note_number(elfnote.XEN_ELFNOTE_VIRT_BASE, 1 << 40))
    assert "entry 0x0 lies outside the image 0x10000000000-" in refused(
        kernel(Load(0, b"\0", 0x1000), bits=32, notes=notes)
    )


def test_wrong_xen_version_and_loader() -> None:
    load = Load(0, b"\0", 0x1000)
    assert "Xen will only load images built for Xen v3.0" in refused(
        kernel(load, notes=pv_notes(entry=0, virt_base=0, xen_version="xen-2.0"))
    )
    assert "built for the generic loader or Linux" in refused(
        kernel(load, notes=pv_notes(entry=0, virt_base=0, loader="own"))
    )
    image = parse_image(kernel(load, notes=pv_notes(entry=0, virt_base=0, loader="", guest_os="linux")), "kernel")
    assert image.guest_os == "linux"


def test_a_hypercall_page_that_is_no_page_of_the_image_is_doubtful() -> None:
    for page in (0x4000, 0x1010):
        (doubt,) = parse_image(make_kernel(hypercall_page=page), "kernel").doubts
        assert f"HYPERCALL_PAGE note {page:#x} is not a page of the image 0x0-0x4000" in doubt
    image = parse_image(make_kernel(hypercall_page=0x3000), "kernel")
    assert (image.virt_hypercall, image.doubts) == (0x3000, ())


def test_pvh_only_kernel() -> None:
    phys32 = note_number(elfnote.XEN_ELFNOTE_PHYS32_ENTRY, 0x1000, 4)
    load = Load(0, b"\0", 0x1000)
    assert "a PVH kernel (PHYS32_ENTRY), not built for PV" in refused(kernel(load, notes=phys32))
    image = parse_image(kernel(load, notes=pv_notes(extra=phys32)), "kernel")
    assert image.virt_entry == 0
    assert "a kernel for PVH, not for PV; started at its ELF entry 0x0, as Xen does" in image.doubts[0]
    both = pv_notes(entry=0, virt_base=0, extra=phys32)
    assert parse_image(kernel(load, notes=both), "kernel").notes.phys_entry == 0x1000


def test_control_domain_kernel() -> None:
    notes = pv_notes(entry=0, virt_base=0, extra=note_string(elfnote.XEN_ELFNOTE_FEATURES, "!dom0"))
    assert "does not support unprivileged (DomU) operation" in refused(kernel(Load(0, b"\0", 0x1000), notes=notes))


def test_init_p2m() -> None:
    assert "INIT_P2M 0x1000 lies inside" in refused(make_kernel(init_p2m=0x1000))
    base = 0xFFFFFFFF80000000
    assert parse_image(make_kernel(virt_base=base, init_p2m=0x8000000000), "kernel").init_p2m == 0x8000000000
    for ignored in (0x8000000800, 0xFFFFFFFFC0000000):
        assert parse_image(make_kernel(virt_base=base, init_p2m=ignored), "kernel").init_p2m is None
    assert parse_image(make_kernel(32, virt_base=0xC0000000, init_p2m=0x80000000), "kernel").init_p2m is None


def test_bad_header_sizes() -> None:
    small_phdr = GOOD[:54] + struct.pack("<H", 8) + GOOD[56:]
    assert "8 bytes each" in refused(small_phdr)
    many_phdrs = GOOD[:56] + struct.pack("<H", 0xFFFF) + GOOD[58:]
    assert "run past the end" in refused(many_phdrs)
    far_shdr = GOOD[:40] + struct.pack("<Q", 1 << 63) + GOOD[48:]
    assert "(shdr) run past the end" in refused(far_shdr)


def test_broken_gzip() -> None:
    assert "inflate failed" in refused(b"\x1f\x8b\x08\0" + bytes(100))


def test_an_enormous_claim_costs_nothing_to_parse() -> None:
    image = parse_image(make_kernel(memsz=1 << 46), "kernel")
    assert image.v_end == 1 << 46
    assert len(image.segments[0].data) == 1


def test_a_bzimage_of_a_plain_kernel_is_no_pv_kernel() -> None:
    import lzma

    plain = make_elf(64, [Load(0, b"\xf4", 0x1000)])
    payload = lzma.compress(plain) + len(plain).to_bytes(4, "little")
    assert "not a PV kernel" in refused(make_bzimage(payload))
