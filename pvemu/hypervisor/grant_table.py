"""The domain's grant table, version 1 (xen/common/grant_table.c, xen/arch/x86/pv/grant_table.c).

The table's frames are Xen's, shared writable with the guest. dom0's back-ends map entries through
:meth:`GrantTable.map_for_backend`; the guest's own operations work on grants that it made to itself (dom0 grants it
nothing). Version 2 is refused as by a Xen whose ``gnttab=max-ver:1``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from hypercalls.public import grant_table as gt
from hypercalls.public import xen
from pvemu.cpu.paging import PTE_A, PTE_ADDR, PTE_D, PTE_NX, PTE_P, PTE_RW, PTE_US
from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Mfn
from pvemu.hypervisor.grant_entry import PIN_DEVR, PIN_DEVW, PIN_HSTR, PIN_HSTW, ActiveEntries, GrantRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.memory import Reservation
    from pvemu.hypervisor.mm import Mm
    from pvemu.hypervisor.page_types import PageTypes
    from pvemu.memory.ram import Ram

__all__ = ["DEFAULT_MAX_GRANT_FRAMES", "GrantRefusedError", "GrantTable"]

#: max_grant_frames that xl gives a domain (LIBXL_MAX_GRANT_FRAMES_DEFAULT follows Xen's 64).
DEFAULT_MAX_GRANT_FRAMES = 64
#: max_maptrack_frames (1024) pages of maptrack entries, 256 in each.
_MAX_HANDLES, _HANDLES_PER_PAGE = 1024 * 256, 256
_INVALID_HANDLE = 0xFFFF_FFFF
#: dom0's own table has at least one frame, none of it granted to this guest.
_DOM0_ENTRIES = 512
_AVAIL_SHIFT = 9


@dataclass(slots=True)
class _Mapping:
    """struct grant_mapping: what one handle stands for; ``flags`` loses the maps that are gone."""

    ref: int
    flags: int


class GrantTable:
    """``alloc_frame`` gives Xen heap frames that the guest may map writable."""

    def __init__(
        self, domid: int, ram: Ram, types: PageTypes, mm: Mm, reservation: Reservation, alloc_frame: Callable[[], Mfn]
    ) -> None:
        self._domid = domid
        self._ram = ram
        self._types = types
        self._mm = mm
        self._reservation = reservation
        self._alloc_frame = alloc_frame
        self.max_frames = DEFAULT_MAX_GRANT_FRAMES
        self.table: list[Mfn] = [alloc_frame()]
        self._entries = ActiveEntries(ram, types, self.table)
        self._maps: dict[int, _Mapping] = {}
        self._free_handles: deque[int] = deque()
        self._handles = 0
        #: By entry: for each of dom0's mappings whether it is read-only.
        self._backend_maps: dict[int, list[bool]] = {}

    def seed(self, ref: int, mfn: int, domid: int) -> None:
        """What the toolstack writes for console and xenstore (xc_dom_gnttab_seed)."""
        view = self._entries.view(ref)
        assert view is not None
        view[:] = gt.GTF_permit_access.to_bytes(2, "little") + domid.to_bytes(2, "little") + mfn.to_bytes(4, "little")

    # -- dom0's back-ends --------------------------------------------------------------------------------------------
    def map_for_backend(self, ref: int, readonly: bool) -> Mfn:
        """The frame that entry ``ref`` grants dom0, which stays until it is unmapped. GrantRefusedError with Xen's
        status.
        """
        increment = PIN_HSTR if readonly else PIN_HSTW
        mfn = self._entries.pin(ref, 0, readonly, increment, for_mapping=True)
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

    def _foreign_status(self, dom: int, ref: int) -> int:
        """Status of using entry ``ref`` of another domain: only dom0 is there, and it grants this guest nothing."""
        if dom:
            return gt.GNTST_bad_domain
        return gt.GNTST_general_error if ref < _DOM0_ENTRIES else gt.GNTST_bad_gntref

    def map_grant_ref(self, host_addr: int, flags: int, ref: int, dom: int) -> tuple[int, int, int]:
        """GNTTABOP_map_grant_ref: (status, handle, machine address)."""
        readonly = bool(flags & gt.GNTMAP_readonly)
        increment = _pin_increment(flags)
        if not increment:
            return gt.GNTST_bad_gntref, _INVALID_HANDLE, 0
        if dom != self._domid:
            return self._foreign_status(dom, ref), _INVALID_HANDLE, 0
        if len(self._maps) >= _MAX_HANDLES:
            return gt.GNTST_no_space, _INVALID_HANDLE, 0
        try:
            mfn = self._entries.pin(ref, dom, readonly, increment, for_mapping=True)
        except GrantRefusedError as refused:
            return refused.status, _INVALID_HANDLE, 0
        status = self._take_mapping(host_addr, mfn, flags)
        if status != gt.GNTST_okay:
            self._entries.unpin(ref, readonly, increment)
            return status, _INVALID_HANDLE, 0
        handle = self._new_handle()
        self._maps[handle] = _Mapping(ref, flags)
        return gt.GNTST_okay, handle, mfn << PAGE_SHIFT

    def _take_mapping(self, host_addr: int, mfn: int, flags: int) -> int:
        """The references of a mapping beside its pin's, and the guest's page-table entry."""
        both = gt.GNTMAP_device_map | gt.GNTMAP_host_map
        writable = 0 if flags & gt.GNTMAP_readonly else (flags & both).bit_count()
        taken = 0
        status = gt.GNTST_okay
        try:
            for _ in range(writable):
                self._entries.get_writable(mfn)
                taken += 1
        except GrantRefusedError as refused:
            status = refused.status
        if status == gt.GNTST_okay and flags & gt.GNTMAP_host_map:
            status = self._create_host_mapping(host_addr, mfn, flags)
        if status != gt.GNTST_okay:
            for _ in range(taken):
                self._types.put_type(mfn)
        elif flags & both == both:
            self._types.get_page(mfn)  # the pin's reference serves only one of the two
        return status

    def _new_handle(self) -> int:
        if not self._free_handles:
            self._free_handles.extend(range(self._handles, self._handles + _HANDLES_PER_PAGE))
            self._handles += _HANDLES_PER_PAGE
        return self._free_handles.popleft()

    def _host_entry(self, host_addr: int, flags: int) -> int | None:
        """Machine address of the level-1 entry that a host mapping uses: ``host_addr`` itself or the one behind it."""
        if not flags & gt.GNTMAP_contains_pte:
            return self._mm.l1_entry_address(host_addr)
        return host_addr if not host_addr & 7 and self._mm.is_l1_table(host_addr >> PAGE_SHIFT) else None

    def _create_host_mapping(self, host_addr: int, mfn: int, flags: int) -> int:
        """create_grant_pv_mapping."""
        at = self._host_entry(host_addr, flags)
        if at is None:
            return gt.GNTST_general_error
        entry = mfn << PAGE_SHIFT | PTE_P | PTE_A | PTE_D | PTE_NX | (flags >> 16 & 7) << _AVAIL_SHIFT
        if flags & gt.GNTMAP_application_map:
            entry |= PTE_US
        if not flags & gt.GNTMAP_readonly:
            entry |= PTE_RW
        self._mm.put_old_l1_entry(self._mm.swap_l1_entry(at, self._types.adjust_l1e(entry)))
        return gt.GNTST_okay

    def _replace_host_mapping(self, host_addr: int, mfn: int, new_addr: int, flags: int) -> int:
        """replace_grant_pv_mapping: take the entry away, or put the one of ``new_addr`` in its place."""
        if new_addr and flags & gt.GNTMAP_contains_pte:
            return gt.GNTST_general_error
        stolen = 0
        if new_addr:
            at = self._mm.l1_entry_address(new_addr)
            if at is None:
                return gt.GNTST_general_error
            stolen = self._mm.swap_l1_entry(at, 0)
        at = self._host_entry(host_addr, flags)
        wanted = mfn << PAGE_SHIFT | PTE_P | (0 if flags & gt.GNTMAP_readonly else PTE_RW)
        if at is None or self._ram.read_u64(at) & (PTE_ADDR | PTE_P | PTE_RW) != wanted:
            self._mm.put_old_l1_entry(stolen)
            return gt.GNTST_general_error
        self._mm.swap_l1_entry(at, stolen)
        return gt.GNTST_okay

    def unmap_grant_ref(self, host_addr: int, dev_bus_addr: int, handle: int) -> int:
        """GNTTABOP_unmap_grant_ref."""
        return self._unmap(host_addr, dev_bus_addr, 0, handle)

    def unmap_and_replace(self, host_addr: int, new_addr: int, handle: int) -> int:
        """GNTTABOP_unmap_and_replace."""
        return self._unmap(host_addr, 0, new_addr, handle)

    def _unmap(self, host_addr: int, dev_bus_addr: int, new_addr: int, handle: int) -> int:
        """unmap_common and unmap_common_complete."""
        mapping = self._maps.get(handle)
        if mapping is None:
            return gt.GNTST_bad_handle
        flags, ref = mapping.flags, mapping.ref
        readonly = bool(flags & gt.GNTMAP_readonly)
        mfn = self._entries.frame_of(ref)
        is_device = bool(dev_bus_addr and flags & gt.GNTMAP_device_map)
        is_host = bool(host_addr and flags & gt.GNTMAP_host_map)
        if is_device and dev_bus_addr != mfn << PAGE_SHIFT:
            return gt.GNTST_bad_dev_addr
        if is_host:
            status = self._replace_host_mapping(host_addr, mfn, new_addr, flags)
            if status != gt.GNTST_okay:
                return status
            mapping.flags &= ~gt.GNTMAP_host_map
        if is_device:
            mapping.flags &= ~gt.GNTMAP_device_map
        if not mapping.flags & (gt.GNTMAP_host_map | gt.GNTMAP_device_map):
            del self._maps[handle]
            self._free_handles.append(handle)
        for done, decrement in ((is_device, PIN_DEVR if readonly else PIN_DEVW),
                                (is_host, PIN_HSTR if readonly else PIN_HSTW)):  # fmt: skip
            if done:
                if not readonly:
                    self._types.put_type(mfn)
                self._entries.unpin(ref, readonly, decrement)
        return gt.GNTST_okay

    def transfer(self, gfn: int, dom: int, ref: int) -> int:
        """GNTTABOP_transfer: the frame is gone whatever becomes of it; only this domain itself may take one."""
        if not self._reservation.steal(gfn):
            return gt.GNTST_bad_page
        view = self._entries.view(ref) if dom == self._domid else None
        if view is None or view[:4] != gt.GTF_accept_transfer.to_bytes(2, "little") + dom.to_bytes(2, "little"):
            self._reservation.free_stolen(gfn)
            return gt.GNTST_bad_domain if dom not in (0, self._domid) else gt.GNTST_general_error
        self._reservation.take_back(gfn, int.from_bytes(view[4:8], "little"))
        flags = gt.GTF_accept_transfer | gt.GTF_transfer_committed | gt.GTF_transfer_completed
        view[:] = flags.to_bytes(2, "little") + bytes(view[2:4]) + gfn.to_bytes(4, "little")
        return gt.GNTST_okay

    def copy(self, source: tuple[bool, int, int, int], dest: tuple[bool, int, int, int], length: int) -> int:
        """GNTTABOP_copy between frames and grants of the caller."""
        for is_gref, _, dom, _ in (source, dest):
            if not is_gref and dom != xen.DOMID_SELF:
                return gt.GNTST_permission_denied
            if not self._is_self(dom) and dom:
                return gt.GNTST_bad_domain
        undo: list[Callable[[], None]] = []
        try:
            src = self._claim(source, True, undo)
            dst = self._claim(dest, False, undo)
            if source[3] + length > PAGE_SIZE or dest[3] + length > PAGE_SIZE:
                return gt.GNTST_bad_copy_arg
            self._ram.write((dst << PAGE_SHIFT) + dest[3], self._ram.read((src << PAGE_SHIFT) + source[3], length))
            return gt.GNTST_okay
        except GrantRefusedError as refused:
            return refused.status
        finally:
            for step in reversed(undo):
                step()

    def _claim(self, side: tuple[bool, int, int, int], readonly: bool, undo: list[Callable[[], None]]) -> int:
        """gnttab_copy_claim_buf: the frame of one side, held until ``undo`` is run."""
        is_gref, number, dom, _offset = side
        if is_gref:
            if not self._is_self(dom):
                raise GrantRefusedError(self._foreign_status(dom, number), "not the caller's grant")
            pin = PIN_HSTR if readonly else PIN_HSTW
            mfn = self._entries.pin(number, self._domid, readonly, pin, for_mapping=False)
            undo.append(lambda: self._entries.unpin(number, readonly, pin))
        else:
            mfn = number
            try:
                self._types.get_page(mfn)
            except XenError as error:
                raise GrantRefusedError(gt.GNTST_bad_page, error.reason) from error
            undo.append(lambda: self._types.put_page(mfn))
        if not readonly:
            self._entries.get_writable(mfn)
            undo.append(lambda: self._types.put_type(mfn))
        return mfn

    def get_status_frames(self, dom: int, nr_frames: int) -> tuple[int, list[int]]:
        """GNTTABOP_get_status_frames: version 1 has none."""
        status = self._domain_status(dom)
        return (status if status != gt.GNTST_okay or not nr_frames else gt.GNTST_general_error), []

    def swap_grant_ref(self, ref_a: int, ref_b: int) -> int:
        """GNTTABOP_swap_grant_ref: not while one of the two is in use."""
        a, b = self._entries.view(ref_a), self._entries.view(ref_b)
        if a is None or b is None:
            return gt.GNTST_bad_gntref
        if ref_a == ref_b:
            return gt.GNTST_okay
        if self._entries.is_pinned(ref_a) or self._entries.is_pinned(ref_b):
            return gt.GNTST_eagain
        old = bytes(a)
        a[:] = b
        b[:] = old
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


def _pin_increment(flags: int) -> int:
    """The pins of a mapping with these GNTMAP_* flags."""
    readonly = flags & gt.GNTMAP_readonly
    device = (PIN_DEVR if readonly else PIN_DEVW) if flags & gt.GNTMAP_device_map else 0
    host = (PIN_HSTR if readonly else PIN_HSTW) if flags & gt.GNTMAP_host_map else 0
    return device + host
