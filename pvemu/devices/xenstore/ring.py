"""The page a domain shares with xenstored: bytes in, bytes out, two free-running indices each way.

Mirrors the reader and writer of ``struct xenstore_domain_interface`` in tools/xenstore/xenstored_{core,domain}.c; see
docs/misc/xenstore-ring.txt. As xenstored 4.17 does, it advertises no ``server_features``: only XS_INTRODUCE resets a
ring. A chainloaded kernel goes on where the last one stopped.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from hypercalls.abi import ABI64
from hypercalls.public.io import xs_wire
from pvemu.devices.xenstore import wire
from pvemu.devices.xenstore.connection import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.devices.xenstore.connection import Connection
    from pvemu.devices.xenstore.dispatch import Dispatcher

__all__ = ["XenstoreRing"]

_SIZE = xs_wire.XENSTORE_RING_SIZE
_MASK = _SIZE - 1
_U32 = 0xFFFFFFFF

_PAGE = xs_wire.xenstore_domain_interface
_REQ = ABI64.offsetof(_PAGE, "req")
_RSP = ABI64.offsetof(_PAGE, "rsp")
_REQ_CONS = ABI64.offsetof(_PAGE, "req_cons")
_RSP_CONS = ABI64.offsetof(_PAGE, "rsp_cons")
_RSP_PROD = ABI64.offsetof(_PAGE, "rsp_prod")
_CONNECTION = ABI64.offsetof(_PAGE, "connection")
_ERROR = ABI64.offsetof(_PAGE, "error")

_PAIR = struct.Struct("<2I")  # cons and prod lie side by side
_INDEX = struct.Struct("<I")

#: Replies up to xenstored's built-in buffer are never refused for want of memory.
_DEFAULT_BUFFER_SIZE = 16
#: As long as this much is left of a domain's memory, no message can use it up.
_MEMORY_MARGIN = 2 * (xs_wire.XENSTORE_PAYLOAD_MAX + wire.HEADER.size)


class XenstoreRing:
    """Serves the ``page`` (the guest's live memory, 4096 bytes) of ``connection``; ``notify`` raises its event channel.

    A page with impossible indices or an oversized message ends the connection, as its ``error`` field then says.
    """

    def __init__(self, page: memoryview, connection: Connection, notify: Callable[[], None], store: Dispatcher) -> None:
        self.page = page
        self.connection = connection
        self.notify = notify
        self._store = store
        self._partial = b""  #: the beginning of a message that is not all there yet
        self._written = 0  #: bytes of the first waiting message that are in the ring already
        connection.interface = self
        self.reset()

    def reset(self) -> None:
        """Empty both queues; a guest that asked to be reconnected is told that it is."""
        self._partial = b""
        self._written = 0
        _PAIR.pack_into(self.page, _REQ_CONS, 0, 0)
        _PAIR.pack_into(self.page, _RSP_CONS, 0, 0)
        if _INDEX.unpack_from(self.page, _CONNECTION)[0] == xs_wire.XENSTORE_RECONNECT:
            _INDEX.pack_into(self.page, _CONNECTION, xs_wire.XENSTORE_CONNECTED)
            self.notify()

    def ignored(self, error: int) -> None:
        """Say in the page why nothing will be answered any more."""
        self._partial = b""
        self._written = 0
        _INDEX.pack_into(self.page, _ERROR, error)

    def kick(self) -> None:
        """The guest raised the event channel: answer what is complete, send what fits."""
        connection = self.connection
        moved = False
        while not connection.is_ignored and (self._input() or self._output()):
            moved = True
        if moved:
            self.notify()

    def flush(self) -> None:
        """Send what fits of the connection's waiting messages."""
        if not self.connection.is_ignored and self._output():
            self.notify()

    def _may_read(self) -> bool:
        """Whether a guest has read enough of its replies to be heard again."""
        connection = self.connection
        domain = connection.domain
        if domain is None or not connection.is_unprivileged:
            return True
        quotas = self._store.daemon.quotas
        return domain.nboutstanding < quotas.req_outstanding and domain.memory < quotas.memory_per_domain_hard

    def _input(self) -> bool:
        """Take in at most one message; whether anything was there to take."""
        req_cons, req_prod = _PAIR.unpack_from(self.page, _REQ_CONS)
        if req_cons == req_prod or not self._may_read():
            return False
        available = (req_prod - req_cons) & _U32
        if available > _SIZE:
            self._store.daemon.ignore_connection(self.connection, xs_wire.XENSTORE_ERROR_RINGIDX)
            return False
        data = self._partial
        data += self._take(req_cons, min(available, max(wire.HEADER.size - len(data), 0)))
        taken = len(data) - len(self._partial)
        self._partial = data
        if len(data) >= wire.HEADER.size:
            msg_type, req_id, tx_id, length = wire.HEADER.unpack_from(data)
            if length > xs_wire.XENSTORE_PAYLOAD_MAX:
                self._store.daemon.ignore_connection(self.connection, xs_wire.XENSTORE_ERROR_PROTO)
                return False
            more = min(available - taken, wire.HEADER.size + length - len(data))
            data += self._take(req_cons + taken, more)
            taken += more
            self._partial = data
            if len(data) == wire.HEADER.size + length:
                self._partial = b""
                _INDEX.pack_into(self.page, _REQ_CONS, (req_cons + taken) & _U32)
                self._answer(msg_type, req_id, tx_id, data[wire.HEADER.size :])
                return True
        _INDEX.pack_into(self.page, _REQ_CONS, (req_cons + taken) & _U32)
        return True

    def _take(self, index: int, length: int) -> bytes:
        start = index & _MASK
        end = start + length
        if end <= _SIZE:
            return bytes(self.page[_REQ + start : _REQ + end])
        return bytes(self.page[_REQ + start : _REQ + _SIZE]) + bytes(self.page[_REQ : _REQ + end - _SIZE])

    def _answer(self, msg_type: int, req_id: int, tx_id: int, payload: bytes) -> None:
        connection = self.connection
        store = self._store
        domains = store.daemon.domains
        request = connection.request = Message(connection.domain)
        reply_type, reply = store.dispatch(connection, msg_type, tx_id, payload)
        connection.request = None
        data = wire.HEADER.pack(reply_type, req_id, tx_id, len(reply)) + reply
        limit = store.daemon.quotas.memory_per_domain_hard
        has_memory = connection.domain is None or connection.domain.memory < limit - _MEMORY_MARGIN
        if connection.out or not has_memory or not self._put_whole(data):
            if not has_memory and len(reply) > _DEFAULT_BUFFER_SIZE:
                if not domains.memory_add(connection.id, len(data), check=True):
                    reply = wire.error_payload("ENOMEM")
                    data = wire.HEADER.pack(xs_wire.XS_ERROR, req_id, tx_id, len(reply)) + reply
                else:
                    domains.memory_add(connection.id, -len(data))
            connection.queue_reply(domains, request, data)
        if connection.deferred:
            store.daemon.send_deferred(connection)
        if store.daemon.events:
            self._output()
            store.settle()

    def _put_whole(self, data: bytes) -> bool:
        """Write a message that fits the ring, without the queue; False if it does not fit."""
        rsp_cons, rsp_prod = _PAIR.unpack_from(self.page, _RSP_CONS)
        if ((rsp_prod - rsp_cons) & _U32) + len(data) > _SIZE:
            return False
        self._put(rsp_prod, data)
        return True

    def _put(self, rsp_prod: int, data: bytes) -> None:
        start = rsp_prod & _MASK
        end = start + len(data)
        if end <= _SIZE:
            self.page[_RSP + start : _RSP + end] = data
        else:
            split = _SIZE - start
            self.page[_RSP + start : _RSP + _SIZE] = data[:split]
            self.page[_RSP : _RSP + end - _SIZE] = data[split:]
        _INDEX.pack_into(self.page, _RSP_PROD, (rsp_prod + len(data)) & _U32)

    def _output(self) -> bool:
        """Send waiting messages while there is room; whether anything was sent."""
        connection = self.connection
        moved = False
        while connection.out:
            rsp_cons, rsp_prod = _PAIR.unpack_from(self.page, _RSP_CONS)
            used = (rsp_prod - rsp_cons) & _U32
            if used == _SIZE:
                break
            if used > _SIZE:
                self._store.daemon.ignore_connection(connection, xs_wire.XENSTORE_ERROR_RINGIDX)
                return False
            data = connection.out[0].data
            chunk = data[self._written : self._written + self._room(used)]
            self._put(rsp_prod, chunk)
            moved = True
            self._written += len(chunk)
            if self._written == len(data):
                self._written = 0
                connection.message_sent(self._store.daemon.domains)
            if not self._sends_more():
                break
        return moved

    def _room(self, used: int) -> int:
        """How many bytes to send at once into a ring with ``used`` bytes in it."""
        return _SIZE - used

    def _sends_more(self) -> bool:
        """Whether to go on after one piece."""
        return True
