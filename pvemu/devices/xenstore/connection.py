"""A client's connection: who it is, its watches and transactions, and what waits to be sent to it.

Mirrors ``struct connection`` and ``struct buffered_data`` of tools/xenstore/xenstored_core.h. A domain's connection has
a queue of messages that its ring drains; an in-process client of dom0 (the socket clients of a real host) has its watch
events called instead.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from hypercalls.public.io import xs_wire
from pvemu.devices.xenstore import wire
from pvemu.devices.xenstore.paths import domain_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.devices.xenstore.domains import Domain, Domains
    from pvemu.devices.xenstore.transactions import Transaction

__all__ = ["Connection", "Interface", "Message", "Watch"]


class Interface(Protocol):
    """What carries a domain's messages: its shared page."""

    def reset(self) -> None:
        """Empty both queues: the domain was introduced (again)."""

    def flush(self) -> None:
        """Something may wait in the connection's queue: send what fits."""

    def ignored(self, error: int) -> None:
        """The connection was given up for ``XENSTORE_ERROR_*``."""


class Watch:
    """A watch of one connection on a path; events report it relative to ``prefix`` if it was asked for that way."""

    __slots__ = ("active", "callback", "path", "prefix_len", "token")

    def __init__(self, path: bytes, token: bytes, prefix_len: int) -> None:
        self.path = path
        self.token = token
        self.prefix_len = prefix_len
        self.active = True
        self.callback: Callable[[str, str], None] | None = None  #: in-process clients only: path, token

    def reported_path(self, path: bytes) -> bytes:
        """``path`` (below or at the watch) as the client is told it."""
        if not self.prefix_len:
            return path
        start = self.prefix_len
        return path[start + 1 :] if path[start : start + 1] == b"/" else path[start:]


class Message:
    """A request, and then its reply, or a watch event; a request is outstanding until its events are delivered."""

    __slots__ = ("cause", "data", "domain", "event_cnt", "is_event", "is_sent")

    def __init__(self, domain: Domain | None, cause: Message | None = None, data: bytes = b"") -> None:
        self.domain = domain
        self.cause = cause
        self.data = data
        self.is_event = bool(data)
        self.event_cnt = 0
        self.is_sent = False


class Connection:
    """One client. ``domain`` is None for the tools' own (sockets), which are privileged as dom0's ring is."""

    def __init__(self, domid: int, domain: Domain | None) -> None:
        self.id = domid
        self.domain = domain
        self.home = domain_path(domid)
        self.is_unprivileged = domain is not None and domid != 0
        self.is_ignored = False
        self.target: Connection | None = None
        self.watches: list[Watch] = []
        self.transactions: dict[int, Transaction] = {}
        self.next_transaction_id = 0
        self.transaction: Transaction | None = None  #: the one the request being handled belongs to
        self.request: Message | None = None  #: the request being handled, for a domain's connection
        self.out: deque[Message] = deque()
        self.deferred: list[tuple[Watch, bytes]] = []  #: events to queue behind the reply
        self.interface: Interface | None = None

    @property
    def target_domid(self) -> int | None:
        """The domain this one acts for (XS_SET_TARGET)."""
        return self.target.id if self.target is not None else None

    def queue_event(self, domains: Domains, path: bytes, token: bytes, cause: Message | None) -> bool:
        """Queue a watch event for the ring, unless the same one waits there already; whether it was.

        It is dropped when over-long or when the domain has used up its memory, as nobody could be told of the error.
        """
        payload = path + b"\0" + token + b"\0"
        if len(payload) > xs_wire.XENSTORE_PAYLOAD_MAX:
            return False
        data = wire.HEADER.pack(xs_wire.XS_WATCH_EVENT, 0, 0, len(payload)) + payload
        if path[:1] != b"@" and any(message.is_event and message.data == data for message in self.out):
            return False
        if not domains.memory_add(self.id, len(data), check=True):
            return False
        if cause is not None:
            cause.event_cnt += 1
        self.out.append(Message(self.domain, cause, data))
        return True

    def queue_reply(self, domains: Domains, message: Message, data: bytes) -> None:
        """Queue the reply (header and payload) to the request ``message``."""
        message.data = data
        if message.domain is not None:
            message.domain.nboutstanding += 1
        domains.memory_add(self.id, len(data))
        self.out.append(message)

    def message_sent(self, domains: Domains) -> None:
        """The first message of the queue is gone: take it off and settle the account of its request."""
        message = self.out.popleft()
        domains.memory_add(self.id, -len(message.data))
        if not message.is_event:
            message.is_sent = True
            if message.domain is not None and not message.event_cnt:
                message.domain.nboutstanding -= 1
        elif message.cause is not None:
            cause = message.cause
            cause.event_cnt -= 1
            if not cause.event_cnt and cause.is_sent and cause.domain is not None:
                cause.domain.nboutstanding -= 1

    def drop_messages(self, domains: Domains) -> None:
        """Forget all that waits to be sent."""
        while self.out:
            self.message_sent(domains)
