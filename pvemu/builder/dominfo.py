"""What a kernel file asks of the builder, found and checked (xen/common/libelf/libelf-dominfo.c, ``elf_xen_parse``).

Notes are read from ``PT_NOTE`` segments, else from ``SHT_NOTE`` sections, else from the string in the legacy section
``__xen_guest``. Each check carries the words that Xen's tools print.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pvemu.builder.elf import NO_LOADER, PT_NOTE, SHT_NOTE, ElfBinary
from pvemu.builder.elfnotes import UNSET_ADDR, XEN_PAE_EXTCR3, XEN_PAE_YES, ElfDomParms, read_note
from pvemu.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["elf_xen_parse"]

ELF_MAX_TOTAL_NOTE_COUNT = 65536
_NAME_SIZE, _VALUE_SIZE = 31, 127  #: characters of a name and of a value in ``__xen_guest``
_INFO_STRINGS = {"LOADER": "loader", "GUEST_OS": "guest_os", "GUEST_VER": "guest_ver", "XEN_VER": "xen_ver"}
_INFO_ADDRESSES = {"VIRT_BASE": "virt_base", "VIRT_ENTRY": "virt_entry", "ELF_PADDR_OFFSET": "elf_paddr_offset"}


def _parse_notes(elf: ElfBinary, parms: ElfDomParms, start: int, end: int, budget: int) -> int:
    """Read the notes between two file offsets into ``parms``; how many of ``budget`` are left."""
    offset = start
    while offset < end:
        note = read_note(elf.data, offset)
        if note is None:
            break
        if not budget:
            raise KernelError(
                f"{elf.name}: too many ELF notes (more than {ELF_MAX_TOTAL_NOTE_COUNT}): corrupted; rebuild it"
            )
        budget -= 1
        if note.is_xen:
            try:
                parms.add(note)
            except ValueError as err:
                raise _unknown_feature(elf.name, err) from None
        offset = note.end
    return budget


def _unknown_feature(name: str, err: ValueError) -> KernelError:
    return KernelError(
        f"{name}: needs Xen feature {str(err)!r}, which Xen does not have: build it without ({NO_LOADER})"
    )


def _segments_and_sections(elf: ElfBinary, parms: ElfDomParms) -> None:
    budget = ELF_MAX_TOTAL_NOTE_COUNT
    for phdr in elf.phdrs:
        if phdr.p_type == PT_NOTE and phdr.p_offset:  # some binutils leave p_offset 0
            budget = _parse_notes(elf, parms, phdr.p_offset, phdr.p_offset + phdr.p_filesz, budget)
    if parms.nr_notes:
        return
    for shdr in elf.sections():
        if shdr.sh_type == SHT_NOTE:
            budget = _parse_notes(elf, parms, shdr.sh_offset, shdr.sh_offset + shdr.sh_size, budget)


def _number(value: str) -> int | None:
    """``strtoull(value, NULL, 0)``: the leading number, 0 when there is none; None is UNSET_ADDR."""
    match = re.match(r"\s*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([0-9]+))", value)
    if match is None:
        return 0
    sign, hexadecimal, octal, decimal = match.groups()
    number = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal or "0")
    number = min(number, UNSET_ADDR)
    if sign == "-":
        number = -number % (1 << 64)
    return None if number == UNSET_ADDR else number


def _guest_info_items(text: str) -> Iterator[tuple[str, str]]:
    """(name, value) of a ``__xen_guest`` string. What is too long for libelf's buffers goes on as the next name."""
    at = 0
    while at < len(text):
        name, end = "", False
        while at < len(text) and len(name) < _NAME_SIZE:
            character = text[at]
            at += 1
            end = character in ",="
            if end:
                break
            name += character
        value = ""
        if end and text[at - 1] == "=":
            while at < len(text) and len(value) < _VALUE_SIZE:
                at += 1
                if text[at - 1] == ",":
                    break
                value += text[at - 1]
        yield name, value


def _parse_guest_info(parms: ElfDomParms, text: str) -> None:
    """The ``KEY=value,KEY=value`` string of ``__xen_guest``; HYPERCALL_PAGE is a page number above VIRT_BASE there.

    A required feature that Xen does not have ends the reading, and nothing more: nobody looks at what came of it.
    """
    parms.legacy = True
    for key, value in _guest_info_items(text):
        if key in _INFO_STRINGS:
            setattr(parms, _INFO_STRINGS[key], value[:15])
        elif key in _INFO_ADDRESSES:
            setattr(parms, _INFO_ADDRESSES[key], _number(value))
        elif key == "HYPERCALL_PAGE":
            number = _number(value)
            page = ((UNSET_ADDR if number is None else number) << 12) % (1 << 64)
            parms.virt_hypercall = None if page == UNSET_ADDR else page
        elif key == "BSD_SYMTAB":
            parms.bsd_symtab = True
        elif key == "PAE" and value.startswith("yes"):
            parms.pae = XEN_PAE_EXTCR3 if value == "yes[extended-cr3]" else XEN_PAE_YES
        elif key == "FEATURES":
            try:
                parms.add_features(value)
            except ValueError:
                break
    if parms.virt_hypercall is not None and parms.virt_base is not None:
        parms.virt_hypercall = (parms.virt_hypercall + parms.virt_base) % (1 << 64)


def elf_xen_parse(elf: ElfBinary) -> ElfDomParms:
    """Read and check what ``elf`` says to Xen. Raises KernelError when Xen would not start it as a PV guest."""
    parms = ElfDomParms()
    _segments_and_sections(elf, parms)
    if not parms.nr_notes:
        shdr = elf.section_by_name(b"__xen_guest")
        text = elf.string(shdr.sh_offset) if shdr is not None else None
        if text is not None:
            _parse_guest_info(parms, text.decode("latin-1"))
    _note_check(elf, parms)
    _addr_calc(elf, parms)
    return parms


def _note_check(elf: ElfBinary, parms: ElfDomParms) -> None:
    """A Xen image, built for the generic loader or Linux, for Xen 3.0's interface."""
    name = elf.name
    if not parms.nr_notes and not parms.legacy:
        raise KernelError(
            f"{name}: not a PV kernel: no Xen notes; build it with Xen PV support (ERROR: Not a Xen-ELF image: "
            f"No ELF notes or '__xen_guest' section found; {NO_LOADER})"
        )
    pvh = "a PVH kernel (PHYS32_ENTRY), not built for PV; " if parms.phys_entry is not None else ""
    if not parms.loader.startswith("generic") and not parms.guest_os.startswith("linux"):
        raise KernelError(
            f"{name}: {pvh}notes say LOADER {parms.loader!r}, GUEST_OS {parms.guest_os!r}: set LOADER to 'generic' "
            f"(ERROR: Will only load images built for the generic loader or Linux images; {NO_LOADER})"
        )
    if not parms.xen_ver.startswith("xen-3.0"):
        raise KernelError(
            f"{name}: XEN_VERSION note says {parms.xen_ver!r}: set it to 'xen-3.0' "
            f"(ERROR: Xen will only load images built for Xen v3.0; {NO_LOADER})"
        )


def _addr_calc(elf: ElfBinary, parms: ElfDomParms) -> None:
    """The defaults of VIRT_BASE, PADDR_OFFSET and ENTRY."""
    if parms.elf_paddr_offset is not None and parms.virt_base is None:
        raise KernelError(
            f"{elf.name}: PADDR_OFFSET note without a VIRT_BASE note: add one "
            f"(ERROR: ELF_PADDR_OFFSET set, VIRT_BASE unset; {NO_LOADER})"
        )
    if parms.virt_base is None:
        parms.virt_base = 0
    if parms.elf_paddr_offset is None:
        parms.elf_paddr_offset = parms.virt_base if parms.legacy else 0
    parms.has_entry = parms.virt_entry is not None
    if parms.virt_entry is None:
        parms.virt_entry = elf.entry
