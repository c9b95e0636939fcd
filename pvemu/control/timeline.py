"""A guest's run from its start to now, and the ways along it in both directions.

One process holds the guest as it is now, some wait at earlier places (checkpoints). To go back is to fork the last
checkpoint before the wanted place and to run forward to it: the run repeats exactly. Nothing is recorded but the keys
that were typed.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from pvemu.control.channel import Channel
from pvemu.control.place import Place, Stop
from pvemu.control.remote import Remote
from pvemu.control.stop_points import WATCH_KINDS
from pvemu.control.worker import Worker, fork_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pvemu.control.debuggee import Debuggee
    from pvemu.control.encounters import Hit
    from pvemu.control.stop_points import StopPoint

__all__ = ["CHECKPOINT_SECONDS", "Timeline"]

#: Wall seconds of the run between checkpoints, and how many there are at most.
CHECKPOINT_SECONDS = 0.25
_MAX_CHECKPOINTS = 24
#: Exits before a place at which counting begins; more where one translated block has that many.
_MARGINS = (1, 8, 256, 1 << 40)
_SPIN_SECONDS = 0.5


class _Checkpoint(NamedTuple):
    exits: int
    made: float
    remote: Remote


class Timeline:
    """``debuggee`` stands at the guest's first instruction; it is forked, and not used any more here.

    ``on_console`` gets console output of what runs forward. While the guest runs, ``listen`` (something to select on)
    is watched, and ``interrupts()`` asked whether what came there is to stop it.
    """

    def __init__(
        self, debuggee: Debuggee, inspect: Callable[[Debuggee, str, tuple[Any, ...]], object],
        on_console: Callable[[bytes], None] = lambda data: None,
    ) -> None:  # fmt: skip
        self._on_console = on_console
        self.listen: Any = None
        self.interrupts: Callable[[], bool] = lambda: False
        self._typed = debuggee.keyboard.script
        theirs, ours = Channel.pair()
        if fork_process() == 0:
            theirs.close()
            Worker(debuggee, ours, inspect).serve()
        ours.close()
        self._origin = Remote(theirs)
        self._checkpoints: list[_Checkpoint] = []
        self._live = self._origin.fork()
        self._began: Place | None = None  # history begins here, where the user has changed something
        self._met_event = False  # the guest stands where an event was met
        self.stop: Stop = self._live.call("stop")

    def close(self) -> None:
        """Let all processes end."""
        for checkpoint in self._checkpoints:
            checkpoint.remote.close()
        self._checkpoints.clear()
        self._live.close()
        self._origin.close()

    def ask(self, name: str, *arguments: object) -> Any:
        """Look at the guest as it is now. ConfigError for a request that makes no sense."""
        return self._live.call(name, *arguments)

    def type(self, keys: bytes) -> None:
        """Type on the guest's console, when it idles next."""
        self._live.call("type", keys)

    def change(self, name: str, *arguments: object) -> Any:
        """Have the guest's registers or memory changed: what was before can not be gone back to any more."""
        self.locate()
        result = self._live.call(name, *arguments)
        for checkpoint in self._checkpoints:
            checkpoint.remote.close()
        self._checkpoints.clear()
        self._origin.close()
        self._origin = self._live.fork()
        self._began = self.stop.place
        return result

    # -- forward -----------------------------------------------------------------------------------------------------
    def resume(self, points: Sequence[StopPoint]) -> Stop:
        """Run to the next stop point."""
        return self._forward("resume", tuple(points))

    def step(self, count: int = 1, points: Sequence[StopPoint] = ()) -> Stop:
        """Run so many instructions."""
        return self._forward("step", count, tuple(points))

    def step_range(self, first: int, end: int, points: Sequence[StopPoint]) -> Stop:
        """Run instructions until the guest stands outside ``first`` to before ``end``, or at a stop point."""
        return self._forward("step_range", first, end, tuple(points))

    def _forward(self, name: str, *arguments: object) -> Stop:
        live = self._live
        live.on_console, live.on_checkpoint = self._on_console, self._add_checkpoint
        live.call("loud", True, CHECKPOINT_SECONDS)
        live.begin(name, *arguments)
        stop = self._wait(live)
        self._typed = live.call("typed")
        return self._settle(stop)

    def _wait(self, remote: Remote) -> Stop:
        asked = False
        while True:
            try:
                watched = [remote.channel] if self.listen is None or asked else [remote.channel, self.listen]
                readable = select.select(watched, [], [])[0]
                if self.listen in readable and self.interrupts():
                    remote.interrupt()
                    asked = True
                if remote.channel in readable:
                    done, value = remote.take()
                    if done:
                        stop: Stop = value
                        return stop
            except KeyboardInterrupt:
                remote.interrupt()

    def _settle(self, stop: Stop) -> Stop:
        self.stop = stop
        self._met_event = stop.kind == "event"
        if any(mark.kind == "lost" for mark in stop.place.trail):
            self._stand_somewhere(stop)
        return self.stop

    def _stand_somewhere(self, stop: Stop) -> None:
        """The guest computes and made no exit: it was stopped where nobody knows. Have it run there again, counting."""
        place = Place(stop.place.exits, 0)
        for remote in self._near(place):
            remote.call("goto", place)
            found: Stop = remote.call("spin", _SPIN_SECONDS)
            self._take_over(remote, found)
            self.stop = Stop(stop.kind, stop.text, found.place, found.rip, found.time)
            return

    def _add_checkpoint(self, exits: int, remote: Remote) -> None:
        self._checkpoints.append(_Checkpoint(exits, time.monotonic(), remote))
        if len(self._checkpoints) > _MAX_CHECKPOINTS:
            self._drop_one()

    def _drop_one(self) -> None:
        """The one that is missed least: they get rarer the further back they are."""
        points, now = self._checkpoints, time.monotonic()
        weights = [
            (points[i + 1].made - points[i - 1].made) / (now - points[i].made + CHECKPOINT_SECONDS)
            for i in range(1, len(points) - 1)
        ]
        points.pop(1 + weights.index(min(weights))).remote.close()

    # -- going to a place ----------------------------------------------------------------------------------------------
    def _sources(self, exits: int) -> list[tuple[int, Remote]]:
        """Where to start from to get to exit ``exits``: (exit, process), the nearest first."""
        earlier = [(c.exits, c.remote) for c in self._checkpoints if c.exits < exits]
        origin = self._began.exits if self._began is not None else 0
        return [*reversed(earlier), (origin, self._origin)]

    def _near(self, place: Place) -> Iterator[Remote]:
        """Fresh processes that stand shortly before ``place``, nearer ones first. What is not used is closed."""
        for margin in _MARGINS:
            wanted = place.exits - margin
            at, source = self._sources(wanted if wanted > 0 else place.exits)[0]
            remote = self._fork(source)
            if at >= place.exits or wanted <= at or remote.call("approach", wanted) < place.exits:
                yield remote
                return
            remote.close()

    def _reach(self, place: Place) -> tuple[Remote, Stop]:
        for remote in self._near(place):
            stop: Stop = remote.call("goto", place)
            return remote, stop
        raise AssertionError("the start is before every place")

    def _take_over(self, remote: Remote, stop: Stop) -> None:
        self._live.close()
        self._live, self.stop = remote, stop

    def locate(self) -> Place:
        """Where the guest stands, counted."""
        if self.stop.place.insns is None:
            remote, stop = self._reach(self.stop.place)
            found = stop.place
            place = Place(found.exits, found.insns, (), self.stop.place.is_fault)
            if self.stop.place.is_fault:  # there is an exception that Xen is still to see: the one who has it goes on
                remote.close()
                place = Place(found.exits, 0, (), is_fault=True)
                self.stop = _at(self.stop, place)
            else:
                self._take_over(remote, _at(self.stop, place))
        return self.stop.place

    def goto(self, place: Place) -> Stop:
        """Stand at a place of the past, its count known."""
        remote, stop = self._reach(place)
        self._forget_after(place)
        self._take_over(remote, stop)
        self._met_event = False
        return self.stop

    def _forget_after(self, place: Place) -> None:
        for checkpoint in [c for c in self._checkpoints if c.exits >= place.exits]:
            checkpoint.remote.close()
            self._checkpoints.remove(checkpoint)

    # -- back ----------------------------------------------------------------------------------------------------------
    def reverse_step(self, count: int = 1) -> Stop:
        """Stand ``count`` instructions earlier, or at the start."""
        place = self._before(self.locate(), count)
        if place is None:
            return self._to_start()
        stop = self.goto(place)
        self.stop = Stop("step", "", stop.place, stop.rip, stop.time)
        return self.stop

    def _to_start(self) -> Stop:
        self._forget_after(Place(0, 0))
        remote = self._fork(self._origin)
        stop: Stop = remote.call("stop")
        text = "the start of the run" if self._began is None else "you changed the guest here: its past is gone"
        self._take_over(remote, Stop("start", text, stop.place, stop.rip, stop.time))
        self._met_event = False
        return self.stop

    def _before(self, place: Place, count: int) -> Place | None:
        """The place ``count`` instructions before ``place``; None where that is before the start."""
        exits, insns = place.exits, place.insns or 0
        if place.is_fault:  # the instruction that faulted has not run, and yet it is what led to the exit
            count += 1
        first = self._began or Place(0, 0)
        while count > insns:
            if exits <= first.exits:
                return None
            count -= insns
            for earlier, stretch in self._stretches(exits):
                exits, insns = earlier, stretch
                if count <= insns:
                    break
                count -= insns
            else:
                insns = 0
        found = Place(exits, insns - count)
        return None if (found.exits, found.insns or 0) < (first.exits, first.insns or 0) else found

    def _stretches(self, exits: int) -> list[tuple[int, int]]:
        """(exit, instructions behind it) of some exits before ``exits``, the last first."""
        for margin in (4, *_MARGINS):
            wanted = exits - margin
            at, source = self._sources(wanted if wanted > 0 else exits)[0]
            remote = self._fork(source)
            if wanted > at:
                remote.call("approach", wanted)
            found: list[tuple[int, int]] = remote.call("stretches", exits)
            remote.close()
            if found and found[0][0] == exits - 1:
                return found
        raise AssertionError("the start is before every exit")

    def reverse_resume(self, points: Sequence[StopPoint]) -> Stop:
        """Stand where a stop point was met last before now, or at the start."""
        now = self.locate()
        if self.stop.place.is_fault:
            now = self._before(now, 0) or now
        ahead: int | None = None
        for at, source in self._sources(now.exits):
            hits = self._hits_between(at, source, points, now, ahead)
            if hits:
                return self._to_hit(at, source, hits[-1])
            ahead = at
        return self._to_start()

    def _hits_between(
        self, at: int, source: Remote, points: Sequence[StopPoint], now: Place, ahead: int | None
    ) -> list[Hit]:
        """The stop points met between a checkpoint and the next, or now."""
        if ahead is not None:
            remote = self._fork(source)
            found: list[Hit] = remote.call("collect", points, ahead)
            remote.close()
            return found
        for margin in _MARGINS:
            remote = self._fork(source)
            hits: list[Hit] = remote.call("collect", points, now.exits - margin, now)
            reached: Stop = remote.call("stop")
            remote.close()
            if (reached.place.exits, reached.place.insns) == (now.exits, now.insns):
                return [hit for hit in hits if not (self._met_event and hit[0] == now.exits and hit[1] == 0)]
        return []

    def _to_hit(self, at: int, source: Remote, hit: Hit) -> Stop:
        exits, count, point = hit
        for remote in self._near(Place(exits, 0)) if exits > at else iter([self._fork(source)]):
            stop: Stop = remote.call("goto_hit", exits, count, point)
            self._forget_after(stop.place)
            self._take_over(remote, stop)
            self._met_event = stop.kind == "event"
            if point.kind in WATCH_KINDS:  # the debugger goes backwards: it stands before what it watches for
                before = self._before(stop.place, 1)
                if before is not None:
                    there = self.goto(before)
                    self.stop = Stop(
                        stop.kind, stop.text, there.place, there.rip, there.time, stop.points, stop.address
                    )  # fmt: skip
            return self.stop
        raise AssertionError("the start is before every place")

    def _fork(self, source: Remote) -> Remote:
        remote = source.fork()
        remote.call("play", self._typed)
        return remote


def _at(stop: Stop, place: Place) -> Stop:
    return Stop(stop.kind, stop.text, place, stop.rip, stop.time, stop.points, stop.address)

