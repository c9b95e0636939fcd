"""A guest as it stood: a forked process that waits with all of it, and gives a running copy whenever it is asked.

The engine, the guest's memory and everything around them are in one process, so a copy of that process (15 ms, memory
copied only where it is written) is a copy of the guest. A copy cannot become the test's own process: after
``Guest.restore`` the guest lives in another one, and what is asked of it goes through a socket.
"""

from __future__ import annotations

import functools
import gc
import os
import pickle
import signal
import socket
import warnings
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, NoReturn, ParamSpec, Protocol, TypeVar, cast

from pvemu.testing.console_text import Found

if TYPE_CHECKING:
    import re
    from collections.abc import Callable

__all__ = ["Elsewhere", "Movable", "RemoteGuest", "Snapshot", "SnapshotGoneError", "take_snapshot", "wherever_it_runs"]

P = ParamSpec("P")
R = TypeVar("R")

_LENGTH = 8
_COPY, _SNAPSHOT = "copy", "snapshot"


class SnapshotGoneError(RuntimeError):
    """The process that kept a snapshot or ran a guest is gone: its guest was closed, or it was killed."""


class _Match(NamedTuple):
    """A match on its way between processes: found again at the other end."""

    pattern: re.Pattern[str]
    text: str
    start: int


class _Channel:
    """Pickled messages, and descriptors, between our own processes."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(self, message: object) -> None:
        data = pickle.dumps(message)
        try:
            self._socket.sendall(len(data).to_bytes(_LENGTH, "little") + data)
        except OSError:
            raise SnapshotGoneError("the process of this guest is gone") from None

    def receive(self) -> Any:
        return pickle.loads(self._exactly(int.from_bytes(self._exactly(_LENGTH), "little")))  # noqa: S301 - our own

    def send_socket(self, end: socket.socket) -> None:
        socket.send_fds(self._socket, [b"s"], [end.fileno()])

    def receive_socket(self) -> socket.socket:
        data, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
        if not data:
            raise SnapshotGoneError("the process of this guest is gone")
        return socket.socket(fileno=descriptors[0])

    def close(self) -> None:
        self._socket.close()

    def __del__(self) -> None:
        self.close()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                piece = self._socket.recv(min(size - len(data), 1 << 20))
            except ConnectionResetError:
                piece = b""
            if not piece:
                raise SnapshotGoneError("the process of this guest is gone")
            data += piece
        return data


class Snapshot:
    """Made by ``Guest.snapshot``; goes with its guest."""

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel

    def copy(self) -> RemoteGuest:
        """A running copy."""
        self._channel.send(_COPY)
        return RemoteGuest(_Channel(self._channel.receive_socket()))

    def close(self) -> None:
        """Let it go."""
        self._channel.close()


class RemoteGuest:
    """A guest in another process, which ends when nobody holds this any more: ``call`` does there what a Guest's method
    or property of that name does.
    """

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel
        self.seen: tuple[bytes, list[str], list[tuple[float, bytes]]] = b"", [], []

    def call(self, name: str, *arguments: object, **options: object) -> Any:
        """The result; an exception there is raised here."""
        self._channel.send((name, arguments, options))
        is_error, value, self.seen = self._channel.receive()
        if is_error:
            raise value
        return _from_wire(value)

    def snapshot(self) -> Snapshot:
        """As ``take_snapshot``, of that guest."""
        self._channel.send((_SNAPSHOT, (), {}))
        return Snapshot(_Channel(self._channel.receive_socket()))


class Movable(Protocol):
    """A guest that may have moved to another process, and the copies here of what is looked at most."""

    console: bytearray
    sent: list[str]
    timeline: list[tuple[float, bytes]]
    remote: RemoteGuest | None


G = TypeVar("G", bound=Movable)


def wherever_it_runs(method: Callable[Concatenate[G, P], R]) -> Callable[Concatenate[G, P], R]:
    """A method, or a property's, that is carried out where the guest is: here, or where ``restore`` put it."""

    @functools.wraps(method)
    def carry_out(guest: G, *arguments: P.args, **options: P.kwargs) -> R:
        remote = guest.remote
        if remote is None:
            return method(guest, *arguments, **options)
        try:
            result: R = remote.call(method.__name__, *arguments, **options)
        finally:
            console, guest.sent, guest.timeline = remote.seen
            guest.console[:] = console
        return result

    return cast("Callable[Concatenate[G, P], R]", carry_out)


class Elsewhere:
    """Stands for the machine of a guest that was restored."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"machine.{name}: this guest was restored, so its machine is in another process")


def take_snapshot(guest: Movable) -> Snapshot:
    """Fork a process that keeps ``guest`` as it stands."""
    return Snapshot(_Channel(_fork(lambda end: _keep(guest, end))))


def _fork(serve: Callable[[_Channel], NoReturn]) -> socket.socket:
    """Our end of a channel to a new process that serves the other one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    gc.freeze()  # the collector would write to, and so copy, every page
    with warnings.catch_warnings():  # about threads: those of a test runner are no matter to the child
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        os.waitpid(child, 0)
        theirs.close()
        return ours
    try:
        if os.fork():  # nobody has to wait for a grandchild
            os._exit(0)
        ours.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that the user sees
        serve(_Channel(theirs))
    finally:
        os._exit(0)  # nothing of the parent's is ours to clean up


def _keep(guest: Movable, channel: _Channel) -> NoReturn:
    """Wait, and fork a running copy for each request."""
    while True:
        try:
            channel.receive()
        except SnapshotGoneError:
            os._exit(0)
        end = _fork(lambda copy: _serve(guest, copy))
        channel.send_socket(end)
        end.close()


def _serve(guest: Movable, channel: _Channel) -> NoReturn:
    """Do what is asked of ``guest``."""
    while True:
        try:
            name, arguments, options = channel.receive()
        except SnapshotGoneError:
            os._exit(0)
        if name == _SNAPSHOT:
            end = _fork(lambda keeper: _keep(guest, keeper))
            channel.send_socket(end)
            end.close()
            continue
        is_error = False
        try:
            result = getattr(guest, name)
            if callable(result):
                result = result(*arguments, **options)
        except Exception as error:  # noqa: BLE001 - raised again where the test is
            is_error, result = True, error
        channel.send((is_error, _to_wire(result), (bytes(guest.console), guest.sent, guest.timeline)))


def _to_wire(value: object) -> object:
    if isinstance(value, Found):
        return value.index, _Match(value.match.re, value.match.string, value.match.start())
    return value


def _from_wire(value: Any) -> Any:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], _Match):
        pattern, text, start = value[1]
        match = pattern.match(text, start)
        assert match is not None
        return Found(value[0], match.group(), match)
    return value
