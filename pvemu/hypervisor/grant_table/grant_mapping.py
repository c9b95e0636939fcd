"""The guest's mappings of grants that it made to itself: handles, and the page-table entries behind them
(xen/common/grant_table.c map_grant_ref, unmap_common; xen/arch/x86/pv/grant_table.c).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypercalls.public import grant_table as gt
from pvemu.cpu.paging import PTE_A, PTE_ADDR, PTE_D, PTE_NX, PTE_P, PTE_RW, PTE_US
from pvemu.frames import PAGE_SHIFT
from pvemu.hypervisor.grant_table.grant_entry import (
    PIN_DEVR,
    PIN_DEVW,
    PIN_HSTR,
    PIN_HSTW,
    ActiveEntries,
    GrantRefusedError,
    foreign_status,
)
from pvemu.hypervisor.grant_table.maptrack import Maptrack

if TYPE_CHECKING:
    from pvemu.hypervisor.mm import Mm
    from pvemu.hypervisor.page_types import PageTypes
    from pvemu.memory.ram import Ram

__all__ = ["GrantMappings"]

_INVALID_HANDLE = 0xFFFF_FFFF
_AVAIL_SHIFT = 9


@dataclass(slots=True)
class _Mapping:
    """struct grant_mapping: what one handle stands for; ``flags`` loses the maps that are gone."""

    ref: int
    flags: int


class GrantMappings:
    """Mappings by handle; ``entries`` are the domain's own, the only ones that it may map. ``maptrack`` has the handles
    that are free.
    """

    def __init__(
        self, domid: int, ram: Ram, types: PageTypes, mm: Mm, entries: ActiveEntries, max_maptrack_frames: int
    ) -> None:
        self._domid = domid
        self._ram = ram
        self._types = types
        self._mm = mm
        self._entries = entries
        self.maptrack = Maptrack(max_maptrack_frames)
        self._maps: dict[int, _Mapping] = {}

    def items(self) -> list[tuple[int, int]]:
        """(entry, GNTMAP_* flags) of every mapping."""
        return [(mapping.ref, mapping.flags) for mapping in self._maps.values()]

    def map_grant_ref(self, host_addr: int, flags: int, ref: int, dom: int) -> tuple[int, int, int]:
        """GNTTABOP_map_grant_ref: (status, handle, machine address)."""
        readonly = bool(flags & gt.GNTMAP_readonly)
        increment = _pin_increment(flags)
        if not increment:
            return gt.GNTST_bad_gntref, _INVALID_HANDLE, 0
        if dom not in (0, self._domid):
            return gt.GNTST_bad_domain, _INVALID_HANDLE, 0
        handle = self.maptrack.get()
        if handle is None:
            return gt.GNTST_no_space, _INVALID_HANDLE, 0
        try:
            if dom != self._domid:
                raise GrantRefusedError(foreign_status(dom, ref), "dom0 grants nothing")
            mfn = self._entries.pin_for_mapping(ref, dom, readonly, increment)
        except GrantRefusedError as refused:
            self.maptrack.put(handle)
            return refused.status, _INVALID_HANDLE, 0
        status = self._take_mapping(host_addr, mfn, flags)
        if status != gt.GNTST_okay:
            self._entries.unpin(ref, readonly, increment)
            self.maptrack.put(handle)
            return status, _INVALID_HANDLE, 0
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
        if flags & gt.GNTMAP_contains_pte:
            if new_addr:
                return gt.GNTST_general_error
        elif (host_addr | new_addr) >> self._mm.linear_bits:
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
            self.maptrack.put(handle)
        for done, decrement in ((is_device, PIN_DEVR if readonly else PIN_DEVW),
                                (is_host, PIN_HSTR if readonly else PIN_HSTW)):  # fmt: skip
            if done:
                if not readonly:
                    self._types.put_type(mfn)
                self._entries.unpin(ref, readonly, decrement)
        return gt.GNTST_okay


def _pin_increment(flags: int) -> int:
    """The pins of a mapping with these GNTMAP_* flags."""
    readonly = flags & gt.GNTMAP_readonly
    device = (PIN_DEVR if readonly else PIN_DEVW) if flags & gt.GNTMAP_device_map else 0
    host = (PIN_HSTR if readonly else PIN_HSTW) if flags & gt.GNTMAP_host_map else 0
    return device + host
