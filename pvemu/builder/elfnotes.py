"""Xen's notes in a kernel: what the guest says about itself (public/elfnote.h, xen/common/libelf/libelf-dominfo.c).

Types have a meaning only under the owner ``Xen``: type 1 is ENTRY there and NT_VERSION elsewhere. As in libelf, a
description may run past the end of its segment (GRUB's last one does), never past the end of the file.
"""

from __future__ import annotations

import re
from contextlib import suppress
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from hypercalls.public import elfnote, features

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "UNSET_ADDR",
    "XEN_PAE_BIMODAL",
    "XEN_PAE_EXTCR3",
    "XEN_PAE_NO",
    "XEN_PAE_YES",
    "ElfDomParms",
    "Note",
    "NoteGroup",
    "find_notes",
    "parse_features",
    "read_note",
]

XEN_PAE_NO, XEN_PAE_YES, XEN_PAE_EXTCR3, XEN_PAE_BIMODAL = range(4)

UNSET_ADDR = (1 << 64) - 1  #: an address note with this value says nothing
_UNSET_ADDR32 = (1 << 32) - 1
_ELF_NOTE = Struct("<III")  #: namesz, descsz, type
_OWNER = b"Xen\0"
_STRING_SIZE = 15  #: Xen keeps so much of a string note

_FEATURE_NAMES = {
    "writable_page_tables": features.XENFEAT_writable_page_tables,
    "writable_descriptor_tables": features.XENFEAT_writable_descriptor_tables,
    "auto_translated_physmap": features.XENFEAT_auto_translated_physmap,
    "supervisor_mode_kernel": features.XENFEAT_supervisor_mode_kernel,
    "pae_pgdir_above_4gb": features.XENFEAT_pae_pgdir_above_4gb,
    "hvm_callback_vector": features.XENFEAT_hvm_callback_vector,
    "dom0": features.XENFEAT_dom0,
}
_STRINGS = {
    elfnote.XEN_ELFNOTE_LOADER: "loader",
    elfnote.XEN_ELFNOTE_GUEST_OS: "guest_os",
    elfnote.XEN_ELFNOTE_GUEST_VERSION: "guest_ver",
    elfnote.XEN_ELFNOTE_XEN_VERSION: "xen_ver",
}
_ADDRESSES = {
    elfnote.XEN_ELFNOTE_VIRT_BASE: "virt_base",
    elfnote.XEN_ELFNOTE_ENTRY: "virt_entry",
    elfnote.XEN_ELFNOTE_INIT_P2M: "p2m_base",
    elfnote.XEN_ELFNOTE_PADDR_OFFSET: "elf_paddr_offset",
    elfnote.XEN_ELFNOTE_HYPERCALL_PAGE: "virt_hypercall",
    elfnote.XEN_ELFNOTE_HV_START_LOW: "virt_hv_start_low",
}


class ElfDomParms:
    """What the notes say (``struct elf_dom_parms``); None is Xen's UNSET_ADDR, addresses are virtual byte addresses.

    ``nr_notes`` counts the Xen notes read; ``legacy`` means a ``__xen_guest`` section in their place; without
    ``has_entry`` the entry is the ELF file's.
    """

    __slots__ = (
        "bsd_symtab", "elf_paddr_offset", "f_required", "f_supported", "guest_os", "guest_ver", "has_entry", "legacy",
        "loader", "nr_notes", "p2m_base", "pae", "phys_entry", "unmapped_initrd", "virt_base", "virt_entry",
        "virt_hv_start_low", "virt_hypercall", "xen_ver",
    )  # fmt: skip

    def __init__(self) -> None:
        self.guest_os = ""
        self.guest_ver = ""
        self.xen_ver = ""
        self.loader = ""
        self.pae = XEN_PAE_NO
        self.bsd_symtab = False
        self.unmapped_initrd = False
        self.virt_base: int | None = None
        self.virt_entry: int | None = None
        self.virt_hypercall: int | None = None
        self.virt_hv_start_low: int | None = None
        self.p2m_base: int | None = None
        self.elf_paddr_offset: int | None = None
        self.phys_entry: int | None = None
        self.f_supported = 0
        self.f_required = 0
        self.nr_notes = 0
        self.legacy = False
        self.has_entry = False

    def add(self, note: Note) -> None:
        """Take in one note of Xen's. Raises ValueError naming a required feature that Xen does not know."""
        self.nr_notes += 1
        if note.type in _STRINGS:
            setattr(self, _STRINGS[note.type], note.string[:_STRING_SIZE])
            return
        if note.type in _ADDRESSES:
            setattr(self, _ADDRESSES[note.type], None if note.number == UNSET_ADDR else note.number)
            return
        match note.type:
            case elfnote.XEN_ELFNOTE_PAE_MODE:
                if note.string == "yes":
                    self.pae = XEN_PAE_EXTCR3
                elif "bimodal" in note.string:
                    self.pae = XEN_PAE_BIMODAL
            case elfnote.XEN_ELFNOTE_BSD_SYMTAB:
                self.bsd_symtab = self.bsd_symtab or note.string == "yes"
            case elfnote.XEN_ELFNOTE_MOD_START_PFN:
                self.unmapped_initrd = bool(note.number)
            case elfnote.XEN_ELFNOTE_FEATURES:
                self.add_features(note.string)
            case elfnote.XEN_ELFNOTE_SUPPORTED_FEATURES:
                self.f_supported |= note.array
            case elfnote.XEN_ELFNOTE_PHYS32_ENTRY:
                self.phys_entry = None if note.number == _UNSET_ADDR32 else note.number
            case _:
                pass  # INFO, L1_MFN_VALID, SUSPEND_CANCEL and types of newer Xens ask nothing of the builder

    def add_features(self, text: str) -> None:
        """Take in a FEATURES string. Raises ValueError naming a required feature that Xen does not know."""
        supported, required = parse_features(text)
        self.f_supported |= supported
        self.f_required |= required


def parse_features(text: str) -> tuple[int, int]:
    """(supported, required) bit maps of ``a|b|!c``, where ``!`` is required. ValueError: an unknown required one."""
    supported = required = 0
    for word in text.split("|"):
        bit = _FEATURE_NAMES.get(word.removeprefix("!"))
        if bit is None:
            if word.startswith("!"):
                raise ValueError(word[1:64])
            continue
        supported |= 1 << bit
        if word.startswith("!"):
            required |= 1 << bit
    return supported, required


class Note(NamedTuple):
    """A note; ``number``, ``string`` and ``array`` are readings of its description, empty unless it is Xen's."""

    offset: int
    is_xen: bool
    type: int
    number: int
    string: str
    array: int  #: first u32 of an array of u32
    end: int  #: offset of what follows


def read_note(data: bytes, offset: int) -> Note | None:
    """The note at an offset, None when its header is cut off."""
    if offset + _ELF_NOTE.size > len(data):
        return None
    namesz, descsz, note_type = _ELF_NOTE.unpack_from(data, offset)
    name = offset + _ELF_NOTE.size
    desc = name + ((namesz + 3) & ~3)
    end = desc + ((descsz + 3) & ~3)
    if data[name : name + 4] != _OWNER:
        return Note(offset, False, note_type, 0, "", 0, end)
    number = int.from_bytes(data[desc : desc + descsz], "little") if descsz in (1, 2, 4, 8) else 0
    array = int.from_bytes(data[desc : desc + 4], "little") if descsz and descsz % 4 == 0 else 0
    stop = data.find(b"\0", desc, desc + 4097)
    string = data[desc:stop].decode("latin-1") if stop >= 0 else ""
    return Note(offset, True, note_type, number, string, array, end)


class NoteGroup(NamedTuple):
    """Xen notes that lie together in memory: where, how many bytes, and what they say (nothing defaulted)."""

    offset: int
    size: int
    parms: ElfDomParms


_GROUP_MAX = 1 << 13  #: bytes; no kernel's notes are longer
_GROUPS_MAX = 64  #: more is no memory that holds kernels
_DESC_MAX = 4096
_OWNER_IN_MEMORY = re.compile(rb"Xen\0")


def find_notes(memory: bytes | bytearray | memoryview) -> list[NoteGroup]:
    """Groups of Xen notes in raw memory, in order of offset: what kernels loaded there say of themselves.

    A group is a run of 4-byte aligned notes that follow each other; notes of other owners between Xen's are skipped.
    The first 64 groups are given. Nothing is raised, whatever the memory holds.
    """
    view = memoryview(memory).cast("B")
    groups: list[NoteGroup] = []
    done = 0
    for match in _OWNER_IN_MEMORY.finditer(view):
        start = match.start() - _ELF_NOTE.size
        if start < done or start % 4:
            continue
        namesz, descsz, _ = _ELF_NOTE.unpack_from(view, start)
        if namesz != len(_OWNER) or descsz > _DESC_MAX:
            continue
        groups.append(_group_at(bytes(view[start : start + _GROUP_MAX]), start))
        done = start + groups[-1].size
        if len(groups) == _GROUPS_MAX:
            break
    return groups


def _plausible_notes(data: bytes) -> Iterator[Note]:
    offset = 0
    while offset + _ELF_NOTE.size + 4 <= len(data):
        namesz, descsz, _ = _ELF_NOTE.unpack_from(data, offset)
        name_end = offset + _ELF_NOTE.size + namesz
        if not 0 < namesz <= 16 or descsz > _DESC_MAX or data[name_end - 1 : name_end] != b"\0":
            return
        note = read_note(data, offset)
        if note is None:
            return
        yield note
        offset = note.end


def _group_at(data: bytes, start: int) -> NoteGroup:
    """The group that begins with the Xen note at the start of ``data``."""
    parms = ElfDomParms()
    size = 0
    for note in _plausible_notes(data):
        if not note.is_xen:
            continue
        with suppress(ValueError):  # a required feature that Xen lacks is no reason not to know the kernel
            parms.add(note)
        size = note.end
    return NoteGroup(start, size, parms)
