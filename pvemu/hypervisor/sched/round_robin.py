"""Several vcpus on one CPU: each gets a slice of time in turn (what credit2 comes to on a host with one CPU,
xen/common/sched/core.c schedule).

All of it counts in virtual time and in exits, so that a run repeats. Time is shared: it passes for all vcpus while one
runs. A slice ends at an exit; a vcpu that spins, which PAUSE tells, gives up the rest of its slice.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from hypercalls.public import vcpu as vc
from pvemu.hypervisor.sched.sched import Sched

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.event_channel import EventChannels
    from pvemu.hypervisor.time import TimerHandle, VirtualClock
    from pvemu.hypervisor.vcpu import Vcpu

__all__ = ["RoundRobin"]

_PAUSE_NS = 50
#: One who executed so many PAUSEs in a slice waits for somebody.
_SPINS = 32


class RoundRobin(Sched):
    """As :class:`Sched`, for ``vcpus``; ``switch(before, after)`` changes the running one, ``leave`` has the run loop
    look whether to.
    """

    def __init__(
        self, clock: VirtualClock, vcpus: list[Vcpu], events: EventChannels, is_stopping: Callable[[], bool],
        on_stuck: Callable[[], None], leave: Callable[[], None], switch: Callable[[Vcpu, Vcpu], None],
    ) -> None:  # fmt: skip
        super().__init__(clock, vcpus[0], events, is_stopping, on_stuck)
        self._vcpus = vcpus
        self._leave = leave
        self._switch = switch
        self._queue: deque[Vcpu] = deque()  # those that are runnable, and do not run
        self._sleepers: dict[int, _Sleep] = {}  # by vcpu: those that are blocked
        self._slice: TimerHandle | None = None
        self._spins = 0
        for vcpu in vcpus:
            self._connect(vcpu)
        events.on_kick = lambda vcpu_id: self._unblock(vcpus[vcpu_id])
        events.observe(on_raise=self._check_pollers)

    def _connect(self, vcpu: Vcpu) -> None:
        vcpu.vcpus = [*self._vcpus]
        kick_running = vcpu.on_kick

        def kick() -> None:
            if vcpu is self._vcpu and not self.is_due:
                kick_running()
            else:
                self._unblock(vcpu)

        vcpu.on_kick = kick
        vcpu.on_wake = lambda: self._wake(vcpu)
        vcpu.on_sleep = lambda: self._sleep_nosync(vcpu)

    # -- blocking ----------------------------------------------------------------------------------------------------
    def yield_(self) -> None:
        """SCHEDOP_yield: dom0 gets the CPU, and whoever waits for it after that."""
        super().yield_()
        if self._queue:
            self._reschedule()

    def _sleep(self, woken: Callable[[], bool], until: int | None) -> None:
        vcpu = self._vcpu
        if all(other.is_down for other in self._vcpus if other is not vcpu):
            super()._sleep(woken, until)  # nobody else is there to run
            return
        self._clock.run_due()
        if woken():
            return
        timer = None if until is None else self._clock.call_at(until, lambda: self._unblock(vcpu))
        self._sleepers[vcpu.vcpu_id] = _Sleep(woken, timer)
        self._reschedule()

    def _unblock(self, vcpu: Vcpu) -> None:
        """vcpu_unblock."""
        sleep = self._sleepers.pop(vcpu.vcpu_id, None)
        if sleep is not None:
            if sleep.timer is not None:
                sleep.timer.cancel()
            self._wake(vcpu)

    def _check_pollers(self, _port: int) -> None:
        """evtchn_check_pollers."""
        for vcpu_id, sleep in tuple(self._sleepers.items()):
            if sleep.woken():
                self._unblock(self._vcpus[vcpu_id])

    def _is_runnable(self, vcpu: Vcpu) -> bool:
        return not vcpu.is_down and vcpu.vcpu_id not in self._sleepers

    def _wake(self, vcpu: Vcpu) -> None:
        """vcpu_wake."""
        if vcpu is self._vcpu or vcpu in self._queue or not self._is_runnable(vcpu):
            return
        vcpu.areas.change_runstate(vc.RUNSTATE_runnable, self._clock.now())
        self._queue.append(vcpu)
        self._start_slice()

    def _sleep_nosync(self, vcpu: Vcpu) -> None:
        """vcpu_sleep_nosync: it was brought down."""
        if vcpu is self._vcpu:
            self._reschedule()
        else:
            if vcpu in self._queue:
                self._queue.remove(vcpu)
            vcpu.areas.change_runstate(vc.RUNSTATE_offline, self._clock.now())

    # -- whose turn it is --------------------------------------------------------------------------------------------
    def _reschedule(self) -> None:
        self.is_due = True
        self._leave()

    def _start_slice(self) -> None:
        if self._slice is None and self._queue:
            self._slice = self._clock.call_at(self._clock.now() + self.slice_ns(), self._slice_over)

    def _slice_over(self) -> None:
        self._slice = None
        if self._queue:
            self._reschedule()

    def spin(self, place: int) -> None:
        """The running vcpu has executed PAUSE at a place that is told by its code and stack address."""
        if not self._queue:
            self._clock.poll(place)
            return
        self._clock.pass_time(_PAUSE_NS)
        self._spins += 1
        if self._spins >= _SPINS:
            self._reschedule()

    def preempt(self) -> bool:
        """The running vcpu repeats itself for ever unless another ends that: whether there is one."""
        if not self._queue and self._clock.next_due is not None:
            self._clock.skip_to_next()
        self.is_due = self.is_due or bool(self._queue)
        return self.is_due

    def schedule(self) -> None:
        """Give the CPU to the vcpu that has waited longest, and have time pass until there is one. It stays due where
        the run is to end before that.
        """
        vcpu, clock = self._vcpu, self._clock
        if self._slice is not None:
            self._slice.cancel()
            self._slice = None
        if self._is_runnable(vcpu):
            self._queue.append(vcpu)
        self._account(vcpu)
        if not self._queue or self._queue[0] is not vcpu:
            vcpu.timers.park()
        self.is_idle = True
        while not self._queue:
            if self._is_stopping():
                return
            if not clock.skip_to_next():
                self._on_stuck()
                return
            if self._is_runnable(vcpu) and vcpu not in self._queue:
                self._queue.append(vcpu)
        self.is_idle = self.is_due = False
        self._spins = 0
        after = self._queue.popleft()
        if after is not vcpu:
            vcpu.areas.update_runstate_area()
            self._switch(vcpu, after)
        after.areas.change_runstate(vc.RUNSTATE_running, clock.now())
        after.areas.update_runstate_area()
        after.areas.refresh_time()
        after.timers.take_up()
        self._start_slice()

    def _account(self, vcpu: Vcpu) -> None:
        """The run state of a vcpu that gives up the CPU."""
        state = vc.RUNSTATE_runnable
        if vcpu.is_down:
            state = vc.RUNSTATE_offline
        elif vcpu.vcpu_id in self._sleepers:
            state = vc.RUNSTATE_blocked
        vcpu.areas.change_runstate(state, self._clock.now())


class _Sleep:
    """A blocked vcpu: when it wakes, and the timer of its poll."""

    def __init__(self, woken: Callable[[], bool], timer: TimerHandle | None) -> None:
        self.woken = woken
        self.timer = timer
