"""The shared_info page and a vcpu's vcpu_info in it: the fields that Xen itself reads and writes (public/xen.h)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from hypercalls.public import arch_x86, xen

if TYPE_CHECKING:
    from hypercalls.abi import Abi

__all__ = ["SharedInfo", "VcpuInfo"]


class VcpuInfo:
    """One vcpu's vcpu_info, wherever it lives: in shared_info, or where VCPUOP_register_vcpu_info moved it."""

    def __init__(self, abi: Abi, page: memoryview, offset: int) -> None:
        self._page = page
        self._offset = offset
        self._long = Struct(abi.long_fmt)
        self._pending_at = offset + abi.offsetof(xen.vcpu_info, "evtchn_upcall_pending")
        self._mask_at = offset + abi.offsetof(xen.vcpu_info, "evtchn_upcall_mask")
        self._sel_at = offset + abi.offsetof(xen.vcpu_info, "evtchn_pending_sel")
        self._cr2_at = offset + abi.offsetof(xen.vcpu_info, "arch.cr2")
        self._time_at = offset + abi.offsetof(xen.vcpu_info, "time")
        self._time = abi.reader(
            xen.vcpu_time_info,
            "version", "tsc_timestamp", "system_time", "tsc_to_system_mul", "tsc_shift",
        )  # fmt: skip
        self.size = abi.sizeof(xen.vcpu_info)

    def raw(self) -> bytes:
        """All of it."""
        return bytes(self._page[self._offset : self._offset + self.size])

    @property
    def upcall_pending(self) -> int:
        """evtchn_upcall_pending."""
        return self._page[self._pending_at]

    @upcall_pending.setter
    def upcall_pending(self, value: int) -> None:
        self._page[self._pending_at] = value

    @property
    def upcall_mask(self) -> int:
        """evtchn_upcall_mask: not zero while the guest wants no upcalls."""
        return self._page[self._mask_at]

    @upcall_mask.setter
    def upcall_mask(self, value: int) -> None:
        self._page[self._mask_at] = value

    @property
    def pending_sel(self) -> int:
        """evtchn_pending_sel: one bit for each word of evtchn_pending."""
        return int(self._long.unpack_from(self._page, self._sel_at)[0])

    @pending_sel.setter
    def pending_sel(self, value: int) -> None:
        self._long.pack_into(self._page, self._sel_at, value)

    def set_cr2(self, value: int) -> None:
        """Where a guest finds the address of a page fault (arch.cr2)."""
        self._long.pack_into(self._page, self._cr2_at, value)

    @property
    def time_version(self) -> int:
        """The version of vcpu_time_info, as the guest left it."""
        return int.from_bytes(self._page[self._time_at : self._time_at + 4], "little")

    def set_time(self, version: int, tsc: int, system_time: int, mul: int, shift: int) -> None:
        """Fill vcpu_time_info: all of it, what has no meaning with zeros."""
        self._page[self._time_at : self._time_at + self._time.size] = self._time.pack(
            version, tsc, system_time, mul, shift
        )


class SharedInfo:
    """The page itself: event-channel bit maps and wall clock; legacy vcpu_info by index."""

    def __init__(self, abi: Abi, page: memoryview) -> None:
        self.abi = abi
        self.page = page
        self.words_per_map = 64 if abi.bits == 64 else 32
        self.bits_per_word = abi.bits
        pending = abi.offsetof(xen.shared_info, "evtchn_pending")
        mask = abi.offsetof(xen.shared_info, "evtchn_mask")
        size = self.words_per_map * abi.long_size
        self.pending = self._words(page[pending : pending + size])
        self.mask = self._words(page[mask : mask + size])
        for i in range(arch_x86.XEN_LEGACY_MAX_VCPUS):
            self.vcpu_info(i).upcall_mask = 1

    def _words(self, view: memoryview) -> memoryview:
        return view.cast("Q") if self.abi.bits == 64 else view.cast("I")

    def vcpu_info(self, vcpu_id: int) -> VcpuInfo:
        """The vcpu_info of one of the first 32 vcpus, in the page."""
        return VcpuInfo(self.abi, self.page, self.abi.offsetof(xen.shared_info, f"vcpu_info[{vcpu_id}]"))

    def vcpu_infos(self, count: int) -> list[VcpuInfo]:
        """Those of as many vcpus; the page has room for 32, the others share one that nobody sees (dummy_vcpu_info)."""
        shown = [self.vcpu_info(i) for i in range(min(count, arch_x86.XEN_LEGACY_MAX_VCPUS))]
        dummy = memoryview(bytearray(self.abi.sizeof(xen.vcpu_info)))
        return shown + [VcpuInfo(self.abi, dummy, 0) for _ in range(len(shown), count)]

    @property
    def max_pfn(self) -> int:
        """arch.max_pfn: how many pfns the guest says it has."""
        at = self.abi.offsetof(xen.shared_info, "arch.max_pfn")
        return int.from_bytes(self.page[at : at + self.abi.long_size], "little")

    def set_wallclock(self, version: int, seconds: int, nanoseconds: int) -> None:
        """Wall-clock time at system time 0 (update_domain_wallclock_time)."""
        for path, value in (("wc_version", version), ("wc_sec", seconds & 0xFFFF_FFFF), ("wc_nsec", nanoseconds)):
            at = self.abi.offsetof(xen.shared_info, path)
            self.page[at : at + 4] = value.to_bytes(4, "little")
