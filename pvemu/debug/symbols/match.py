"""Whether a file is what was loaded: compared by bytes, since names and versions prove nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hypercalls.errors import XenError

if TYPE_CHECKING:
    from pvemu.debug.symbols.elf_file import ElfFile, Section

__all__ = ["Readable", "fits", "is_loaded"]

#: A loaded kernel or module patches some of its own code, so not every sample has to agree.
_SAMPLES, _SAMPLE_SIZE, _ENOUGH = 16, 32, 0.75
#: What is no larger is read at once.
_READ_WHOLE = 1 << 18


class Readable(Protocol):
    """Memory by guest addresses: the guest's own, or frames that held some of it."""

    def copy_from_guest(self, vaddr: int, size: int) -> bytes:
        """Bytes; XenError where there are none."""


def is_loaded(elf: ElfFile, guest: Readable) -> bool:
    """Whether the file's first segment (a kernel's text) lies in guest memory where it belongs."""
    if elf.is_relocatable:
        return False
    for vaddr, data, _size in elf.segments():
        if len(data) >= _SAMPLE_SIZE:
            step = max(_SAMPLE_SIZE, (len(data) - _SAMPLE_SIZE) // _SAMPLES)
            places = [(at, _SAMPLE_SIZE) for at in range(0, len(data) - _SAMPLE_SIZE + 1, step)]
            return _agreement(guest, vaddr, data, places) >= _ENOUGH
    return False


def fits(elf: ElfFile, segments: dict[int, tuple[int, int]], guest: Readable) -> dict[int, int] | None:
    """Where each section of a relocatable file (by number) is, when the file is the one whose sections were loaded as
    ``segments``: the sizes in order are equal, and so is the code but for what a loader patches.
    """
    sections = elf.sections()
    loaded = [segments[number] for number in sorted(segments)]
    if [section.size for section in sections] != [size for _address, size in loaded]:
        return None
    places = {section.number: address for section, (address, _size) in zip(sections, loaded, strict=True)}
    for section in sections:
        if section.is_code:
            equal = _agreement(guest, places[section.number], section.data, _constant(elf, section))
            if equal < _ENOUGH:
                return None
    return places


def _constant(elf: ElfFile, section: Section) -> list[tuple[int, int]]:
    """(offset, size) of the parts of a section that no relocation touches."""
    found, at = [], 0
    for offset, size in [*elf.relocated(section.number), (section.size, 0)]:
        if offset > at:
            found.append((at, offset - at))
        at = max(at, offset + size)
    return found


def _agreement(guest: Readable, vaddr: int, data: memoryview, places: list[tuple[int, int]]) -> float:
    """The share of ``places`` in ``data`` that guest memory from ``vaddr`` on agrees with."""
    if not places:
        return 1.0
    equal = 0
    whole = _read(guest, vaddr, len(data)) if len(data) <= _READ_WHOLE else None
    for at, size in places:
        there = whole[at : at + size] if whole is not None else _read(guest, vaddr + at, size)
        equal += there is not None and there == bytes(data[at : at + size])
    return equal / len(places)


def _read(guest: Readable, vaddr: int, size: int) -> bytes | None:
    try:
        return guest.copy_from_guest(vaddr, size)
    except XenError:
        return None
