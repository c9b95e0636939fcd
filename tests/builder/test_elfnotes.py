"""Xen's notes: where they are looked for, what they mean, and finding them in raw memory."""

from __future__ import annotations

import pytest

from hypercalls.public import elfnote, features
from pvemu.builder.elfnotes import XEN_PAE_BIMODAL, XEN_PAE_EXTCR3, XEN_PAE_NO, find_notes, parse_features
from pvemu.builder.kernel import parse_image
from pvemu.errors import KernelError
from tests.builder.make_elf import (
    SHT_NOTE,
    SHT_PROGBITS,
    Load,
    Section,
    make_elf,
    make_kernel,
    note_number,
    note_string,
    pv_notes,
    xen_note,
)

CODE = Load(0, b"\xf4" * 16, 0x2000)


def test_all_the_notes_of_a_kernel() -> None:
    notes = pv_notes(
        entry=0x1000,
        virt_base=0,
        hypercall_page=0x1000,
        guest_os="linux",
        extra=note_string(elfnote.XEN_ELFNOTE_GUEST_VERSION, "2.6")
        + note_string(elfnote.XEN_ELFNOTE_FEATURES, "!writable_page_tables|pae_pgdir_above_4gb|news")
        + note_number(elfnote.XEN_ELFNOTE_SUPPORTED_FEATURES, 0x8801, 4)
        + note_number(elfnote.XEN_ELFNOTE_HV_START_LOW, 0xFFFF800000000000)
        + xen_note(elfnote.XEN_ELFNOTE_L1_MFN_VALID, bytes(16))
        + note_number(elfnote.XEN_ELFNOTE_SUSPEND_CANCEL, 1)
        + note_number(elfnote.XEN_ELFNOTE_MOD_START_PFN, 1)
        + note_number(99, 7),
    )
    image = parse_image(make_elf(64, [CODE], notes), "kernel")
    assert (image.guest_os, image.guest_version, image.loader) == ("linux", "2.6", "generic")
    assert (image.virt_entry, image.virt_hypercall, image.mod_start_pfn) == (0x1000, 0x1000, True)
    assert image.features == 0x8801 | 1 << features.XENFEAT_pae_pgdir_above_4gb
    assert image.required_features == 1 << features.XENFEAT_writable_page_tables
    assert image.notes.virt_hv_start_low == 0xFFFF800000000000
    assert image.guest_type == "xen-3.0-x86_64"


def test_owners_other_than_xen_mean_something_else() -> None:
    foreign = xen_note(elfnote.XEN_ELFNOTE_ENTRY, (0x5000).to_bytes(8, "little"), owner=b"GNU\0")
    image = parse_image(make_elf(64, [CODE], foreign + pv_notes(entry=0x10, virt_base=0)), "kernel")
    assert image.virt_entry == 0x10
    assert image.notes.nr_notes == 5


def test_entry_defaults_to_the_elf_header() -> None:
    assert parse_image(make_elf(64, [CODE], pv_notes(virt_base=0), entry=0x123), "kernel").virt_entry == 0x123


def test_all_ones_is_unset() -> None:
    notes = pv_notes(entry=0, virt_base=0, hypercall_page=(1 << 64) - 1)
    assert parse_image(make_elf(64, [CODE], notes), "kernel").virt_hypercall is None


def test_note_sections_serve_when_no_segment_does() -> None:
    sections = [Section(".note.Xen", SHT_NOTE, pv_notes(entry=0x20, virt_base=0))]
    assert parse_image(make_elf(64, [CODE], sections=sections), "kernel").virt_entry == 0x20


def test_a_last_note_may_run_past_its_segment() -> None:
    """GRUB's i386 image: PAE_MODE claims 12 bytes where 4 are left, and Xen reads the string all the same."""
    cut = xen_note(elfnote.XEN_ELFNOTE_PAE_MODE, b"yes\0" + bytes(8))[:-8]
    notes = pv_notes(32, entry=0, virt_base=0).replace(note_string(elfnote.XEN_ELFNOTE_PAE_MODE, "yes"), b"") + cut
    image = parse_image(make_elf(32, [CODE], notes), "grub")
    assert image.notes.pae == XEN_PAE_EXTCR3
    assert image.pae_extended_cr3


@pytest.mark.parametrize(
    ("mode", "expected"), [("yes", XEN_PAE_EXTCR3), ("yes,bimodal", XEN_PAE_BIMODAL), ("no", XEN_PAE_NO)]
)
def test_pae_modes(mode: str, expected: int) -> None:
    notes = pv_notes(64, entry=0, virt_base=0, extra=note_string(elfnote.XEN_ELFNOTE_PAE_MODE, mode))
    assert parse_image(make_elf(64, [CODE], notes), "kernel").notes.pae == expected


def legacy(text: str) -> bytes:
    sections = [Section("__xen_guest", SHT_PROGBITS, text.encode() + b"\0")]
    return make_elf(32, [Load(0xC0000000, b"\xf4", 0x4000)], entry=0xC0000000, sections=sections)


def test_the_legacy_section() -> None:
    """Physical addresses start at VIRT_BASE there, unless told otherwise; HYPERCALL_PAGE is a page number."""
    image = parse_image(
        legacy(
            "GUEST_OS=linux,GUEST_VER=2.6,XEN_VER=xen-3.0,VIRT_BASE=0xC0000000,VIRT_ENTRY=0xc0000004,HYPERCALL_PAGE=0x2,"
            "FEATURES=writable_page_tables|!pae_pgdir_above_4gb,PAE=yes[extended-cr3],LOADER=generic"
        ),
        "old",
    )
    assert (image.virt_base, image.paddr_offset, image.v_start) == (0xC0000000, 0xC0000000, 0xC0000000)
    assert (image.virt_entry, image.virt_hypercall) == (0xC0000004, 0xC0002000)
    assert image.required_features == 1 << features.XENFEAT_pae_pgdir_above_4gb
    assert image.notes.pae == XEN_PAE_EXTCR3
    assert image.guest_version == "2.6"


def test_legacy_pae_without_extended_cr3() -> None:
    image = parse_image(legacy("LOADER=generic,XEN_VER=xen-3.0,VIRT_BASE=3221225472,PAE=yes"), "old")
    assert image.guest_type == "xen-3.0-x86_32p"
    assert not image.pae_extended_cr3


def test_feature_strings() -> None:
    assert parse_features("") == (0, 0)
    assert parse_features("dom0|hvm_callback_vector") == (1 << 11 | 1 << 8, 0)
    assert parse_features("!dom0|unknown") == (1 << 11, 1 << 11)
    with pytest.raises(ValueError, match="brand_new"):
        parse_features("!brand_new")


def test_a_required_feature_of_the_future_is_refused() -> None:
    notes = pv_notes(entry=0, virt_base=0, extra=note_string(elfnote.XEN_ELFNOTE_FEATURES, "!brand_new"))
    with pytest.raises(KernelError, match="'brand_new'"):
        parse_image(make_elf(64, [CODE], notes), "kernel")


def test_notes_in_memory_are_found_with_their_offset() -> None:
    first, second = pv_notes(entry=0x1000, virt_base=0), pv_notes(entry=0xFFFFFFFF82000000, virt_base=1 << 63)
    foreign = xen_note(3, b"build", owner=b"GNU\0")
    memory = bytearray(3 << 20)
    memory[0x2004 : 0x2004 + len(first)] = first
    middle = second[:-24] + foreign + second[-24:]
    at = (1 << 20) - 8  # over the border of a piece that is looked at together
    memory[at : at + len(middle)] = middle
    groups = find_notes(memory)
    assert [(group.offset, group.parms.virt_entry) for group in groups] == [(0x2004, 0x1000), (at, 0xFFFFFFFF82000000)]
    assert groups[0].size == len(first)
    assert groups[0].parms.guest_os == "test"
    assert groups[1].parms.virt_base == 1 << 63
    assert groups[1].size == len(middle)


def test_a_kernel_file_in_memory_shows_its_notes() -> None:
    kernel = make_kernel(32, virt_base=0xC0000000, entry=0xC0000010)
    (group,) = find_notes(memoryview(kernel).cast("B"))
    assert group.parms.virt_entry == 0xC0000010


def test_what_only_looks_like_notes_is_left_out() -> None:
    odd = b"\0" + pv_notes(entry=0, virt_base=0)
    huge = b"\x04\0\0\0\xff\xff\0\0\x01\0\0\0Xen\0"
    assert find_notes(odd) == []
    assert find_notes(huge + bytes(64)) == []
    assert find_notes(b"") == []
    assert find_notes(b"Xen\0" * 1000) == []


def test_hostile_memory_is_given_up_on() -> None:
    assert len(find_notes((xen_note(1, b"") + b"\xff" * 4) * 100_000)) == 64


def test_an_unknown_feature_does_not_hide_a_kernel_in_memory() -> None:
    notes = pv_notes(entry=0x10, virt_base=0, extra=note_string(elfnote.XEN_ELFNOTE_FEATURES, "!brand_new"))
    (group,) = find_notes(notes)
    assert (group.size, group.parms.virt_entry) == (len(notes), 0x10)
