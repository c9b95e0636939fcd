"""A domain's control socket: requests of one line, consoles that come and go, and those who wait for its end.

A thread of the domain's process; the guest runs in the main one. Requests: ``info``, ``config``, ``pause``,
``unpause``, ``destroy``, ``shutdown``, ``reboot``, ``sysrq X`` are answered with one line; ``console`` turns the
connection into the guest's console, from its first byte on; ``watch`` gives xl's log lines; both end with the domain.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket
    from selectors import SelectorKey

__all__ = ["ControlServer", "Controlled"]

_CHUNK = 1 << 16
_MAX_REQUEST = 4096


class Controlled(Protocol):
    """What the thread asks of a domain. All of it must be safe to call beside a running guest."""

    console_file: int  #: descriptor of the console's log
    console_start: int  #: offset of this domain's first byte in it
    console_end: int  #: ... and behind its last one
    log_lines: list[str]

    def answer(self, request: str) -> str:
        """The reply to one request."""

    def typed(self, keys: bytes) -> None:
        """Someone typed on a console."""


class _Client:
    """One connection: ``mode`` is what it asked for, ``sent`` how far its stream has come."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.mode = ""
        self.request = b""
        self.pending = b""
        self.sent = 0
        self.is_over = False


class ControlServer(threading.Thread):
    """Serves ``listener`` until ``finish``."""

    def __init__(self, listener: socket.socket, domain: Controlled) -> None:
        super().__init__(daemon=True)
        self._listener = listener
        self._domain = domain
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._clients: dict[int, _Client] = {}
        self._deadline: float | None = None
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)

    def notify(self) -> None:
        """There is more to send."""
        with suppress(BlockingIOError):
            os.eventfd_write(self._wake, 1)

    def finish(self, seconds: float) -> None:
        """Send what is left to those who read it, for ``seconds`` at most, and close everything."""
        self._deadline = time.monotonic() + seconds
        self.notify()
        if threading.current_thread() is not self:
            self.join()

    @property
    def has_consoles(self) -> bool:
        """Whether someone watches the console."""
        return any(client.mode == "console" for client in self._clients.values())

    def run(self) -> None:
        """Until finished."""
        while True:
            timeout = None if self._deadline is None else 0.05
            for key, mask in self._selector.select(timeout):
                self._serve(key, mask)
            for client in list(self._clients.values()):
                self._pump(client)
            if self._deadline is not None:
                self._accept()
                if time.monotonic() >= self._deadline or not any(map(self._has_more, self._clients.values())):
                    break
        for client in list(self._clients.values()):
            self._close(client)
        self._selector.close()
        self._listener.close()

    def _serve(self, key: SelectorKey, mask: int) -> None:
        if key.fileobj == self._wake:
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        elif key.fileobj is self._listener:
            self._accept()
        elif mask & selectors.EVENT_READ and (client := self._clients.get(key.fd)) is not None:
            self._receive(client)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setblocking(False)
            client = self._clients[connection.fileno()] = _Client(connection)
            self._selector.register(connection, selectors.EVENT_READ)
            self._receive(client)

    def _close(self, client: _Client) -> None:
        self._clients.pop(client.connection.fileno(), None)
        with suppress(KeyError, ValueError):
            self._selector.unregister(client.connection)
        client.connection.close()

    def _receive(self, client: _Client) -> None:
        try:
            data = client.connection.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._close(client)
            return
        if not data:
            self._close(client)
        elif client.mode == "console":
            self._domain.typed(data)
        elif not client.mode:
            client.request += data
            line, newline, rest = client.request.partition(b"\n")
            if newline:
                self._request(client, line.decode("utf-8", "surrogateescape"), rest)
            elif len(client.request) > _MAX_REQUEST:
                self._close(client)

    def _request(self, client: _Client, request: str, rest: bytes) -> None:
        client.mode = request if request in ("console", "watch") else "answer"
        if client.mode == "console":
            client.sent = self._domain.console_start
            if rest:
                self._domain.typed(rest)
        elif client.mode == "answer":
            reply = self._domain.answer(request)
            client.pending = reply.encode("utf-8", "surrogateescape") + b"\n"
            client.is_over = True
        self._pump(client)

    def _has_more(self, client: _Client) -> bool:
        domain = self._domain
        return bool(
            client.pending
            or (client.mode == "console" and client.sent < domain.console_end)
            or (client.mode == "watch" and client.sent < len(domain.log_lines))
        )

    def _pump(self, client: _Client) -> None:
        """Send what can be sent without waiting; ask to be told when more can."""
        domain = self._domain
        try:
            while self._has_more(client):
                if not client.pending and client.mode == "console":
                    size = min(_CHUNK, domain.console_end - client.sent)
                    client.pending = os.pread(domain.console_file, size, client.sent)
                    client.sent += len(client.pending)
                    if not client.pending:
                        break
                elif not client.pending:
                    client.pending = (domain.log_lines[client.sent] + "\n").encode()
                    client.sent += 1
                client.pending = client.pending[client.connection.send(client.pending) :]
        except BlockingIOError:
            self._selector.modify(client.connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
            return
        except OSError:
            self._close(client)
            return
        if client.is_over:
            self._close(client)
        elif client.connection.fileno() in self._clients:
            self._selector.modify(client.connection, selectors.EVENT_READ)
