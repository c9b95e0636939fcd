"""The client's end of a console (tools/console/client/main.c): bytes out, keys in at a terminal, Ctrl-] leaves."""

from __future__ import annotations

import os
import select
import sys

TYPE_CHECKING = False  # as in pvemu.xl.options
if TYPE_CHECKING:
    import socket

    from pvemu.xl.runtime import Entry, Runtime

__all__ = ["attach", "open_console", "replay"]

_LEAVE_KEY = 0x1D
_CHUNK = 1 << 16


def open_console(entry: Entry) -> socket.socket | None:
    """A connection that the console's bytes come on, from the first; None when the domain's process is gone."""
    connection = entry.connect()
    if connection is None:
        return None
    try:
        connection.sendall(b"console\n")
    except OSError:  # it went between the two
        connection.close()
        return None
    return connection


def attach(connection: socket.socket) -> int | None:
    """Show a console until its domain is gone or the user leaves; the exit code. None when the domain went without
    having heard of us, with nothing shown.
    """
    sys.stdout.flush()
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _loop(connection, None)
    import termios
    import tty

    keyboard = sys.stdin.fileno()
    saved = termios.tcgetattr(keyboard)
    tty.setraw(keyboard)
    try:
        return _loop(connection, keyboard)
    finally:
        termios.tcsetattr(keyboard, termios.TCSANOW, saved)


def _loop(connection: socket.socket, keyboard: int | None) -> int | None:
    out, is_heard = 1, False
    sources = [connection.fileno()] + ([keyboard] if keyboard is not None else [])
    while True:
        ready = select.select(sources, [], [])[0]
        if keyboard is not None and keyboard in ready:
            keys = os.read(keyboard, 60)
            if not keys or (len(keys) == 1 and keys[0] == _LEAVE_KEY):
                return 0
            try:
                connection.sendall(keys)
            except OSError:
                return 0
        if connection.fileno() in ready:
            try:
                data = connection.recv(_CHUNK)
            except ConnectionResetError:
                return 0 if is_heard else None
            if not data:
                return 0
            is_heard = True
            _write(out, data)


def _write(out: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]


def replay(runtime: Runtime, entry: Entry) -> int:
    """The console of a domain that is gone since a moment, from its first byte."""
    sys.stdout.flush()
    at, end = (int(entry.facts.get(key, "0")) for key in ("console", "console_end"))
    try:
        log = os.open(runtime.console_log(entry.name), os.O_RDONLY)
    except OSError:
        return 0
    while at < end and (data := os.pread(log, min(_CHUNK, end - at), at)):
        _write(1, data)
        at += len(data)
    os.close(log)
    return 0
