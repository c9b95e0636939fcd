"""``pvemu trace``: boot a guest and write down what it does."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pvemu.cli.boot import print_verdict
from pvemu.cli.options import DEFAULT_TIMEOUT, add_guest_options, guest_config, pattern, seconds, unescape
from pvemu.cli.output import OutputFile, refuse_overwriting, stopping_on_signals
from pvemu.debug.symbols import SymbolFiles, Symbols
from pvemu.machine import Machine
from pvemu.mkimage.packages import PackageCache
from pvemu.mkimage.symbol_folders import DEBUG_PACKAGE, symbol_folders
from pvemu.testing.session import Session
from pvemu.trace.sinks import write_json_lines, write_text
from pvemu.trace.tracer import Tracer

if TYPE_CHECKING:
    import argparse
    from argparse import _SubParsersAction

__all__ = ["add_parser", "run"]

_KINDS = {
    "hypercalls": ("hypercall", "hypercalls with decoded arguments and results (also without any of these options)"),
    "xenstore": ("xenstore", "xenstore requests and replies"),
    "blocks": ("block", "block requests with the files their sectors belong to"),
    "events": ("event", "event channels: sends, pending ports, upcalls"),
    "faults": ("fault", "exceptions, what is delivered to the guest, emulated instructions"),
    "pages": ("page", "every change of a page-table entry"),
    "console": ("console", "what the guest writes to its console"),
    "stages": ("stage", "each kernel at its start of day"),
}
_FORMATS = {"text": write_text, "json": write_json_lines}


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    text = "boot a Xen PV kernel and write down what it does"
    parser = subparsers.add_parser(
        "trace", help=text, description=text,
        epilog="The trace goes to standard output, the verdict to standard error. Exit codes are those of boot.",
    )  # fmt: skip
    add_guest_options(parser)
    for option, (_kind, help_text) in _KINDS.items():
        parser.add_argument(f"--{option}", action="store_true", help=help_text)
    parser.add_argument(
        "--only", metavar="PATTERN", action="append", default=[],
        help="only what this shell pattern names: a hypercall or its command, a xenstore path, a file; !PATTERN leaves "
        "out; repeatable",
    )  # fmt: skip
    parser.add_argument("--format", choices=sorted(_FORMATS), default="text", help="what to write (default text)")
    parser.add_argument("--output", "-o", metavar="FILE", help="write the trace here instead of to standard output")
    parser.add_argument("--transcript", metavar="FILE", help="write the console's bytes here")
    add_symbol_option(parser)


def add_symbol_option(parser: argparse.ArgumentParser) -> None:
    """Where names come from."""
    parser.add_argument(
        "--symbols", metavar="PATH", action="append", default=[],
        help="an ELF file, GRUB module or System.map with symbols, or a folder of such; `debian` fetches GRUB's debug "
        "files; repeatable (what is in the package cache is used anyway)",
    )  # fmt: skip


def symbol_files(arguments: argparse.Namespace) -> SymbolFiles:
    """The files that the option names, and those in the package cache."""
    cache = PackageCache(report=lambda text: print(f"pvemu: {text}", file=sys.stderr))
    paths = [path for path in arguments.symbols if path != "debian"]
    if len(paths) < len(arguments.symbols):
        cache.get([DEBUG_PACKAGE])
    return SymbolFiles([*paths, *symbol_folders(cache)])


def run(arguments: argparse.Namespace) -> int:
    """Trace as the command line says; the exit code."""
    until = pattern(arguments.until)
    send = [unescape(text) for text in arguments.send]
    timeout = seconds(arguments.timeout, DEFAULT_TIMEOUT)
    files = symbol_files(arguments)
    config = guest_config(arguments)
    kinds = [kind for option, (kind, _help) in _KINDS.items() if getattr(arguments, option)] or ["hypercall"]
    machine = Machine.create(config)
    try:
        refuse_overwriting(
            arguments, config, ("--transcript", arguments.transcript), ("--output", arguments.output)
        )
        console = OutputFile.open(arguments.transcript, "--transcript")
        out = OutputFile.open(arguments.output, "--output") or OutputFile.stdout()
        tracer = Tracer(machine, Symbols.of(machine, files), kinds, _FORMATS[arguments.format](out), arguments.only)
        sink = console.write_bytes if console is not None else lambda data: None
        session = Session(machine, until=until, timeout=timeout, send=send, sink=sink)
        with stopping_on_signals(machine) as received:
            verdict = session.run()
        tracer.close()
        for file in (out, console):
            if file is not None:
                file.close()
    finally:
        machine.close()
    if received and verdict.verdict == "failure":
        print(f"pvemu: {verdict.reason}", file=sys.stderr)
        return 128 + received[0]
    print_verdict(verdict)
    return verdict.exit_code
