"""The initial page tables: how many, where, and what is in them (tools/libs/guest/xg_dom_x86.c).

``count_pgtables``, ``alloc_pgtables_pv`` and ``setup_pgtables_pv``, for four levels (pv64) and three (pv32pae: one L3
of four entries, and an L2 for its last one even when nothing is mapped there). A second mapping is the p2m at its own
virtual address; its tables are shared with the first mapping where they can be.

Level 1 entries are written as a running guest sees them: Xen makes a 64-bit kernel's pages user pages, because the
kernel runs in ring 3, and marks them with bit 52 (xen/arch/x86/mm.c, ``adjust_guest_l1e``).
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Pfn

if TYPE_CHECKING:
    from pvemu.builder.guest_pages import GuestPages

__all__ = ["PAGING32", "PAGING64", "Mapping", "MappingLevel", "Paging", "count_pgtables", "setup_pgtables"]

PGTBL_LEVEL_SHIFT = 9
_ENTRIES = 1 << PGTBL_LEVEL_SHIFT

_PAGE_PRESENT, _PAGE_RW, _PAGE_USER, _PAGE_ACCESSED, _PAGE_DIRTY = 0x1, 0x2, 0x4, 0x20, 0x40
_PAGE_GUEST_KERNEL = 1 << 52
_UPPER_PROT = _PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED | _PAGE_DIRTY


class Paging(NamedTuple):
    """Paging of one width (``struct xc_dom_params``)."""

    levels: int
    vaddr_mask: int
    l1_prot: int
    sizeof_pfn: int  #: bytes of a p2m entry


PAGING64 = Paging(4, (1 << 48) - 1, _PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED | _PAGE_GUEST_KERNEL, 8)
PAGING32 = Paging(3, (1 << 32) - 1, _PAGE_PRESENT | _PAGE_RW | _PAGE_ACCESSED, 4)


class MappingLevel:
    """Tables of one level (or the area itself): what they cover, to the last byte, and their first pfn."""

    __slots__ = ("last", "pfn", "pgtables", "start")

    def __init__(self, start: int = 0, last: int = 0) -> None:
        self.start = start
        self.last = last
        self.pfn = 0
        self.pgtables = 0


class Mapping(NamedTuple):
    """An area of virtual addresses and the tables it adds, ``levels[0]`` being those with level 1 entries."""

    area: MappingLevel
    levels: list[MappingLevel]


class MappingOverlapError(Exception):
    """Two areas share addresses."""


def count_pgtables(paging: Paging, earlier: list[Mapping], start: int, last: int, pfn: int) -> Mapping:
    """The tables that mapping ``start`` to ``last`` takes beside those of ``earlier`` mappings, the first at ``pfn``.

    The area's own pfn is left 0. Raises MappingOverlapError.
    """
    area = MappingLevel(start & paging.vaddr_mask, last & paging.vaddr_mask)
    # libxc compares addresses as they are with those of the mapping, which are cut to 48 bits: high ones never overlap
    if any(start < other.area.last and last > other.area.start for other in earlier):
        raise MappingOverlapError
    mapping = Mapping(area, [MappingLevel() for _ in range(paging.levels)])
    for number in range(paging.levels - 1, -1, -1):
        level = mapping.levels[number]
        level.pfn = pfn + area.pgtables
        if number == paging.levels - 1:
            if not earlier:
                level.last = paging.vaddr_mask
                level.pgtables = 1
        else:
            bits = PAGE_SHIFT + (number + 1) * PGTBL_LEVEL_SHIFT
            mask = (1 << bits) - 1
            level.start, level.last = area.start & ~mask, area.last | mask
            if paging.levels == 3 and number == 1 and not earlier and last < 0xC0000000:
                level.last = paging.vaddr_mask
            _leave_out_shared(level, [other.levels[number] for other in earlier])
            if level.start < level.last:
                level.pgtables = ((level.last - level.start) >> bits) + 1
        area.pgtables += level.pgtables
    return mapping


def _leave_out_shared(level: MappingLevel, others: list[MappingLevel]) -> None:
    """Take away what tables of earlier mappings cover already."""
    for other in others:
        if other.start == other.last:
            continue
        if other.start <= level.start and level.last <= other.last:
            level.start = level.last = 0
            return
        if other.start <= level.start <= other.last:
            level.start = other.last + 1
        if other.start <= level.last <= other.last:
            level.last = other.start - 1


def setup_pgtables(paging: Paging, mappings: list[Mapping], pages: GuestPages) -> None:
    """Write all tables, entries holding machine frames; pages that are tables are mapped read-only."""
    tables = [range(m.levels[-1].pfn, m.levels[-1].pfn + m.area.pgtables) for m in mappings]
    for number in range(paging.levels):
        for holder in mappings:
            level = holder.levels[number]
            if not level.pgtables:
                continue
            entries = array("Q", bytes(level.pgtables * _ENTRIES * 8))
            for mapping in mappings:
                below = mapping.levels[number - 1] if number else mapping.area
                if number and not below.pgtables:
                    continue
                _fill(entries, level, below, number, pages, _UPPER_PROT if number else paging.l1_prot)
                if not number:
                    _write_protect(entries, level, mapping.area, tables)
            pages.write(level.pfn << PAGE_SHIFT, entries.tobytes())


def _shared(level: MappingLevel, below: MappingLevel, shift: int) -> tuple[int, int, int]:
    """Where ``below`` lies in the tables of ``level``: first entry, number of entries, offset into ``below``."""
    start, last = max(level.start, below.start), min(level.last, below.last)
    if start > last:
        return 0, 0, 0
    first = (start - level.start) >> shift
    return first, ((last - level.start) >> shift) - first + 1, (start - below.start) >> shift


def _fill(
    entries: array[int], level: MappingLevel, below: MappingLevel, number: int, pages: GuestPages, prot: int
) -> None:
    """Point the entries at ``below``: its pages, or the tables of the next level."""
    first, count, offset = _shared(level, below, PAGE_SHIFT + number * PGTBL_LEVEL_SHIFT)
    for mfn, length in pages.runs(Pfn(below.pfn + offset), count):
        maddr = mfn << PAGE_SHIFT | prot
        entries[first : first + length] = array("Q", range(maddr, maddr + (length << PAGE_SHIFT), PAGE_SIZE))
        first += length


def _write_protect(entries: array[int], level: MappingLevel, area: MappingLevel, tables: list[range]) -> None:
    """Clear RW in the entries that map page tables."""
    first, count, offset = _shared(level, area, PAGE_SHIFT)
    low = area.pfn + offset
    for pfns in tables:
        for pfn in range(max(pfns.start, low), min(pfns.stop, low + count)):
            entries[first + pfn - low] &= ~_PAGE_RW
