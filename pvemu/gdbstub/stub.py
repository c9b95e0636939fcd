"""What gdb's packets mean: registers, memory, stop points, running in both directions, and `monitor` lines.

A thread for each vcpu, of which one runs: to go on or to step is to have the guest go on, whoever gets the CPU. The
guest's end does not end the session: it stands where it ended, and can be gone back from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.control.stop_points import StopPoint
from pvemu.errors import ConfigError
from pvemu.gdbstub.packets import escape, unescape
from pvemu.monitor.gdb_registers import RegisterMap

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.control.place import Stop
    from pvemu.monitor.shell import Shell

__all__ = ["Detached", "Stub"]

_PACKET_SIZE = 0x4000
_SIGINT, _SIGTRAP, _SIGSEGV = 2, 5, 11
#: Z and z packets: what is watched. 0 and 1 are breakpoints, by software or hardware: the same here.
_WATCH_TYPES = {b"2": ("write", "watch"), b"3": ("read", "rwatch"), b"4": ("access", "awatch")}
_FIRST_NUMBER = 1_000_000  # of gdb's own stop points: apart from the monitor's


class Detached(Exception):  # noqa: N818 - not an error: gdb said goodbye
    """gdb lets go; ``kills`` when the session is to end as well."""

    def __init__(self, *, kills: bool) -> None:
        super().__init__(kills)
        self.kills = kills


class Stub:
    """Answers packets. ``write_out(text)`` shows a line to gdb's user while the guest runs; ``write_symbols()`` writes
    the script of symbols anew and says where it is.
    """

    def __init__(self, shell: Shell, write_out: Callable[[str], None], write_symbols: Callable[[], str]) -> None:
        self._shell = shell
        self._timeline = shell.timeline
        self._write_out = write_out
        self._write_symbols = write_symbols
        self._registers = RegisterMap(self._timeline.ask("bits"))
        self._points: dict[tuple[bytes, int, int], StopPoint] = {}
        self._number = _FIRST_NUMBER
        self._is_backwards = False
        self._thread = 0  # whose registers are read: the vcpu's number and 1; 0 for the one that runs
        self.acks_wanted = True
        shell.extra_points = lambda: list(self._points.values())

    def reset(self) -> None:
        """Another gdb comes: it has no breakpoints yet."""
        self._points.clear()
        self.acks_wanted = True

    def answer(self, packet: bytes) -> bytes:
        """The answer to one packet; empty for one that is not known. Detached."""
        try:
            for prefix, function in self._HANDLERS:
                if packet.startswith(prefix):
                    return function(self, packet[len(prefix) :])
        except (ValueError, IndexError):
            return b"E01"  # not what the protocol says
        except ConfigError:
            return b"E02"
        return b""

    # -- what is there -------------------------------------------------------------------------------------------------
    def _supported(self, _rest: bytes) -> bytes:
        return (
            b"PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;vContSupported+;swbreak+;hwbreak+;ReverseStep+;"
            b"ReverseContinue+" % _PACKET_SIZE
        )

    def _no_acks(self, _rest: bytes) -> bytes:
        self.acks_wanted = False
        return b"OK"

    def _features(self, rest: bytes) -> bytes:
        annex, _, window = rest.partition(b":")
        if annex != b"target.xml":
            return b"E00"
        offset, length = (int(part, 16) for part in window.split(b","))
        text = self._registers.target_xml().encode()
        piece = text[offset : offset + min(length, _PACKET_SIZE // 2)]
        return (b"m" if offset + len(piece) < len(text) else b"l") + escape(piece)

    # -- registers and memory ------------------------------------------------------------------------------------------
    def _read_registers(self, _rest: bytes) -> bytes:
        return bytes(self._timeline.ask("registers", self._thread - 1)).hex().encode()

    # -- threads -------------------------------------------------------------------------------------------------------
    def _threads(self, _rest: bytes) -> bytes:
        return b"m" + b",".join(b"%x" % (vcpu.vcpu_id + 1) for vcpu in self._timeline.ask("vcpus"))

    def _running(self) -> int:
        """The thread that runs."""
        return next((int(vcpu.vcpu_id) + 1 for vcpu in self._timeline.ask("vcpus") if vcpu.is_current), 1)

    def _current(self, _rest: bytes) -> bytes:
        return b"QC%x" % self._running()

    def _extra_info(self, rest: bytes) -> bytes:
        wanted = int(rest, 16) - 1
        for vcpu in self._timeline.ask("vcpus"):
            if vcpu.vcpu_id == wanted:
                return f"vcpu {wanted}, {vcpu.runstate}".encode().hex().encode()
        return b"E01"

    def _select(self, rest: bytes) -> bytes:
        """Whose registers are meant from now on; who is to go on does not matter."""
        number = int(rest, 16)
        self._thread = max(number, 0)
        return b"OK" if number <= 0 or self._is_thread(number) else b"E01"

    def _is_thread(self, number: int) -> bool:
        return any(vcpu.vcpu_id + 1 == number for vcpu in self._timeline.ask("vcpus"))

    def _is_alive(self, rest: bytes) -> bytes:
        return b"OK" if self._is_thread(int(rest, 16)) else b"E01"

    def _is_other(self) -> bool:
        return self._thread not in (0, self._running())

    def _write_registers(self, rest: bytes) -> bytes:
        if self._is_other():
            return b"E03"  # one that does not run: it could not be had again
        self._timeline.change("set_registers", bytes.fromhex(rest.decode()))
        return b"OK"

    def _read_register(self, rest: bytes) -> bytes:
        number = int(rest, 16)
        if number >= len(self._registers.registers):
            return b"E01"
        return bytes(self._timeline.ask("register", number, self._thread - 1)).hex().encode()

    def _write_register(self, rest: bytes) -> bytes:
        number, _, value = rest.partition(b"=")
        data = bytes.fromhex(value.decode())
        if self._is_other():
            return b"E03"
        if bytes(self._timeline.ask("register", int(number, 16))) == data:
            return b"OK"
        return b"OK" if self._timeline.change("set_register", int(number, 16), data) else b"E03"

    def _read_memory(self, rest: bytes) -> bytes:
        address, size = (int(part, 16) for part in rest.split(b","))
        data = bytes(self._timeline.ask("read", address, min(size, _PACKET_SIZE // 2)))
        return data.hex().encode() if data or not size else b"E14"

    def _write_memory(self, rest: bytes) -> bytes:
        where, _, value = rest.partition(b":")
        address, size = (int(part, 16) for part in where.split(b","))
        return self._store(address, bytes.fromhex(value.decode())[:size])

    def _write_binary(self, rest: bytes) -> bytes:
        where, _, value = rest.partition(b":")
        address, size = (int(part, 16) for part in where.split(b","))
        return self._store(address, unescape(value)[:size])

    def _store(self, address: int, data: bytes) -> bytes:
        if data and bytes(self._timeline.ask("read", address, len(data))) != data:
            self._timeline.change("write", address, data)
        return b"OK"

    # -- stop points ---------------------------------------------------------------------------------------------------
    def _set_point(self, rest: bytes) -> bytes:
        kind, address, size = self._point(rest)
        self._number += 1
        key = (kind, address, size)
        if kind in {b"0", b"1"}:
            self._points[key] = StopPoint(self._number, "code", f"{address:#x}", (address,))
            return b"OK"
        if kind not in _WATCH_TYPES:
            return b""
        ranges = self._timeline.ask("machine_ranges", address, size)
        what, name = _WATCH_TYPES[kind]
        self._points[key] = StopPoint(self._number, what, name, ranges=tuple(ranges), linear=address)
        return b"OK"

    def _remove_point(self, rest: bytes) -> bytes:
        kind, address, size = self._point(rest)
        self._points.pop((kind, address, size), None)
        return b"OK"

    def _point(self, rest: bytes) -> tuple[bytes, int, int]:
        kind, address, size = rest.split(b";")[0].split(b",")[:3]
        return kind, int(address, 16), int(size, 16)

    # -- running -------------------------------------------------------------------------------------------------------
    def _run(self, run: Callable[[], Stop], *, backwards: bool = False) -> bytes:
        self._is_backwards = backwards
        return self._reply(run())

    def _all_points(self) -> list[StopPoint]:
        return [*self._shell.points.values(), *self._points.values()]

    def _continue(self, _rest: bytes = b"") -> bytes:
        return self._run(lambda: self._timeline.resume(self._all_points()))

    def _step(self, _rest: bytes = b"") -> bytes:
        return self._run(lambda: self._timeline.step(1))

    def _back_continue(self, _rest: bytes) -> bytes:
        return self._run(lambda: self._timeline.reverse_resume(self._all_points()), backwards=True)

    def _back_step(self, _rest: bytes) -> bytes:
        return self._run(lambda: self._timeline.reverse_step(1), backwards=True)

    def _vcont(self, rest: bytes) -> bytes:
        action = rest[:1].lower()
        if action == b"s":
            return self._step()
        if action == b"r":
            first, end = (int(part, 16) for part in rest[1:].split(b";")[0].split(b":")[0].split(b","))
            return self._run(lambda: self._timeline.step_range(first, end, self._all_points()))
        return self._continue() if action == b"c" else b""

    def _reply(self, stop: Stop) -> bytes:
        """A stop reply packet."""
        own = {point.number: kind for (kind, _address, _size), point in self._points.items()}
        kinds = {own[number] for number in stop.points if number in own}
        if set(stop.points) - own.keys() or stop.kind in {"event", "fault", "end"}:
            self._write_out(self._shell.show(stop) + "\n")
        reason = b""
        for kind in sorted(kinds):
            if kind in _WATCH_TYPES:
                reason = b"%s:%x;" % (_WATCH_TYPES[kind][1].encode(), stop.address)
            else:
                reason = b"hwbreak:;" if kind == b"1" else b"swbreak:;"
        if stop.kind == "start" and self._is_backwards:
            reason = b"replaylog:begin;"
        if stop.kind == "end":
            reason = b"replaylog:end;"
        signal = {"interrupt": _SIGINT, "fault": _SIGSEGV}.get(stop.kind, _SIGTRAP)
        if stop.kind == "end" and stop.place.is_fault:
            signal, reason = _SIGSEGV, b""
        self._thread = 0
        return b"T%02xthread:%x;%s" % (signal, self._running(), reason)

    def _why(self, _rest: bytes) -> bytes:
        return b"T%02xthread:%x;" % (_SIGTRAP, self._running())

    # -- leaving, and words --------------------------------------------------------------------------------------------
    def _detach(self, _rest: bytes) -> bytes:
        raise Detached(kills=False)

    def _kill(self, _rest: bytes) -> bytes:
        raise Detached(kills=True)

    def _monitor(self, rest: bytes) -> bytes:
        line = bytes.fromhex(rest.decode()).decode("utf-8", "replace").strip()
        try:
            text = self._write_symbols() if line == "symbols" else self._run_monitor(line)
        except ConfigError as error:
            text = str(error)
        return (text + "\n").encode().hex().encode() if text else b"OK"

    def _run_monitor(self, line: str) -> str:
        before = self._timeline.stop
        text = self._shell.execute(line)
        if self._shell.is_done:
            self._shell.is_done = False
            return "quit is gdb's own: `kill` ends pvemu, `detach` leaves it running"
        if self._timeline.stop is not before:
            text += "\nthe guest has moved: `maintenance flush register-cache` tells gdb"
        return text

    _HANDLERS: tuple[tuple[bytes, Callable[[Stub, bytes], bytes]], ...] = (
        (b"qSupported", _supported),
        (b"QStartNoAckMode", _no_acks),
        (b"qXfer:features:read:", _features),
        (b"qRcmd,", _monitor),
        (b"qAttached", lambda stub, rest: b"1"),
        (b"qC", _current),
        (b"qfThreadInfo", _threads),
        (b"qsThreadInfo", lambda stub, rest: b"l"),
        (b"qThreadExtraInfo,", _extra_info),
        (b"qSymbol", lambda stub, rest: b"OK"),
        (b"vCont?", lambda stub, rest: b"vCont;c;C;s;S;r"),
        (b"vCont;", _vcont),
        (b"vMustReplyEmpty", lambda stub, rest: b""),
        (b"vKill", _kill),
        (b"q", lambda stub, rest: b""),
        (b"Q", lambda stub, rest: b""),
        (b"v", lambda stub, rest: b""),
        (b"?", _why),
        (b"g", _read_registers),
        (b"G", _write_registers),
        (b"p", _read_register),
        (b"P", _write_register),
        (b"m", _read_memory),
        (b"M", _write_memory),
        (b"X", _write_binary),
        (b"Z", _set_point),
        (b"z", _remove_point),
        (b"bc", _back_continue),
        (b"bs", _back_step),
        (b"c", _continue),
        (b"C", _continue),
        (b"s", _step),
        (b"S", _step),
        (b"Hg", _select),
        (b"H", lambda stub, rest: b"OK"),
        (b"T", _is_alive),
        (b"D", _detach),
        (b"k", _kill),
    )
