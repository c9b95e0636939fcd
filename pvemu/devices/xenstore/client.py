"""A client in this process: what libxenstore is to the toolstack, and the kernel's xenbus to the backends.

Mirrors the calls of tools/include/xenstore.h; every one is a request that passes the server as a guest's would.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from hypercalls.public.io import xs_wire
from pvemu.devices.xenstore.wire import XsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pvemu.devices.xenstore.connection import Connection
    from pvemu.devices.xenstore.dispatch import Dispatcher

__all__ = ["Client", "Nodes"]


def _bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text


def _strings(*texts: str | bytes) -> bytes:
    return b"".join(_bytes(text) + b"\0" for text in texts)


class Nodes:
    """Requests on nodes, outside a transaction (``tx_id`` 0) or within one.

    Paths are absolute or relative to the client's home; values are bytes (str is encoded as UTF-8). All raise
    :class:`~pvemu.devices.xenstore.wire.XsError` with the errno's name.
    """

    def __init__(self, store: Dispatcher, conn: Connection, tx_id: int = 0) -> None:
        self._store = store
        self._conn = conn
        self.tx_id = tx_id

    def request(self, msg_type: int, payload: bytes) -> bytes:
        """Send one request (``XS_*``) and return the payload of its reply."""
        if len(payload) > xs_wire.XENSTORE_PAYLOAD_MAX:
            raise XsError("E2BIG")  # as libxenstore refuses to send it
        reply = self._answer(msg_type, payload)
        self._store.daemon.send_deferred(self._conn)
        self._store.settle()
        return reply

    def _answer(self, msg_type: int, payload: bytes) -> bytes:
        store = self._store
        reply_type, reply = store.dispatch(self._conn, msg_type, self.tx_id, payload)
        if reply_type == xs_wire.XS_ERROR:
            store.settle()
            raise XsError(reply[:-1].decode())
        return reply

    def read(self, path: str | bytes) -> bytes:
        """The value of a node."""
        return self.request(xs_wire.XS_READ, _strings(path))

    def write(self, path: str | bytes, value: str | bytes) -> None:
        """Give a node a value, making it and its parents if missing."""
        self.request(xs_wire.XS_WRITE, _strings(path) + _bytes(value))

    def mkdir(self, path: str | bytes) -> None:
        """Make a node without a value if it is missing."""
        self.request(xs_wire.XS_MKDIR, _strings(path))

    def rm(self, path: str | bytes) -> None:
        """Remove a node and all below it."""
        self.request(xs_wire.XS_RM, _strings(path))

    def exists(self, path: str | bytes) -> bool:
        """Whether a node exists, as far as this client may know."""
        try:
            self.read(path)
        except XsError as error:
            if error.name == "ENOENT":
                return False
            raise
        return True

    def directory(self, path: str | bytes) -> list[str]:
        """The names of a node's children, oldest first, however many."""
        try:
            names = self.request(xs_wire.XS_DIRECTORY, _strings(path))
        except XsError as error:
            if error.name != "E2BIG":
                raise
            names = self._directory_parts(path)
        return [name.decode() for name in names.split(b"\0")[:-1]]

    def _directory_parts(self, path: str | bytes) -> bytes:
        names = b""
        while True:
            part = self.request(xs_wire.XS_DIRECTORY_PART, _strings(path, str(len(names))))
            part = part[part.index(b"\0") + 1 :]
            if part.endswith(b"\0\0") or part == b"\0":
                return names + part[:-1]
            names += part

    def get_perms(self, path: str | bytes) -> tuple[str, ...]:
        """Permissions as ``("n0", "r1")``: the owner with everyone else's, then single domains'."""
        return tuple(entry.decode() for entry in self.request(xs_wire.XS_GET_PERMS, _strings(path)).split(b"\0")[:-1])

    def set_perms(self, path: str | bytes, perms: Iterable[str]) -> None:
        """Set permissions; also those of ``@introduceDomain`` and ``@releaseDomain``."""
        self.request(xs_wire.XS_SET_PERMS, _strings(path, *perms))


class Client(Nodes):
    """A connection with everything outside transactions."""

    def close(self) -> None:
        """Take the client's watches and transactions away with it."""
        self._store.daemon.close(self._conn)

    @contextmanager
    def transaction(self) -> Iterator[Nodes]:
        """Requests that take effect together at the end of the block, or not at all when it raises.

        The end raises EAGAIN if a node was changed from outside meanwhile.
        """
        nodes = Nodes(self._store, self._conn, int(self.request(xs_wire.XS_TRANSACTION_START, b"\0")[:-1]))
        try:
            yield nodes
        except BaseException:
            nodes.request(xs_wire.XS_TRANSACTION_END, b"F\0")
            raise
        nodes.request(xs_wire.XS_TRANSACTION_END, b"T\0")

    def watch(self, path: str | bytes, token: str | bytes, callback: Callable[[str, str], None]) -> None:
        """Call ``callback(path, token)`` when the node or one below it changes, and once now."""
        conn = self._conn
        self._answer(xs_wire.XS_WATCH, _strings(path, token))
        conn.watches[-1].callback = callback
        self._store.daemon.send_deferred(conn)
        self._store.settle()

    def unwatch(self, path: str | bytes, token: str | bytes) -> None:
        """Take a watch away; calls that were due are dropped."""
        self.request(xs_wire.XS_UNWATCH, _strings(path, token))

    def reset_watches(self) -> None:
        """Take all watches and transactions away."""
        self.request(xs_wire.XS_RESET_WATCHES, b"\0")

    def introduce(self, domid: int, gfn: int, port: int) -> None:
        """Tell the store of a domain, its page and event channel."""
        self.request(xs_wire.XS_INTRODUCE, _strings(str(domid), str(gfn), str(port)))

    def release(self, domid: int) -> None:
        """Tell the store that a domain is gone."""
        self.request(xs_wire.XS_RELEASE, _strings(str(domid)))

    def resume(self, domid: int) -> None:
        """Tell the store that a suspended domain runs again."""
        self.request(xs_wire.XS_RESUME, _strings(str(domid)))

    def set_target(self, domid: int, target: int) -> None:
        """Let one domain act with the permissions of another."""
        self.request(xs_wire.XS_SET_TARGET, _strings(str(domid), str(target)))

    def get_domain_path(self, domid: int) -> str:
        """The home of a domain."""
        return self.request(xs_wire.XS_GET_DOMAIN_PATH, _strings(str(domid)))[:-1].decode()

    def is_domain_introduced(self, domid: int) -> bool:
        """Whether the store knows the domain's page."""
        return self.request(xs_wire.XS_IS_DOMAIN_INTRODUCED, _strings(str(domid))) == b"T\0"

    def control(self, *words: str) -> str:
        """A command of ``xenstore-control`` and its answer."""
        return self.request(xs_wire.XS_CONTROL, _strings(*words))[:-1].decode()
