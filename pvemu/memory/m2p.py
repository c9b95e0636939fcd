"""The machine-to-physical table: one word per machine frame, read-only for the guest at HYPERVISOR_VIRT_START.

It lives in frames of Xen's own (the guest sees them through the hypervisor's part of its address space); frames below
the machine's first one have no backing, as holes in a real machine's memory have none.
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

    def set_range(self, mfn: int, pfn: int, count: int) -> None:
        """``count`` consecutive frames at once."""
        start = self._origin + mfn
        first = pfn & INVALID_M2P_ENTRY
        if first + count <= INVALID_M2P_ENTRY:
            self._ram.quads[start : start + count] = memoryview(array("Q", range(first, first + count)))
        else:  # a guest may name any pfn: the numbers wrap
            for i in range(count):
                self._ram.quads[start + i] = (pfn + i) & INVALID_M2P_ENTRY

    def page_at(self, offset: int) -> int | None:
        """Machine address of the table's page at byte ``offset`` from its start; None where it has no backing."""
        page = (offset >> PAGE_SHIFT) - self._first_page
        if not 0 <= page < self.frames_needed(self._ram.first_mfn, self._ram.nr_frames):
            return None
        return (self.table_mfn + page) << PAGE_SHIFT
