"""Puts a trace together from what was asked for: what to watch, from where to where, in which format."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pvemu.errors import ConfigError
from pvemu.trace.sinks import write_json_lines, write_text
from pvemu.trace.timeline import TIMELINE_KINDS, Timeline
from pvemu.trace.tracer import Tracer
from pvemu.trace.window import Place, PlaceWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hypercalls.table import Row
    from pvemu.debug.symbols import Symbols
    from pvemu.machine import Machine
    from pvemu.trace.calls import CallTree
    from pvemu.trace.coverage import Coverage
    from pvemu.trace.event import Event
    from pvemu.trace.instructions import InstructionTrace

__all__ = ["FORMATS", "AttachedTrace", "Output", "Request"]

#: Of events or instructions: text, json; of events: perfetto; of instructions: tenet; of code: drcov; of calls: folded.
FORMATS = ("text", "json", "perfetto", "tenet", "drcov", "folded")


class Output(Protocol):
    """Where a trace is written."""

    def write(self, text: str, /) -> object:
        """Take text."""

    def write_bytes(self, data: bytes, /) -> object:
        """Take bytes."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to trace: ``kinds`` of events, instructions (``last`` of them; with ``accesses`` to memory), calls; between
    two places. ConfigError for what does not go together.
    """

    kinds: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    instructions: bool = False
    accesses: bool = True
    calls: bool = False
    last: int = 0
    start: Place | None = None
    end: Place | None = None
    format: str = "text"
    watched: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        parts = {name for name, wanted in (("events", self.kinds), ("insns", self.instructions), ("calls", self.calls))
                 if wanted}  # fmt: skip
        allowed = {"text": {"events", "insns", "calls"}, "json": {"events"}, "perfetto": {"events"},
                   "tenet": {"insns"}, "drcov": set(), "folded": {"calls"}}[self.format]  # fmt: skip
        if parts - allowed:
            refused = ", ".join(sorted(parts - allowed))
            raise ConfigError(f"--format {self.format}: has no place for {refused}; trace these by themselves")
        if self.last and not (self.instructions or self.format == "tenet"):
            raise ConfigError("--last: counts instructions; give --insns too")
        if "calls" in parts and len(parts) > 1:
            raise ConfigError("--calls: a tree cannot be mixed with events or instructions; trace them by themselves")
        default = {"tenet": {"insns"}, "drcov": {"drcov"}, "folded": {"calls"}}.get(self.format, {"events"})
        object.__setattr__(self, "watched", frozenset(parts or default))


def _ignore(_row: Row, _args: Sequence[int], _result: int) -> None:
    """Half of a monitor that wants the other half."""


class AttachedTrace:
    """A trace of ``machine`` that writes to ``out`` until :meth:`close`."""

    def __init__(self, machine: Machine, symbols: Symbols, request: Request, out: Output) -> None:
        self._machine = machine
        self._symbols = symbols
        self._request = request
        self._out = out
        self._is_open = request.start is None
        self._was_open = self._is_open
        self._was_shut = False
        self._watches: list[PlaceWatch] = []
        self._closers: list[Callable[[], None]] = []
        self._instructions: InstructionTrace | None = None
        self._calls: CallTree | None = None
        self._coverage: Coverage | None = None
        self._is_started = False
        start, end = request.start, request.end
        self._needs_code = bool((start is not None and start.is_code) or (end is not None and end.is_code))
        if start is None or start.is_code:
            self._start()
        if start is not None:
            self._closers.append(machine.hypercalls.monitor(lambda row, args: symbols.follow(), _ignore))
            self._watch(start, self._open)
        elif end is not None:
            self._watch(end, self._shut)

    def close(self) -> None:
        """Write what is left and look no longer."""
        for watch in self._watches:
            watch.close()
        for closer in self._closers:
            closer()
        self._closers.clear()

    def unreached(self) -> str | None:
        """The option whose place the guest has not come to: ``--from``, or ``--to`` behind it."""
        if not self._was_open:
            return "--from"
        return "--to" if self._request.end is not None and not self._was_shut else None

    # -- opening and shutting ------------------------------------------------------------------------------------------
    def _watch(self, place: Place, reached: Callable[[], None]) -> None:
        self._watches.append(PlaceWatch(self._machine, self._symbols, place, reached))
        if place.kind == "insn" and self._instructions is not None:
            self._instructions.announce(place.value, reached)

    def _translated(self, address: int, size: int) -> None:
        for watch in tuple(self._watches):
            watch.translated(address, size)

    def _open(self) -> None:
        self._is_open = self._was_open = True
        self._start()
        for part in (self._shown_instructions(), self._calls, self._coverage):
            if part is not None:
                part.open()
        if self._request.end is not None:
            self._watch(self._request.end, self._shut)

    def _shown_instructions(self) -> InstructionTrace | None:
        return self._instructions if "insns" in self._request.watched else None

    def _shut(self) -> None:
        self._is_open = False
        self._was_shut = True
        for part in (self._instructions, self._calls, self._coverage):
            if part is not None:
                part.shut()

    def _start(self) -> None:
        """Attach everything, open or not."""
        if self._is_started:
            return
        self._is_started = True
        request, machine, symbols, write = self._request, self._machine, self._symbols, self._out.write
        watched, on_code = request.watched, self._translated if self._needs_code else None
        if "insns" in watched or self._counts_instructions():
            from pvemu.trace.instructions import InstructionTrace, tenet_lines, text_lines

            is_shown = "insns" in watched
            lines = tenet_lines if request.format == "tenet" else text_lines
            self._instructions = InstructionTrace(
                machine, symbols, write if is_shown else lambda text: None, lines,
                with_memory=is_shown and request.accesses, is_open=is_shown and self._is_open, last=request.last,
                on_code=on_code,
            )  # fmt: skip
            self._closers.append(self._instructions.close)
        elif "calls" in watched:
            from pvemu.trace.calls import CallTree  # with a disassembler, which events do not need

            self._calls = CallTree(machine, symbols, is_open=self._is_open, on_code=on_code)
            self._closers.append(self._finish_calls)
        elif "drcov" in watched:
            from pvemu.trace.coverage import Coverage

            self._coverage = Coverage(machine, symbols, is_open=self._is_open, on_code=on_code)
            self._closers.append(self._finish_coverage)
        elif on_code is not None:
            self._closers.append(machine.engine.record_blocks(None, on_code=on_code).close)
        if "events" in watched:
            self._start_events()

    def _counts_instructions(self) -> bool:
        return any(place is not None and place.kind == "insn" for place in (self._request.start, self._request.end))

    def _start_events(self) -> None:
        request, out = self._request, self._out
        kinds = request.kinds
        if request.format == "perfetto":
            timeline = Timeline(out)
            sink: Callable[[Event], None] = timeline
            kinds = kinds or TIMELINE_KINDS
            self._closers.append(timeline.close)
        else:
            sink = write_json_lines(out) if request.format == "json" else write_text(out)
        tracer = Tracer(
            self._machine, self._symbols, kinds or ("hypercall",), self._gated(sink), request.only
        )
        self._closers.insert(0, tracer.close)

    def _gated(self, sink: Callable[[Event], None]) -> Callable[[Event], None]:
        if self._request.start is None and self._request.end is None and self._instructions is None:
            return sink  # open all the time, with nothing to keep in step

        def gated(event: Event) -> None:
            if self._is_open:
                if self._instructions is not None and not self._request.last:
                    self._instructions.flush()
                sink(event)

        return gated

    def _finish_calls(self) -> None:
        assert self._calls is not None
        self._calls.close()
        lines = self._calls.folded() if self._request.format == "folded" else self._calls.text()
        self._out.write("".join(f"{line}\n" for line in lines))

    def _finish_coverage(self) -> None:
        assert self._coverage is not None
        self._coverage.close()
        self._out.write_bytes(self._coverage.drcov())
