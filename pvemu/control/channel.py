"""Messages between the process that a user talks to and those that hold a guest: pickled objects over a socket pair,
with file descriptors where one is handed on.
"""

from __future__ import annotations

import pickle
import select
import socket
import struct
from typing import Any

__all__ = ["Channel", "ClosedError"]

_HEADER = struct.Struct("<IB")
_MAX_FDS = 2


class ClosedError(Exception):
    """The process at the other end is gone."""


class Channel:
    """One end. Both ends are our own processes, made by fork: what is received is trusted."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two ends."""
        ours, theirs = socket.socketpair()
        return cls(ours), cls(theirs)

    @classmethod
    def adopt(cls, fd: int) -> Channel:
        """The end that another process has handed over."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def send(self, message: object, *ends: Channel) -> None:
        """Send ``message``, and hand ``ends`` over. ClosedError."""
        data = pickle.dumps(message)
        header = _HEADER.pack(len(data), len(ends))
        try:
            if ends:
                socket.send_fds(self._socket, [header], [end.fileno() for end in ends])
                self._socket.sendall(data)
            else:
                self._socket.sendall(header + data)
        except OSError:
            raise ClosedError from None

    def receive(self) -> tuple[Any, list[Channel]]:
        """The next message and what was handed over with it. ClosedError."""
        header, fds = b"", []
        try:
            while len(header) < _HEADER.size:
                piece, new_fds, _flags, _address = socket.recv_fds(self._socket, _HEADER.size - len(header), _MAX_FDS)
                if not piece:
                    raise ClosedError
                header += piece
                fds += new_fds
            size, _count = _HEADER.unpack(header)
            data = bytearray()
            while len(data) < size:
                piece = self._socket.recv(min(size - len(data), 1 << 20))
                if not piece:
                    raise ClosedError
                data += piece
        except OSError:
            raise ClosedError from None
        return pickle.loads(bytes(data)), [Channel.adopt(fd) for fd in fds]  # noqa: S301 - our own process wrote it

    def is_readable(self, seconds: float = 0) -> bool:
        """Whether something has come, or the other end is gone; waits so long for it."""
        return bool(select.select([self._socket], [], [], seconds)[0])

    def close(self) -> None:
        """Give this end up."""
        self._socket.close()
