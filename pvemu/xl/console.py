"""The client's end of a console (tools/console/client/main.c): bytes out, keys in at a terminal, Ctrl-] leaves."""

from __future__ import annotations

import os
import select
import sys

TYPE_CHECKING = False  # as in pvemu.xl.options
if TYPE_CHECKING:
    import socket

    from pvemu.xl.runtime import Entry, Runtime

__all__ = ["attach", "replay"]

_LEAVE_KEY = 0x1D
_CHUNK = 1 << 16


def attach(connection: socket.socket) -> int:
    """Show a console until its domain is gone or the user leaves; the exit code."""
    connection.sendall(b"console\n")
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


def _loop(connection: socket.socket, keyboard: int | None) -> int:
    out = 1
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
                return 0
            if not data:
                return 0
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
