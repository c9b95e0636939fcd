"""What Xen tells a guest of one vcpu in the guest's own memory: vcpu_info, run state, time
(xen/common/domain.c map_vcpu_info, update_runstate_area; xen/arch/x86/time.c update_vcpu_system_time).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import arch_x86, xen
from hypercalls.public import errno as e
from hypercalls.public import vcpu as vc
from pvemu.frames import PAGE_SIZE
from pvemu.hypervisor.shared_info import VcpuInfo
from pvemu.hypervisor.tsc import TSC_SHIFT, TSC_TO_SYSTEM_MUL

if TYPE_CHECKING:
    from hypercalls.abi import Abi
    from pvemu.hypervisor.domain_page import DomainPages
    from pvemu.hypervisor.guest_access import GuestMemory
    from pvemu.hypervisor.time import VirtualClock

__all__ = ["VcpuAreas"]


#: How long a domain is built: that time its vcpus are offline.
_BUILD_NS = 100_000_000
#: How old vcpu_time_info gets (EPOCH of xen/arch/x86/time.c).
_EPOCH_NS = 1_000_000_000


class VcpuAreas:
    """Areas of vcpu ``vcpu_id``, which gets into RUNSTATE_* ``state`` now and was offline before."""

    def __init__(
        self, abi: Abi, vcpu_id: int, infos: list[VcpuInfo], clock: VirtualClock, guest: GuestMemory,
        pages: DomainPages, state: int,
    ) -> None:  # fmt: skip
        self._abi = abi
        self._id = vcpu_id
        self._infos = infos
        self._clock = clock
        self._guest = guest
        self._pages = pages
        self.info_mfn: int | None = None  #: the guest's frame that vcpu_info was moved to
        self._state_entered = clock.now() - _BUILD_NS
        self._times = [0, 0, 0, 0]
        self._state = vc.RUNSTATE_offline
        if state != vc.RUNSTATE_offline:
            self.change_runstate(state, clock.now())
        self._runstate_area = 0
        self._time_area = 0
        self._time_told = -_EPOCH_NS

    @property
    def info(self) -> VcpuInfo:
        """The vcpu_info in use."""
        return self._infos[self._id]

    @property
    def is_dummy(self) -> bool:
        """Whether the vcpu_info in use is nobody's: shared_info has room for the first 32 alone."""
        return self._id >= arch_x86.XEN_LEGACY_MAX_VCPUS and self.info_mfn is None

    def register_vcpu_info(self, mfn: int, offset: int, runs_elsewhere: bool = False) -> VcpuInfo:
        """VCPUOP_register_vcpu_info: move vcpu_info into a frame of the guest's, for good. Of another vcpu that runs it
        stays where it is.
        """
        if offset > PAGE_SIZE - self.info.size or offset & (self._abi.long_size - 1):
            raise XenError(e.ENXIO, f"vcpu_info at offset {offset:#x}")
        if self.info_mfn is not None:
            raise XenError(e.EINVAL, "vcpu_info was moved before")
        if runs_elsewhere:
            raise XenError(e.EINVAL, f"vcpu {self._id} is up")
        page = self._pages.map(mfn)
        page[offset : offset + self.info.size] = bytes(self.info.size) if self.is_dummy else self.info.raw()
        info = VcpuInfo(self._abi, page, offset)
        if self.is_dummy:
            info.upcall_mask = 1
        self._infos[self._id] = info
        self.info_mfn = mfn
        info.pending_sel = self._abi.long_mask  # events may have been lost in the move
        info.upcall_pending = 1
        return info

    def update_time(self) -> None:
        """Publish the clock in vcpu_info and the registered time area: the next even version after what stands there
        (version_update_begin, version_update_end).
        """
        now = self._time_told = self._clock.now()
        info = self.info
        version = ((info.time_version + 1 | 1) + 1) & 0xFFFF_FFFF
        info.set_time(version, self._clock.tsc_at(now), now, TSC_TO_SYSTEM_MUL, TSC_SHIFT)
        if self._time_area:
            at = self._abi.offsetof(xen.vcpu_info, "time")
            self._write(self._time_area, info.raw()[at : at + self._abi.sizeof(xen.vcpu_time_info)])

    def refresh_time(self) -> None:
        """What the vcpu did not hear while it had not the CPU (update_vcpu_system_time)."""
        if self._clock.now() - self._time_told >= _EPOCH_NS:
            self.update_time()

    def register_time_area(self, vaddr: int) -> None:
        """VCPUOP_register_vcpu_time_memory_area."""
        self._time_area = vaddr
        self.update_time()

    def change_runstate(self, state: int, at: int) -> None:
        """vcpu_runstate_change, at system time ``at``."""
        self._times[self._state] += at - self._state_entered
        self._state, self._state_entered = state, at

    def runstate(self) -> tuple[int, int, tuple[int, int, int, int]]:
        """vcpu_runstate_get: (state, since when, times in each state up to now)."""
        times = list(self._times)
        times[self._state] += self._clock.now() - self._state_entered
        return self._state, self._state_entered, (times[0], times[1], times[2], times[3])

    def register_runstate_area(self, vaddr: int, is_current: bool) -> None:
        """VCPUOP_register_runstate_memory_area: 0 is written to as well, once. What has passed since the last change
        counts for a vcpu that is not the caller; the caller works it out itself.
        """
        self._runstate_area = vaddr
        self._write_runstate(self._times if is_current else list(self.runstate()[2]))

    def update_runstate_area(self) -> None:
        """As of the last change (xen/arch/x86/domain.c update_runstate_area)."""
        if self._runstate_area:
            self._write_runstate(self._times)

    def _write_runstate(self, times: list[int]) -> None:
        info = vc.vcpu_runstate_info(state=self._state, state_entry_time=self._state_entered, time=times)
        self._write(self._runstate_area, self._abi.pack(info))

    def _write(self, vaddr: int, data: bytes) -> None:
        """To an area that the guest registered; whether it is still mapped is the guest's affair."""
        with suppress(XenError):
            self._guest.copy_to_guest(vaddr, data)
