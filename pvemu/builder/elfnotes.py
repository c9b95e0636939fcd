"""Xen's notes in a kernel: what the guest says about itself (xen/common/libelf/libelf-dominfo.c).

Notes are read from ``PT_NOTE`` segments, else from ``SHT_NOTE`` sections, else from the string in the legacy section
``__xen_guest``. Types have a meaning only under the owner ``Xen``: type 1 is ENTRY there and NT_VERSION elsewhere. As in
libelf a description may run past the end of its segment (GRUB's last one does), never past the end of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from hypercalls.public import elfnote, features
from pvemu.builder.elf import NO_LOADER, PT_NOTE, SHT_NOTE, ElfBinary
from pvemu.errors import KernelError

__all__ = [
    "XEN_PAE_BIMODAL",
    "XEN_PAE_EXTCR3",
    "XEN_PAE_NO",
    "XEN_PAE_YES",
    "ElfDomParms",
    "NoteGroup",
    "elf_xen_parse",
    "find_notes",
    "parse_features",
]

XEN_PAE_NO, XEN_PAE_YES, XEN_PAE_EXTCR3, XEN_PAE_BIMODAL = range(4)

ELF_MAX_TOTAL_NOTE_COUNT = 65536
_ELF_NOTE = Struct("<III")  #: namesz, descsz, type
_UNSET_ADDR = (1 << 64) - 1
_UNSET_ADDR32 = (1 << 32) - 1
_OWNER = b"Xen\0"

_FEATURE_NAMES = {
    "writable_page_tables": features.XENFEAT_writable_page_tables,
    "writable_descriptor_tables": features.XENFEAT_writable_descriptor_tables,
    "auto_translated_physmap": features.XENFEAT_auto_translated_physmap,
    "supervisor_mode_kernel": features.XENFEAT_supervisor_mode_kernel,
    "pae_pgdir_above_4gb": features.XENFEAT_pae_pgdir_above_4gb,
    "hvm_callback_vector": features.XENFEAT_hvm_callback_vector,
    "dom0": features.XENFEAT_dom0,
}


@dataclass(slots=True)
class ElfDomParms:
    """What the notes say (``struct elf_dom_parms``); None is Xen's UNSET_ADDR, addresses are virtual byte addresses.

    After :func:`elf_xen_parse` on a file, ``virt_base``, ``virt_entry`` and ``elf_paddr_offset`` are never None.
    """

    guest_os: str = ""
    guest_ver: str = ""
    xen_ver: str = ""
    loader: str = ""
    pae: int = XEN_PAE_NO
    bsd_symtab: bool = False
    unmapped_initrd: bool = False
    virt_base: int | None = None
    virt_entry: int | None = None
    virt_hypercall: int | None = None
    virt_hv_start_low: int | None = None
    p2m_base: int | None = None
    elf_paddr_offset: int | None = None
    phys_entry: int | None = None
    f_supported: int = 0
    f_required: int = 0
    nr_notes: int = 0  #: Xen notes read; 0 with a ``__xen_guest`` section
    legacy: bool = False  #: from ``__xen_guest``
    noted: bool = False  #: the file has notes of any owner

    def add(self, note_type: int, number: int, string: str, array: int) -> None:
        """Take in one note: ``number``, ``string`` and ``array`` are the three readings of its description."""
        address = None if number == _UNSET_ADDR else number
        match note_type:
            case elfnote.XEN_ELFNOTE_LOADER:
                self.loader = string
            case elfnote.XEN_ELFNOTE_GUEST_OS:
                self.guest_os = string
            case elfnote.XEN_ELFNOTE_GUEST_VERSION:
                self.guest_ver = string
            case elfnote.XEN_ELFNOTE_XEN_VERSION:
                self.xen_ver = string
            case elfnote.XEN_ELFNOTE_PAE_MODE:
                if string == "yes":
                    self.pae = XEN_PAE_EXTCR3
                if "bimodal" in string:
                    self.pae = XEN_PAE_BIMODAL
            case elfnote.XEN_ELFNOTE_BSD_SYMTAB:
                self.bsd_symtab = self.bsd_symtab or string == "yes"
            case elfnote.XEN_ELFNOTE_VIRT_BASE:
                self.virt_base = address
            case elfnote.XEN_ELFNOTE_ENTRY:
                self.virt_entry = address
            case elfnote.XEN_ELFNOTE_INIT_P2M:
                self.p2m_base = address
            case elfnote.XEN_ELFNOTE_MOD_START_PFN:
                self.unmapped_initrd = bool(number)
            case elfnote.XEN_ELFNOTE_PADDR_OFFSET:
                self.elf_paddr_offset = address
            case elfnote.XEN_ELFNOTE_HYPERCALL_PAGE:
                self.virt_hypercall = address
            case elfnote.XEN_ELFNOTE_HV_START_LOW:
                self.virt_hv_start_low = address
            case elfnote.XEN_ELFNOTE_FEATURES:
                self.add_features(string)
            case elfnote.XEN_ELFNOTE_SUPPORTED_FEATURES:
                self.f_supported |= array
            case elfnote.XEN_ELFNOTE_PHYS32_ENTRY:
                self.phys_entry = None if number == _UNSET_ADDR32 else number
            case _:
                pass  # INFO, L1_MFN_VALID, SUSPEND_CANCEL and types of newer Xens ask nothing of the builder

    def add_features(self, text: str) -> None:
        """Take in a FEATURES string. Raises ValueError naming a required feature that Xen does not know."""
        supported, required = parse_features(text)
        self.f_supported |= supported
        self.f_required |= required


def parse_features(text: str) -> tuple[int, int]:
    """(supported, required) bit maps of ``a|b|!c``, where ``!`` is required. Raises ValueError(unknown required one)."""
    supported = required = 0
    for word in text.split("|"):
        bit = _FEATURE_NAMES.get(word.removeprefix("!"))
        if bit is None:
            if word.startswith("!"):
                raise ValueError(word[1:])
            continue
        supported |= 1 << bit
        if word.startswith("!"):
            required |= 1 << bit
    return supported, required


class _Note(NamedTuple):
    offset: int
    is_xen: bool
    type: int
    number: int
    string: str
    array: int  #: first u32 of an array of u32
    end: int  #: offset of what follows


def _read_note(data: bytes, offset: int) -> _Note | None:
    """The note at an offset, None when its header is cut off."""
    if offset + _ELF_NOTE.size > len(data):
        return None
    namesz, descsz, note_type = _ELF_NOTE.unpack_from(data, offset)
    name = offset + _ELF_NOTE.size
    desc = name + ((namesz + 3) & ~3)
    end = desc + ((descsz + 3) & ~3)
    if data[name : name + 4] != _OWNER:
        return _Note(offset, False, note_type, 0, "", 0, end)
    number = int.from_bytes(data[desc : desc + descsz], "little") if descsz in (1, 2, 4, 8) else 0
    array = int.from_bytes(data[desc : desc + 4], "little") if descsz and descsz % 4 == 0 else 0
    stop = data.find(b"\0", desc, desc + 4097)
    string = data[desc:stop].decode("latin-1") if stop >= 0 else ""
    return _Note(offset, True, note_type, number, string, array, end)


def _parse_notes(elf: ElfBinary, parms: ElfDomParms, start: int, end: int, budget: int) -> int:
    """Read the notes between two file offsets into ``parms``; how many of ``budget`` are left."""
    parms.noted = True
    offset = start
    while offset < end:
        note = _read_note(elf.data, offset)
        if note is None:
            break
        if not budget:
            raise KernelError(f"{elf.name}: too many ELF notes (more than {ELF_MAX_TOTAL_NOTE_COUNT}): corrupted; rebuild it")
        budget -= 1
        if note.is_xen:
            try:
                parms.add(note.type, note.number, note.string, note.array)
            except ValueError as err:
                raise _unknown_feature(elf.name, err) from None
            parms.nr_notes += 1
        offset = note.end
    return budget


def _unknown_feature(name: str, err: ValueError) -> KernelError:
    return KernelError(f"{name}: needs Xen feature {str(err)!r}, which Xen does not have: build it without ({NO_LOADER})")


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
    """``strtoull(value, NULL, 0)``: the leading number, 0 when there is none."""
    match = re.match(r"\s*(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([0-9]+))", value)
    if match is None:
        return 0
    hexadecimal, octal, decimal = match.groups()
    number = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal or "0")
    return None if number >= _UNSET_ADDR else number


def _parse_guest_info(elf: ElfBinary, parms: ElfDomParms, text: str) -> None:
    """The ``KEY=value,KEY=value`` string of ``__xen_guest``; HYPERCALL_PAGE is a page number above VIRT_BASE there."""
    parms.legacy = True
    hypercall_page: int | None = None
    for item in text.split(","):
        key, _, value = item.partition("=")
        match key:
            case "LOADER":
                parms.loader = value
            case "GUEST_OS":
                parms.guest_os = value
            case "GUEST_VER":
                parms.guest_ver = value
            case "XEN_VER":
                parms.xen_ver = value
            case "PAE":
                if value == "yes[extended-cr3]":
                    parms.pae = XEN_PAE_EXTCR3
                elif value.startswith("yes"):
                    parms.pae = XEN_PAE_YES
            case "BSD_SYMTAB":
                parms.bsd_symtab = True
            case "VIRT_BASE":
                parms.virt_base = _number(value)
            case "VIRT_ENTRY":
                parms.virt_entry = _number(value)
            case "ELF_PADDR_OFFSET":
                parms.elf_paddr_offset = _number(value)
            case "HYPERCALL_PAGE":
                hypercall_page = _number(value)
            case "FEATURES":
                try:
                    parms.add_features(value)
                except ValueError as err:
                    raise _unknown_feature(elf.name, err) from None
    if hypercall_page is not None:
        parms.virt_hypercall = ((hypercall_page << 12) + (parms.virt_base or 0)) % (1 << 64)


def elf_xen_parse(elf: ElfBinary) -> ElfDomParms:
    """Read and check what ``elf`` says to Xen. Raises KernelError when Xen would not start it as a PV guest."""
    parms = ElfDomParms()
    _segments_and_sections(elf, parms)
    if not parms.nr_notes:
        shdr = elf.section_by_name(b"__xen_guest")
        text = elf.string(shdr.sh_offset) if shdr is not None else None
        if text is not None:
            _parse_guest_info(elf, parms, text.decode("latin-1"))
    _note_check(elf, parms)
    _addr_calc(elf, parms)
    return parms


def _note_check(elf: ElfBinary, parms: ElfDomParms) -> None:
    """A Xen image, built for the generic loader or Linux, for Xen 3.0's interface, that has a PV entry."""
    name = elf.name
    if not parms.nr_notes and not parms.legacy:
        raise KernelError(
            f"{name}: not a PV kernel: no Xen notes; build it with Xen PV support (ERROR: Not a Xen-ELF image: "
            f"No ELF notes or '__xen_guest' section found; {NO_LOADER})"
        )
    if parms.phys_entry is not None and parms.virt_entry is None:
        raise KernelError(
            f"{name}: PVH kernel without a PV entry (PHYS32_ENTRY note only): build it with PV support, "
            f"pvemu starts PV guests ({NO_LOADER})"
        )
    if not parms.loader.startswith("generic") and not parms.guest_os.startswith("linux"):
        raise KernelError(
            f"{name}: notes say LOADER {parms.loader!r}, GUEST_OS {parms.guest_os!r}: set LOADER to 'generic' "
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
    if parms.virt_entry is None:
        parms.virt_entry = elf.entry


class NoteGroup(NamedTuple):
    """Xen notes that lie together in memory: where, how many bytes, and what they say (nothing defaulted)."""

    offset: int
    size: int
    parms: ElfDomParms


_CHUNK = 1 << 20
_GROUP_MAX = 1 << 16  #: no kernel's notes are longer
_NOTE_IN_MEMORY = re.compile(rb"\x04\0\0\0(?s:.)(?s:.)\0\0[\0-\x1f]\0\0\0Xen\0")


def find_notes(memory: bytes | bytearray | memoryview) -> list[NoteGroup]:
    """Groups of Xen notes in raw memory, in order of offset: what kernels loaded there say of themselves.

    A group is a run of 4-byte aligned notes that follow each other; notes of other owners between Xen's are passed over.
    Anything that only looks like a note is dropped, nothing is raised.
    """
    view = memoryview(memory).cast("B")
    groups: list[NoteGroup] = []
    done = 0
    for base in range(0, len(view), _CHUNK):
        chunk = bytes(view[base : base + _CHUNK + 16])
        if b"Xen\0" not in chunk:
            continue
        for match in _NOTE_IN_MEMORY.finditer(chunk):
            start = base + match.start()
            if start % 4 or start < done:
                continue
            group = _group_at(bytes(view[start : start + _GROUP_MAX]), start)
            if group is not None:
                groups.append(group)
                done = start + group.size
    return groups


def _plausible_notes(data: bytes) -> Iterator[_Note]:
    offset = 0
    while offset + _ELF_NOTE.size + 4 <= len(data):
        namesz, descsz, _ = _ELF_NOTE.unpack_from(data, offset)
        name_end = offset + _ELF_NOTE.size + namesz
        if not 0 < namesz <= 16 or descsz > 4096 or data[name_end - 1 : name_end] != b"\0":
            return
        note = _read_note(data, offset)
        if note is None:
            return
        yield note
        offset = note.end


def _group_at(data: bytes, start: int) -> NoteGroup | None:
    parms = ElfDomParms(noted=True)
    size = 0
    for note in _plausible_notes(data):
        if not note.is_xen:
            continue
        try:
            parms.add(note.type, note.number, note.string, note.array)
        except ValueError:
            return None
        parms.nr_notes += 1
        size = note.end
    return NoteGroup(start, size, parms) if parms.nr_notes else None
