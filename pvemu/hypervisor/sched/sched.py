"""What a guest sees of the scheduler: yielding, blocking, polling (xen/common/sched/core.c do_sched_op).

Nothing else competes for the CPU, so a sleeping guest makes virtual time jump to the next scheduled event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.hypervisor.vcpu.current import ServesCurrent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pvemu.hypervisor.event_channel import EventChannels
    from pvemu.hypervisor.time import VirtualClock
    from pvemu.hypervisor.vcpu import Vcpu

__all__ = ["Sched"]

_YIELD_NS = 2_000
#: credit2's rate limit: a vcpu runs for so long before another that woke up may have the CPU.
_SLICE_NS = 1_000_000


class Sched(ServesCurrent):
    """``is_stopping`` tells that the run ends (shutdown, timeout, a match): sleepers wake then. ``on_stuck`` is called
    when a sleeping guest can never wake.
    """

    def __init__(
        self, clock: VirtualClock, vcpu: Vcpu, events: EventChannels, is_stopping: Callable[[], bool],
        on_stuck: Callable[[], None],
    ) -> None:  # fmt: skip
        self._clock = clock
        self._vcpu = vcpu
        self._events = events
        self._is_stopping = is_stopping
        self._on_stuck = on_stuck
        self.is_idle = False
        self.is_due = False  #: whether another vcpu may be to run
        self.slice_ns: Callable[[], int] = lambda: _SLICE_NS  #: how long the next slice is, where vcpus share the CPU
        self.yield_ns = _YIELD_NS  #: how long dom0 keeps the CPU then

    @property
    def current(self) -> Vcpu:
        """The vcpu that runs."""
        return self._vcpu

    def schedule(self) -> None:
        """Give the CPU to whom it is due: with one vcpu that is never done."""

    def preempt(self) -> bool:
        """The vcpu repeats itself for ever: whether another can end that."""
        return False

    def yield_(self) -> None:
        """SCHEDOP_yield: dom0 gets the CPU; whatever is due happens. The rest of a multicall comes after that."""
        self._vcpu.softirq_pending = True
        self._clock.pass_time(self.yield_ns)
        self._clock.run_due()

    def block(self) -> None:
        """SCHEDOP_block: unmask upcalls and sleep until one is pending."""
        info = self._vcpu.info
        info.upcall_mask = 0
        self._sleep(lambda: bool(info.upcall_pending and not info.upcall_mask), None)

    def poll(self, ports: Iterable[int], timeout: int) -> None:
        """SCHEDOP_poll (do_poll): sleep until a port is pending, an upcall comes up, or system time is ``timeout``.
        One who polls several ports is woken by any event; a masked upcall wakes when it becomes pending. ``ports`` are
        looked at one by one: none when there is an upcall to take, and none behind the first that is pending.
        """
        info, events = self._vcpu.info, self._events
        if info.upcall_pending and not info.upcall_mask:
            return
        polled: list[int] = []
        for port in ports:
            if events.poll(port):
                return
            polled.append(port)
        was_pending, raised = info.upcall_pending, events.raised

        def woken() -> bool:
            if len(polled) == 1:
                return events.is_pending(polled[0]) or bool(info.upcall_pending and not was_pending)
            return events.raised != raised

        self._sleep(woken, timeout or None)

    def _sleep(self, woken: Callable[[], bool], until: int | None) -> None:
        clock = self._clock
        clock.run_due()
        if woken():
            return
        since = clock.now()
        self.is_idle = True
        self._vcpu.timers.park()
        try:
            while not woken() and not self._is_stopping():
                if until is not None and clock.now() >= until:
                    break
                if not clock.skip_to_next(until):
                    self._on_stuck()
                    break
        finally:
            # A run that is only interrupted goes on with the sleep: who looks on must not wake the guest.
            is_over = woken() or not self._is_stopping() or (until is not None and clock.now() >= until)
            self.is_idle = not is_over
        self._vcpu.slept(clock.now() - since)
        if not is_over:
            self._vcpu.resume = lambda: self._sleep(woken, until)
        else:
            self._vcpu.timers.take_up()
