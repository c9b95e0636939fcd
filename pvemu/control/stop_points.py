"""What a run can be stopped at, as a user says it, and how it is armed on a machine.

    grub_halt  *0x1000  normal:grub_normal_execute+0x1a     code, by name or address
    hypercall mmuext_op arg0=0x1000                          a hypercall, with arguments where they matter
    xenstore device/vbd/*                                    a request for such a path (a shell pattern)
    disk xvda 2048-4095                                      a request for these sectors; without them, any
    disk xvda:/boot/grub/grub.cfg                            a request for a file's sectors
    console REGEX     fault [#PF]     stage [N]
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypercalls.public import xen
from hypercalls.public.io.xs_wire import XS_NAMES
from pvemu.errors import ConfigError
from pvemu.hypervisor.traps.traps import VECTOR_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pvemu.cpu.exits import Exit
    from pvemu.debug.stages import Stage
    from pvemu.devices.blkback_request import CompletedRequest
    from pvemu.machine import Machine

__all__ = ["EVENT_KINDS", "WATCH_KINDS", "Armed", "StopPoint", "parse_event", "parse_number"]

EVENT_KINDS = ("hypercall", "xenstore", "disk", "console", "fault", "stage")
WATCH_KINDS = ("read", "write", "access")
_NAME_TO_OP = {name: op for op, name in xen.NAMES.items()}
_WINDOW = 4096
_U64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class StopPoint:
    """``kind``: code, one of WATCH_KINDS, or one of EVENT_KINDS. ``text`` is how the user put it.

    ``addresses`` are linear, of code; ``ranges`` (machine address, size) of memory that is watched, which stood at
    linear address ``linear`` when it was asked for; ``what`` is a name, pattern or vector; ``arguments`` are (index,
    value) of a hypercall; ``sectors`` (first, count) ranges of 512 bytes.
    """

    number: int
    kind: str
    text: str
    addresses: tuple[int, ...] = ()
    ranges: tuple[tuple[int, int], ...] = ()
    linear: int = 0
    what: str = ""
    arguments: tuple[tuple[int, int], ...] = ()
    sectors: tuple[tuple[int, int], ...] = ()
    is_temporary: bool = False


def parse_number(text: str) -> int | None:
    """0x1f, 31 or *0x1f; None for anything else."""
    try:
        return int(text.removeprefix("*"), 0) & _U64
    except ValueError:
        return None


def parse_event(
    number: int, text: str, locate: Callable[[str, str], Sequence[tuple[int, int]]] | None = None, *,
    is_temporary: bool = False,
) -> StopPoint:  # fmt: skip
    """A stop point of one of EVENT_KINDS. ``locate(vdev, path)`` gives a file's sectors. ConfigError."""
    kind, *words = text.split()
    rest = text[len(kind) :].strip()
    match kind:
        case "hypercall":
            return _parse_hypercall(number, text, words, is_temporary)
        case "xenstore" | "console" if not rest:
            wanted = "path" if kind == "xenstore" else "pattern"
            raise ConfigError(f"break {text}: nothing to look for; give a {wanted}")
        case "console":
            try:
                re.compile(rest)
            except re.error as error:
                raise ConfigError(f"break {text}: not a regular expression ({error})") from None
        case "disk":
            what, sectors = _parse_disk(text, words, locate)
            return StopPoint(number, kind, text, what=what, sectors=sectors, is_temporary=is_temporary)
        case "fault" if rest and rest.upper() not in VECTOR_NAMES:
            raise ConfigError(f"break {text}: no such exception; there are {' '.join(VECTOR_NAMES)}")
        case "stage" if rest and parse_number(rest) is None:
            raise ConfigError(f"break {text}: {rest!r} is no number of a stage; the first that is started is 1")
    return StopPoint(number, kind, text, what=rest, is_temporary=is_temporary)


def _parse_hypercall(number: int, text: str, words: list[str], is_temporary: bool) -> StopPoint:
    name, *conditions = words or [""]
    if name and name not in _NAME_TO_OP:
        raise ConfigError(f"break {text}: no hypercall {name!r}; there are {', '.join(sorted(_NAME_TO_OP))}")
    arguments = []
    for condition in conditions:
        match = re.fullmatch(r"arg([0-5])=(\S+)", condition)
        value = parse_number(match[2]) if match is not None else None
        if match is None or value is None:
            raise ConfigError(f"break {text}: {condition!r} is no condition; write one as arg0=0x1000")
        arguments.append((int(match[1]), value))
    return StopPoint(
        number, "hypercall", text, what=name, arguments=tuple(arguments), is_temporary=is_temporary
    )  # fmt: skip


def _parse_disk(
    text: str, words: list[str], locate: Callable[[str, str], Sequence[tuple[int, int]]] | None
) -> tuple[str, tuple[tuple[int, int], ...]]:
    vdev, _, path = words[0].partition(":") if words else ("", "", "")
    if path:
        found = tuple(locate(vdev, path)) if locate is not None else ()
        if not found:
            raise ConfigError(f"break {text}: no file {path} was found on {vdev}; give sectors, as 2048-4095")
        return vdev, found
    if len(words) < 2:
        return vdev, ()
    first, _, last = words[1].partition("-")
    start, end = parse_number(first), parse_number(last or first)
    if start is None or end is None or end < start:
        raise ConfigError(f"break {text}: {words[1]!r} are no sectors; write 2048 or 2048-4095")
    return vdev, ((start, end - start + 1),)


class Armed:
    """Stop points on a machine. ``on_event(point, text)`` is called from the exit that an event happens in,
    ``on_fault(point, text)`` before Xen looks at an exception.
    """

    def __init__(
        self, machine: Machine, on_event: Callable[[StopPoint, str], None], on_fault: Callable[[StopPoint, str], None],
        watch_stage_entry: Callable[[StopPoint, int, str], None],
    ) -> None:  # fmt: skip
        self._machine = machine
        self._on_event = on_event
        self._on_fault = on_fault
        self._watch_stage_entry = watch_stage_entry
        self.points: tuple[StopPoint, ...] = ()
        self._undo: list[Callable[[], None]] = []
        self._console = ""

    def set(self, points: Sequence[StopPoint]) -> None:
        """Arm exactly these."""
        if tuple(points) == self.points:
            return
        self.points = tuple(points)
        for undo in self._undo:
            undo()
        self._undo.clear()
        self._machine.holds_exception = lambda leaving: False
        attach: dict[str, Callable[[list[StopPoint]], None]] = {
            "hypercall": self._attach_hypercalls, "xenstore": self._attach_xenstore, "disk": self._attach_disks,
            "console": self._attach_console, "fault": self._attach_faults, "stage": self._attach_stages,
        }  # fmt: skip
        for kind, function in attach.items():
            of_kind = [point for point in self.points if point.kind == kind]
            if of_kind:
                function(of_kind)

    def _attach_hypercalls(self, points: list[StopPoint]) -> None:
        def after(row: Any, args: Sequence[int], result: int) -> None:
            for point in points:
                if point.what in {"", row.name} and all(
                    index < len(args) and args[index] == value for index, value in point.arguments
                ):
                    shown = ", ".join(f"{arg:#x}" for arg in args[: row.nargs_of(self._machine.abi.bits)])
                    self._on_event(point, f"{row.name}({shown}) = {result}")

        self._undo.append(self._machine.hypercalls.monitor(lambda row, args: None, after))

    def _attach_xenstore(self, points: list[StopPoint]) -> None:
        def before(domid: int, msg_type: int, _tx_id: int, payload: bytes) -> None:
            if domid != self._machine.config.domid:
                return
            path = payload.split(b"\0", 1)[0].decode("latin-1")
            for point in points:
                if fnmatch.fnmatchcase(path, point.what):
                    self._on_event(point, f"{XS_NAMES.get(msg_type, str(msg_type)).removeprefix('XS_')} {path}")

        self._undo.append(self._machine.xenstore.monitor(before))

    def _attach_disks(self, points: list[StopPoint]) -> None:
        def done(request: CompletedRequest) -> None:
            first, end = request.sector, request.sector + request.nr_sectors
            for point in points:
                touches = not point.sectors or any(s < end and first < s + n for s, n in point.sectors)
                if point.what in {"", request.vdev} and touches:
                    self._on_event(point, f"{request.vdev} operation {request.operation}, sectors {first}-{end - 1}")

        for backend in self._machine.backends.values():
            undo = backend.observe(done)
            if undo is not None:
                self._undo.append(undo)

    def _attach_console(self, points: list[StopPoint]) -> None:
        compiled = [(point, re.compile(point.what)) for point in points]
        text = ""

        def output(data: bytes) -> None:
            nonlocal text
            fresh = data.decode("latin-1")
            text = text[-_WINDOW:] + fresh
            for point, pattern in compiled:
                match = pattern.search(text)
                if match is not None:
                    text = text[match.end() :]
                    self._on_event(point, f"console: {match.group()!r}")
                    return

        self._undo.append(self._machine.observe_console(output))

    def _attach_faults(self, points: list[StopPoint]) -> None:
        def holds(leaving: Exit) -> bool:
            name = VECTOR_NAMES[leaving.vector] if 0 <= leaving.vector < len(VECTOR_NAMES) else f"int {leaving.vector}"
            at = f" at {leaving.address:#x}" if leaving.vector == VECTOR_NAMES.index("#PF") else ""
            code = f", error code {leaving.error_code:#x}" if leaving.error_code >= 0 else ""
            matching = [point for point in points if point.what.upper() in {"", name}]
            for point in matching:
                self._on_fault(point, name + at + code)
            return bool(matching)

        self._machine.holds_exception = holds

    def _attach_stages(self, points: list[StopPoint]) -> None:
        def started(stage: Stage) -> None:
            number = len(self._machine.stages.stages) - 1
            for point in points:
                if not point.what or parse_number(point.what) == number:
                    what = " ".join(filter(None, (stage.guest_os or "a kernel", stage.guest_version)))
                    self._watch_stage_entry(point, stage.entry, f"stage {number} starts: {what}")

        self._undo.append(self._machine.stages.observe(started))
