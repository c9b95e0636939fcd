"""The server's end of gdb's connection: a TCP port of this machine, or a Unix socket. One gdb at a time."""

from __future__ import annotations

import select
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pvemu.errors import ConfigError
from pvemu.gdbstub.packets import INTERRUPT, PacketReader, frame
from pvemu.gdbstub.stub import Detached, Stub

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.monitor.shell import Shell

__all__ = ["Listener", "Server"]

_CHUNK = 1 << 16


class Listener:
    """``where`` is HOST:PORT, :PORT (this machine only), or the path of a socket. ConfigError."""

    def __init__(self, where: str) -> None:
        host, colon, port = where.rpartition(":")
        self._path: str | None = None
        if not colon or "/" in port:
            self._path = where
            self.socket, self.name = self._bind_unix(where), where
            return
        if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
            raise ConfigError(f"--listen {where}: {port!r} is no port; write :1234, HOST:PORT or a path")
        self.socket = self._bind_tcp(where, host.strip("[]") or "127.0.0.1", int(port))
        bound = self.socket.getsockname()
        self.name = f"{f'[{bound[0]}]' if ':' in bound[0] else bound[0]}:{bound[1]}"

    @staticmethod
    def _bind_tcp(where: str, host: str, port: int) -> socket.socket:
        listening: socket.socket | None = None
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listening = socket.socket(family, kind, protocol)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(2)
        except OSError as error:
            if listening is not None:
                listening.close()
            raise ConfigError(
                f"--listen {where}: cannot listen there ({error.strerror}); give another port, or :0 for a free one"
            ) from None
        return listening

    @staticmethod
    def _bind_unix(path: str) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX)
        try:
            with suppress(FileNotFoundError):
                if stat.S_ISSOCK(Path(path).stat().st_mode):
                    probe = socket.socket(socket.AF_UNIX)
                    with probe:
                        try:
                            probe.connect(path)
                        except ConnectionRefusedError:
                            Path(path).unlink()  # its server is gone
            listening.bind(path)
        except OSError as error:
            listening.close()
            raise ConfigError(f"--listen {path}: cannot listen there ({error.strerror}); give another path") from None
        listening.listen(2)
        return listening

    def close(self) -> None:
        """Listen no more."""
        self.socket.close()
        if self._path is not None:
            with suppress(OSError):
                Path(self._path).unlink()


class Server:
    """Serves one gdb after the other. ``report(text)`` tells the one who started it."""

    def __init__(
        self, listener: Listener, shell: Shell, write_symbols: Callable[[], str], report: Callable[[str], None]
    ) -> None:
        self._listener = listener
        self._timeline = shell.timeline
        self._report = report
        self._stub = Stub(shell, self._write_out, write_symbols)
        self._connection: socket.socket | None = None
        self._reader = PacketReader()
        self._packets: list[bytes] = []
        self._is_gone = False

    def serve(self, *, once: bool = False) -> None:
        """Serve until a gdb says `kill`; with ``once``, until the first one leaves."""
        while True:
            connection, _ = self._listener.socket.accept()
            self._report("gdb is here")
            kills = self._serve_one(connection)
            self._report("gdb has ended the session" if kills else "gdb is gone; the guest stands still")
            if kills or once:
                return

    def _serve_one(self, connection: socket.socket) -> bool:
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection, self._reader, self._packets, self._is_gone = connection, PacketReader(), [], False
        self._stub.reset()
        self._timeline.listen, self._timeline.interrupts = connection, self._is_interrupt
        try:
            while not self._is_gone:
                if self._packets:
                    packet = self._packets.pop(0)
                    if packet != INTERRUPT:
                        self._send(frame(self._stub.answer(packet)))
                        self._reader.needs_acks = self._stub.acks_wanted
                    continue
                readable = select.select([connection, self._listener.socket], [], [])[0]
                if connection in readable:
                    self._receive()
                elif self._listener.socket in readable:
                    self._refuse_another()
        except Detached as detached:
            self._send(frame(b"OK"))
            return detached.kills
        finally:
            self._timeline.listen = None
            self._connection = None
            connection.close()
        return False

    def _refuse_another(self) -> None:
        other, _ = self._listener.socket.accept()
        other.close()
        self._report("a second gdb was turned away: one is here already")

    def _receive(self) -> None:
        assert self._connection is not None
        try:
            data = self._connection.recv(_CHUNK)
        except OSError:
            data = b""
        if not data:
            self._is_gone = True
        self._packets += self._reader.feed(data)
        self._send(self._reader.take_acknowledgement())

    def _is_interrupt(self) -> bool:
        """Something has come while the guest runs: gdb's Ctrl-C, or its end."""
        self._receive()
        wants = self._is_gone or INTERRUPT in self._packets
        self._packets = [packet for packet in self._packets if packet != INTERRUPT]
        return wants

    def _send(self, data: bytes) -> None:
        if self._connection is None or not data:
            return
        try:
            self._connection.sendall(data)
        except OSError:
            self._is_gone = True

    def _write_out(self, text: str) -> None:
        self._send(frame(b"O" + text.encode().hex().encode()))


