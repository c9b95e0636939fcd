"""One run of a machine with something typed and something expected: the engine of ``pvemu boot`` and of tests.

No threads and no sleeping decide anything: input is typed when the guest waits for it, time limits count guest time. A
watchdog thread only has the machine look at a guest that spins without a single exit: nothing in guest time ever would.
"""

from __future__ import annotations

import gc
import re
import time
from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import sched
from pvemu.debug.crash_report import execution_state, page_walk, recent_hypercalls
from pvemu.debug.loader_refusal import LoaderWatch
from pvemu.debug.screen import render
from pvemu.machine import Outcome
from pvemu.testing.tally import Tally, shutdown_name
from pvemu.testing.verdict import Verdict
from pvemu.testing.watchdog import HANG_SECONDS, Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pvemu.debug.symbols import Symbols
    from pvemu.machine import Machine

__all__ = ["HANG_SECONDS", "Session", "crash_report"]

_NS_PER_S = 1_000_000_000
#: Words of the stack that a crash report looks at for places in code.
_STACK_WORDS = 64
#: A guest that sleeps this long (guest time) with an empty input ring waits for input; one that polls is seen at once.
_IDLE_NS = _NS_PER_S
_IDLE_CHECK_NS = _NS_PER_S // 4
#: How far back a match may begin: output is searched as it comes.
_SEARCH_WINDOW = 1 << 16
#: How GRUB's complaints begin, and how near the end one must stand to be why it waits.
_ERROR, _LAST_LINES = b"error: ", 3
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[78=>]|\r")


class Session:
    """``until`` is matched against the console's bytes and against its text without escape sequences; ``timeout`` is in
    guest seconds; ``send`` is typed piece by piece; ``sink`` gets the console's bytes as they come.

    A guest that shuts down for a reason after which its configuration has it boot again (to reboot, as a rule) goes on
    as a new domain, ``max_reboots`` times (None: always); ``on_domain`` is told of each machine before it starts.
    """

    def __init__(
        self, machine: Machine, *, until: re.Pattern[bytes] | None = None, timeout: float | None = None,
        send: Sequence[bytes] = (), sink: Callable[[bytes], None] = lambda data: None, max_reboots: int | None = 0,
        on_domain: Callable[[Machine], None] = lambda machine: None,
    ) -> None:  # fmt: skip
        self.machine = machine  #: the domain that runs now
        self.console = bytearray()
        self.matched: bytes | None = None
        self._until = until
        self._timeout = timeout
        self._to_send = list(send)
        self._sink = sink
        self._max_reboots = max_reboots
        self.on_domain = on_domain
        self._tally = Tally()
        self._stop: tuple[str, str] | None = None
        self._last_output = machine.clock.now()
        self._hang_seconds = HANG_SECONDS
        self._attach(machine)

    def _attach(self, machine: Machine) -> None:
        self.machine = machine
        self._loader = loader = LoaderWatch(machine.backends, machine.abi.bits)
        machine.stages.observe(lambda stage: loader.forget())
        machine.on_console_output = self._on_output
        machine.on_console_poll = self._on_poll

    def stop(self, kind: str, detail: str = "") -> None:
        """End the run from a callback or a signal's handler, whichever domain is running."""
        self._stop = kind, detail
        self.machine.stop(kind, detail)

    def run(self) -> Verdict:
        """Start the guest and run it to its verdict."""
        began = time.perf_counter()
        outcome = self._run_domain()
        while self._is_to_boot_again():
            self._boot_again()
            outcome = Outcome("timeout", "") if self._is_out_of_time() else self._run_domain()
        self._tally.add(self.machine)
        return self._judge(outcome, time.perf_counter() - began)

    def run_to_reboot(self, seconds: float) -> bool:
        """Run the domain that stands before its start for so many guest seconds; whether it rebooted, and the next one
        stands before its own.
        """
        machine = self.machine
        machine.clock.call_at(machine.clock.now() + round(seconds * _NS_PER_S), lambda: machine.stop("timeout"))
        self._run_domain()
        is_rebooted = self._is_to_boot_again()
        if is_rebooted:
            self._boot_again()
        return is_rebooted

    def _boot_again(self) -> None:
        self._tally.add(self.machine, is_followed=True)
        self._attach(self.machine.reboot())
        gc.collect()  # the old domain's memory, which may be gigabytes

    def _is_to_boot_again(self) -> bool:
        if self.matched is not None or shutdown_name(self.machine) not in self.machine.config.restarts_on:
            return False
        return self._max_reboots is None or len(self._tally.domains) < self._max_reboots

    def _limit(self) -> int:
        """The system time at which the run is out of time."""
        assert self._timeout is not None
        return self.machine.clock.start + round(self._timeout * _NS_PER_S)

    def _is_out_of_time(self) -> bool:
        return self._timeout is not None and self.machine.clock.now() >= self._limit()

    def _run_domain(self) -> Outcome:
        watchdog = Watchdog(self.machine, self._hang_seconds)
        try:
            self.start()
            if self._stop is not None:  # while there was no domain
                return Outcome(*self._stop)
            return self.machine.run()
        finally:
            watchdog.stop()

    def start(self) -> None:
        """Stand at the guest's first instruction, with limits and keys for what comes then."""
        machine = self.machine
        if self._timeout is not None:
            machine.clock.call_at(self._limit(), lambda: machine.stop("timeout"))
        if self._to_send:
            machine.clock.call_at(machine.clock.now() + _IDLE_CHECK_NS, self._check_idle)
        self.on_domain(machine)
        machine.start()

    # -- what the guest does -------------------------------------------------------------------------------------------
    def _on_output(self, data: bytes) -> None:
        self.console += data
        self._loader.take_output(data)
        self._last_output = self.machine.clock.now()
        self._sink(data)
        if self._until is not None and self.matched is None:
            self._search(len(data))

    def _search(self, fresh: int) -> None:
        assert self._until is not None
        window = bytes(self.console[-(_SEARCH_WINDOW + fresh) :])
        found = self._until.search(window) or self._until.search(_ESCAPES.sub(b"", window))
        if found is not None:
            self.matched = found.group()
            self.machine.stop("matched")

    def _on_poll(self) -> None:
        if self._to_send and self.machine.console.is_waiting:
            self.machine.console.send(self._to_send.pop(0))

    def _check_idle(self) -> None:
        """A guest that sleeps instead of polling: type when nothing has come from it for a while."""
        machine = self.machine
        now = machine.clock.now()
        if machine.sched.is_idle and machine.console.is_input_taken and now - self._last_output >= _IDLE_NS:
            self._last_output = now
            machine.console.send(self._to_send.pop(0))
        if self._to_send:
            machine.clock.call_at(now + _IDLE_CHECK_NS, self._check_idle)

    # -- the verdict ---------------------------------------------------------------------------------------------------
    def _judge(self, outcome: Outcome, wall_seconds: float) -> Verdict:
        machine, tally = self.machine, self._tally
        verdict, reason = self._words(outcome)
        refusal = self._loader.refusal() if verdict == "failure" else None
        if refusal is not None:
            reason += f"; {refusal}"
        elif outcome.kind == "timeout":
            reason += self._last_error()
        report = Verdict(
            verdict=verdict, reason=reason, shutdown=tally.domains[-1].shutdown, stages=tally.stages,
            guest_seconds=(machine.clock.now() - machine.clock.start) / _NS_PER_S, wall_seconds=wall_seconds,
            hypercalls=dict(tally.hypercalls), disks=tally.disks, unknown_hypercalls=dict(tally.unknown_hypercalls),
            absent_hypercalls=dict(tally.absent_hypercalls), domains=tally.domains, refusal=refusal,
            xen_log=tally.xen_log,
        )  # fmt: skip
        if verdict == "crash":
            report.crash_report = crash_report(machine, bytes(self.console))
        return report

    def _words(self, outcome: Outcome) -> tuple[str, str]:
        reason_code, shutdown = self.machine.domain.shutdown_reason, self._tally.domains[-1].shutdown
        reboots = len(self._tally.domains) - 1
        is_reboot = all(domain.shutdown == "reboot" for domain in self._tally.domains[:-1])
        after = f" after {_times(reboots, 'reboot' if is_reboot else 'restart')}" if reboots else ""
        if self.matched is not None:
            return "success", f"the console matched {_shown(self.matched)}{after}"
        if reason_code in (sched.SHUTDOWN_crash, sched.SHUTDOWN_watchdog):
            lines = self.machine.crash_lines
            return "crash", (lines[0] if lines else f"the guest shut down with reason {shutdown}") + after
        if reason_code is not None:
            if self._until is None and reason_code == sched.SHUTDOWN_poweroff:
                return "success", f"the guest powered itself off{after}"
            unmet = "" if self._until is None else f" before the console matched {_shown(self._until.pattern)}"
            if reason_code == sched.SHUTDOWN_reboot and reboots and shutdown in self.machine.config.restarts_on:
                times = _times(reboots, "reboot is", "reboots are")
                return "failure", f"the guest rebooted again{unmet}, and {times} allowed (--max-reboots)"
            return "failure", f"the guest shut down ({shutdown}){unmet}{after}"
        if outcome.kind == "left" and self._until is None:
            return "success", outcome.detail
        if outcome.kind == "timeout":
            waiting = "; the guest waits for input" if self.machine.console.is_waiting else ""
            expected = "" if self._until is None else f", no match for {_shown(self._until.pattern)}"
            return "failure", f"timed out after {self._timeout:g} guest seconds{after}{expected}{waiting}"
        return "failure", (outcome.detail or outcome.kind) + (self._place() if outcome.kind == "hang" else "")

    def _place(self) -> str:
        """Where the guest stands, by name."""
        name = _symbols(self.machine).name(self.machine.engine.read("rip"))
        return f" (at {name})" if name is not None else ""

    def _last_error(self) -> str:
        """What a boot loader that gave up said last, in its own words."""
        lines = _ESCAPES.sub(b"\n", bytes(self.console[-_SEARCH_WINDOW:])).split(b"\n")
        for line in [line for line in lines if line.strip()][-_LAST_LINES:]:
            if line.startswith(_ERROR):
                return "; the guest's last words: " + line.decode("utf-8", "replace").strip()
        return ""


def _times(count: int, one: str, several: str = "") -> str:
    return f"{count} {one if count == 1 else several or one + 's'}"


def _shown(text: bytes) -> str:
    return repr(text.decode("utf-8", "replace"))


def _symbols(machine: Machine) -> Symbols:
    """Names, from what the guest's memory still has and from the package cache; nothing is fetched."""
    from pvemu.debug.symbols import SymbolFiles, Symbols
    from pvemu.mkimage.symbol_folders import symbol_folders

    return Symbols.of(machine, SymbolFiles(symbol_folders()))


def _by_name(machine: Machine, symbols: Symbols) -> list[str]:
    """Where it stands, and what on its stack are places in code."""
    word = machine.abi.long_size
    rip, rsp = machine.engine.read("rip"), machine.engine.read("rsp")
    places = [("rip", rip)]
    for at in range(_STACK_WORDS):
        try:
            value = int.from_bytes(machine.guest.copy_from_guest(rsp + at * word, word), "little")
        except XenError:
            break
        found = symbols.locate(value) if value else None
        if found is not None and found.function is not None and found.offset:  # what a call left points behind it
            places.append((f"rsp+{at * word:#x}", value))
    lines = []
    for what, address in places:
        name, line = symbols.name(address), symbols.line(address)
        if name is not None:
            lines.append(f"{what:>10}  {address:#x}  {name}{f' ({line})' if line is not None else ''}")
    return ["", "by name:", *lines] if lines else []


def crash_report(machine: Machine, console: bytes) -> list[str]:
    """Xen's crash text, then the last hypercalls and the screen."""
    lines = list(machine.crash_lines)
    if machine.fault_address is not None:
        lines += page_walk(machine.walker, machine.m2p, machine.fault_address)
    lines += execution_state(machine.config.domid, machine.vcpu, machine.engine, machine.walker, machine.guest)
    report = [f"(XEN) {line}" for line in lines]
    symbols = _symbols(machine)
    report += _by_name(machine, symbols)
    report += ["", "last hypercalls (guest seconds, return address, call, result):"]
    report += recent_hypercalls(machine.recent, machine.clock.start, machine.hypercall_nargs, symbols.name)
    report += ["", "screen:", *(f"| {line}" for line in render(console))]
    return report
