"""Asking the warm process for a domain. It has everything imported and forks for each ``create``, so that one costs
milliseconds (:mod:`pvemu.xl.warm_server`).

It serves one runtime directory and one version of pvemu's files, tells nobody of itself, and leaves when no domain
of its own lives and nothing was asked of it for a few seconds. A request is a client's folder, environment and words,
with its standard output and error as descriptors; the forked child answers ``exit CODE`` or ``created DOMID``.
"""

from __future__ import annotations

import os
import socket
import sys
import time

from pvemu.xl.runtime import ShortPath

TYPE_CHECKING = False  # as in pvemu.xl.options
if TYPE_CHECKING:
    from pvemu.xl.runtime import Runtime

__all__ = ["request_create"]

_START_SECONDS = 20.0
_RESTART_SECONDS = 5.0
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _version() -> str:
    """What tells one state of pvemu's files from another: where they are, and when the newest changed."""
    newest = 0.0
    for folder in (_PACKAGE, f"{os.path.dirname(_PACKAGE)}/hypercalls"):
        for path, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if name != "__pycache__"]
            newest = max(newest, *(os.stat(f"{path}/{name}").st_mtime for name in files), 0.0)
    text = f"{sys.executable} {_PACKAGE} {newest}"
    return f"{_hash(text):016x}"


def _hash(text: str) -> int:
    """FNV-1a, 64 bits: the same in every process, without an import."""
    value = 0xCBF2_9CE4_8422_2325
    for byte in text.encode("utf-8", "surrogateescape"):
        value = (value ^ byte) * 0x100_0000_01B3 & 0xFFFF_FFFF_FFFF_FFFF
    return value


def request_create(runtime: Runtime, words: list[str]) -> tuple[str, int]:
    """Have a domain created: (``created``, its domid) or (``exit``, the code)."""
    payload = "\0".join([os.getcwd(), os.environ.get("PVEMU_XL_WRITE", ""), *words])
    deadline = time.monotonic() + _START_SECONDS
    name = f"warm-{_version()}"
    started = -_RESTART_SECONDS
    while True:
        reply = _ask(runtime, name, payload.encode("utf-8", "surrogateescape"))
        if reply is not None:
            break
        now = time.monotonic()
        if now > deadline:
            print("pvemu: the process that makes domains does not start; see its log in the runtime directory",
                  file=sys.stderr)  # fmt: skip
            return "exit", 1
        if now - started > _RESTART_SECONDS:
            started = now
            _start(runtime, name)
        time.sleep(0.005)
    kind, _, number = reply.partition(" ")
    if kind in ("created", "exit") and number.isdigit():
        return kind, int(number)
    print("pvemu: the domain's process died while it was made; see log/ in the runtime directory", file=sys.stderr)
    return "exit", 1


def _ask(runtime: Runtime, name: str, payload: bytes) -> str | None:
    """None when nobody is there, or is just leaving."""
    connection = socket.socket(socket.AF_UNIX)
    with connection:
        try:
            with ShortPath(runtime.path) as folder:
                connection.connect(f"{folder}/{name}")
            sys.stdout.flush()
            socket.send_fds(connection, [b"\0"], [1, 2])
            connection.sendall(payload)
            connection.shutdown(socket.SHUT_WR)
            if connection.recv(1) != b"h":
                return None
        except OSError:
            return None
        reply = b""
        try:
            while data := connection.recv(256):
                reply += data
        except OSError:
            pass  # what came of it is judged by what was said
        return reply.decode("ascii", "replace").strip()


def _start(runtime: Runtime, name: str) -> None:
    """Start the process, in a session of its own and with nothing of ours."""
    log = runtime.open_log(f"{runtime.path}/log/warm.log")
    null = os.open(os.devnull, os.O_RDWR)
    paths = os.pathsep.join([os.path.dirname(_PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        os.posix_spawn(
            sys.executable, [sys.executable, "-m", "pvemu.xl.warm_server", runtime.path, name],
            {**os.environ, "PYTHONPATH": paths},
            file_actions=[(os.POSIX_SPAWN_DUP2, source, target) for source, target in ((null, 0), (null, 1), (log, 2))],
            setsid=True,
        )  # fmt: skip
    finally:
        os.close(log)
        os.close(null)
