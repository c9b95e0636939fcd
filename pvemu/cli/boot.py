"""``pvemu boot``: one guest, from its kernel to a verdict."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import sys
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pvemu.cli.domain import add_arguments, domain_config
from pvemu.cli.recording import Recording
from pvemu.cli.strict_options import add_strict_arguments, strict_config, wants_seeds
from pvemu.errors import ConfigError
from pvemu.machine import Machine
from pvemu.testing.session import Session

if TYPE_CHECKING:
    import argparse
    from argparse import _SubParsersAction
    from collections.abc import Callable, Iterator

    from pvemu.config import DomainConfig
    from pvemu.control.recorder import Recorder
    from pvemu.testing.verdict import Verdict

__all__ = ["add_parser", "print_verdict", "run"]

#: Guest seconds after which a run that nobody watches ends.
DEFAULT_TIMEOUT = 600.0
#: How often a guest that nobody watches may reboot.
DEFAULT_MAX_REBOOTS = 1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_NAMED = {b"a": 7, b"b": 8, b"t": 9, b"n": 10, b"v": 11, b"f": 12, b"r": 13, b"e": 27, b"\\": 92, b"'": 39, b'"': 34}


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    text = "boot a Xen PV kernel and watch its console"
    parser = subparsers.add_parser(
        "boot", help=text, description=text,
        epilog="exit codes: 0 success, 2 bad usage or input, 4 error of pvemu, 5 expectation not met, 6 guest crashed",
    )  # fmt: skip
    add_arguments(parser)
    parser.add_argument(
        "--send", metavar="TEXT", action="append", default=[],
        help="type TEXT (C escapes) once the guest waits for input; repeatable",
    )  # fmt: skip
    parser.add_argument("--until", metavar="REGEX", help="end with success when the console matches")
    parser.add_argument(
        "--timeout", metavar="SECONDS",
        help=f"end after so many guest seconds (default {DEFAULT_TIMEOUT:g} when not at a terminal)",
    )  # fmt: skip
    parser.add_argument(
        "--max-reboots", metavar="N",
        help=f"a guest that reboots boots again, N times at most (default {DEFAULT_MAX_REBOOTS}; at a terminal always)",
    )  # fmt: skip
    parser.add_argument("--transcript", metavar="FILE", help="write the console's bytes here too")
    parser.add_argument("--json", metavar="FILE", help="write a report of the run here")
    parser.add_argument("--screenshot", metavar="FILE.svg", help="draw the screen as it is at the end here")
    parser.add_argument("--record-cast", metavar="FILE", help="record the console here (asciicast v2, guest time)")
    parser.add_argument("--record", metavar="FILE", help="write what `pvemu replay FILE` needs to have this run again")
    add_strict_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Boot as the command line says; the exit code."""
    until = _pattern(arguments.until)
    send = [_unescape(text) for text in arguments.send]
    is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
    timeout = _seconds(arguments.timeout, None if is_interactive else DEFAULT_TIMEOUT)
    max_reboots = _count(arguments.max_reboots, None if is_interactive else DEFAULT_MAX_REBOOTS)
    config = replace(domain_config(arguments), strict=strict_config(arguments))
    if wants_seeds(arguments):
        from pvemu.cli.strict import run_seeds

        _refuse_overwriting(arguments, config)
        timeout = DEFAULT_TIMEOUT if timeout is None else timeout
        max_reboots = DEFAULT_MAX_REBOOTS if max_reboots is None else max_reboots
        how = {"until": until, "timeout": timeout, "send": send, "max_reboots": max_reboots}
        return run_seeds(arguments, config, how, _open_output(arguments.json, "--json"))
    machine = Machine.create(config)
    recorder: Recorder | None = None
    try:
        _refuse_overwriting(arguments, config)
        transcript = _open_output(arguments.transcript, "--transcript")
        report = _open_output(arguments.json, "--json")
        picture = _open_output(arguments.screenshot, "--screenshot")
        cast = _open_output(arguments.record_cast, "--record-cast")
        recording = Recording(picture, cast, f"pvemu boot {Path(config.kernel).name}", _sink(transcript))
        recorder = _recorder(arguments, config, send, timeout, max_reboots)
        session = Session(
            machine, until=until, timeout=timeout, send=send, sink=recording, max_reboots=max_reboots,
            on_domain=_on_domain(recorder, watches_origins=report is not None),
        )  # fmt: skip
        recording.elapsed = lambda: session.machine.clock.now() - session.machine.clock.start
        with _closing(session), _stopping_on_signals(session) as received:
            if is_interactive:
                from pvemu.cli.terminal import Terminal

                with Terminal(session) as terminal:
                    if recorder is not None:
                        terminal.on_keys = recorder.typed
                    verdict = session.run()
            else:
                with _progress(session):
                    verdict = session.run()
    finally:
        machine.close()
        if recorder is not None:
            recorder.finish()
    if transcript is not None:
        transcript.close()
    if report is not None:
        with report:
            _write(report, json.dumps(verdict.as_json(), indent=2).encode() + b"\n", f"--json {arguments.json}")
    for file, content, option in recording.files(verdict.stages):
        with file:
            _write(file, content, option)
    if received and verdict.verdict == "failure":
        print(f"pvemu: {verdict.reason}", file=sys.stderr)
        return 128 + received[0]
    print_verdict(verdict)
    return verdict.exit_code


def _on_domain(recorder: Recorder | None, *, watches_origins: bool) -> Callable[[Machine], None]:
    def on_domain(machine: Machine) -> None:
        if watches_origins:
            _watch_origins(machine)
        if recorder is not None:
            recorder.attach(machine)

    return on_domain


def _recorder(
    arguments: argparse.Namespace, config: DomainConfig, send: list[bytes], timeout: float | None,
    max_reboots: int | None,
) -> Recorder | None:  # fmt: skip
    if arguments.record is None:
        return None
    from pvemu.control.recorder import Recorder

    typed = [data.decode("latin-1") for data in send]
    options = {"until": arguments.until, "timeout": timeout, "send": typed, "max_reboots": max_reboots}
    return Recorder(arguments.record, config, options)


def _progress(session: Session) -> AbstractContextManager[object]:
    """The line that shows a person how far the run is."""
    if not sys.stderr.isatty():
        return nullcontext()
    from pvemu.cli.progress import Progress, is_wanted

    return Progress(session) if is_wanted() else nullcontext()


@contextmanager
def _closing(session: Session) -> Iterator[None]:
    """Give the disks back, of whichever domain has them in the end."""
    try:
        yield
    finally:
        session.machine.close()


def _watch_origins(machine: Machine) -> None:
    """For a report: which files its kernels come from."""
    from pvemu.debug.origins import Origins

    Origins(machine.stages, machine.ram, machine.backends, machine.config.disks)


@contextmanager
def _stopping_on_signals(session: Session) -> Iterator[list[int]]:
    """Ctrl-C and the like end the run cleanly: nothing can be raised inside the CPU's own code. Gives the signals that
    came, in order; those that our caller had ignored (nohup, a script's background jobs) stay so.
    """
    received: list[int] = []

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        session.stop("interrupted", f"interrupted by {signal.Signals(number).name}")

    watched = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, stop) for number in watched}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _sink(transcript: IO[bytes] | None) -> Callable[[bytes], None]:
    """Console bytes to stdout as they come, past Python's buffers, and to the transcript."""
    out = sys.stdout.buffer.raw if isinstance(sys.stdout.buffer, io.BufferedWriter) else sys.stdout.buffer

    def write(data: bytes) -> None:
        _write(out, data, "stdout")
        if transcript is not None:
            _write(transcript, data, f"--transcript {transcript.name}")

    return write


def _write(out: IO[bytes] | io.RawIOBase, data: bytes, name: str) -> None:
    """All of ``data``, also where the system takes it in pieces."""
    view = memoryview(data)
    try:
        while view:
            view = view[out.write(view) or 0 :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(f"{name}: cannot be written ({error.strerror}); make room or send it elsewhere") from None


# -- options ---------------------------------------------------------------------------------------------------------
def _pattern(text: str | None) -> re.Pattern[bytes] | None:
    if text is None:
        return None
    try:
        return re.compile(text.encode("utf-8", "surrogateescape"), re.MULTILINE)
    except re.error as error:
        raise ConfigError(
            f"--until {text!r}: not a regular expression ({error}); escape special characters with \\"
        ) from None


def _count(text: str | None, default: int | None) -> int | None:
    if text is None:
        return default
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f"--max-reboots {text!r}: not a number of times; give 0, 1, 2 or more")
    return int(text)


def _seconds(text: str | None, default: float | None) -> float | None:
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"--timeout {text!r}: not a time; give guest seconds, such as 30 or 2.5")
    return value


def _unescape(text: str) -> bytes:
    """C escapes in what is typed; an unknown one is the character itself."""

    def replace(match: re.Match[bytes]) -> bytes:
        body = match[1]
        if body[:1] == b"x" and len(body) > 1:
            return bytes([int(body[1:], 16)])
        if body[:1].isdigit() and body[0] < 56:
            return bytes([int(body, 8) & 0xFF])
        return bytes([_NAMED[body]]) if body in _NAMED else body

    return _ESCAPE.sub(replace, text.encode("utf-8", "surrogateescape"))


def _refuse_overwriting(arguments: argparse.Namespace, config: DomainConfig) -> None:
    """An output that names an input is a slip that would cost the user a disk image."""
    given = (config.kernel, config.ramdisk, arguments.kernel, arguments.config)
    inputs = [*filter(None, given), *(disk.path for disk in config.disks)]
    used = {os.path.realpath(path): path for path in inputs}
    outputs = ("transcript", "json", "screenshot", "record_cast", "record")
    for option, path in ((f"--{name.replace('_', '-')}", getattr(arguments, name)) for name in outputs):
        if path is None or (Path(path).exists() and not Path(path).is_file()):
            continue  # /dev/null or a FIFO may serve for anything
        other = used.setdefault(os.path.realpath(path), option)
        if other != option:
            raise ConfigError(f"{option} {path}: would overwrite {other}; give another path")


def _open_output(path: str | None, option: str) -> IO[bytes] | None:
    if path is None:
        return None
    try:
        return open(path, "wb", buffering=0)  # noqa: PTH123 - closed by the caller; "-" has no meaning here
    except OSError as error:
        raise ConfigError(
            f"{option} {path}: cannot be written ({error.strerror}); give a path that can be created"
        ) from None


# -- the end ---------------------------------------------------------------------------------------------------------
def print_verdict(verdict: Verdict) -> None:
    """The crash report if there is one, the stages, and one line of verdict, to stderr."""
    lines = list(verdict.crash_report)
    if lines:
        lines.append("")
    rebooted = {domain.domid: domain.end_ns for domain in verdict.domains[:-1]}
    for number, stage in enumerate(verdict.stages):
        if stage.domid - 1 in rebooted:
            end = rebooted.pop(stage.domid - 1) / 1e9
            lines.append(f"pvemu: domain {stage.domid - 1} rebooted at {end:.3f} s, and is domain {stage.domid} now")
        what = " ".join(filter(None, (stage.guest_os or "a kernel", stage.guest_version)))
        ramdisk = f", ramdisk of {stage.ramdisk.size} bytes" if stage.ramdisk is not None else ""
        cmdline = f", command line {stage.cmdline!r}" if stage.cmdline else ""
        lines.append(
            f"pvemu: stage {number}: {what}, entry {stage.entry:#x}, at {stage.start_ns / 1e9:.3f} s{cmdline}{ramdisk}"
        )
    lines += [f"(XEN) {line}" for line in verdict.xen_log]
    for name, count in sorted(verdict.unknown_hypercalls.items()):
        lines.append(f"pvemu: {name} is not there: answered -ENOSYS, called {count} times")
    lines.append(
        f"pvemu: {verdict.verdict}: {verdict.reason} "
        f"({verdict.guest_seconds:.3f} guest seconds in {verdict.wall_seconds:.2f} s)"
    )
    sys.stdout.flush()
    print("\n".join(lines), file=sys.stderr)
