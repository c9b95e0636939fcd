"""``pvemu diff``: the first point where two runs part."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pvemu.cli.domain import add_arguments, domain_config
from pvemu.cli.options import DEFAULT_TIMEOUT, add_run_arguments, pattern, seconds, unescape
from pvemu.cli.output import OutputFile, closing, stopping_on_signals
from pvemu.cli.trace import EVENT_OPTIONS, add_symbol_option, symbol_files
from pvemu.debug.symbols import SymbolFiles, Symbols
from pvemu.errors import ConfigError
from pvemu.machine import Machine
from pvemu.testing.session import Session
from pvemu.trace.diff import console_lines, find_parting, read_trace, same_thing
from pvemu.trace.tracer import Tracer

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from pvemu.trace.event import Event

__all__ = ["add_parser", "run"]

_SAME, _DIFFERENT = 0, 1
_DEFAULT_KINDS = ("stage", "hypercall", "xenstore", "block", "fault", "console")
#: How the beginning of a file shows what it is.
_ELF, _GZIP, _BZIMAGE_AT, _BZIMAGE = b"\x7fELF", b"\x1f\x8b", 0x202, b"HdrS"


class _Side(NamedTuple):
    """One of the two: its events (None for a console's text), and its console."""

    name: str
    events: list[Event] | None
    console: bytes


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    text = "run two guests, or read what was saved of runs, and show where they part"
    parser = subparsers.add_parser(
        "diff", help=text, description=text,
        epilog="A and B: a kernel (runs with the options given), a trace written with --format json, or the text of a "
        "console, from real Xen too. Exit codes: 0 nothing differs, 1 they part, 2 bad usage or input.",
    )  # fmt: skip
    parser.add_argument("a", metavar="A", help="a kernel, a saved trace or a console's text")
    parser.add_argument("b", metavar="B", help="the other one")
    parser.add_argument("--a", dest="a_options", metavar="OPTIONS", default="", help="options for A alone")
    parser.add_argument("--b", dest="b_options", metavar="OPTIONS", default="", help="options for B alone")
    _add_guest_options(parser)
    for option, (_kind, help_text) in EVENT_OPTIONS.items():
        parser.add_argument(f"--{option}", action="store_true", help=f"compare {help_text.split(' (also')[0]}")
    parser.add_argument(
        "--only", metavar="PATTERN", action="append", default=[], help="compare only what this names, as for trace"
    )
    parser.add_argument("--lines", metavar="N", default="8", help="how much to show of each side (default 8)")
    add_symbol_option(parser)


def _add_guest_options(parser: argparse.ArgumentParser) -> None:
    """Those of boot, but for the kernel."""
    guest = argparse.ArgumentParser(add_help=False)
    add_arguments(guest)
    add_run_arguments(guest)
    for action in guest._actions:  # noqa: SLF001 - argparse has no other way to list what was added
        if action.option_strings:
            parser._add_action(action)  # noqa: SLF001 - nor to add it elsewhere


def run(arguments: argparse.Namespace) -> int:
    """Compare as the command line says; the exit code."""
    if not arguments.lines.isdigit() or not int(arguments.lines):
        raise ConfigError(f"--lines {arguments.lines}: not a number of lines; give one such as 8")
    files = symbol_files(arguments)
    left = _side(arguments, arguments.a, arguments.a_options, "--a", files)
    right = _side(arguments, arguments.b, arguments.b_options, "--b", files)
    if left.events is None or right.events is None:
        pairs = [console_lines(side.console) for side in (left, right)]
        what = "lines of console"
    else:
        pairs = [[(same_thing(event), event.as_text()) for event in events] for events in (left.events, right.events)]
        what = "events"
    limit = int(arguments.lines)
    parting = find_parting(pairs[0], pairs[1], min(3, limit), limit)
    out = OutputFile.stdout()
    if not parting.is_one:
        out.write(f"no difference in {parting.same} {what}\n")
        out.close()
        return _SAME
    out.write(f"the same for {parting.same} {what}, the last of them:\n")
    out.write("".join(f"    {line}\n" for line in parting.before))
    for mark, side, lines in (("-", left, parting.left), ("+", right, parting.right)):
        out.write(f"{mark}{mark}{mark} {side.name}\n")
        out.write("".join(f"{mark}   {line}\n" for line in lines) or f"{mark}   (ends here)\n")
    out.close()
    return _DIFFERENT


def _side(arguments: argparse.Namespace, path: str, options: str, name: str, files: SymbolFiles) -> _Side:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        why = error.strerror
        raise ConfigError(f"{path}: cannot be read ({why}); give a kernel, a trace or a console's text") from None
    shown = f"{path} {options}".strip()
    if content[:4] == _ELF or content[:2] == _GZIP or content[_BZIMAGE_AT : _BZIMAGE_AT + 4] == _BZIMAGE:
        return _run_one(arguments, path, options, name, files, shown)
    if options:
        raise ConfigError(f"{name} {options}: {path} is no kernel, so nothing runs; leave the option out")
    first = content.split(b"\n", 1)[0]
    if first.startswith(b"{") and _is_event(first):
        events = read_trace(content.decode("utf-8", "replace").splitlines(), path)
        return _Side(shown, events, _console_of(events))
    return _Side(shown, None, content)


def _is_event(line: bytes) -> bool:
    try:
        return "kind" in json.loads(line)
    except (ValueError, TypeError):
        return False


def _console_of(events: list[Event]) -> bytes:
    """The console's bytes, from a trace that has them."""
    import ast

    texts = [str(event.fields.get("text", "''")) for event in events if event.kind == "console"]
    return b"".join(ast.literal_eval(text).encode("latin-1") for text in texts)


def _run_one(
    arguments: argparse.Namespace, path: str, options: str, name: str, files: SymbolFiles, shown: str
) -> _Side:
    """Run a kernel with the options of both and those of its own."""
    own = argparse.ArgumentParser(prog=f"pvemu diff {name}", add_help=False)
    _add_guest_options(own)
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise ConfigError(f"{name} {options!r}: cannot be split into words ({error}); check the quotes") from None
    namespace = argparse.Namespace(**vars(arguments))
    namespace.disk, namespace.send = list(arguments.disk), list(arguments.send)
    namespace = own.parse_args(words, namespace)
    namespace.kernel = path
    machine = Machine.create(domain_config(namespace))
    kinds = [kind for option, (kind, _help) in EVENT_OPTIONS.items() if getattr(arguments, option)]
    events: list[Event] = []
    console = bytearray()
    try:
        tracer = Tracer(machine, Symbols.of(machine, files), kinds or _DEFAULT_KINDS, events.append, arguments.only)
        session = Session(
            machine, until=pattern(namespace.until), timeout=seconds(namespace.timeout, DEFAULT_TIMEOUT),
            send=[unescape(text) for text in namespace.send], sink=console.extend,
        )  # fmt: skip
        with closing(session), stopping_on_signals(session) as received:
            verdict = session.run()
            tracer.close()
    finally:
        machine.close()
    if received:
        raise KeyboardInterrupt
    return _Side(f"{shown} ({verdict.verdict}: {verdict.reason})", events, bytes(console))
