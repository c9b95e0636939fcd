"""Where two runs part: what was the same is counted, then what each did next.

A run is a machine that runs, a saved trace (JSON lines), or a console's text (from a real Xen, say). Two of which one
is a console are compared by their consoles; else by their events, without times and addresses: these differ as soon as
one byte of a loader does.
"""

from __future__ import annotations

import json
import re
from collections import deque
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from pvemu.errors import ConfigError
from pvemu.trace.event import Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Parting", "console_lines", "find_parting", "read_trace", "same_thing"]

_ADDRESS = re.compile(r"0x[0-9a-f]+")
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[78=>]|\r")
#: What Linux prints before its messages: a clock, which no two hosts agree on.
_CLOCK = re.compile(r"^\[ *\d+\.\d+\] ")


class Parting(NamedTuple):
    """``same`` things were the same; then come ``left`` and ``right``. ``before`` are the last of those that were."""

    same: int
    before: list[str]
    left: list[str]
    right: list[str]

    @property
    def is_one(self) -> bool:
        """Whether the runs part at all."""
        return bool(self.left or self.right)


def find_parting(
    left: Iterable[tuple[object, str]], right: Iterable[tuple[object, str]], context: int = 3, following: int = 8
) -> Parting:
    """Compare (what counts, text) pairs in order."""
    before: deque[str] = deque(maxlen=context)
    same = 0
    ones, others = iter(left), iter(right)
    for one, other in zip_longest(ones, others):
        if one is not None and other is not None and one[0] == other[0]:
            before.append(one[1])
            same += 1
            continue
        return Parting(same, list(before), _rest(one, ones, following), _rest(other, others, following))
    return Parting(same, list(before), [], [])


def _rest(first: tuple[object, str] | None, others: Iterator[tuple[object, str]], limit: int) -> list[str]:
    found = [first[1]] if first is not None else []
    while first is not None and len(found) < limit:
        entry = next(others, None)
        if entry is None:
            break
        found.append(entry[1])
    return found


def same_thing(event: Event) -> object:
    """What counts of an event: not when and where, and no addresses in what it did."""
    return event.kind, event.name, _ADDRESS.sub("@", json.dumps([event.fields, event.result], sort_keys=True))


def read_trace(lines: Sequence[str], path: str) -> list[Event]:
    """The events of a trace that was written with ``--format json``. ConfigError for what is none."""
    found = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            found.append(
                Event(
                    str(entry["kind"]), int(entry["time"]), int(entry["rip"], 16), entry.get("where"),
                    str(entry["name"]), dict(entry["fields"]), entry.get("result"), int(entry.get("depth", 0)),
                    int(entry.get("duration", 0)),
                )
            )  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path}: line {number} is no event ({error}); give a trace written with --format json"
            ) from None
    return found


def console_lines(console: bytes) -> list[tuple[object, str]]:
    """A console's lines as they read: without escape sequences, clocks and blanks at their ends."""
    text = _ESCAPES.sub(b"", console).decode("utf-8", "replace")
    lines = [_CLOCK.sub("", line.rstrip()) for line in text.split("\n")]
    return [(line, line) for line in lines if line]
