"""A process that has everything imported and forks a domain for each ``create``: what makes one cost milliseconds.

It serves one runtime directory and one version of pvemu's files, tells nobody of itself, and leaves when no domain
of its own lives and nothing was asked of it for a few seconds. A request is a client's folder, environment and words,
with its standard output and error as descriptors; the forked child answers ``exit CODE`` or ``created DOMID``.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import sys
import time
from typing import NoReturn

from pvemu.xl.runtime import Runtime, ShortPath

__all__ = ["serve"]

#: Seconds without a domain and without a request after which the process leaves.
_IDLE_SECONDS = 3.0
_POLL_SECONDS = 0.5


def serve(runtime: Runtime, name: str) -> None:
    """Listen first, so that those who come wait; then import; then fork for each request."""
    guard = os.open(f"{runtime.path}/{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # another one is there
    address = f"{runtime.path}/{name}"
    _forget(address)
    listener = socket.socket(socket.AF_UNIX)
    with ShortPath(runtime.path) as folder:
        listener.bind(f"{folder}/{name}")
    listener.listen(128)
    os.chdir("/")
    import gc

    import pvemu.xl.create  # noqa: F401 - what every child needs

    gc.collect()
    gc.freeze()
    _accept_all(runtime, listener)
    _forget(address)
    _forget(f"{address}.lock")
    listener.close()


def _forget(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # as it should be


def _accept_all(runtime: Runtime, listener: socket.socket) -> None:
    children: set[int] = set()
    asked = time.monotonic()
    while True:
        ready = select.select([listener], [], [], _POLL_SECONDS)[0]
        for child in list(children):
            if os.waitpid(child, os.WNOHANG)[0]:
                children.discard(child)
                asked = time.monotonic()
        if ready:
            asked = time.monotonic()
            connection, _ = listener.accept()
            child = os.fork()
            if not child:
                _child(runtime, listener, connection)
            children.add(child)
            connection.close()
        elif not children and time.monotonic() - asked > _IDLE_SECONDS:
            return


def _child(runtime: Runtime, listener: socket.socket, connection: socket.socket) -> NoReturn:
    """Never returns."""
    code = 1
    try:
        listener.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        connection.sendall(b"h")
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 2)
        payload = b""
        while data := connection.recv(1 << 16):
            payload += data
        folder, write, *words = payload.decode("utf-8", "surrogateescape").split("\0")
        from pvemu.xl.create import create_in_child

        code = create_in_child(runtime, connection, descriptors, folder, words, write=bool(write))
    except BaseException:  # noqa: BLE001 - whatever it is, it belongs into the log, and this process ends
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(Runtime(sys.argv[1]), sys.argv[2])
