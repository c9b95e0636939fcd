"""vcpu_op on any vcpu of the domain (common_vcpu_op of xen/common/domain.c, do_vcpu_op of xen/arch/x86/domain.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from hypercalls.public import vcpu as vc

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.time import VirtualClock
    from pvemu.hypervisor.vcpu.areas import VcpuAreas
    from pvemu.hypervisor.vcpu.timers import VcpuTimers

__all__ = ["VcpuOperations"]


class VcpuOperations:
    """What one vcpu, which makes the hypercall, does to another or itself; and what is asked of it then."""

    def __init__(self, vcpu_id: int, clock: VirtualClock, areas: VcpuAreas, timers: VcpuTimers) -> None:
        self._id = vcpu_id
        self._clock = clock
        self.areas = areas
        self.timers = timers
        self.info = areas.info
        self.update_time = areas.update_time
        self.set_timer = timers.set_timer
        self.set_singleshot_timer = timers.set_singleshot_timer
        self.stop_singleshot_timer = timers.stop_singleshot_timer
        #: All vcpus of the domain, by number.
        self.vcpus: list[VcpuOperations] = [self]
        self.is_initialised = not vcpu_id
        self.is_down = bool(vcpu_id)
        self.nmi_pending = False
        #: arch_set_info_guest: take a vcpu_guest_context.
        self.set_info_guest: Callable[[bytes], None] = lambda context: None
        #: It was brought up, or down, or has something to see to (vcpu_wake, vcpu_sleep_nosync, vcpu_kick).
        self.on_wake: Callable[[], None] = lambda: None
        self.on_sleep: Callable[[], None] = lambda: None
        self.on_kick: Callable[[], None] = lambda: None
        #: What happens when the last vcpu goes down.
        self.on_last_down: Callable[[], None] = lambda: None

    @property
    def vcpu_id(self) -> int:
        """Number of the vcpu."""
        return self._id

    def exists(self, vcpuid: int) -> bool:
        """Whether the domain has such a vcpu."""
        return 0 <= vcpuid < len(self.vcpus)

    def _vcpu(self, vcpuid: int) -> VcpuOperations:
        """domain_vcpu: XenError(ENOENT) where there is none."""
        if not self.exists(vcpuid):
            raise XenError(e.ENOENT, f"no vcpu {vcpuid}")
        return self.vcpus[vcpuid]

    def has_info(self, vcpuid: int) -> bool:
        """Whether a vcpu has a vcpu_info: those from 32 on have none before they register one."""
        return not self._vcpu(vcpuid).areas.is_dummy

    def initialise(self, vcpuid: int, context: bytes) -> None:
        """VCPUOP_initialise (default_initialise_vcpu): the boot vcpu is initialised already."""
        vcpu = self._vcpu(vcpuid)
        if vcpu.is_initialised:
            raise XenError(e.EEXIST, f"vcpu {vcpuid} is initialised")
        vcpu.set_info_guest(context)

    def up(self, vcpuid: int) -> None:
        """VCPUOP_up."""
        vcpu = self._vcpu(vcpuid)
        if not vcpu.is_initialised:
            raise XenError(e.EINVAL, f"vcpu {vcpuid} is not initialised")
        if vcpu.is_down:
            vcpu.is_down = False
            vcpu.on_wake()

    def down(self, vcpuid: int) -> None:
        """VCPUOP_down: with its last vcpu the domain is powered off."""
        vcpu = self._vcpu(vcpuid)
        if all(other.is_down for other in self.vcpus if other is not vcpu):
            self.on_last_down()
        elif not vcpu.is_down:
            vcpu.is_down = True
            vcpu.on_sleep()

    def is_up(self, vcpuid: int) -> bool:
        """VCPUOP_is_up."""
        return not self._vcpu(vcpuid).is_down

    def runstate(self, vcpuid: int) -> tuple[int, int, tuple[int, int, int, int]]:
        """VCPUOP_get_runstate_info."""
        return self._vcpu(vcpuid).areas.runstate()

    def slept(self, ns: int) -> None:
        """The vcpu was blocked for ``ns`` until now, and no other wanted the CPU."""
        if ns:
            now = self._clock.now()
            self.areas.change_runstate(vc.RUNSTATE_blocked, now - ns)
            self.areas.change_runstate(vc.RUNSTATE_running, now)
            self.areas.update_runstate_area()

    def register_runstate_area(self, vcpuid: int, vaddr: int) -> None:
        """VCPUOP_register_runstate_memory_area."""
        self._vcpu(vcpuid).areas.register_runstate_area(vaddr, vcpuid == self._id)

    def register_time_area(self, vcpuid: int, vaddr: int) -> None:
        """VCPUOP_register_vcpu_time_memory_area."""
        self._vcpu(vcpuid).areas.register_time_area(vaddr)

    def register_vcpu_info(self, vcpuid: int, mfn: int, offset: int) -> None:
        """VCPUOP_register_vcpu_info: the time is told anew even where that is refused."""
        vcpu = self._vcpu(vcpuid)
        try:
            runs_elsewhere = vcpu is not self and not vcpu.is_down
            vcpu.info = vcpu.areas.register_vcpu_info(mfn, offset, runs_elsewhere)
        finally:
            vcpu.update_time()

    def set_periodic_timer(self, vcpuid: int, period: int) -> None:
        """VCPUOP_set_periodic_timer."""
        self._vcpu(vcpuid).timers.set_periodic_timer(period)

    def stop_periodic_timer(self, vcpuid: int) -> None:
        """VCPUOP_stop_periodic_timer."""
        self._vcpu(vcpuid).timers.stop_periodic_timer()

    def send_nmi(self, vcpuid: int) -> None:
        """VCPUOP_send_nmi: one is delivered when the guest has a handler for it and is not in it."""
        vcpu = self._vcpu(vcpuid)
        vcpu.nmi_pending = True
        vcpu.on_kick()
