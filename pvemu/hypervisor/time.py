"""Virtual time: the only clock a guest can see. It advances by what the guest does, never by the host's clock.

Every exit costs a fixed amount; a guest that only polls (reads the clock or an empty ring) makes time run faster and
faster, up to a bound, so that a countdown costs next to nothing; a guest that sleeps jumps to the next event. The TSC
ticks once a nanosecond, so it equals system time.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NS_PER_S", "SYSTEM_TIME_AT_START", "TimerHandle", "VirtualClock"]

NS_PER_S = 1_000_000_000
#: System time when the guest starts: Xen has been up for a second.
SYSTEM_TIME_AT_START = NS_PER_S

_POLL_NS = 50
_POLL_MAX_NS = 1_000_000
#: One look never takes more than this fraction (2**-n) of the time that the guest has been polling already.
_POLL_SHIFT = 7
_POLL_LONGEST_NS = 100_000_000
#: A guest that exits so often and nothing comes of it (it faults, yields or asks the store for ever) is made to run out
#: of its time: then the cost of an exit doubles with every 2**15 more.
_VAIN_EXITS = 1 << 17
_VAIN_SHIFT = 15
_VAIN_MAX_SHIFT = 16
_PATIENT_POLLS = 16
#: Nor more than this fraction of it while it is short: a delay loop ends about when it means to.
_POLL_SHORT_SHIFT = 3
#: A loop looks from a few places; a guest at work, whose scheduler and tracing look at the clock as well, from many.
_POLL_PLACES = 8


class TimerHandle:
    """A scheduled call. ``cancel`` before it is due takes it back."""

    __slots__ = ("callback", "due")

    def __init__(self, due: int, callback: Callable[[], None] | None) -> None:
        self.due = due
        self.callback = callback

    def cancel(self) -> None:
        """Take it back; harmless afterwards."""
        self.callback = None


class VirtualClock:
    """``now`` is Xen system time in nanoseconds, ``start`` that at which the run began; ``time`` is later where the
    domain is not the run's first.
    """

    def __init__(self, start: int = SYSTEM_TIME_AT_START, time: int | None = None) -> None:
        self.start = start
        self.time = start if time is None else time
        self._queue: list[tuple[int, int, TimerHandle]] = []
        self._observers: list[tuple[int, int, TimerHandle]] = []
        self._sequence = 0
        self._polls = 0
        self._polling_since = self.time
        self._places: set[int] = set()
        self._vain = 0  # exits since the last progress
        #: What the guest's TSC showed at a system time (pvemu.hypervisor.tsc).
        self.tsc_at: Callable[[int], int] = lambda stime: stime
        #: Called with the time that an idle guest is about to skip to (None: nothing is due, ever). An interactive
        #: session sleeps here; it returns True when something may have changed meanwhile.
        self.on_idle: Callable[[int | None], bool] | None = None

    def now(self) -> int:
        """System time in nanoseconds."""
        return self.time

    def charge(self, ns: int) -> None:
        """The guest did something that takes ``ns``: it is not merely polling."""
        self._polls = 0
        self._vain += 1
        if self._vain > _VAIN_EXITS:
            ns <<= min((self._vain - _VAIN_EXITS) >> _VAIN_SHIFT, _VAIN_MAX_SHIFT)
            if self._queue:
                ns = min(ns, max(self._queue[0][0] - self.time, 0))
        self.time += ns

    def progress(self) -> None:
        """Something came of what the guest does: output, a disk request, memory touched for the first time."""
        self._vain = 0

    def pass_time(self, ns: int) -> None:
        """Time that passes without the guest having done anything of note (a yield)."""
        self.time += ns

    def poll(self, place: int = 0) -> int:
        """The guest looked at a clock or a ring; returns system time. The longer it does nothing else, the more time
        one look takes. ``place`` tells looks in one loop from those of a guest at work (its code and stack address).
        """
        if place not in self._places:
            if len(self._places) >= _POLL_PLACES:
                self._places.clear()
                self._polls = 0
            self._places.add(place)
        polls = self._polls
        if not polls:
            self._polling_since = self.time
        self._polls = polls + 1
        step = _POLL_NS
        if polls >= _PATIENT_POLLS:
            elapsed = self.time - self._polling_since
            longest = min(max(_POLL_MAX_NS, elapsed >> _POLL_SHIFT), _POLL_LONGEST_NS)
            step = min(max(_POLL_NS, elapsed >> _POLL_SHORT_SHIFT), longest)
        target = self.time + step
        if self._queue and self._queue[0][0] < target:
            target = max(self._queue[0][0], self.time)
        if step >= _POLL_MAX_NS and self.on_idle is not None:
            self.on_idle(target)
        self.time = target
        return target

    @property
    def next_due(self) -> int | None:
        """When the next scheduled call is due."""
        while self._queue and self._queue[0][2].callback is None:
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None

    def call_at(self, due: int, callback: Callable[[], None]) -> TimerHandle:
        """Run ``callback`` once, when system time reaches ``due`` ns (now, if that is past), in order of time."""
        handle = TimerHandle(due, callback)
        self._sequence += 1
        heapq.heappush(self._queue, (due, self._sequence, handle))
        return handle

    def observe_at(self, due: int, callback: Callable[[], None]) -> TimerHandle:
        """Run ``callback`` once, soon after system time reached ``due`` ns. Unlike ``call_at``, that changes nothing
        for the guest: it is for those who only look, and may look at other times in another run.
        """
        handle = TimerHandle(due, callback)
        self._sequence += 1
        heapq.heappush(self._observers, (due, self._sequence, handle))
        return handle

    def run_due(self) -> bool:
        """Run what is due; True when something ran."""
        ran = False
        while self._observers and self._observers[0][0] <= self.time:
            observer = heapq.heappop(self._observers)[2]
            if observer.callback is not None:
                observer.callback()
        while self._queue and self._queue[0][0] <= self.time:
            handle = heapq.heappop(self._queue)[2]
            if handle.callback is not None:
                callback, handle.callback = handle.callback, None
                callback()
                ran = True
        return ran

    def skip_to_next(self, limit: int | None = None) -> bool:
        """An idle guest: jump to the next scheduled call (or to ``limit`` if that comes first) and run it. False when
        there is nothing to wait for.
        """
        due = self.next_due
        while self._observers and self._observers[0][2].callback is None:
            heapq.heappop(self._observers)
        if self._observers and (due is None or self._observers[0][0] < due):
            due = self._observers[0][0]
        target = due if limit is None else limit if due is None else min(due, limit)
        if self.on_idle is not None and self.on_idle(target):
            return True
        if target is None:
            return False
        self.time = max(self.time, target)
        self._polls = 0
        self.run_due()
        return True
