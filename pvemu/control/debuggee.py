"""A guest that can be stopped, stepped and looked at, in one process. Going back is the timeline's work, which holds
several of these.

A run with stop points is the run without them: guest code is left without the guest noticing, and code is counted
instruction by instruction only where that is asked for (see :mod:`pvemu.cpu.unicorn.stepper`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pvemu.control.encounters import Encounters
from pvemu.control.place import Mark, Place, Stop
from pvemu.control.pulse import Pulse
from pvemu.control.stop_points import WATCH_KINDS
from pvemu.cpu.exits import ExitKind
from pvemu.debug.symbols import Symbols
from pvemu.errors import ConfigError
from pvemu.frames import PAGE_MASK, PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hypercalls.table import Row
    from pvemu.control.channel import Channel
    from pvemu.control.encounters import Hit
    from pvemu.control.keyboard import Keyboard
    from pvemu.control.stop_points import StopPoint
    from pvemu.debug.symbols import SymbolFiles
    from pvemu.machine import Machine, Outcome
    from pvemu.testing.session import Session

__all__ = ["Debuggee"]


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
        self._met = Encounters(machine)
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
        self._met.arm(points)
        if self.machine.engine.watch.watches_memory:
            self._count_on()
        else:
            self._count_off()
        return self._go()

    def step(self, count: int = 1, points: Sequence[StopPoint] = ()) -> Stop:
        """Run ``count`` instructions, counting; fewer when something else stops the guest."""
        self._met.arm(points)
        self._count_on()
        stepper = self.machine.engine.stepper
        stepper.budget = count
        try:
            return self._go()
        finally:
            stepper.budget = None

    def step_range(self, first: int, end: int, points: Sequence[StopPoint] = ()) -> Stop:
        """Run instructions, counting, until the vcpu that runs now stands outside the linear addresses from ``first``
        to before ``end``, or the guest at a stop point. What other vcpus run meanwhile is no matter.
        """
        pulse, machine = self.pulse, self.machine
        stepped = machine.vcpu
        with pulse.paused():  # each instruction is soon over
            while True:
                stop = self.step(1, points)
                is_outside = machine.vcpu is stepped and not first <= stop.rip < end
                if stop.kind != "step" or is_outside or self._met.is_code_point(stop.rip):
                    return stop
                pulse.look()
                if pulse.is_interrupted:
                    pulse.is_interrupted = False
                    return self._stopped("interrupt", "interrupted")
                if pulse.wants_checkpoint:
                    pulse.checkpoint_taken()
                    self.on_checkpoint()

    def approach(self, exits: int) -> int:
        """Run without counting until exit ``exits`` has happened; how many have: in one block there may be more."""
        if self.machine.engine.exits < exits:
            self._met.arm(())
            self._count_off()
            self._go(target=exits)
        return self.machine.engine.exits

    def goto(self, place: Place) -> Stop:
        """Run to a place that is ahead, counting: its exit must not have happened, or the guest stands behind it with a
        known count.
        """
        self._met.arm(())
        engine = self.machine.engine
        is_fresh = engine.exits < place.exits
        if is_fresh:
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
                    # Where the exit leads to is the first arrival there: a handler, or another vcpu's next instruction.
                    times = mark.times - (is_fresh and engine.read("rip") == mark.address)
                    if times:
                        self._arrive(mark.address, times)
            is_fresh = False
        return self.stop

    def _arrive(self, address: int, count: int) -> None:
        """Run to the ``count``-th arrival at an address, counting."""
        self._met.wanted_arrival = (address, count)
        self._met.arm((), [address])
        self._count_on()
        try:
            self._go()
        finally:
            self._met.wanted_arrival = None

    def goto_hit(self, exits: int, count: int, point: StopPoint) -> Stop:
        """Run to where ``collect`` met a stop point, counting: the ``count``-th time behind exit ``exits``."""
        self._met.wanted_hit = (exits, count)
        self._met.arm([point])
        self._count_on()
        try:
            return self._go()
        finally:
            self._met.wanted_hit = None

    def collect(self, points: Sequence[StopPoint], until: int, place: Place | None = None) -> list[Hit]:
        """Run until exit ``until`` has happened, without counting, and on to ``place`` (its count known) with it; the
        stop points met on the way.
        """
        found: list[Hit] = []
        engine = self.machine.engine
        self._met.collected = found
        try:
            self._met.arm(points)
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
            self._met.collected = None
        return found

    def stretches(self, until: int) -> list[tuple[int, int]]:
        """Run until exit ``until`` has happened, counting: (exit, instructions begun since it) for each that has one
        behind it, the last of them first.
        """
        found: list[tuple[int, int]] = []
        self._met.arm(())
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
        self._met.arm(())
        self._count_on()
        self.pulse.spin_seconds = seconds
        try:
            return self._go()
        finally:
            self.pulse.spin_seconds = None

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
        self._begin()
        self._met.go_on(counts_on=goes_on)
        if not goes_on:
            engine.watch.passes = engine.read("rip")
        while True:
            engine.forget_pause()
            engine.pause_at(math.inf if target is None else target)
            outcome = self._run()
            if outcome.kind != "paused":
                return self._stopped("end", outcome.detail or outcome.kind)
            if self._met.hits:
                return self._stopped(self._kind_of_hits(), "; ".join(text for _, text in self._met.hits))
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
                self._met.forget_counts()

    def _run(self) -> Outcome:
        self.pulse.start()
        try:
            return self.machine.run()
        finally:
            self.pulse.stop()

    def _kind_of_hits(self) -> str:
        kinds = {point.kind for point, _ in self._met.hits}
        if kinds <= {"code", "stage"}:
            return "breakpoint"
        return "fault" if "fault" in kinds else "watch" if kinds <= set(WATCH_KINDS) else "event"

    # -- where it stands ---------------------------------------------------------------------------------------------
    def _begin(self) -> None:
        """The guest goes on from a place that may be known, or only by a trail."""
        engine = self.machine.engine
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
            machine.clock.now() - machine.clock.start, tuple(point.number for point, _ in self._met.hits),
            self._met.access_at,
        )  # fmt: skip
        return self.stop

    def _plain_trail(self, kind: str, *, moved: bool) -> tuple[Mark, ...]:
        before: tuple[Mark, ...] = () if moved else self._trail
        rip = self.machine.engine.read("rip")
        if self.machine.leaving.kind == ExitKind.BREAKPOINT:
            return (*before, Mark("code", self._met.arrivals(rip), rip))
        if kind == "end" and self.machine.outcome is not None and self.machine.outcome.kind == "hang":
            return (*before, Mark("code", 1, rip))  # of a loop that does nothing, each turn is like the first
        if self.pulse.was_forced:
            return (*before, Mark("lost"))
        return before or (Mark("settle"),)
