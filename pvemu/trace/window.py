"""From where to where a trace goes: an address, a symbol, a stage, a hypercall, a guest time, an instruction."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

from pvemu.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hypercalls.table import Row
    from pvemu.debug.stages import Stage
    from pvemu.debug.symbols import Symbols
    from pvemu.machine import Machine

__all__ = ["Place", "PlaceWatch", "parse_place"]

_KINDS = ("stage", "hypercall", "time", "insn")


class Place(NamedTuple):
    """A point of a run. ``kind`` is stage, hypercall, time, insn, address or symbol; ``value`` a number (time in ns),
    or a symbol's name.
    """

    kind: str
    value: int
    name: str = ""

    @property
    def is_code(self) -> bool:
        """Whether it is a place in code: known only while code is watched."""
        return self.kind in ("address", "symbol", "insn")


def parse_place(text: str, option: str) -> Place:
    """``stage:1``, ``hypercall:200``, ``time:0.013``, ``insn:50000``, ``0x1234`` or a symbol; else ConfigError."""
    kind, _, value = text.partition(":")
    if kind in _KINDS:
        try:
            number = round(float(value) * 1e9) if kind == "time" and math.isfinite(float(value)) else int(value, 0)
        except ValueError:
            number = -1
        if number < 0 or (kind == "insn" and not number):
            raise ConfigError(
                f"{option} {text}: not a number behind {kind}:; give stage:N, hypercall:N, time:SECONDS, insn:N (from "
                "1), an address (0x...) or a symbol"
            )
        return Place(kind, number)
    if re.fullmatch(r"0[xX][0-9a-fA-F]+", text):
        return Place("address", int(text, 16))
    if not re.fullmatch(r"[\w.$:-]+(\+(0x[0-9a-fA-F]+|\d+))?", text):
        raise ConfigError(f"{option} {text!r}: neither an address (0x...) nor a symbol such as normal:grub_cmdline_run")
    return Place("symbol", 0, text)


class PlaceWatch:
    """Calls ``reached`` once, when the guest comes to ``place``. Places in code are recognised by :meth:`translated`,
    which whoever watches code has to call, and instruction numbers are counted elsewhere.
    """

    def __init__(self, machine: Machine, symbols: Symbols, place: Place, reached: Callable[[], None]) -> None:
        self.place = place
        self._machine = machine
        self._symbols = symbols
        self._reached = reached
        self._is_done = False
        self._nr_calls = 0
        self._undo: list[Callable[[], None]] = []
        if place.kind == "stage":
            self._undo.append(machine.stages.observe(self._stage))
            if len(machine.stages.stages) > place.value:
                self._fire()
        elif place.kind == "hypercall":
            self._undo.append(machine.hypercalls.monitor(self._call, lambda row, args, result: None))
        elif place.kind == "time":
            self._undo.append(machine.hypercalls.monitor(self._look, lambda row, args, result: None))
            self._undo.append(machine.exceptions.observe(lambda leaving: self._look_at_clock()))

    def close(self) -> None:
        """Look no longer."""
        for undo in self._undo:
            undo()
        self._undo.clear()

    def translated(self, address: int, size: int) -> None:
        """Code at [address, address + size) is about to run for the first time."""
        if self._is_done or self.place.kind not in ("address", "symbol"):
            return
        wanted = [self.place.value] if self.place.kind == "address" else self._symbols.address(self.place.name)
        if any(address <= at < address + size for at in wanted):
            self._fire()

    def _fire(self) -> None:
        if not self._is_done:
            self._is_done = True
            self._reached()

    def _stage(self, _stage: Stage) -> None:
        if len(self._machine.stages.stages) == self.place.value + 1:
            self._fire()

    def _call(self, _row: Row, _args: Sequence[int]) -> None:
        self._nr_calls += 1
        if self._nr_calls == max(1, self.place.value):
            self._fire()

    def _look(self, _row: Row, _args: Sequence[int]) -> None:
        self._look_at_clock()

    def _look_at_clock(self) -> None:
        clock = self._machine.clock
        if clock.now() - clock.start >= self.place.value:
            self._fire()
