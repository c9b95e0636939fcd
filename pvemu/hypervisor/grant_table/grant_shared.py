"""Grant entries as the guest writes them, in frames that Xen shares with it: version 1 and 2 layouts
(public/grant_table.h).

An entry of version 1 has 8 bytes, in which Xen sets the in-use flags. One of version 2 has 16: a frame number of 64
bits, a part of a page, or an entry of another domain's table; its in-use flags are in status frames of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hypercalls.public import grant_table as gt
from pvemu.frames import PAGE_SIZE, Mfn

if TYPE_CHECKING:
    from pvemu.memory.ram import Ram

__all__ = ["RESERVED_ENTRIES", "SharedEntries", "SharedV1", "SharedV2", "status_frames_for"]

#: Entries of the toolstack's, which keep their meaning when the version changes.
RESERVED_ENTRIES = gt.GNTTAB_NR_RESERVED_ENTRIES
_V1_SIZE, _V2_SIZE, _STATUS_SIZE = 8, 16, 2
_IN_USE = gt.GTF_reading | gt.GTF_writing


def status_frames_for(grant_frames: int) -> int:
    """grant_to_status_frames: how many status frames go with a table of version 2."""
    return -(-grant_frames * (PAGE_SIZE // _V2_SIZE) // (PAGE_SIZE // _STATUS_SIZE))


def _word(view: memoryview, start: int, size: int = 2) -> int:
    return int.from_bytes(view[start : start + size], "little")


class SharedEntries(Protocol):
    """The entries of one version; ``ref`` is below ``count`` everywhere."""

    version: int

    @property
    def count(self) -> int:
        """nr_grant_entries."""

    def header(self, ref: int) -> tuple[int, int]:
        """(GTF_* flags, domid)."""

    def add_flags(self, ref: int, flags: int) -> None:
        """Set flags of the entry itself."""

    def frame(self, ref: int) -> int:
        """The frame that the entry grants, or wants."""

    def set_frame(self, ref: int, mfn: int) -> None:
        """Tell the guest of a frame that was transferred to it."""

    def extent(self, ref: int) -> tuple[int, int] | None:
        """(first byte, length) of a grant of a part of a page."""

    def add_status(self, ref: int, flags: int) -> None:
        """Mark the entry as in use: GTF_reading, GTF_writing."""

    def clear_status(self, ref: int, flags: int) -> None:
        """Take in-use flags away."""

    def swap(self, ref_a: int, ref_b: int) -> None:
        """Exchange two entries."""

    def put_reserved(self, ref: int, entry: tuple[int, int, int]) -> None:
        """Write (flags with the in-use ones, domid, frame)."""

    def get_reserved(self, ref: int) -> tuple[int, int, int]:
        """What ``put_reserved`` of the other version takes; zeros for what it cannot express."""


class _Entries:
    """What entries of both versions have in the same place. ``table``: frames of the table, which may grow."""

    entry_size: int  #: bytes

    def __init__(self, ram: Ram, table: list[Mfn]) -> None:
        self._ram = ram
        self._table = table

    @property
    def count(self) -> int:
        """nr_grant_entries."""
        return len(self._table) * (PAGE_SIZE // self.entry_size)

    def _view(self, ref: int) -> memoryview:
        page, index = divmod(ref, PAGE_SIZE // self.entry_size)
        return self._ram.frame(self._table[page])[index * self.entry_size : (index + 1) * self.entry_size]

    def header(self, ref: int) -> tuple[int, int]:
        """(GTF_* flags, domid)."""
        view = self._view(ref)
        return _word(view, 0), _word(view, 2)

    def add_flags(self, ref: int, flags: int) -> None:
        """Set flags of the entry itself."""
        view = self._view(ref)
        view[0:2] = (_word(view, 0) | flags).to_bytes(2, "little")


class SharedV1(_Entries):
    """``table``: frames of the table, which may grow."""

    version = 1
    entry_size = _V1_SIZE

    def frame(self, ref: int) -> int:
        """32 bits."""
        return _word(self._view(ref), 4, 4)

    def set_frame(self, ref: int, mfn: int) -> None:
        """Tell the guest of a frame that was transferred to it."""
        self._view(ref)[4:8] = mfn.to_bytes(4, "little")

    def extent(self, ref: int) -> tuple[int, int] | None:
        """A grant is of a whole page."""
        return None

    add_status = _Entries.add_flags

    def clear_status(self, ref: int, flags: int) -> None:
        """Take in-use flags away."""
        view = self._view(ref)
        view[0:2] = (_word(view, 0) & ~flags).to_bytes(2, "little")

    def swap(self, ref_a: int, ref_b: int) -> None:
        """Exchange two entries."""
        a, b = self._view(ref_a), self._view(ref_b)
        a[:], b[:] = bytes(b), bytes(a)

    def put_reserved(self, ref: int, entry: tuple[int, int, int]) -> None:
        """Write (flags with the in-use ones, domid, frame)."""
        flags, domid, frame = entry
        self._view(ref)[:] = flags.to_bytes(2, "little") + domid.to_bytes(2, "little") + frame.to_bytes(4, "little")

    def get_reserved(self, ref: int) -> tuple[int, int, int]:
        """As it is."""
        return (*self.header(ref), self.frame(ref))


class SharedV2(_Entries):
    """``status``: the status frames, enough of them for the table."""

    version = 2
    entry_size = _V2_SIZE

    def __init__(self, ram: Ram, table: list[Mfn], status: list[Mfn]) -> None:
        super().__init__(ram, table)
        self._status = status

    def _status_view(self, ref: int) -> memoryview:
        page, index = divmod(ref, PAGE_SIZE // _STATUS_SIZE)
        return self._ram.frame(self._status[page])[index * _STATUS_SIZE : (index + 1) * _STATUS_SIZE]

    def frame(self, ref: int) -> int:
        """64 bits."""
        return _word(self._view(ref), 8, 8)

    def set_frame(self, ref: int, mfn: int) -> None:
        """Tell the guest of a frame that was transferred to it."""
        self._view(ref)[8:16] = mfn.to_bytes(8, "little")

    def extent(self, ref: int) -> tuple[int, int] | None:
        """(first byte, length) of a grant with GTF_sub_page."""
        view = self._view(ref)
        return (_word(view, 4), _word(view, 6)) if _word(view, 0) & gt.GTF_sub_page else None

    def transitive(self, ref: int) -> tuple[int, int]:
        """(domain, entry of its table) that a GTF_transitive entry stands for."""
        view = self._view(ref)
        return _word(view, 4), _word(view, 8, 4)

    def add_status(self, ref: int, flags: int) -> None:
        """Mark the entry as in use: GTF_reading, GTF_writing."""
        view = self._status_view(ref)
        view[:] = (_word(view, 0) | flags).to_bytes(2, "little")

    def clear_status(self, ref: int, flags: int) -> None:
        """Take in-use flags away."""
        view = self._status_view(ref)
        view[:] = (_word(view, 0) & ~flags).to_bytes(2, "little")

    def swap(self, ref_a: int, ref_b: int) -> None:
        """Exchange two entries and their statuses."""
        for view in (self._view, self._status_view):
            a, b = view(ref_a), view(ref_b)
            a[:], b[:] = bytes(b), bytes(a)

    def put_reserved(self, ref: int, entry: tuple[int, int, int]) -> None:
        """Write (flags with the in-use ones, domid, frame)."""
        flags, domid, frame = entry
        self._status_view(ref)[:] = (flags & _IN_USE).to_bytes(2, "little")
        header = (flags & ~_IN_USE).to_bytes(2, "little") + domid.to_bytes(2, "little")
        self._view(ref)[:] = header + bytes(4) + frame.to_bytes(8, "little")

    def get_reserved(self, ref: int) -> tuple[int, int, int]:
        """Zeros for all but a grant of a page."""
        flags, domid = self.header(ref)
        if flags & gt.GTF_type_mask != gt.GTF_permit_access:
            return 0, 0, 0
        return flags | _word(self._status_view(ref), 0), domid, self.frame(ref)

    def is_representable(self, ref: int) -> bool:
        """Whether an entry of version 1 could say the same."""
        kind = self.header(ref)[0] & gt.GTF_type_mask
        return not (kind == gt.GTF_transitive or (kind == gt.GTF_permit_access and self.frame(ref) >> 32))
