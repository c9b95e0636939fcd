"""``pvemu replay``: have a recorded run again, exactly, and look at it as at any other."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from pvemu.cli.boot import print_verdict
from pvemu.cli.debug import add_script_arguments, console_writer, run_commands, script_lines
from pvemu.cli.debugging import add_domain_option, open_timeline
from pvemu.cli.gdb import serve, write_console
from pvemu.cli.output import OutputFile
from pvemu.cli.trace import EVENT_OPTIONS, add_symbol_option, add_trace_arguments, symbol_files, trace_request
from pvemu.control.keyboard import Keyboard
from pvemu.control.recorder import Replay
from pvemu.control.recording import load
from pvemu.debug.symbols import Symbols
from pvemu.errors import ConfigError
from pvemu.machine import Machine
from pvemu.testing.session import Session
from pvemu.trace.attach import AttachedTrace

if TYPE_CHECKING:
    import argparse
    from argparse import _SubParsersAction
    from collections.abc import Callable

    from pvemu.control.recording import Recording
    from pvemu.testing.verdict import Verdict

__all__ = ["add_parser", "run"]

#: Exit code of a run that was to be another's, and was not.
_OTHER_RUN = 4


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    text = "have a recorded run again, exactly, also with a trace that was not asked for then"
    parser = subparsers.add_parser(
        "replay", help=text, description=text,
        epilog="exit codes are those of the recorded run; 4 when it came to another end",
    )  # fmt: skip
    parser.add_argument("recording", metavar="FILE", help="what `pvemu boot --record FILE` wrote")
    parser.add_argument(
        "--search", metavar="DIR", action="append", default=[],
        help="look for the run's files below DIR as well, by name and content; repeatable",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="without the guest's console")
    parser.add_argument("--debug", action="store_true", help="stop at the first instruction, in the monitor")
    parser.add_argument("--gdb", metavar="WHERE", help="stop at the first instruction, for gdb at :PORT or a path")
    add_domain_option(parser)
    add_script_arguments(parser)
    add_trace_arguments(parser)
    add_symbol_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Replay as the command line says; the exit code."""
    recording = load(arguments.recording, arguments.search)
    replay = Replay(recording)
    for warning in replay.warnings:
        print(f"pvemu: {warning}", file=sys.stderr)
    if arguments.gdb is not None:
        return _serve(arguments, recording, replay)
    if arguments.debug or arguments.script or arguments.command:
        return _debug(arguments, recording, replay)
    if arguments.domain != "1":
        raise ConfigError("--domain: a run is replayed from its start; give --debug, --gdb or --command as well")
    machine = Machine.create(recording.config)
    try:
        verdict = _run(arguments, recording, replay, machine)
    finally:
        machine.close()
    print_verdict(verdict)
    parted = replay.parted()
    if parted is not None:
        print(f"pvemu: {parted}", file=sys.stderr)
        return _OTHER_RUN
    return verdict.exit_code


def _run(arguments: argparse.Namespace, recording: Recording, replay: Replay, machine: Machine) -> Verdict:
    """The run by itself, or with a trace of it."""
    request = trace_request(arguments)
    out = OutputFile.open(arguments.output, "--output") or OutputFile.stdout() if _wants_trace(arguments) else None
    files = symbol_files(arguments) if out is not None else None
    traces: list[AttachedTrace] = []

    def attach(machine: Machine) -> None:
        replay.attach(machine)
        while traces:
            traces.pop().close()
        if out is not None:
            traces.append(AttachedTrace(machine, Symbols.of(machine, files), request, out))

    session = Session(
        machine, sink=(lambda data: None) if arguments.quiet or out is not None else write_console,
        max_reboots=recording.options.get("max_reboots"), on_domain=attach, **_session(recording),
    )  # fmt: skip
    try:
        return session.run()
    finally:
        while traces:
            traces.pop().close()
        session.machine.close()
        if out is not None:
            out.close()


def _wants_trace(arguments: argparse.Namespace) -> bool:
    kinds = any(getattr(arguments, option) for option in EVENT_OPTIONS)
    return kinds or arguments.insns or arguments.calls or arguments.output is not None or arguments.format != "text"


def _session(recording: Recording) -> dict[str, Any]:
    """What the recorded session did, and may do again."""
    options = recording.options
    try:
        pattern = options["until"]
        until = re.compile(pattern.encode("utf-8", "surrogateescape"), re.MULTILINE) if pattern is not None else None
        send = [str(text).encode("latin-1") for text in options["send"]]
        timeout = float(options["timeout"]) if options["timeout"] is not None else None
    except (KeyError, TypeError, ValueError, AttributeError, re.error) as error:
        raise ConfigError(f"the recording's options are damaged ({error}); record the run again") from None
    return {"until": until, "send": send, "timeout": timeout}


def _attach(replay: Replay) -> Callable[[Machine, int], Keyboard]:
    """A keyboard for each domain that types what was typed on its console."""

    def attach(machine: Machine, index: int) -> Keyboard:
        keyboard = Keyboard(machine.clock, machine.console)
        keyboard.play(replay.script(index))
        return keyboard

    return attach


def _debug(arguments: argparse.Namespace, recording: Recording, replay: Replay) -> int:
    lines = script_lines(arguments)
    with open_timeline(
        recording.config, _session(recording), symbol_files(arguments), console_writer(), _attach(replay),
        arguments.domain,
    ) as shell:
        return run_commands(shell, lines)


def _serve(arguments: argparse.Namespace, recording: Recording, replay: Replay) -> int:
    from pvemu.gdbstub.server import Listener

    listener = Listener(arguments.gdb)
    try:
        with open_timeline(
            recording.config, _session(recording), symbol_files(arguments), write_console, _attach(replay),
            arguments.domain,
        ) as shell:
            serve(listener, shell, None, once=True)
    finally:
        listener.close()
    return 0
