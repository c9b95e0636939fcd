"""The domain's grant table, version 1 (xen/common/grant_table.c).

The table's frames are Xen's, shared writable with the guest. dom0's back-ends map entries through
:meth:`GrantTable.map_for_backend`; the guest's own operations work on grants of its own (no other domain grants it
anything). Version 2 is refused as by a Xen whose ``gnttab=max-ver:1``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from hypercalls.public import grant_table as gt
from hypercalls.public import xen
from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Mfn
from pvemu.memory.frame_table import FrameTable, PageType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.page_types import PageTypes
    from pvemu.memory.ram import Ram

__all__ = ["DEFAULT_MAX_GRANT_FRAMES", "GrantRefusedError", "GrantTable"]

#: max_grant_frames that xl gives a domain (LIBXL_MAX_GRANT_FRAMES_DEFAULT follows Xen's 64).
DEFAULT_MAX_GRANT_FRAMES = 64
_ENTRY_SIZE = 8
_ENTRIES_PER_FRAME = PAGE_SIZE // _ENTRY_SIZE
_INVALID_HANDLE = 0xFFFF_FFFF


class GrantRefusedError(Exception):
    """A back-end's mapping that Xen refuses, with its GNTST_* status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


class GrantTable:
    """``alloc_frame`` gives Xen heap frames that the guest may map writable."""

    def __init__(
        self, domid: int, ram: Ram, frames: FrameTable, types: PageTypes, alloc_frame: Callable[[], Mfn]
    ) -> None:
        self._domid = domid
        self._ram = ram
        self._frames = frames
        self._types = types
        self._alloc_frame = alloc_frame
        self.max_frames = DEFAULT_MAX_GRANT_FRAMES
        self.table: list[Mfn] = [alloc_frame()]
        self._pins: dict[int, int] = {}

    # -- entries -----------------------------------------------------------------------------------------------------
    def _view(self, ref: int) -> memoryview | None:
        page, index = divmod(ref, _ENTRIES_PER_FRAME)
        if page >= len(self.table):
            return None
        return self._ram.frame(self.table[page])[index * _ENTRY_SIZE : (index + 1) * _ENTRY_SIZE]

    def seed(self, ref: int, mfn: int, domid: int) -> None:
        """What the toolstack writes for console and xenstore (xc_dom_gnttab_seed)."""
        view = self._view(ref)
        assert view is not None
        view[:] = gt.GTF_permit_access.to_bytes(2, "little") + domid.to_bytes(2, "little") + mfn.to_bytes(4, "little")

    def _acquire(self, ref: int, domid: int, readonly: bool) -> int:
        """_set_status_v1 and the frame checks of map_grant_ref: the entry's frame, marked as read (and written)."""
        view = self._view(ref)
        if view is None:
            raise GrantRefusedError(gt.GNTST_bad_gntref, f"Bad grant reference {ref:#x}")
        flags = int.from_bytes(view[0:2], "little")
        owner = int.from_bytes(view[2:4], "little")
        mfn = int.from_bytes(view[4:8], "little")
        kind = flags & (gt.GTF_type_mask | gt.GTF_sub_page)
        if not self._pins.get(ref) and (kind != gt.GTF_permit_access or owner != domid):
            raise GrantRefusedError(
                gt.GNTST_general_error, f"Bad flags ({flags:x}) or dom ({owner}); expected d{domid}"
            )
        if not readonly and flags & gt.GTF_readonly:
            raise GrantRefusedError(gt.GNTST_general_error, "Attempt to write-pin a r/o grant entry")
        if not self._frames.is_guest(mfn):
            raise GrantRefusedError(gt.GNTST_bad_page, f"Could not pin the granted frame {mfn:x}")
        if not readonly:
            try:
                self._types.get_type(mfn, PageType.WRITABLE)
            except XenError as error:
                raise GrantRefusedError(gt.GNTST_general_error, error.reason) from error
            self._types.put_type(mfn)
        flags |= gt.GTF_reading | (0 if readonly else gt.GTF_writing)
        view[0:2] = flags.to_bytes(2, "little")
        self._pins[ref] = self._pins.get(ref, 0) + 1
        return mfn

    def _release(self, ref: int) -> None:
        left = self._pins.get(ref, 0) - 1
        if left > 0:
            self._pins[ref] = left
            return
        self._pins.pop(ref, None)
        view = self._view(ref)
        if view is not None:
            flags = int.from_bytes(view[0:2], "little") & ~(gt.GTF_reading | gt.GTF_writing)
            view[0:2] = flags.to_bytes(2, "little")

    # -- dom0's back-ends --------------------------------------------------------------------------------------------
    def map_for_backend(self, ref: int, readonly: bool) -> Mfn:
        """The frame that entry ``ref`` grants dom0. GrantRefusedError with Xen's status."""
        return Mfn(self._acquire(ref, 0, readonly))

    def unmap_for_backend(self, ref: int) -> None:
        """Drop one mapping of ``ref``: the entry loses its in-use flags with the last one."""
        self._release(ref)

    # -- the guest's operations --------------------------------------------------------------------------------------
    def _is_self(self, dom: int) -> bool:
        return dom in (xen.DOMID_SELF, self._domid)

    def _domain_status(self, dom: int) -> int:
        """GNTST_okay for the caller itself, else the status of asking for another domain's table."""
        if self._is_self(dom):
            return gt.GNTST_okay
        return gt.GNTST_permission_denied if dom == 0 else gt.GNTST_bad_domain

    def setup_table(self, dom: int, nr_frames: int) -> tuple[int, list[int]]:
        """GNTTABOP_setup_table: grow to ``nr_frames`` and tell where they are."""
        status = self._domain_status(dom)
        if status != gt.GNTST_okay:
            return status, []
        if nr_frames > self.max_frames:
            return gt.GNTST_general_error, []
        while len(self.table) < nr_frames:
            self.table.append(self._alloc_frame())
        return gt.GNTST_okay, [int(mfn) for mfn in self.table[:nr_frames]]

    def set_version(self, version: int) -> int:
        """GNTTABOP_set_version."""
        if version not in (1, 2):
            raise XenError(e.EINVAL, f"grant table version {version}")
        if version == 2:
            raise XenError(e.ENOSYS, "grant table version 2 is off")
        return 1

    def get_version(self, dom: int) -> int:
        """GNTTABOP_get_version."""
        if not self._is_self(dom):
            raise XenError(e.EPERM if dom == 0 else e.ESRCH, f"domain {dom} is not the caller")
        return 1

    def query_size(self, dom: int) -> tuple[int, int, int]:
        """GNTTABOP_query_size: (status, nr_frames, max_nr_frames)."""
        status = self._domain_status(dom)
        return (status, len(self.table), self.max_frames) if status == gt.GNTST_okay else (status, 0, 0)

    def map_grant_ref(self, host_addr: int, flags: int, ref: int, dom: int) -> tuple[int, int, int]:
        """GNTTABOP_map_grant_ref: dom0 grants this guest nothing."""
        if not flags & (gt.GNTMAP_device_map | gt.GNTMAP_host_map):
            return gt.GNTST_bad_gntref, _INVALID_HANDLE, 0
        status = gt.GNTST_bad_gntref if dom in (0, self._domid) else gt.GNTST_bad_domain
        return status, _INVALID_HANDLE, 0

    def unmap_grant_ref(self, host_addr: int, dev_bus_addr: int, handle: int) -> int:
        """GNTTABOP_unmap_grant_ref: no handle was ever given out."""
        return gt.GNTST_bad_handle

    def unmap_and_replace(self, host_addr: int, new_addr: int, handle: int) -> int:
        """GNTTABOP_unmap_and_replace: as ``unmap_grant_ref``."""
        return gt.GNTST_bad_handle

    def transfer(self, gfn: int, dom: int, ref: int) -> int:
        """GNTTABOP_transfer: nobody offers to take a frame."""
        if not self._frames.is_guest(gfn):
            return gt.GNTST_bad_page
        return gt.GNTST_bad_domain if dom != self._domid and dom != 0 else gt.GNTST_general_error

    def copy(self, source: tuple[bool, int, int, int], dest: tuple[bool, int, int, int], length: int) -> int:
        """GNTTABOP_copy between frames and grants of the caller."""
        if source[3] + length > PAGE_SIZE or dest[3] + length > PAGE_SIZE:
            return gt.GNTST_bad_copy_arg
        held: list[int] = []
        try:
            src = self._copy_frame(source, True, held)
            dst = self._copy_frame(dest, False, held)
            data = self._ram.read((src << PAGE_SHIFT) + source[3], length)
            self._ram.write((dst << PAGE_SHIFT) + dest[3], data)
            return gt.GNTST_okay
        except GrantRefusedError as refused:
            return refused.status
        finally:
            for ref in held:
                self._release(ref)

    def _copy_frame(self, side: tuple[bool, int, int, int], readonly: bool, held: list[int]) -> int:
        is_gref, number, dom, _offset = side
        if is_gref:
            if dom != self._domid:
                raise GrantRefusedError(
                    gt.GNTST_bad_gntref if dom == 0 else gt.GNTST_bad_domain, "not the caller's grant"
                )
            mfn = self._acquire(number, self._domid, readonly)
            held.append(number)
            return mfn
        if not self._is_self(dom):
            raise GrantRefusedError(gt.GNTST_permission_denied, "only a grant names another domain's frame")
        if not self._frames.is_guest(number):
            raise GrantRefusedError(gt.GNTST_general_error, f"frame {number:x} is not the caller's")
        if not readonly and self._frames.type_of(number) not in (PageType.NONE, PageType.WRITABLE):
            raise GrantRefusedError(gt.GNTST_general_error, f"frame {number:x} is not writable memory")
        return number

    def get_status_frames(self, dom: int, nr_frames: int) -> tuple[int, list[int]]:
        """GNTTABOP_get_status_frames: version 1 has none."""
        status = self._domain_status(dom)
        return (status if status != gt.GNTST_okay or not nr_frames else gt.GNTST_general_error), []

    def swap_grant_ref(self, ref_a: int, ref_b: int) -> int:
        """GNTTABOP_swap_grant_ref."""
        a, b = self._view(ref_a), self._view(ref_b)
        if a is None or b is None:
            return gt.GNTST_bad_gntref
        if self._pins.get(ref_a) or self._pins.get(ref_b):
            return gt.GNTST_eagain
        old = bytes(a)
        a[:] = b
        b[:] = old
        return gt.GNTST_okay

    def cache_flush(self, dev_bus_addr: int, offset: int, length: int, op: int) -> None:
        """GNTTABOP_cache_flush: caches are coherent here; the arguments are checked as Xen does."""
        if offset >= PAGE_SIZE or offset + length > PAGE_SIZE or op & ~3:
            raise XenError(e.EINVAL, f"cache_flush of {length} bytes at {offset}, operation {op:#x}")
        if length and not self._frames.is_guest(dev_bus_addr >> PAGE_SHIFT):
            raise XenError(e.EPERM, f"{dev_bus_addr:#x} is not the caller's")
