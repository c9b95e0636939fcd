"""Where a run stands: after how many exits, and how many instructions behind the last of them.

Exits (hypercalls, faults, RDTSC, ...) are counted always and cost nothing; instructions only where somebody asks. A run
that stopped without counting them knows its place by the way it came there, its ``trail``: enough to find the number
later, by going there again with counting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Mark", "Place", "Stop"]


class Mark(NamedTuple):
    """One piece of a trail: ``at`` the times-th instruction, ``step`` as many times, ``settle`` at the end of the block
    in which the exit was, ``code`` at the times-th arrival at an address.
    """

    kind: str
    times: int = 0
    address: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """``insns`` instructions behind exit number ``exits``; None: ``trail`` leads there. ``is_fault``: the instruction
    that is next has raised an exception, which is the exit, and Xen has not yet looked at it.
    """

    exits: int
    insns: int | None
    trail: tuple[Mark, ...] = ()
    is_fault: bool = False

    def __str__(self) -> str:
        return f"{self.exits}+{'?' if self.insns is None else self.insns}"


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the guest stands still. ``kind``: breakpoint, watch, event, fault, step, interrupt, arrived, start, or end
    (``text`` says of what); ``points`` are the numbers of the stop points that were met; ``time`` in ns of guest time.
    """

    kind: str
    text: str
    place: Place
    rip: int
    time: int
    points: tuple[int, ...] = ()
    address: int = 0  #: of the access that a watch point met
