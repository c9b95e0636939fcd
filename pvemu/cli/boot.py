"""``pvemu boot``: one guest, from its kernel to a verdict."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from pvemu.cli.options import DEFAULT_TIMEOUT, add_guest_options, guest_config, pattern, seconds, unescape
from pvemu.cli.output import console_sink, open_output, refuse_overwriting, stopping_on_signals, write_all
from pvemu.machine import Machine
from pvemu.testing.session import Session

if TYPE_CHECKING:
    import argparse
    from argparse import _SubParsersAction

    from pvemu.testing.verdict import Verdict

__all__ = ["add_parser", "print_verdict", "run"]


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    text = "boot a Xen PV kernel and watch its console"
    parser = subparsers.add_parser(
        "boot", help=text, description=text,
        epilog="exit codes: 0 success, 2 bad usage or input, 4 error of pvemu, 5 expectation not met, 6 guest crashed",
    )  # fmt: skip
    add_guest_options(parser)
    parser.add_argument("--transcript", metavar="FILE", help="write the console's bytes here too")
    parser.add_argument("--json", metavar="FILE", help="write a report of the run here")


def run(arguments: argparse.Namespace) -> int:
    """Boot as the command line says; the exit code."""
    until = pattern(arguments.until)
    send = [unescape(text) for text in arguments.send]
    is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
    timeout = seconds(arguments.timeout, None if is_interactive else DEFAULT_TIMEOUT)
    config = guest_config(arguments)
    machine = Machine.create(config)
    try:
        refuse_overwriting(arguments, config, ("--transcript", arguments.transcript), ("--json", arguments.json))
        transcript = open_output(arguments.transcript, "--transcript")
        report = open_output(arguments.json, "--json")
        session = Session(machine, until=until, timeout=timeout, send=send, sink=console_sink(transcript))
        with stopping_on_signals(machine) as received:
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
            write_all(report, json.dumps(verdict.as_json(), indent=2).encode() + b"\n", f"--json {arguments.json}")
    if received and verdict.verdict == "failure":
        print(f"pvemu: {verdict.reason}", file=sys.stderr)
        return 128 + received[0]
    print_verdict(verdict)
    return verdict.exit_code


def print_verdict(verdict: Verdict) -> None:
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
    for name, count in sorted(verdict.unknown_hypercalls.items()):
        lines.append(f"pvemu: {name} is not there: answered -ENOSYS, called {count} times")
    lines.append(
        f"pvemu: {verdict.verdict}: {verdict.reason} "
        f"({verdict.guest_seconds:.3f} guest seconds in {verdict.wall_seconds:.2f} s)"
    )
    sys.stdout.flush()
    print("\n".join(lines), file=sys.stderr)
