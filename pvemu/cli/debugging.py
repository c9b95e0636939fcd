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
from pvemu.hypervisor.domain import SHUTDOWN_NAMES
from pvemu.machine import Machine
from pvemu.monitor.inspect import inspect
from pvemu.monitor.shell import Shell, unescape
from pvemu.testing.session import Session

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from pvemu.config import DomainConfig
    from pvemu.debug.symbols import SymbolFiles

__all__ = ["add_debug_arguments", "add_domain_option", "open_timeline", "session_options"]

#: Guest seconds that a domain may take to its reboot when it is a later one that is to be debugged.
_REBOOT_SECONDS = 600.0


def add_debug_arguments(parser: argparse.ArgumentParser) -> None:
    """What the guest is, what is typed on its console, and where symbols are."""
    add_arguments(parser, may_write=False)
    parser.add_argument(
        "--send", metavar="TEXT", action="append", default=[],
        help="type TEXT (C escapes) once the guest waits for input; repeatable",
    )  # fmt: skip
    add_symbol_option(parser)
    add_domain_option(parser)


def add_domain_option(parser: argparse.ArgumentParser) -> None:
    """Which of the domains that a guest is, one for each time it boots."""
    parser.add_argument(
        "--domain", metavar="N", default="1",
        help="stand at the start of the guest's N-th domain: after N - 1 reboots (default 1)",
    )  # fmt: skip


def session_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the session is to do, as the command line says."""
    if arguments.write:
        raise ConfigError("--write: a run that can go back writes to no disk; leave it out, writes stay in memory")
    return {"send": [unescape(text) for text in arguments.send]}


@contextmanager
def open_timeline(
    config: DomainConfig, session: dict[str, Any], files: SymbolFiles, on_console: Callable[[bytes], None],
    attach: Callable[[Machine, int], Keyboard] = lambda machine, _index: Keyboard(machine.clock, machine.console),
    domain: str = "1",
) -> Iterator[Shell]:  # fmt: skip
    """A guest at the first instruction of its ``domain``-th boot; ``attach`` gives each domain (0: the first) a
    keyboard. Its processes end with the block.
    """
    index, number = _index(domain), 0

    def show(data: bytes) -> None:
        if number < index:  # what the timeline runs, it shows itself
            on_console(data)

    machine = Machine.create(config)
    current = Session(machine, sink=show, max_reboots=index, **session)
    try:
        while number < index:
            attach(current.machine, number)
            if not current.run_to_reboot(_REBOOT_SECONDS):
                raise ConfigError(f"--domain {domain}: {_why_not(current.machine, number)}; give a lower number")
            number += 1
        keyboard = attach(current.machine, index)
        debuggee = Debuggee(current.machine, current, keyboard, files=files)
        timeline = Timeline(debuggee, inspect, on_console)
        try:
            yield Shell(timeline)
        finally:
            timeline.close()
    finally:
        current.machine.close()


def _index(domain: str) -> int:
    if not domain.isdecimal() or not int(domain):
        raise ConfigError(f"--domain {domain!r}: no number of a domain; give 1, 2 or more")
    return int(domain) - 1


def _why_not(machine: Machine, number: int) -> str:
    """Why there is no domain after the one of this index."""
    which = f"domain {number + 1}"
    if machine.domain.shutdown_reason is None:
        return f"{which} did not reboot within {_REBOOT_SECONDS:g} guest seconds"
    name = SHUTDOWN_NAMES.get(machine.domain.shutdown_reason, str(machine.domain.shutdown_reason))
    return f"{which} did not reboot, it shut down ({name})"
