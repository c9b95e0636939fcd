"""A guest that can be stopped, stepped and looked at, in one process. Going back is the timeline's work, which holds
several of these.

A run with stop points is the run without them: guest code is left without the guest noticing, and code is counted
instruction by instruction only where that is asked for (see :mod:`pvemu.cpu.unicorn.stepper`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pvemu.control.place import Mark, Place, Stop
from pvemu.control.pulse import Pulse
from pvemu.control.stop_points import Armed, StopPoint
from pvemu.cpu.exits import ExitKind, MemoryAccess
from pvemu.debug.symbols import Symbols
from pvemu.errors import ConfigError
from pvemu.frames import PAGE_MASK, PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hypercalls.table import Row
    from pvemu.control.channel import Channel
    from pvemu.control.keyboard import Keyboard
    from pvemu.debug.symbols import SymbolFiles
    from pvemu.machine import Machine, Outcome
    from pvemu.testing.session import Session

__all__ = ["Debuggee", "Hit"]

_WATCH_KINDS = ("read", "write", "access")

#: Where a stop point was met: exit number, arrivals at it (or accesses) since, and the point.
Hit = tuple[int, int, StopPoint]


class Debuggee:
    """``session`` drives ``machine`` (what is typed, time limits); ``channel`` is listened to while the guest runs."""

    def __init__(
        self, machine: Machine, session: Session, keyboard: Keyboard, *, channel: Channel | None = None,
        files: SymbolFiles | None = None,
    ) -> None:  # fmt: skip
        self.machine = machine
        self.session = session
        self.keyboard = keyboard
        self.symbols = Symbols.of(machine, files)
        machine.hypercalls.monitor(self._before_hypercall, lambda row, args, result: None)
        self.attach(channel)
        engine = machine.engine
        engine.watch.on_code = self._on_code
        engine.watch.on_memory = self._on_memory
        self._armed = Armed(machine, self._on_event, self._on_fault, self._watch_entry)
        self._code: dict[int, list[StopPoint]] = {}
        self._entries: dict[int, tuple[StopPoint, str]] = {}  # of stages that are about to start
        self._hits: list[tuple[StopPoint, str]] = []
        self._access_at = 0
        self._collected: list[Hit] | None = None  # hits are noted, not stopped at
        self._counts: dict[int, int] = {}  # arrivals by address (accesses by point) since the last exit
        self._counts_exit = -1
        self._known: int | None = 0  # instructions behind the last exit, where the guest stood last
        self._known_exits = 0
        self._trail: tuple[Mark, ...] = ()
        self._is_fault = False
        self.on_checkpoint: Callable[[], None] = lambda: None
        session.start()
        self.stop = Stop("start", "the guest is at its first instruction", Place(0, 0), engine.read("rip"), 0)
        self._known_exits = engine.exits

    def attach(self, channel: Channel | None) -> None:
        """Listen to another end."""
        self.pulse = Pulse(self.machine, channel)

    def _before_hypercall(self, row: Row, args: Sequence[int]) -> None:
        """A loader that hands over moves things over its own modules: note them while they can be read, whenever it
        talks to a back end.
        """
        if row.name == "event_channel_op":
            self.symbols.modules()

    # -- what stops it -----------------------------------------------------------------------------------------------
    def _arm(self, points: Sequence[StopPoint], extra: Sequence[int] = ()) -> None:
        self._armed.set([point for point in points if point.kind != "code" and point.kind not in _WATCH_KINDS])
        self._code = {}
        for point in points:
            if point.kind == "code":
                for address in point.addresses:
                    self._code.setdefault(address, []).append(point)
        watch = self.machine.engine.watch
        watch.set_code([*self._code, *self._entries, *extra])
        watch.set_memory(
            [(maddr, size, p.kind) for p in points if p.kind in _WATCH_KINDS for maddr, size in p.ranges]
        )
        self._watched = [point for point in points if point.kind in _WATCH_KINDS]

    def _count(self, key: int) -> int:
        exits = self.machine.engine.exits
        if exits != self._counts_exit:
            self._counts, self._counts_exit = {}, exits
        count = self._counts[key] = self._counts.get(key, 0) + 1
        return count

    def _on_code(self, address: int) -> bool:
        count = self._count(address)
        if address in self._entries:
            point, text = self._entries.pop(address)
            return self._meet(point, text, count)
        points = self._code.get(address, ())
        stops = [self._meet(point, point.text, count) for point in points]
        return any(stops) or (self._wanted_arrival == (address, count))

    def _on_memory(self, access: MemoryAccess) -> bool:
        stops = False
        for point in self._watched:
            for maddr, size in point.ranges:
                wants = point.kind in {access.kind, "access"}
                if wants and maddr < access.maddr + access.size and access.maddr < maddr + size:
                    linear = point.linear + max(access.maddr - maddr, 0)
                    self._access_at = linear
                    text = f"{access.kind} of {access.size} bytes at {linear:#x}"
                    stops = self._meet(point, text, self._count(-point.number)) or stops
        return stops

    def _on_event(self, point: StopPoint, text: str) -> None:
        if self._meet(point, text, 0):
            self.machine.engine.pause()

    def _on_fault(self, point: StopPoint, text: str) -> None:
        self._meet(point, text, 0)

    def _watch_entry(self, point: StopPoint, address: int, text: str) -> None:
        self._entries[address] = (point, text)
        watch = self.machine.engine.watch
        watch.set_code([*watch.code_addresses, address])

    def _meet(self, point: StopPoint, text: str, count: int) -> bool:
        if self._collected is not None:
            self._collected.append((self.machine.engine.exits, count, point))
            return False
        if self._wanted_hit is not None and self._wanted_hit != (self.machine.engine.exits, count):
            return False
        self._hits.append((point, text))
        return True

    def machine_ranges(self, vaddr: int, size: int) -> list[tuple[int, int]]:
        """(machine address, size) of the pieces of a linear range, as it is mapped now. ConfigError."""
        found = []
        while size > 0:
            maddr = self.machine.walker.lookup(vaddr)
            if maddr is None:
                raise ConfigError(f"{vaddr:#x}: nothing is mapped there now; watch it when there is")
            piece = min(size, PAGE_SIZE - (vaddr & PAGE_MASK))
            found.append((maddr, piece))
            vaddr, size = vaddr + piece, size - piece
        return found

    # -- running -----------------------------------------------------------------------------------------------------
    def resume(self, points: Sequence[StopPoint] = ()) -> Stop:
        """Run to the next stop point, or the end."""
        self._arm(points)
        if self.machine.engine.watch.watches_memory:
            self._count_on()
        else:
            self._count_off()
        return self._go()

    def step(self, count: int = 1, points: Sequence[StopPoint] = ()) -> Stop:
        """Run ``count`` instructions, counting; fewer when something else stops the guest."""
        self._arm(points)
        self._count_on()
        stepper = self.machine.engine.stepper
        stepper.budget = count
        try:
            return self._go()
        finally:
            stepper.budget = None

    def approach(self, exits: int) -> int:
        """Run without counting until exit ``exits`` has happened; how many have: in one block there may be more."""
        if self.machine.engine.exits < exits:
            self._arm(())
            self._count_off()
            self._go(target=exits)
        return self.machine.engine.exits

    def goto(self, place: Place) -> Stop:
        """Run to a place that is ahead, counting: its exit must not have happened, or the guest stands behind it with a
        known count.
        """
        self._arm(())
        engine = self.machine.engine
        if engine.exits < place.exits:
            self._count_on()
            engine.stepper.settles = bool(place.trail) and place.trail[0].kind == "settle"
            self._go(target=place.exits)
            engine.stepper.settles = False
        if place.insns is not None:
            left = place.insns - (self._known or 0)
            return self.step(left) if left > 0 else self.stop
        for mark in place.trail:
            match mark.kind:
                case "at":
                    self.step(mark.times - (self._known or 0))
                case "step":
                    self.step(mark.times)
                case "code":
                    self._arrive(mark.address, mark.times)
        return self.stop

    def _arrive(self, address: int, count: int) -> None:
        """Run to the ``count``-th arrival at an address, counting."""
        self._wanted_arrival = (address, count)
        self._arm((), [address])
        self._count_on()
        try:
            self._go()
        finally:
            self._wanted_arrival = None

    def goto_hit(self, exits: int, count: int, point: StopPoint) -> Stop:
        """Run to where ``collect`` met a stop point, counting: the ``count``-th time behind exit ``exits``."""
        self._wanted_hit = (exits, count)
        self._arm([point])
        self._count_on()
        try:
            return self._go()
        finally:
            self._wanted_hit = None

    def collect(self, points: Sequence[StopPoint], until: int, place: Place | None = None) -> list[Hit]:
        """Run until exit ``until`` has happened, without counting, and on to ``place`` (its count known) with it; the
        stop points met on the way.
        """
        found: list[Hit] = []
        engine = self.machine.engine
        self._collected = found
        try:
            self._arm(points)
            goes_on = engine.exits < until
            if goes_on:
                self._count_off()
                self._go(target=until)
            if place is None or engine.exits > place.exits:
                return found
            self._count_on()
            if engine.exits < place.exits:
                self._go(target=place.exits, goes_on=goes_on)
                goes_on = True
            left = (place.insns or 0) - (self._known or 0)
            if engine.exits == place.exits and left > 0:
                engine.stepper.budget = left
                self._go(goes_on=goes_on)
                engine.stepper.budget = None
        finally:
            self._collected = None
        return found

    def stretches(self, until: int) -> list[tuple[int, int]]:
        """Run until exit ``until`` has happened, counting: (exit, instructions begun since it) for each that has one
        behind it, the last of them first.
        """
        found: list[tuple[int, int]] = []
        self._arm(())
        self._count_on()
        stepper = self.machine.engine.stepper
        first = None if self._known is not None else self.machine.engine.exits
        stepper.on_exit = lambda exits, stretch: found.append((exits - 1, stretch))
        try:
            self._go(target=until)
        finally:
            stepper.on_exit = lambda exits, stretch: None
        return [(exits, stretch) for exits, stretch in reversed(found) if exits != first]

    def spin(self, seconds: float) -> Stop:
        """Run for so many seconds of wall time, counting, and stand still at a place that is known."""
        self._arm(())
        self._count_on()
        self.pulse.spin_seconds = seconds
        try:
            return self._go()
        finally:
            self.pulse.spin_seconds = None

    _wanted_arrival: tuple[int, int] | None = None
    _wanted_hit: tuple[int, int] | None = None
    _watched: Sequence[StopPoint] = ()

    def _count_on(self) -> None:
        stepper = self.machine.engine.stepper
        stepper.switch(on=True)
        stepper.insns = self._known or 0

    def _count_off(self) -> None:
        if self.machine.engine.is_counting:
            self.machine.engine.stepper.switch(on=False)

    def _go(self, target: int | None = None, *, goes_on: bool = False) -> Stop:
        """Run until something stops the guest that a user is to know of. ``goes_on``: arrivals are counted on."""
        machine, engine, pulse = self.machine, self.machine.engine, self.pulse
        self._hits.clear()
        self._access_at = 0
        counts, counts_exit = self._counts, self._counts_exit
        self._begin()
        if goes_on:
            self._counts, self._counts_exit = counts, counts_exit
        else:
            engine.watch.passes = engine.read("rip")
        while True:
            engine.forget_pause()
            engine.pause_at(math.inf if target is None else target)
            outcome = self._run()
            if outcome.kind != "paused":
                return self._stopped("end", outcome.detail or outcome.kind)
            if self._hits:
                return self._stopped(self._kind_of_hits(), "; ".join(text for _, text in self._hits))
            if machine.leaving.kind == ExitKind.BREAKPOINT:
                return self._stopped("arrived", "")
            if engine.is_counting and engine.stepper.budget is not None and engine.stepper.budget <= 0:
                return self._stopped("step", "")
            if target is not None and engine.exits >= target:
                return self._stopped("arrived", "")
            if pulse.is_interrupted:
                pulse.is_interrupted = False
                return self._stopped("interrupt", "interrupted")
            if pulse.wants_checkpoint:
                pulse.checkpoint_taken()
                self._stopped("checkpoint", "")
                self.on_checkpoint()
                self._begin()

    def _run(self) -> Outcome:
        self.pulse.start()
        try:
            return self.machine.run()
        finally:
            self.pulse.stop()

    def _kind_of_hits(self) -> str:
        kinds = {point.kind for point, _ in self._hits}
        if kinds <= {"code", "stage"}:
            return "breakpoint"
        return "fault" if "fault" in kinds else "watch" if kinds <= set(_WATCH_KINDS) else "event"

    # -- where it stands ---------------------------------------------------------------------------------------------
    def _begin(self) -> None:
        """The guest goes on from a place that may be known, or only by a trail."""
        engine = self.machine.engine
        self._counts, self._counts_exit = {}, engine.exits
        self._known_exits = engine.exits
        if self._known is not None:
            self._trail = (Mark("at", self._known),)
        self.pulse.was_forced = False

    def _stopped(self, kind: str, text: str) -> Stop:
        engine, machine = self.machine.engine, self.machine
        moved = engine.exits != self._known_exits
        if engine.is_counting:
            trail: tuple[Mark, ...] = ()
            if moved or self._known is not None:
                self._known = engine.stepper.insns
            else:
                trail = (*self._trail, Mark("step", engine.stepper.insns))
        else:
            trail = self._plain_trail(kind, moved=moved)
            self._known = None
        self._trail = trail
        is_fault = machine.leaving.kind == ExitKind.EXCEPTION and kind in {"fault", "end"}
        self.stop = Stop(
            kind, text, Place(engine.exits, self._known, trail, is_fault), engine.read("rip"),
            machine.clock.now() - machine.clock.start, tuple(point.number for point, _ in self._hits),
            self._access_at,
        )  # fmt: skip
        return self.stop

    def _plain_trail(self, kind: str, *, moved: bool) -> tuple[Mark, ...]:
        before: tuple[Mark, ...] = () if moved else self._trail
        rip = self.machine.engine.read("rip")
        if self.machine.leaving.kind == ExitKind.BREAKPOINT:
            return (*before, Mark("code", self._counts.get(rip, 1), rip))
        if kind == "end" and self.machine.outcome is not None and self.machine.outcome.kind == "hang":
            return (*before, Mark("code", 1, rip))  # of a loop that does nothing, each turn is like the first
        if self.pulse.was_forced:
            return (*before, Mark("lost"))
        return before or (Mark("settle"),)
