"""The domain's grant table, version 1 or 2 (xen/common/grant_table.c).

The table's frames are Xen's, shared writable with the guest. dom0's back-ends map entries through
:meth:`GrantTable.map_for_backend`; the guest's own operations work on grants that it made to itself (dom0 grants it
nothing).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from hypercalls.public import grant_table as gt
from hypercalls.public import xen
from pvemu.config import GrantLimits
from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Mfn
from pvemu.hypervisor.grant_table.grant_copy import GrantCopies
from pvemu.hypervisor.grant_table.grant_entry import PIN_HSTR, PIN_HSTW, ActiveEntries, GrantRefusedError
from pvemu.hypervisor.grant_table.grant_mapping import GrantMappings
from pvemu.hypervisor.grant_table.grant_shared import (
    RESERVED_ENTRIES,
    SharedEntries,
    SharedV1,
    SharedV2,
    status_frames_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercalls.context import VcpuPort
    from pvemu.hypervisor.memory import Reservation
    from pvemu.hypervisor.mm import Mm
    from pvemu.hypervisor.page_types import PageTypes
    from pvemu.memory.frame_table import FrameTable
    from pvemu.memory.ram import Ram

__all__ = ["GrantRefusedError", "GrantTable"]


class GrantTable:
    """``alloc_frame`` gives Xen heap frames that the guest may map writable, ``frames`` takes them back; ``limits`` are
    the toolstack's (grant_table_init).
    """

    def __init__(
        self, domid: int, ram: Ram, frames: FrameTable, types: PageTypes, mm: Mm, reservation: Reservation,
        alloc_frame: Callable[[], Mfn], limits: GrantLimits | None = None,
    ) -> None:  # fmt: skip
        limits = limits or GrantLimits()
        self._domid = domid
        self._ram = ram
        self._frames = frames
        self._types = types
        self._reservation = reservation
        self._alloc_frame = alloc_frame
        self.max_frames = limits.frames
        self.max_version = limits.version
        self.table: list[Mfn] = [alloc_frame()]
        self.status: list[Mfn] = []  #: status frames of version 2
        self._unshared: list[Mfn] = []  #: status frames that version 1 has no use for
        self.shared: SharedEntries = SharedV1(ram, self.table)
        self._entries = ActiveEntries(types, lambda: self.shared)
        self.mappings = mappings = GrantMappings(domid, ram, types, mm, self._entries, limits.maptrack_frames)
        self.map_grant_ref = mappings.map_grant_ref
        self.unmap_grant_ref = mappings.unmap_grant_ref
        self.unmap_and_replace = mappings.unmap_and_replace
        #: By entry: for each of dom0's mappings whether it is read-only.
        self._backend_maps: dict[int, list[bool]] = {}

    def set_current(self, vcpu: VcpuPort) -> None:
        """This vcpu's operations from now on: mappings have lists of free handles for each."""
        self.mappings.maptrack.vcpu = vcpu.vcpu_id

    def seed(self, ref: int, mfn: int, domid: int) -> None:
        """What the toolstack writes for console and xenstore (xc_dom_gnttab_seed)."""
        self.shared.put_reserved(ref, (gt.GTF_permit_access, domid, mfn))

    # -- dom0's back-ends --------------------------------------------------------------------------------------------
    def map_for_backend(self, ref: int, readonly: bool) -> Mfn:
        """The frame that entry ``ref`` grants dom0, which stays until it is unmapped. GrantRefusedError with Xen's
        status.
        """
        increment = PIN_HSTR if readonly else PIN_HSTW
        mfn = self._entries.pin_for_mapping(ref, 0, readonly, increment)
        if not readonly:
            try:
                self._entries.get_writable(mfn)
            except GrantRefusedError:
                self._entries.unpin(ref, readonly, increment)
                raise
        self._backend_maps.setdefault(ref, []).append(readonly)
        return Mfn(mfn)

    def unmap_for_backend(self, ref: int) -> None:
        """Drop one mapping of ``ref``: the entry loses its in-use flags with the last one."""
        maps = self._backend_maps[ref]
        readonly = True in maps
        maps.remove(readonly)
        if not maps:
            del self._backend_maps[ref]
        if not readonly:
            self._types.put_type(self._entries.frame_of(ref))
        self._entries.unpin(ref, readonly, PIN_HSTR if readonly else PIN_HSTW)

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
        if self.shared.version == 2:
            self._populate_status_frames()
        return gt.GNTST_okay, [int(mfn) for mfn in self.table[:nr_frames]]

    def get_status_frames(self, dom: int, nr_frames: int) -> tuple[int, list[int]]:
        """GNTTABOP_get_status_frames: of those that are there; version 1 has none."""
        status = self._domain_status(dom)
        if status == gt.GNTST_okay and nr_frames > len(self.status):
            status = gt.GNTST_general_error
        return status, [int(mfn) for mfn in self.status[:nr_frames]] if status == gt.GNTST_okay else []

    def set_version(self, version: int) -> int:
        """GNTTABOP_set_version. ENOSYS for one that the domain may not have; EBUSY while an entry beyond the
        toolstack's is in use, or a status frame is mapped; EAGAIN while a part of a page is, ERANGE when version 1
        cannot express one of the toolstack's entries.
        """
        if version not in (1, 2):
            raise XenError(e.EINVAL, f"grant table version {version}")
        if version > self.max_version:
            raise XenError(e.ENOSYS, f"grant table version {version} is more than the domain may have")
        old = self.shared
        if version == old.version:
            return version
        if self._entries.pinned_beyond(RESERVED_ENTRIES):
            raise XenError(e.EBUSY, "grant entries are in use")
        if isinstance(old, SharedV2):
            if self._entries.is_sub_page_in_use:
                raise XenError(e.EAGAIN, "a part of a page is in use")
            if not all(map(old.is_representable, range(RESERVED_ENTRIES))):
                raise XenError(e.ERANGE, "an entry cannot be expressed in version 1")
        reserved = [old.get_reserved(ref) for ref in range(RESERVED_ENTRIES)]
        if version == 2:
            self._populate_status_frames()
            self.shared = SharedV2(self._ram, self.table, self.status)
        else:
            self._unpopulate_status_frames()
            self.shared = SharedV1(self._ram, self.table)
        for mfn in self.table:
            self._ram.frame(mfn)[:] = bytes(PAGE_SIZE)
        for ref, entry in enumerate(reserved):
            self.shared.put_reserved(ref, entry)
        return version

    def _populate_status_frames(self) -> None:
        """gnttab_populate_status_frames: as many as the table needs, zeroed."""
        while len(self.status) < status_frames_for(len(self.table)):
            if self._unshared:
                mfn = self._unshared.pop()
                self._frames.share(mfn)
                self._ram.frame(mfn)[:] = bytes(PAGE_SIZE)
            else:
                mfn = self._alloc_frame()
            self.status.append(mfn)

    def _unpopulate_status_frames(self) -> None:
        """gnttab_unpopulate_status_frames: take them from the guest, which must not have one mapped: EBUSY."""
        taken: list[Mfn] = []
        for mfn in self.status:
            if not self._frames.unshare(mfn):
                for other in taken:
                    self._frames.share(other)
                raise XenError(e.EBUSY, f"status frame {mfn:x} is in use")
            taken.append(mfn)
        self._unshared += taken
        self.status.clear()

    def get_version(self, dom: int) -> int:
        """GNTTABOP_get_version."""
        if not self._is_self(dom):
            raise XenError(e.EPERM if dom == 0 else e.ESRCH, f"domain {dom} is not the caller")
        return self.shared.version

    def query_size(self, dom: int) -> tuple[int, int, int]:
        """GNTTABOP_query_size: (status, nr_frames, max_nr_frames)."""
        status = self._domain_status(dom)
        return (status, len(self.table), self.max_frames) if status == gt.GNTST_okay else (status, 0, 0)

    def transfer(self, gfn: int, dom: int, ref: int) -> int:
        """GNTTABOP_transfer: the frame is gone whatever becomes of it; only this domain itself may take one."""
        if not self._reservation.steal(gfn):
            return gt.GNTST_bad_page
        shared = self.shared
        is_wanted = dom == self._domid and ref < shared.count
        if not is_wanted or shared.header(ref) != (gt.GTF_accept_transfer, dom):
            self._reservation.free_stolen(gfn)
            return gt.GNTST_bad_domain if dom not in (0, self._domid) else gt.GNTST_general_error
        shared.add_flags(ref, gt.GTF_transfer_committed)
        self._reservation.take_back(gfn, shared.frame(ref))
        shared.set_frame(ref, gfn)
        shared.add_flags(ref, gt.GTF_transfer_completed)
        return gt.GNTST_okay

    def begin_copy(self) -> GrantCopies:
        """GNTTABOP_copy between frames and grants of the caller: an array of requests."""
        return GrantCopies(self._domid, self._ram, self._types, self._entries)

    def swap_grant_ref(self, ref_a: int, ref_b: int) -> int:
        """GNTTABOP_swap_grant_ref: not while one of the two is in use."""
        if max(ref_a, ref_b) >= self.shared.count:
            return gt.GNTST_bad_gntref
        if ref_a == ref_b:
            return gt.GNTST_okay
        if self._entries.is_pinned(ref_a) or self._entries.is_pinned(ref_b):
            return gt.GNTST_eagain
        self.shared.swap(ref_a, ref_b)
        return gt.GNTST_okay

    def cache_flush(self, dev_bus_addr: int, offset: int, length: int, op: int) -> None:
        """GNTTABOP_cache_flush: caches are coherent here; what Xen refuses on x86 is refused."""
        if offset >= PAGE_SIZE or offset + length > PAGE_SIZE or op & ~(gt.GNTTAB_CACHE_INVAL | gt.GNTTAB_CACHE_CLEAN):
            raise XenError(e.EINVAL, f"cache_flush of {length} bytes at {offset}, operation {op:#x}")
        if not length or not op:
            return
        mfn = dev_bus_addr >> PAGE_SHIFT
        if not self._ram.contains(mfn):
            raise XenError(e.EINVAL, f"frame {mfn:#x} is not the machine's")
        try:
            self._types.get_page(mfn)
        except XenError as error:
            raise XenError(e.EPERM, error.reason) from error
        self._types.put_page(mfn)
        if op == gt.GNTTAB_CACHE_INVAL:
            raise XenError(e.EOPNOTSUPP, "invalidation without write-back is not for x86")
