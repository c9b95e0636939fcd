"""The domain: identity, life and death (xen/common/domain.c, xen/common/sched/core.c domain_shutdown)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from hypercalls.public import sched, xen
from pvemu.hypervisor.time import NS_PER_S, TimerHandle, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SHUTDOWN_NAMES", "Domain", "DomainCrashError"]

SHUTDOWN_NAMES = {
    sched.SHUTDOWN_poweroff: "poweroff", sched.SHUTDOWN_reboot: "reboot", sched.SHUTDOWN_suspend: "suspend",
    sched.SHUTDOWN_crash: "crash", sched.SHUTDOWN_watchdog: "watchdog", sched.SHUTDOWN_soft_reset: "soft_reset",
}  # fmt: skip
_NR_WATCHDOGS = 2
#: PV64_VM_ASSIST_MASK: a 64-bit guest may ask for those too that mean nothing to it.
_VM_ASSISTS = frozenset((xen.VMASST_TYPE_4gb_segments, xen.VMASST_TYPE_4gb_segments_notify,
                         xen.VMASST_TYPE_writable_pagetables, xen.VMASST_TYPE_pae_extended_cr3,
                         xen.VMASST_TYPE_architectural_iopl, xen.VMASST_TYPE_runstate_update_flag,
                         xen.VMASST_TYPE_m2p_strict))  # fmt: skip


class DomainCrashError(Exception):
    """The domain is crashed by the hypervisor; ``lines`` is what Xen prints of the reason, without its prefix; ``%pv``
    stands for the vcpu, as in Xen's formats.
    """

    def __init__(self, lines: list[str]) -> None:
        super().__init__(*lines)
        self.lines = lines


class Domain:
    """``stop`` leaves the engine: the domain does not run on. ``shutdown_reason`` is None while it lives."""

    def __init__(self, domid: int, clock: VirtualClock, stop: Callable[[], None]) -> None:
        self._domid = domid
        self._clock = clock
        self._stop = stop
        #: The UUID that a toolstack would have made up: 16 bytes, which begin "Pvem" and are of version 4.
        self.handle = ((0x5076_656D << 96) | (4 << 76) | (0x8 << 60) | domid).to_bytes(16, "big")
        self.shutdown_reason: int | None = None
        self._code: int | None = None
        #: VMASST_TYPE_* that the guest has asked for; at first those that libxc sets for it, and no others.
        self.assists: set[int] = set()
        self._watchdogs: dict[int, TimerHandle] = {}
        #: Xen's console.
        self.log: Callable[[str], None] = lambda line: None

    @property
    def domid(self) -> int:
        """Domain id."""
        return self._domid

    @property
    def uuid(self) -> str:
        """The handle as text. Python's own `uuid` takes 2% of the time to a guest's first output to be imported."""
        digits = self.handle.hex()
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def now(self) -> int:
        """System time, ns."""
        return self._clock.now()

    def shutdown(self, reason: int) -> None:
        """domain_shutdown with a SHUTDOWN_* reason; one that SCHEDOP_shutdown_code has set before stands."""
        self.shutdown_code(reason)
        if self.shutdown_reason is None:
            self.shutdown_reason = self._code
        self._stop()

    def shutdown_code(self, reason: int) -> None:
        """SCHEDOP_shutdown_code: the reason of the shutdown to come; the domain runs on."""
        if self._code is None:
            self._code = reason

    def resume(self) -> None:
        """domain_resume: a domain that was shut down runs on."""
        self.shutdown_reason = self._code = None

    def vm_assist(self, type: int, enable: bool) -> None:
        """HYPERVISOR_vm_assist."""
        if type not in _VM_ASSISTS:
            raise XenError(e.EINVAL, f"vm_assist type {type}")
        if enable:
            self.assists.add(type)
        else:
            self.assists.discard(type)

    def has_vm_assist(self, type: int) -> bool:
        """VM_ASSIST: whether one is on."""
        return type in self.assists

    def watchdog(self, id: int, timeout: int) -> int:
        """SCHEDOP_watchdog (domain_watchdog): ``timeout`` seconds; 0 stops one, but fires a new one. A new one's
        id is returned.
        """
        if id > _NR_WATCHDOGS:
            raise XenError(e.EINVAL, f"watchdog {id}")
        if id == 0:
            for number in range(1, _NR_WATCHDOGS + 1):
                if number not in self._watchdogs:
                    self._arm(number, timeout)
                    return number
            raise XenError(e.ENOSPC, "no free watchdog")
        if id not in self._watchdogs:
            raise XenError(e.EINVAL, f"watchdog {id} is not in use")
        self._watchdogs.pop(id).cancel()
        if timeout:
            self._arm(id, timeout)
        return 0

    def _arm(self, number: int, timeout: int) -> None:
        self._watchdogs[number] = self._clock.call_at(self._clock.now() + timeout * NS_PER_S, self._watchdog_timeout)

    def _watchdog_timeout(self) -> None:
        if self.shutdown_reason is None:
            self.log(f"Watchdog timer fired for domain {self._domid}")
            self.shutdown(sched.SHUTDOWN_watchdog)
