"""``pvemu trace``: boot a guest and write down what it does."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pvemu.cli.boot import print_verdict
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
from pvemu.cli.output import OutputFile, closing, refuse_overwriting, stopping_on_signals
from pvemu.debug.symbols import SymbolFiles, Symbols
from pvemu.errors import ConfigError
from pvemu.machine import Machine
from pvemu.testing.session import Session
from pvemu.trace.attach import FORMATS, AttachedTrace, Request
from pvemu.trace.window import parse_place

if TYPE_CHECKING:
    import argparse
    from argparse import _SubParsersAction
    from pathlib import Path

__all__ = ["EVENT_OPTIONS", "add_parser", "add_symbol_option", "add_trace_arguments", "run", "symbol_files",
           "trace_request"]  # fmt: skip

#: What can be asked for: option -> kind of event, help.
EVENT_OPTIONS = {
    "hypercalls": ("hypercall", "hypercalls with decoded arguments and results (also without any of these options)"),
    "xenstore": ("xenstore", "xenstore requests and replies, watch events"),
    "blocks": ("block", "block requests with the files their sectors belong to"),
    "events": ("event", "event channels: sends, pending ports, upcalls"),
    "faults": ("fault", "exceptions, what is delivered to the guest, emulated instructions"),
    "pages": ("page", "every change of a page-table entry"),
    "console": ("console", "what the guest writes to its console"),
    "stages": ("stage", "each kernel at its start of day"),
}


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    text = "boot a Xen PV kernel and write down what it does"
    parser = subparsers.add_parser(
        "trace", help=text, description=text,
        epilog="The trace goes to standard output, the verdict to standard error. Exit codes are those of boot.",
    )  # fmt: skip
    add_arguments(parser)
    add_run_arguments(parser)
    parser.add_argument("--transcript", metavar="FILE", help="write the console's bytes here")
    add_trace_arguments(parser)
    add_symbol_option(parser)


def add_trace_arguments(parser: argparse.ArgumentParser) -> None:
    """What to see, in which format, and where to write it."""
    for option, (_kind, help_text) in EVENT_OPTIONS.items():
        parser.add_argument(f"--{option}", action="store_true", help=help_text)
    parser.add_argument(
        "--only", metavar="PATTERN", action="append", default=[],
        help="only what this shell pattern names: a hypercall or its command, a xenstore path, a file; !PATTERN leaves "
        "out; repeatable",
    )  # fmt: skip
    add_code_options(parser)
    parser.add_argument(
        "--format", choices=FORMATS, default="text",
        help="text; json (lines) or perfetto for events; tenet for instructions; drcov; folded stacks of calls",
    )  # fmt: skip
    parser.add_argument("--output", "-o", metavar="FILE", help="write the trace here instead of to standard output")


def add_code_options(parser: argparse.ArgumentParser) -> None:
    """What to see of the code that runs, and from where to where."""
    parser.add_argument("--insns", action="store_true", help="every instruction, with what it changes and touches")
    parser.add_argument("--no-accesses", action="store_true", help="--insns without accesses to memory: faster")
    parser.add_argument("--last", metavar="N", help="only the last N instructions, at the end or crash")
    parser.add_argument("--calls", action="store_true", help="a tree of calls, with guest instructions by function")
    place = "stage:N, hypercall:N, time:SECONDS, insn:N, an address or a symbol"
    parser.add_argument("--from", dest="start", metavar="PLACE", help=f"begin at {place}")
    parser.add_argument("--to", dest="end", metavar="PLACE", help="end when the guest comes to a place, as --from")


def trace_request(arguments: argparse.Namespace) -> Request:
    """What these options ask for. ConfigError."""
    try:
        last = int(arguments.last or 0)
    except ValueError:
        last = -1
    if last < 0:
        raise ConfigError(f"--last {arguments.last}: not a number of instructions; give one such as 1000")
    return Request(
        kinds=tuple(kind for option, (kind, _help) in EVENT_OPTIONS.items() if getattr(arguments, option)),
        only=tuple(arguments.only), instructions=arguments.insns, accesses=not arguments.no_accesses,
        calls=arguments.calls, last=last,
        start=parse_place(arguments.start, "--from") if arguments.start is not None else None,
        end=parse_place(arguments.end, "--to") if arguments.end is not None else None, format=arguments.format,
    )  # fmt: skip


def add_symbol_option(parser: argparse.ArgumentParser) -> None:
    """Where names come from."""
    parser.add_argument(
        "--symbols", metavar="PATH", action="append", default=[],
        help="an ELF file, GRUB module or System.map with symbols, or a folder of such; `debian` fetches GRUB's debug "
        "files; repeatable (what is in the package cache is used anyway)",
    )  # fmt: skip


def symbol_files(arguments: argparse.Namespace) -> SymbolFiles:
    """The files that the option names, and those in the package cache."""
    paths = [path for path in arguments.symbols if path != "debian"]
    if len(paths) < len(arguments.symbols):
        from pvemu.mkimage.packages import PackageCache
        from pvemu.mkimage.symbol_folders import DEBUG_PACKAGE

        PackageCache(report=lambda text: print(f"pvemu: {text}", file=sys.stderr)).get([DEBUG_PACKAGE])
    return SymbolFiles(paths, _in_the_cache)


def _in_the_cache() -> list[Path]:
    from pvemu.mkimage.symbol_folders import symbol_folders

    return symbol_folders()


def run(arguments: argparse.Namespace) -> int:
    """Trace as the command line says; the exit code."""
    until = pattern(arguments.until)
    send = [unescape(text) for text in arguments.send]
    timeout = seconds(arguments.timeout, DEFAULT_TIMEOUT)
    files = symbol_files(arguments)
    config = domain_config(arguments)
    request = trace_request(arguments)
    can_go_on = request.format in ("text", "json") and not request.calls  # the others are of one domain
    max_reboots = count(arguments.max_reboots, DEFAULT_MAX_REBOOTS) if can_go_on else 0
    machine = Machine.create(config)
    try:
        refuse_overwriting(
            arguments, config, ("--transcript", arguments.transcript), ("--output", arguments.output)
        )
        console = OutputFile.open(arguments.transcript, "--transcript")
        out = OutputFile.open(arguments.output, "--output") or OutputFile.stdout()
        traces: list[AttachedTrace] = []

        def attach(machine: Machine) -> None:
            for trace in traces:
                trace.close()
            traces[:] = [AttachedTrace(machine, Symbols.of(machine, files), request, out)]

        session = Session(
            machine, until=until, timeout=timeout, send=send, max_reboots=max_reboots, on_domain=attach,
            sink=console.write_bytes if console is not None else lambda data: None,
        )  # fmt: skip
        with closing(session), stopping_on_signals(session) as received:
            verdict = session.run()
            traces[0].close()
        for file in (out, console):
            if file is not None:
                file.close()
    finally:
        machine.close()
    if received and verdict.verdict == "failure":
        print(f"pvemu: {verdict.reason}", file=sys.stderr)
        return 128 + received[0]
    print_verdict(verdict)
    unreached = traces[0].unreached()
    if unreached is not None:
        place, instead = {
            "--from": (arguments.start, "nothing was traced"), "--to": (arguments.end, "the trace goes on to the end")
        }[unreached]  # fmt: skip
        print(f"pvemu: {unreached} {place}: the guest never came there; {instead}", file=sys.stderr)
    return verdict.exit_code
