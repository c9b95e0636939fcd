"""The machine-to-physical table: one word per machine frame, read-only for the guest at HYPERVISOR_VIRT_START.

It lives in frames of Xen's own (the guest sees them through the hypervisor's part of its address space). Of frames
below the machine's first one, which other domains have, a guest sees one page over and over: pfns from 0 up, which are
those domains'. What a guest takes for data there looks like no error, as on a machine that is in use.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Mfn

if TYPE_CHECKING:
    from pvemu.memory.ram import Ram

__all__ = ["INVALID_M2P_ENTRY", "MachineToPhys"]

INVALID_M2P_ENTRY = (1 << 64) - 1
_ENTRIES_PER_PAGE = PAGE_SIZE // 8
_COMPAT_ENTRIES_PER_PAGE = PAGE_SIZE // 4
_SUPERPAGE_FRAMES = 512


class MachineToPhys:
    """The table, kept in ``frames_needed`` Xen-owned frames from ``table_mfn`` on."""

    def __init__(self, ram: Ram, table_mfn: Mfn) -> None:
        self._ram = ram
        self.table_mfn = table_mfn
        self.max_mfn = ram.first_mfn + ram.nr_frames
        self._first_page = ram.first_mfn // _ENTRIES_PER_PAGE
        #: quad index in RAM of the (possibly absent) entry for mfn 0
        self._origin = (((table_mfn - ram.first_mfn) << PAGE_SHIFT) >> 3) - self._first_page * _ENTRIES_PER_PAGE
        count = self.frames_needed(ram.first_mfn, ram.nr_frames)
        start = (table_mfn - ram.first_mfn) << PAGE_SHIFT
        ram.bytes[start : start + count * PAGE_SIZE] = b"\xff" * (count * PAGE_SIZE)
        self.compat: CompatMachineToPhys | None = None  #: kept in step with this one
        self._others_page: int | None = None

    @staticmethod
    def frames_needed(first_mfn: int, nr_frames: int) -> int:
        """Frames that a table for this machine takes."""
        return (first_mfn + nr_frames - 1) // _ENTRIES_PER_PAGE - first_mfn // _ENTRIES_PER_PAGE + 1

    def get(self, mfn: int) -> int:
        """get_gpfn_from_mfn: the pfn of a machine frame, INVALID_M2P_ENTRY where it has none."""
        return self._ram.quads[self._origin + mfn] if self._ram.contains(mfn) else INVALID_M2P_ENTRY

    def set(self, mfn: int, pfn: int) -> None:
        """set_gpfn_from_mfn: any u64."""
        if self._ram.contains(mfn):
            self._ram.quads[self._origin + mfn] = pfn
            if self.compat is not None:
                self.compat.set(mfn, pfn)

    def set_range(self, mfn: int, pfn: int, count: int) -> None:
        """``count`` consecutive frames at once."""
        start = self._origin + mfn
        first = pfn & INVALID_M2P_ENTRY
        if first + count <= INVALID_M2P_ENTRY:
            self._ram.quads[start : start + count] = memoryview(array("Q", range(first, first + count)))
        else:  # a guest may name any pfn: the numbers wrap
            for i in range(count):
                self._ram.quads[start + i] = (pfn + i) & INVALID_M2P_ENTRY
        if self.compat is not None:
            self.compat.set_range(mfn, pfn, count)

    def show_others(self, mfn: Mfn) -> None:
        """Have frame ``mfn``, one of Xen's own, stand for the table's part about other domains' memory, in the width
        of the table that the guest sees.
        """
        pfns = array("Q", range(_ENTRIES_PER_PAGE))
        self._others_page = mfn << PAGE_SHIFT
        if self.compat is not None:
            pfns = array("I", range(_COMPAT_ENTRIES_PER_PAGE))
            self.compat.others_page = self._others_page
        self._ram.frame(mfn)[:] = pfns.tobytes()

    def shown_at(self, offset: int) -> int | None:
        """Machine address of what a guest finds at byte ``offset`` of the table; None behind its end."""
        if 0 <= offset >> PAGE_SHIFT < self._first_page:
            return self._others_page
        return self.page_at(offset)

    def page_at(self, offset: int) -> int | None:
        """Machine address of the table's page at byte ``offset`` from its start; None where it has no backing."""
        page = (offset >> PAGE_SHIFT) - self._first_page
        if not 0 <= page < self.frames_needed(self._ram.first_mfn, self._ram.nr_frames):
            return None
        return (self.table_mfn + page) << PAGE_SHIFT


class CompatMachineToPhys:
    """The same for a 32-bit guest, with entries of 32 bits. Xen maps it by 2 MiB pages, so that the frames begin as far
    behind a multiple of 2 MiB as the entry for the machine's first frame does in the table.
    """

    def __init__(self, ram: Ram, first_heap_mfn: Mfn) -> None:
        self._ram = ram
        self._first_page = ram.first_mfn // _COMPAT_ENTRIES_PER_PAGE
        self._pages = (ram.first_mfn + ram.nr_frames - 1) // _COMPAT_ENTRIES_PER_PAGE - self._first_page + 1
        #: Machine frame of the (possibly absent) page for mfn 0
        self.table_mfn = first_heap_mfn + (self._first_page - first_heap_mfn) % _SUPERPAGE_FRAMES - self._first_page
        self._words = ram.bytes.cast("I")
        start = (self.table_mfn + self._first_page - ram.first_mfn) << PAGE_SHIFT
        self._origin = ((self.table_mfn - ram.first_mfn) << PAGE_SHIFT) >> 2
        ram.bytes[start : start + self._pages * PAGE_SIZE] = b"\xff" * (self._pages * PAGE_SIZE)
        self.others_page: int | None = None  #: see ``MachineToPhys.show_others``

    @staticmethod
    def frames_needed(first_mfn: int, nr_frames: int) -> int:
        """Frames to set aside for such a table, wherever they begin."""
        pages = (first_mfn + nr_frames - 1) // _COMPAT_ENTRIES_PER_PAGE - first_mfn // _COMPAT_ENTRIES_PER_PAGE + 1
        return pages + _SUPERPAGE_FRAMES

    def set(self, mfn: int, pfn: int) -> None:
        """The low half of an entry, for a frame of the machine."""
        self._words[self._origin + mfn] = pfn & 0xFFFF_FFFF

    def set_range(self, mfn: int, pfn: int, count: int) -> None:
        """``count`` consecutive frames at once."""
        start, first = self._origin + mfn, pfn & 0xFFFF_FFFF
        if first + count <= 1 << 32:
            self._words[start : start + count] = memoryview(array("I", range(first, first + count)))
        else:
            for i in range(count):
                self._words[start + i] = (pfn + i) & 0xFFFF_FFFF

    def shown_at(self, offset: int) -> int | None:
        """Machine address of what a guest finds at byte ``offset``, to the end of the last 2 MiB; None behind that."""
        maddr = self.page_at(offset)
        end = self._first_page + self._pages
        if maddr is None and 0 <= offset >> PAGE_SHIFT < -(-end // _SUPERPAGE_FRAMES) * _SUPERPAGE_FRAMES:
            return self.others_page
        return maddr

    def page_at(self, offset: int) -> int | None:
        """Machine address of the page at byte ``offset`` of the table; None where it has no backing."""
        page = (offset >> PAGE_SHIFT) - self._first_page
        return (self.table_mfn + (offset >> PAGE_SHIFT)) << PAGE_SHIFT if 0 <= page < self._pages else None

    def superpages(self) -> list[int]:
        """Machine addresses of the 2 MiB pages of the table, from its start; 0 where none of one is backed."""
        end = self._first_page + self._pages
        first = self._first_page - self._first_page % _SUPERPAGE_FRAMES
        return [
            (self.table_mfn + page) << PAGE_SHIFT if page >= first else 0 for page in range(0, end, _SUPERPAGE_FRAMES)
        ]
