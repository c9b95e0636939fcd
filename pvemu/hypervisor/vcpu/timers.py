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
#: What each PV vcpu's periodic timer starts with; modern guests stop it (pv_vcpu_initialise).
FIRST_PERIOD_NS = 10_000_000
#: A timeout beyond 2**50 ns, or a negative one, is a wrapped clock of an old Linux: it gets this instead.
_HUGE_TIMEOUT_NS = 100_000_000


class VcpuTimers:
    """Timers of vcpu ``vcpu_id``; all times are nanoseconds of system time. The periodic one ticks only while the vcpu
    has the CPU: it neither ends a block nor a poll. ``runs``: it has it from the start.
    """

    def __init__(self, vcpu_id: int, clock: VirtualClock, events: EventChannels, runs: bool) -> None:
        self._id = vcpu_id
        self._clock = clock
        self._events = events
        self.lateness: Callable[[], int] = lambda: 0  #: how late the next timer fires, in nanoseconds
        self._timer: TimerHandle | None = None
        self._periodic: TimerHandle | None = None
        self._period = FIRST_PERIOD_NS
        self._last_tick = 0
        self._is_active = False  # it counts, whether anybody listens or not
        if runs:
            self.take_up()
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
        self.park()
        self._period = period
        self.take_up()

    def stop_periodic_timer(self) -> None:
        """VCPUOP_stop_periodic_timer."""
        self.park()
        self._period = 0

    def park(self) -> None:
        """The vcpu loses the CPU: the periodic timer stops (sched_context_switch). Another vcpu may set it meanwhile,
        and it counts then.
        """
        self._catch_up()
        self._is_active = False
        if self._periodic is not None:
            self._periodic.cancel()
            self._periodic = None

    def take_up(self) -> None:
        """The vcpu gets the CPU: a tick that is overdue comes now, one and no more (vcpu_periodic_timer_work)."""
        if not self._period or self._is_active:
            return
        self._is_active = True
        if self._clock.now() >= self._last_tick + self._period:
            self._tick()
        else:
            self._await_tick()

    def _tick(self) -> None:
        self._last_tick = self._clock.now()
        self._periodic = None
        self._raise_timer()
        self._await_tick()

    def _await_tick(self) -> None:
        """The next tick is an event only while somebody listens: a loop that nothing can end is found out."""
        if self._events.is_virq_bound(xen.VIRQ_TIMER, self._id):
            self._periodic = self._clock.call_at(self._last_tick + self._period, self._tick)

    def _catch_up(self) -> None:
        """Ticks that nobody heard have passed all the same."""
        if self._is_active and self._periodic is None:
            self._last_tick += (self._clock.now() - self._last_tick) // self._period * self._period

    def _virq_bound(self, virq: int) -> None:
        if virq == xen.VIRQ_TIMER and self._is_active and self._periodic is None:
            self._catch_up()
            self._await_tick()
