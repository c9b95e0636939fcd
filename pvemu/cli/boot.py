"""``pvemu boot``: one guest, from its kernel to a verdict."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pvemu.config import DEFAULT_MEMORY_MIB, DomainConfig
from pvemu.disk.spec import parse_disk_specs
from pvemu.errors import ConfigError
from pvemu.machine import Machine
from pvemu.testing.session import Session

if TYPE_CHECKING:
    import argparse
    from argparse import _SubParsersAction
    from collections.abc import Callable, Iterator

    from pvemu.testing.verdict import Verdict

__all__ = ["add_parser", "run"]

#: Guest seconds after which a run that nobody watches ends.
DEFAULT_TIMEOUT = 600.0
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
    parser.add_argument("kernel", metavar="KERNEL", help="an ELF PV kernel or a Linux bzImage, as xl's kernel=")
    parser.add_argument("--ramdisk", metavar="FILE", help="a ramdisk for the kernel")
    parser.add_argument("--cmdline", metavar="TEXT", default="", help="the kernel's command line")
    parser.add_argument(
        "--memory", metavar="MIB", default=str(DEFAULT_MEMORY_MIB),
        help=f"memory in MiB (default {DEFAULT_MEMORY_MIB})",
    )  # fmt: skip
    parser.add_argument(
        "--vcpus", metavar="N", default="1", help="vcpus of the domain, of which one runs (default 1)"
    )
    parser.add_argument(
        "--disk", metavar="[VDEV=]PATH[,ro|rw]", action="append", default=[], help="a disk image; repeatable"
    )
    parser.add_argument(
        "--send", metavar="TEXT", action="append", default=[],
        help="type TEXT (C escapes) once the guest waits for input; repeatable",
    )  # fmt: skip
    parser.add_argument("--until", metavar="REGEX", help="end with success when the console matches")
    parser.add_argument(
        "--timeout", metavar="SECONDS",
        help=f"end after so many guest seconds (default {DEFAULT_TIMEOUT:g} when not at a terminal)",
    )  # fmt: skip
    parser.add_argument("--transcript", metavar="FILE", help="write the console's bytes here too")
    parser.add_argument("--json", metavar="FILE", help="write a report of the run here")
    parser.add_argument("--write", action="store_true", help="let disks given as rw be written")


def run(arguments: argparse.Namespace) -> int:
    """Boot as the command line says; the exit code."""
    until = _pattern(arguments.until)
    send = [_unescape(text) for text in arguments.send]
    is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
    timeout = _seconds(arguments.timeout, None if is_interactive else DEFAULT_TIMEOUT)
    config = DomainConfig(
        kernel=arguments.kernel, ramdisk=arguments.ramdisk, cmdline=arguments.cmdline,
        memory_mib=_memory(arguments.memory), vcpus=_vcpus(arguments.vcpus),
        disks=parse_disk_specs(arguments.disk), write=arguments.write,
        name=Path(arguments.kernel).name or "guest",
    )  # fmt: skip
    machine = Machine.create(config)
    try:
        _refuse_overwriting(arguments, [disk.path for disk in config.disks])
        transcript = _open_output(arguments.transcript, "--transcript")
        report = _open_output(arguments.json, "--json")
        session = Session(machine, until=until, timeout=timeout, send=send, sink=_sink(transcript))
        with _stopping_on_signals(machine) as received:
            if is_interactive:
                from pvemu.cli.terminal import Terminal

                with Terminal(machine):
                    verdict = session.run()
            else:
                verdict = session.run()
    finally:
        machine.close()
    if transcript is not None:
        transcript.close()
    if report is not None:
        with report:
            _write(report, json.dumps(verdict.as_json(), indent=2).encode() + b"\n", f"--json {arguments.json}")
    if received and verdict.verdict == "failure":
        print(f"pvemu: {verdict.reason}", file=sys.stderr)
        return 128 + received[0]
    _print_verdict(verdict)
    return verdict.exit_code


@contextmanager
def _stopping_on_signals(machine: Machine) -> Iterator[list[int]]:
    """Ctrl-C and the like end the run cleanly: nothing can be raised inside the CPU's own code. Gives the signals that
    came, in order; those that our caller had ignored (nohup, a script's background jobs) stay so.
    """
    received: list[int] = []

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        machine.stop("interrupted", f"interrupted by {signal.Signals(number).name}")

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


def _vcpus(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--vcpus {text!r}: not a whole number; give one such as 1") from None


def _memory(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"--memory {text!r}: not a number; give MiB, such as 256") from None
    if not math.isfinite(value) or value != int(value):
        raise ConfigError(f"--memory {text}: not a whole number of MiB; give one such as 256")
    return int(value)


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


def _refuse_overwriting(arguments: argparse.Namespace, disks: list[str]) -> None:
    """An output that names an input is a slip that would cost the user a disk image."""
    inputs = [arguments.kernel, *disks]
    if arguments.ramdisk is not None:
        inputs.append(arguments.ramdisk)
    used = {os.path.realpath(path): path for path in inputs}
    for option, path in (("--transcript", arguments.transcript), ("--json", arguments.json)):
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
def _print_verdict(verdict: Verdict) -> None:
    """The crash report if there is one, the stages, and one line of verdict, to stderr."""
    lines = list(verdict.crash_report)
    if lines:
        lines.append("")
    for number, stage in enumerate(verdict.stages):
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


