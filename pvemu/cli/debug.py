"""``pvemu debug``: the interactive monitor. Also for scripts, and in a pipe."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pvemu.cli.debugging import add_debug_arguments, open_timeline, session_options
from pvemu.cli.domain import domain_config
from pvemu.cli.trace import symbol_files
from pvemu.errors import ConfigError, InputError
from pvemu.monitor.console_text import ConsoleText

if TYPE_CHECKING:
    import argparse
    from argparse import _SubParsersAction
    from collections.abc import Callable, Iterator

    from pvemu.monitor.shell import Shell

__all__ = ["add_parser", "add_script_arguments", "console_writer", "run", "run_commands", "script_lines"]

_PROMPT = "(pvemu) "
_HISTORY_LINES = 1000
#: Commands that an empty line repeats.
_REPEATED = ("s", "n", "c", "r", "step", "next", "reverse", "continue")


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    text = "stop a guest, look around, and go back: an interactive monitor"
    parser = subparsers.add_parser("debug", help=text, description=text, epilog="`help` lists the monitor's commands")
    add_debug_arguments(parser)
    add_script_arguments(parser)


def add_script_arguments(parser: argparse.ArgumentParser) -> None:
    """Commands from the command line and from files."""
    parser.add_argument("--command", metavar="LINE", action="append", default=[], help="do this command; repeatable")
    parser.add_argument("-x", "--script", metavar="FILE", action="append", default=[], help="do the commands in FILE")


def run(arguments: argparse.Namespace) -> int:
    """Read and do commands until there are no more."""
    lines = script_lines(arguments)
    options = session_options(arguments)
    with open_timeline(
        domain_config(arguments), options, symbol_files(arguments), console_writer(), domain=arguments.domain
    ) as shell:
        return run_commands(shell, lines)


def script_lines(arguments: argparse.Namespace) -> list[str]:
    """The commands that were given; ConfigError for a file that cannot be read."""
    lines = []
    for path in arguments.script:
        try:
            lines += Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise ConfigError(f"-x {path}: cannot be read ({reason}); give a file of commands") from None
    return [*lines, *arguments.command]


def run_commands(shell: Shell, lines: list[str]) -> int:
    """Do ``lines``, then what a person or a pipe says. 5 where a command of a script failed."""
    print(shell.show(shell.timeline.stop), flush=True)
    for line in lines:
        print(_PROMPT + line, flush=True)
        if not _do(shell, line):
            return 5
        if shell.is_done:
            return 0
    if lines and not sys.stdin.isatty():
        return 0
    failed = False
    for line in _typed_lines(shell):
        failed = not _do(shell, line) or failed
        if shell.is_done:
            break
    return 5 if failed and not sys.stdin.isatty() else 0


def _do(shell: Shell, line: str) -> bool:
    try:
        text = shell.execute(line)
    except InputError as error:
        print(f"pvemu: {error}", file=sys.stderr, flush=True)
        return False
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return True
    if text:
        print(text, flush=True)
    return True


def _typed_lines(shell: Shell) -> Iterator[str]:
    if not sys.stdin.isatty():
        for line in sys.stdin:
            print(_PROMPT + line.rstrip("\n"), flush=True)
            yield line
        return
    _prepare_terminal(shell)
    last = ""
    while True:
        try:
            line = input(_PROMPT)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("^C: `quit` leaves")
            continue
        line = line.strip() or (last if last.startswith(_REPEATED) else "")
        last = line
        yield line


def _prepare_terminal(shell: Shell) -> None:
    """History across sessions, and completion of commands and symbols."""
    import atexit
    import readline
    from contextlib import suppress

    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "pvemu"
    history = state / "history"
    with suppress(OSError):
        state.mkdir(parents=True, exist_ok=True)
        readline.read_history_file(history)
    readline.set_history_length(_HISTORY_LINES)

    def save() -> None:
        with suppress(OSError):
            readline.write_history_file(history)

    atexit.register(save)

    def complete(text: str, state_number: int) -> str | None:
        is_first = not readline.get_line_buffer()[: readline.get_begidx()].strip()
        try:
            found = [n for n in shell.names if n.startswith(text)] if is_first else shell.timeline.ask("names", text)
        except InputError:
            return None
        return found[state_number] if state_number < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \t")
    readline.parse_and_bind("tab: complete")


def console_writer() -> Callable[[bytes], None]:
    """Shows the guest's console among other text, as it comes."""
    text = ConsoleText()
    return lambda data: _write_all(text.feed(data))


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sys.stdout.fileno(), view) :]
