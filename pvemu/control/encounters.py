"""Stop points on a machine, and which of them were met since the guest went on, and how often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.control.stop_points import WATCH_KINDS, Armed, StopPoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pvemu.cpu.exits import MemoryAccess
    from pvemu.machine import Machine

__all__ = ["Encounters", "Hit"]

#: Where a stop point was met: exit number, arrivals at it (or accesses) since, and the point.
Hit = tuple[int, int, StopPoint]


class Encounters:
    """What stops ``machine``. ``hits`` has the points that it stands still for, in words; ``access_at`` is the address
    of the access that a watch point met.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        watch = machine.engine.watch
        watch.on_code = self._on_code
        watch.on_memory = self._on_memory
        self._armed = Armed(machine, self._on_event, self._on_fault, self._watch_entry)
        self._code: dict[int, list[StopPoint]] = {}
        self._watched: Sequence[StopPoint] = ()
        self._entries: dict[int, tuple[StopPoint, str]] = {}  # of stages that are about to start
        self.hits: list[tuple[StopPoint, str]] = []
        self.access_at = 0
        self.collected: list[Hit] | None = None  #: hits are noted here, not stopped at
        self.wanted_arrival: tuple[int, int] | None = None  #: stop at an address, the so-many-th time
        self.wanted_hit: tuple[int, int] | None = None  #: stop only behind this exit, the so-many-th time
        self._counts: dict[int, int] = {}  # arrivals by address (accesses by point) since the last exit
        self._counted_exit = -1

    def go_on(self, *, counts_on: bool = False) -> None:
        """The guest goes on; ``counts_on``: as if it had not stood still."""
        self.hits.clear()
        self.access_at = 0
        if not counts_on:
            self.forget_counts()

    def forget_counts(self) -> None:
        """Arrivals are counted from here."""
        self._counts, self._counted_exit = {}, self._machine.engine.exits

    def arrivals(self, address: int) -> int:
        """How often the guest came to an address since the last exit; once, where nobody counted."""
        return self._counts.get(address, 1)

    def is_code_point(self, address: int) -> bool:
        """Whether the guest stands still when it comes there."""
        return address in self._code

    def arm(self, points: Sequence[StopPoint], extra: Sequence[int] = ()) -> None:
        """Stop at exactly these, and have arrivals at ``extra`` addresses counted."""
        self._armed.set([point for point in points if point.kind != "code" and point.kind not in WATCH_KINDS])
        self._code = {}
        for point in points:
            if point.kind == "code":
                for address in point.addresses:
                    self._code.setdefault(address, []).append(point)
        watch = self._machine.engine.watch
        watch.set_code([*self._code, *self._entries, *extra])
        watch.set_memory(
            [(maddr, size, p.kind) for p in points if p.kind in WATCH_KINDS for maddr, size in p.ranges]
        )
        self._watched = [point for point in points if point.kind in WATCH_KINDS]

    def _count(self, key: int) -> int:
        exits = self._machine.engine.exits
        if exits != self._counted_exit:
            self._counts, self._counted_exit = {}, exits
        count = self._counts[key] = self._counts.get(key, 0) + 1
        return count

    def _on_code(self, address: int) -> bool:
        count = self._count(address)
        if address in self._entries:
            point, text = self._entries.pop(address)
            return self._meet(point, text, count)
        points = self._code.get(address, ())
        stops = [self._meet(point, point.text, count) for point in points]
        return any(stops) or (self.wanted_arrival == (address, count))

    def _on_memory(self, access: MemoryAccess) -> bool:
        stops = False
        for point in self._watched:
            for maddr, size in point.ranges:
                wants = point.kind in {access.kind, "access"}
                if wants and maddr < access.maddr + access.size and access.maddr < maddr + size:
                    linear = point.linear + max(access.maddr - maddr, 0)
                    self.access_at = linear
                    text = f"{access.kind} of {access.size} bytes at {linear:#x}"
                    stops = self._meet(point, text, self._count(-point.number)) or stops
        return stops

    def _on_event(self, point: StopPoint, text: str) -> None:
        if self._meet(point, text, 0):
            self._machine.engine.pause()

    def _on_fault(self, point: StopPoint, text: str) -> None:
        self._meet(point, text, 0)

    def _watch_entry(self, point: StopPoint, address: int, text: str) -> None:
        self._entries[address] = (point, text)
        watch = self._machine.engine.watch
        watch.set_code([*watch.code_addresses, address])

    def _meet(self, point: StopPoint, text: str, count: int) -> bool:
        if self.collected is not None:
            self.collected.append((self._machine.engine.exits, count, point))
            return False
        if self.wanted_hit is not None and self.wanted_hit != (self._machine.engine.exits, count):
            return False
        self.hits.append((point, text))
        return True
