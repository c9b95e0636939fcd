"""``pvemu boot``: one guest, from its kernel to a verdict."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pvemu.cli.domain import add_arguments, domain_config
from pvemu.cli.options import (
    DEFAULT_MAX_REBOOTS,
    DEFAULT_TIMEOUT,
    add_run_arguments,
    count,
    pattern,
    seconds,
    unescape,
)
from pvemu.cli.output import (
    closing,
    console_sink,
    open_output,
    refuse_overwriting,
    stopping_on_signals,
    write_all,
)
from pvemu.cli.recording import Recording
from pvemu.cli.strict_options import add_strict_arguments, strict_config, wants_seeds
from pvemu.machine import Machine
from pvemu.testing.session import Session

if TYPE_CHECKING:
    import argparse
    from argparse import _SubParsersAction
    from collections.abc import Callable

    from pvemu.config import DomainConfig
    from pvemu.control.recorder import Recorder
    from pvemu.testing.tally import DomainRun
    from pvemu.testing.verdict import Verdict

__all__ = ["add_parser", "print_verdict", "run"]


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    text = "boot a Xen PV kernel and watch its console"
    parser = subparsers.add_parser(
        "boot", help=text, description=text,
        epilog="exit codes: 0 success, 2 bad usage or input, 4 error of pvemu, 5 expectation not met, 6 guest crashed",
    )  # fmt: skip
    add_arguments(parser)
    add_run_arguments(parser)
    parser.add_argument("--transcript", metavar="FILE", help="write the console's bytes here too")
    parser.add_argument("--json", metavar="FILE", help="write a report of the run here")
    parser.add_argument("--screenshot", metavar="FILE.svg", help="draw the screen as it is at the end here")
    parser.add_argument("--record-cast", metavar="FILE", help="record the console here (asciicast v2, guest time)")
    parser.add_argument("--record", metavar="FILE", help="write what `pvemu replay FILE` needs to have this run again")
    add_strict_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Boot as the command line says; the exit code."""
    until = pattern(arguments.until)
    send = [unescape(text) for text in arguments.send]
    is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
    timeout = seconds(arguments.timeout, None if is_interactive else DEFAULT_TIMEOUT)
    max_reboots = count(arguments.max_reboots, None if is_interactive else DEFAULT_MAX_REBOOTS)
    config = replace(domain_config(arguments), strict=strict_config(arguments))
    names = ("transcript", "json", "screenshot", "record_cast", "record")
    outputs = [(f"--{name.replace('_', '-')}", getattr(arguments, name)) for name in names]
    if wants_seeds(arguments):
        from pvemu.cli.strict import run_seeds

        refuse_overwriting(arguments, config, *outputs)
        timeout = DEFAULT_TIMEOUT if timeout is None else timeout
        max_reboots = DEFAULT_MAX_REBOOTS if max_reboots is None else max_reboots
        how = {"until": until, "timeout": timeout, "send": send, "max_reboots": max_reboots}
        return run_seeds(arguments, config, how, open_output(arguments.json, "--json"))
    machine = Machine.create(config)
    for doubt in machine.image.doubts:
        print(f"pvemu: warning: {doubt}", file=sys.stderr)
    recorder: Recorder | None = None
    try:
        refuse_overwriting(arguments, config, *outputs)
        transcript = open_output(arguments.transcript, "--transcript")
        report = open_output(arguments.json, "--json")
        picture = open_output(arguments.screenshot, "--screenshot")
        cast = open_output(arguments.record_cast, "--record-cast")
        recording = Recording(picture, cast, f"pvemu boot {Path(config.kernel).name}", console_sink(transcript))
        recorder = _recorder(arguments, config, send, timeout, max_reboots)
        session = Session(
            machine, until=until, timeout=timeout, send=send, sink=recording, max_reboots=max_reboots,
            on_domain=_on_domain(recorder, watches_origins=report is not None),
        )  # fmt: skip
        recording.elapsed = lambda: session.machine.clock.now() - session.machine.clock.start
        with closing(session), stopping_on_signals(session) as received:
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
        import json

        with report:
            write_all(report, json.dumps(verdict.as_json(), indent=2).encode() + b"\n", f"--json {arguments.json}")
    for file, content, option in recording.files(verdict.stages):
        with file:
            write_all(file, content, option)
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


def _watch_origins(machine: Machine) -> None:
    """For a report: which files its kernels come from."""
    from pvemu.debug.origins import Origins

    Origins(machine.stages, machine.ram, machine.backends, machine.config.disks)


def _restarted(domain: DomainRun) -> str:
    what = "rebooted" if domain.shutdown == "reboot" else f"shut down ({domain.shutdown})"
    return f"pvemu: domain {domain.domid} {what} at {domain.end_ns / 1e9:.3f} s, and is domain {domain.domid + 1} now"


def print_verdict(verdict: Verdict) -> None:
    """The crash report if there is one, the stages, and one line of verdict, to stderr."""
    lines = list(verdict.crash_report)
    if lines:
        lines.append("")
    rebooted = {domain.domid: domain for domain in verdict.domains[:-1]}
    for number, stage in enumerate(verdict.stages):
        if stage.domid - 1 in rebooted:
            lines.append(_restarted(rebooted.pop(stage.domid - 1)))
        what = " ".join(filter(None, (stage.guest_os or "a kernel", stage.guest_version)))
        ramdisk = f", ramdisk of {stage.ramdisk.size} bytes" if stage.ramdisk is not None else ""
        cmdline = f", command line {stage.cmdline!r}" if stage.cmdline else ""
        lines.append(
            f"pvemu: stage {number}: {what}, entry {stage.entry:#x}, at {stage.start_ns / 1e9:.3f} s{cmdline}{ramdisk}"
        )
    lines += [f"(XEN) {line}" for line in verdict.xen_log]
    for name, times in sorted(verdict.unknown_hypercalls.items()):
        lines.append(f"pvemu: Xen 4.17 has no {name}: answered -ENOSYS, called {times} times")
    lines.append(
        f"pvemu: {verdict.verdict}: {verdict.reason} "
        f"({verdict.guest_seconds:.3f} guest seconds in {verdict.wall_seconds:.2f} s)"
    )
    sys.stdout.flush()
    print("\n".join(lines), file=sys.stderr)
