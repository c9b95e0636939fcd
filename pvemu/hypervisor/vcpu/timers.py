"""A vcpu's two timers, both heard as VIRQ_TIMER: the single-shot one and the periodic one (xen/common/sched/core.c,
do_set_timer_op, vcpu_periodic_timer_work; xen/common/domain.c, VCPUOP_*_timer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from hypercalls.public import xen

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.event_channel import EventChannels
    from pvemu.hypervisor.time import TimerHandle, VirtualClock

__all__ = ["FIRST_PERIOD_NS", "VcpuTimers"]

_MIN_PERIOD_NS = 1_000_000
#: Each PV vcpu starts with a periodic timer, which modern guests stop (pv_vcpu_initialise).
FIRST_PERIOD_NS = 10_000_000
#: A timeout beyond 2**50 ns, or a negative one, is a wrapped clock of an old Linux: it gets this instead.
_HUGE_TIMEOUT_NS = 100_000_000


class VcpuTimers:
    """Timers of vcpu ``vcpu_id``; all times are nanoseconds of system time. The periodic one starts with ``period``, or
    not at all (0).
    """

    def __init__(self, vcpu_id: int, clock: VirtualClock, events: EventChannels, period: int) -> None:
        self._id = vcpu_id
        self._clock = clock
        self._events = events
        self.lateness: Callable[[], int] = lambda: 0  #: how late the next timer fires, in nanoseconds
        self._timer: TimerHandle | None = None
        self._periodic: TimerHandle | None = None
        self._period = period
        self._last_tick = clock.now() if period else 0
        self._is_set = False  # the guest has said something about the period
        events.on_bind_virq[vcpu_id] = self._virq_bound

    def _raise_timer(self) -> None:
        self._events.raise_virq(xen.VIRQ_TIMER, self._id)

    def set_timer(self, timeout: int) -> None:
        """HYPERVISOR_set_timer_op: one VIRQ_TIMER at ``timeout`` ns of system time (a u64); 0 stops."""
        self.stop_singleshot_timer()
        if timeout:
            now = self._clock.now()
            if timeout >> 63 or timeout - now >= 1 << 50:
                timeout = now + _HUGE_TIMEOUT_NS
            self._timer = self._clock.call_at(timeout + self.lateness(), self._raise_timer)

    def set_singleshot_timer(self, timeout: int, future: bool) -> None:
        """VCPUOP_set_singleshot_timer: at once when ``timeout`` is past, whatever VCPU_SSHOTTMR_future says, or when it
        is negative as a time of Xen's.
        """
        self.stop_singleshot_timer()
        if timeout < self._clock.now() or timeout >> 63:
            self._raise_timer()
        else:
            self._timer = self._clock.call_at(timeout + self.lateness(), self._raise_timer)

    def stop_singleshot_timer(self) -> None:
        """VCPUOP_stop_singleshot_timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def set_periodic_timer(self, period: int) -> None:
        """VCPUOP_set_periodic_timer: ``period`` ns, at least a millisecond, counted from the tick before."""
        if period < _MIN_PERIOD_NS:
            raise XenError(e.EINVAL, f"period of {period} ns")
        self._is_set = True
        self._catch_up()
        self._stop_ticks()
        self._period = period
        now = self._clock.now()
        if now >= self._last_tick + period:
            self._tick()
        else:
            self._await_tick()

    def start(self) -> None:
        """The vcpu runs for the first time: so does its periodic timer, unless the guest has seen to that."""
        if not self._is_set:
            self.set_periodic_timer(FIRST_PERIOD_NS)

    def stop_periodic_timer(self) -> None:
        """VCPUOP_stop_periodic_timer."""
        self._is_set = True
        self._catch_up()
        self._stop_ticks()
        self._period = 0

    def _stop_ticks(self) -> None:
        if self._periodic is not None:
            self._periodic.cancel()
            self._periodic = None

    def _tick(self) -> None:
        self._last_tick = self._clock.now()
        self._periodic = None
        self._raise_timer()
        self._await_tick()

    def _await_tick(self) -> None:
        """The next tick is an event only while somebody listens: an idle guest is not woken a hundred times a second
        for nothing, and one that nothing can wake is found out.
        """
        if self._events.is_virq_bound(xen.VIRQ_TIMER, self._id):
            self._periodic = self._clock.call_at(self._last_tick + self._period, self._tick)

    def _catch_up(self) -> None:
        """Ticks that nobody heard have passed all the same."""
        if self._period and self._periodic is None:
            self._last_tick += (self._clock.now() - self._last_tick) // self._period * self._period

    def _virq_bound(self, virq: int) -> None:
        if virq == xen.VIRQ_TIMER and self._period and self._periodic is None:
            self._catch_up()
            self._await_tick()
