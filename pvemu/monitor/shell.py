"""The monitor's commands: a line in, text out. `pvemu debug` reads them from a person or a script, gdb passes its
`monitor` lines.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

from pvemu.control.place import Place, Stop
from pvemu.control.stop_points import EVENT_KINDS, StopPoint, parse_event, parse_number
from pvemu.errors import ConfigError
from pvemu.monitor.views import VIEWS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pvemu.control.timeline import Timeline

__all__ = ["Shell", "describe", "unescape"]

_ALIASES = {
    "b": "break", "bt": "backtrace", "c": "continue", "d": "delete", "i": "points", "info": "points", "n": "next",
    "p": "symbol", "q": "quit", "r": "registers", "rc": "reverse-continue", "rf": "reverse-finish",
    "rn": "reverse-next", "rs": "reverse-step", "s": "step", "si": "step", "stepi": "step", "tb": "tbreak",
    "u": "disassemble", "x": "memory", "exit": "quit", "nexti": "next", "reverse-stepi": "reverse-step",
    "rsi": "reverse-step",
}  # fmt: skip
_WATCH_KINDS = {"watch": "write", "rwatch": "read", "awatch": "access"}
_PLACE = re.compile(r"(\d+)\+(\d+)\Z")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "e": "\x1b", "\\": "\\"}
_NS_PER_S = 1_000_000_000
_CALL_DEPTH = 1000


def unescape(text: str) -> bytes:
    r"""What is typed, with \r \n \t \e \\ and \xNN."""

    def replace(match: re.Match[str]) -> str:
        body = match[1]
        return chr(int(body[1:], 16)) if body[0] == "x" and len(body) > 1 else _ESCAPES.get(body, body)

    return re.sub(r"\\(x[0-9a-fA-F]{2}|.)", replace, text).encode("utf-8", "surrogateescape")


def describe(stop: Stop, name: str | None) -> str:
    """One line on why and where the guest stands."""
    where = f"{stop.rip:#x}" + (f" {name}" if name else "")
    what = f"the run ended: {stop.text}" if stop.kind == "end" else stop.text if stop.points != (0,) else ""
    numbers = " ".join(f"[{number}]" for number in stop.points if number)
    place = f"{stop.time / _NS_PER_S:.6f} s, {stop.place}"
    return " ".join(filter(None, (numbers, what and what + ":", where, f"({place})")))


class Shell:
    """Commands on a timeline. ``points`` are the stop points that are set; ``is_done`` after `quit`."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.points: dict[int, StopPoint] = {}
        self.extra_points: Callable[[], Sequence[StopPoint]] = list
        self.is_done = False
        self._next_number = 1
        self._commands: dict[str, tuple[Callable[[list[str]], str], str, str]] = {
            "step": (self._step, "step [COUNT]", "run instructions"),
            "next": (self._next, "next", "run an instruction, calls as one"),
            "finish": (self._finish, "finish", "run until the function returns"),
            "continue": (self._continue, "continue", "run to the next stop point or the end"),
            "reverse-step": (self._reverse_step, "reverse-step [COUNT]", "go back by instructions"),
            "reverse-next": (self._reverse_next, "reverse-next", "go back by one instruction, calls as one"),
            "reverse-finish": (self._reverse_finish, "reverse-finish", "go back to the call of this function"),
            "reverse-continue": (self._reverse_continue, "reverse-continue", "go back to a stop point or the start"),
            "goto": (self._goto, "goto EXITS+INSNS", "go back to a place, as `place` shows it"),
            "place": (self._place, "place", "where the run stands: exits, and instructions since"),
            "break": (self._break, "break ADDRESS|SYMBOL|EVENT", "stop at code or an event: see `help break`"),
            "tbreak": (self._tbreak, "tbreak ...", "the same, once"),
            "watch": (self._watch, "watch ADDRESS [SIZE]", "stop behind a write"),
            "rwatch": (self._rwatch, "rwatch ADDRESS [SIZE]", "stop behind a read"),
            "awatch": (self._awatch, "awatch ADDRESS [SIZE]", "stop behind a read or write"),
            "delete": (self._delete, "delete [NUMBER...]", "remove stop points, all when none is named"),
            "points": (self._list, "points", "the stop points that are set"),
            "type": (self._type, "type TEXT", r"type on the console when the guest idles: \r is Enter"),
            "set": (self._set, "set ADDRESS BYTES", "change memory, bytes in hexadecimal; its past is gone then"),
            "help": (self._help, "help [COMMAND]", "this list"),
            "quit": (self._quit, "quit", "end"),
        }

    @property
    def names(self) -> list[str]:
        """All commands, for completion."""
        return sorted({*self._commands, *VIEWS})

    def execute(self, line: str) -> str:
        """Do one line; what is to be shown. ConfigError for what makes no sense."""
        line = line.strip()
        if not line or line.startswith("#"):
            return ""
        word = line.split()[0]
        name = self._resolve(word)
        rest = line[len(word) :].strip()
        if name in VIEWS:
            return str(self.timeline.ask("view", name, _split(rest)))
        function, usage, _help = self._commands[name]
        words = [rest] if name in {"break", "tbreak", "type"} and rest else _split(rest)
        try:
            return function(words)
        except IndexError:
            raise ConfigError(f"{name}: something is missing; write {usage}") from None

    def _resolve(self, word: str) -> str:
        word = _ALIASES.get(word, word)
        if word in self._commands or word in VIEWS:
            return word
        starting = [name for name in self.names if name.startswith(word)]
        if len(starting) == 1:
            return starting[0]
        if starting:
            raise ConfigError(f"{word}: that may be {', '.join(starting)}; write more of it")
        raise ConfigError(f"{word}: no such command; `help` lists them")

    # -- running -----------------------------------------------------------------------------------------------------
    def _active(self) -> list[StopPoint]:
        return [*self.points.values(), *self.extra_points()]

    def show(self, stop: Stop) -> str:
        """What is said of a stop; temporary stop points that were met are gone."""
        for number in stop.points:
            if number in self.points and self.points[number].is_temporary:
                del self.points[number]
        text = describe(stop, self.timeline.ask("name", stop.rip))
        if stop.kind == "end":
            text = "\n".join([text, *self.timeline.ask("end")])
        return text

    def _step(self, words: list[str]) -> str:
        count = self._count(words)
        return self.show(self.timeline.step(count, self._active() if count > 1 else ()))

    def _reverse_step(self, words: list[str]) -> str:
        return self.show(self.timeline.reverse_step(self._count(words)))

    def _count(self, words: list[str]) -> int:
        count = parse_number(words[0]) if words else 1
        if not count:
            raise ConfigError(f"{words[0]}: not a number of instructions; give one such as 10")
        return count

    def _continue(self, words: list[str]) -> str:
        return self.show(self.timeline.resume(self._active()))

    def _reverse_continue(self, words: list[str]) -> str:
        return self.show(self.timeline.reverse_resume(self._active()))

    def _next(self, words: list[str]) -> str:
        rip = self.timeline.stop.rip
        size = self.timeline.ask("call_at", rip)
        return self._step([]) if not size else self.show(self._run_to(rip + size, self._rsp()))

    def _finish(self, words: list[str]) -> str:
        address = self._return_address()
        return self.show(self._run_to(address, self._rsp() + 1))

    def _run_to(self, address: int, rsp: int) -> Stop:
        """Run to ``address`` with the stack at ``rsp`` or above: not to an inner call's arrival there."""
        point = StopPoint(0, "code", f"{address:#x}", (address,))
        for _ in range(_CALL_DEPTH):
            stop = self.timeline.resume([*self._active(), point])
            if stop.rip != address or stop.points != (0,) or self._rsp() >= rsp:
                break
        return stop

    def _reverse_next(self, words: list[str]) -> str:
        rip, rsp = self.timeline.stop.rip, self._rsp()
        stop = self.timeline.reverse_step(1)
        size = self.timeline.ask("call_size", rip)
        if self._rsp() < rsp and size and stop.rip != rip - size:
            stop = self._run_back_to(rip - size, rsp)
        return self.show(stop)

    def _reverse_finish(self, words: list[str]) -> str:
        address = self._return_address()
        size = self.timeline.ask("call_size", address)
        return self.show(self._run_back_to(address - size, self._rsp()))

    def _run_back_to(self, address: int, rsp: int) -> Stop:
        point = StopPoint(0, "code", f"{address:#x}", (address,))
        for _ in range(_CALL_DEPTH):
            stop = self.timeline.reverse_resume([*self._active(), point])
            if stop.rip != address or stop.points != (0,) or self._rsp() >= rsp:
                break
        return stop

    def _rsp(self) -> int:
        return int(self.timeline.ask("rsp"))

    def _return_address(self) -> int:
        found: list[int] = self.timeline.ask("return_addresses", 1)
        if not found:
            raise ConfigError("no return address is known on the stack: symbols may tell where code is (--symbols)")
        return found[0]

    def _goto(self, words: list[str]) -> str:
        match = _PLACE.match(words[0])
        if match is None:
            raise ConfigError(f"goto {words[0]}: not a place; write one as `place` shows it, 1234+56")
        place = Place(int(match[1]), int(match[2]))
        now = self.timeline.locate()
        if (place.exits, place.insns or 0) > (now.exits, now.insns or 0):
            raise ConfigError(f"goto {words[0]}: the run is at {now} and goes there by itself only; `continue`")
        return self.show(self.timeline.goto(place))

    def _place(self, words: list[str]) -> str:
        place = self.timeline.locate()
        return f"{place}, {self.timeline.stop.time / _NS_PER_S:.9f} s of guest time"

    # -- stop points -------------------------------------------------------------------------------------------------
    def add(self, make: Callable[[int], StopPoint]) -> StopPoint:
        """Set the stop point that ``make(number)`` gives."""
        point = make(self._next_number)
        self.points[self._next_number] = point
        self._next_number += 1
        return point

    def _break(self, words: list[str], *, is_temporary: bool = False) -> str:
        text = words[0]
        if text.split()[0] in EVENT_KINDS:
            point = self.add(lambda n: parse_event(n, text, self._sectors_of, is_temporary=is_temporary))
            return f"[{point.number}] {text}"
        number = parse_number(text)
        addresses: list[int] = [number] if number is not None else self.timeline.ask("addresses", text)
        if not addresses:
            raise ConfigError(
                f"break {text}: no such symbol in what runs now, and none of {', '.join(EVENT_KINDS)}; give an address"
            )
        point = self.add(lambda n: StopPoint(n, "code", text, tuple(addresses), is_temporary=is_temporary))
        return f"[{point.number}] {text} at {', '.join(f'{address:#x}' for address in addresses)}"

    def _sectors_of(self, vdev: str, path: str) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = self.timeline.ask("file_sectors", vdev, path)
        return found

    def _tbreak(self, words: list[str]) -> str:
        return self._break(words, is_temporary=True)

    def _watch(self, words: list[str]) -> str:
        return self._add_watch("watch", words)

    def _rwatch(self, words: list[str]) -> str:
        return self._add_watch("rwatch", words)

    def _awatch(self, words: list[str]) -> str:
        return self._add_watch("awatch", words)

    def _add_watch(self, command: str, words: list[str]) -> str:
        address = int(self.timeline.ask("evaluate", words[0]))
        size = parse_number(words[1]) if len(words) > 1 else 8
        if not size or size > 1 << 20:
            raise ConfigError(f"{command} {' '.join(words)}: not a size; give bytes, such as 8")
        ranges: list[tuple[int, int]] = self.timeline.ask("machine_ranges", address, size)
        text = f"{command} {' '.join(words)}"
        kind = _WATCH_KINDS[command]
        point = self.add(lambda n: StopPoint(n, kind, text, ranges=tuple(ranges), linear=address))
        return f"[{point.number}] {text}"

    def _delete(self, words: list[str]) -> str:
        for word in words or list(map(str, self.points)):
            number = parse_number(word)
            if number not in self.points:
                raise ConfigError(f"delete {word}: no such stop point; `points` lists them")
            del self.points[number]
        return ""

    def _list(self, words: list[str]) -> str:
        return "\n".join(f"[{point.number}] {point.text}" for point in self.points.values()) or "no stop point is set"

    # -- the rest ----------------------------------------------------------------------------------------------------
    def _type(self, words: list[str]) -> str:
        self.timeline.type(unescape(words[0]))
        return ""

    def _set(self, words: list[str]) -> str:
        address = int(self.timeline.ask("evaluate", words[0]))
        try:
            data = bytes.fromhex("".join(words[1:]))
        except ValueError:
            raise ConfigError(f"set: {' '.join(words[1:])!r} are no bytes; write them as 90 90") from None
        if not data:
            raise IndexError
        self.timeline.change("write", address, data)
        return f"{len(data)} bytes changed at {address:#x}; what was before can not be gone back to any more"

    def _help(self, words: list[str]) -> str:
        rows: dict[str, Any] = {**self._commands, **VIEWS}
        if words:
            name = self._resolve(words[0])
            _function, usage, text = rows[name]
            more = f"\n{_BREAK_HELP}" if name in {"break", "tbreak"} else ""
            return f"{usage}: {text}{more}"
        return "\n".join(f"{usage:<30} {text}" for _, (_function, usage, text) in sorted(rows.items()))

    def _quit(self, words: list[str]) -> str:
        self.is_done = True
        return ""


_BREAK_HELP = """\
  break grub_halt          a symbol, also module:name and name+0x1a      break *0x1000   an address
  break hypercall [NAME [arg0=VALUE]...]      break xenstore PATTERN      break console REGEX
  break disk [VDEV [SECTOR[-SECTOR]]]         break disk VDEV:/PATH
  break fault [#PF]                           break stage [NUMBER]"""


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{text}: {str(error).lower()}") from None
