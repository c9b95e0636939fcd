"""What `pvemu debug`, `pvemu gdb` and `pvemu replay` have in common: a guest on a timeline, and a monitor for it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pvemu.cli.domain import add_arguments
from pvemu.cli.trace import add_symbol_option
from pvemu.control.debuggee import Debuggee
from pvemu.control.keyboard import Keyboard
from pvemu.control.timeline import Timeline
from pvemu.errors import ConfigError
from pvemu.machine import Machine
from pvemu.monitor.inspect import inspect
from pvemu.monitor.shell import Shell, unescape
from pvemu.testing.session import Session

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from pvemu.config import DomainConfig
    from pvemu.debug.symbols import SymbolFiles

__all__ = ["add_debug_arguments", "open_timeline", "session_options"]


def add_debug_arguments(parser: argparse.ArgumentParser) -> None:
    """What the guest is, what is typed on its console, and where symbols are."""
    add_arguments(parser)
    parser.add_argument(
        "--send", metavar="TEXT", action="append", default=[],
        help="type TEXT (C escapes) once the guest waits for input; repeatable",
    )  # fmt: skip
    add_symbol_option(parser)


def session_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the session is to do, as the command line says."""
    if arguments.write:
        raise ConfigError("--write: a run that can go back writes to no disk; leave it out, writes stay in memory")
    return {"send": [unescape(text) for text in arguments.send]}


@contextmanager
def open_timeline(
    config: DomainConfig, session: dict[str, Any], files: SymbolFiles, on_console: Callable[[bytes], None],
    attach: Callable[[Machine], Keyboard] = lambda machine: Keyboard(machine.clock, machine.console),
) -> Iterator[Shell]:  # fmt: skip
    """A guest at its first instruction; ``attach`` gives it a keyboard. Its processes end with the block."""
    machine = Machine.create(config)
    try:
        debuggee = Debuggee(machine, Session(machine, **session), attach(machine), files=files)
        timeline = Timeline(debuggee, inspect, on_console)
        try:
            yield Shell(timeline)
        finally:
            timeline.close()
    finally:
        machine.close()
