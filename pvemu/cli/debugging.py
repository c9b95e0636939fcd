"""What `pvemu debug`, `pvemu gdb` and `pvemu replay` have in common: a guest on a timeline, and a monitor for it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pvemu.cli.domain import add_arguments, domain_config
from pvemu.control.debuggee import Debuggee
from pvemu.control.keyboard import Keyboard
from pvemu.control.timeline import Timeline
from pvemu.debug.symbols import SymbolFiles
from pvemu.errors import ConfigError
from pvemu.machine import Machine
from pvemu.monitor.inspect import inspect
from pvemu.monitor.shell import Shell, unescape
from pvemu.testing.session import Session

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

__all__ = ["add_debug_arguments", "open_timeline"]


def add_debug_arguments(parser: argparse.ArgumentParser) -> None:
    """What the guest is, what is typed on its console, and where symbols are."""
    add_arguments(parser)
    parser.add_argument(
        "--send", metavar="TEXT", action="append", default=[],
        help="type TEXT (C escapes) once the guest waits for input; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--symbols", metavar="PATH", action="append", default=[],
        help="an ELF file, a System.map, or a folder of them and of GRUB modules; repeatable",
    )  # fmt: skip


@contextmanager
def open_timeline(
    arguments: argparse.Namespace, on_console: Callable[[bytes], None]
) -> Iterator[tuple[Machine, Shell]]:
    """A guest at its first instruction. Its processes end with the block."""
    if arguments.write:
        raise ConfigError("--write: a run that can go back writes to no disk; leave it out, writes stay in memory")
    files = SymbolFiles(arguments.symbols)
    machine = Machine.create(domain_config(arguments))
    try:
        send = [unescape(text) for text in arguments.send]
        debuggee = Debuggee(
            machine, Session(machine, send=send), Keyboard(machine.clock, machine.console), files=files
        )  # fmt: skip
        timeline = Timeline(debuggee, inspect, on_console)
        try:
            shell = Shell(timeline)
            yield machine, shell
        finally:
            timeline.close()
    finally:
        machine.close()
