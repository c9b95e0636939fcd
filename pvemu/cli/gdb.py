"""``pvemu gdb``: a guest for a stock gdb, which can run it backwards as well."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pvemu.cli.debugging import add_debug_arguments, open_timeline, session_options
from pvemu.cli.domain import domain_config
from pvemu.cli.trace import symbol_files
from pvemu.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from argparse import _SubParsersAction

    from pvemu.gdbstub.server import Listener
    from pvemu.monitor.shell import Shell

__all__ = ["add_parser", "run", "serve", "write_console"]

_DEFAULT_ADDRESS = ":1234"


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    text = "serve gdb's remote protocol for a guest that stands at its first instruction"
    parser = subparsers.add_parser("gdb", help=text, description=text)
    add_debug_arguments(parser)
    parser.add_argument(
        "--listen", metavar="WHERE", default=_DEFAULT_ADDRESS,
        help=f":PORT of this machine (:0 a free one), HOST:PORT, or a socket's path (default {_DEFAULT_ADDRESS})",
    )  # fmt: skip
    parser.add_argument(
        "--script", metavar="FILE", help="write a gdb script that connects and loads symbols: gdb -x FILE"
    )
    parser.add_argument("--once", action="store_true", help="end when the first gdb leaves")


def run(arguments: argparse.Namespace) -> int:
    """Serve until a gdb ends it, or Ctrl-C."""
    from pvemu.gdbstub.server import Listener

    listener = Listener(arguments.listen)
    try:
        options = session_options(arguments)
        with open_timeline(
            domain_config(arguments), options, symbol_files(arguments), write_console, domain=arguments.domain
        ) as shell:
            serve(listener, shell, arguments.script, once=arguments.once)
    finally:
        listener.close()
    return 0


def serve(listener: Listener, shell: Shell, script: str | None, *, once: bool) -> None:
    """Serve gdb after gdb; ``script`` and its symbols are written for them."""
    from pvemu.gdbstub.server import Server
    from pvemu.gdbstub.symbol_script import connect_script, symbol_script

    symbols = Path(f"{script}.symbols") if script is not None else None

    def write_symbols() -> str:
        text = symbol_script(shell.timeline.ask("symbol_files"))
        if symbols is None:
            return text
        _write(symbols, text)
        return f"wrote {symbols}"

    if script is not None:
        _write(Path(script), connect_script(listener.name, str(Path(f"{script}.symbols").absolute())))
        write_symbols()
    hint = f"gdb -x {script}" if script is not None else f"target remote {listener.name}"
    _report(f"waiting for gdb at {listener.name}: {hint}")
    Server(listener, shell, write_symbols, _report).serve(once=once)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--script {path}: cannot be written ({error.strerror}); give another path") from None


def write_console(data: bytes) -> None:
    """The guest's console, as it comes."""
    os.write(sys.stdout.fileno(), data)


def _report(text: str) -> None:
    print(f"pvemu: {text}", file=sys.stderr, flush=True)
