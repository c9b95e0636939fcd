"""Where requests pass: each one of each client goes through ``dispatch``, and watch events leave in order.

Mirrors ``process_message`` and the main loop of tools/xenstore/xenstored_core.c. Nothing runs by itself: a ring is
served when it is kicked, a dom0 client while it calls, and the watch callbacks of dom0's clients when the request that
fired them has been answered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hypercalls.public.io import xs_wire
from pvemu.devices.xenstore.daemon import Daemon, OnEvent
from pvemu.devices.xenstore.requests import WIRE_FUNCS
from pvemu.devices.xenstore.wire import XsError, error_payload
from pvemu.observers import subscribe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvemu.devices.xenstore.connection import Connection

__all__ = ["After", "Before", "Dispatcher", "Reply"]

#: Type and payload of the answer to a request.
Reply = tuple[int, bytes]
#: Told before a request is handled: domid of the connection, type, transaction id, payload.
Before = Callable[[int, int, int, bytes], None]
#: Told after it: the same and the reply.
After = Callable[[int, int, int, bytes, Reply], None]

_Dispatch = Callable[["Connection", int, int, bytes], Reply]


class Dispatcher:
    """The daemon's state and the one way to it, for the domains ``existing`` (dom0 is always there)."""

    def __init__(self, existing: Iterable[int] = ()) -> None:
        self.daemon = Daemon(existing)
        #: The one place requests pass; :meth:`monitor` swaps it.
        self.dispatch: _Dispatch = self._process_message
        self._monitors: list[tuple[Before, After]] = []
        self._is_settling = False

    def monitor(self, before: Before | None = None, after: After | None = None) -> Callable[[], None]:
        """Be told of every request; call what is returned to stop. Costs nothing when nobody asked."""
        entry = (before or _nothing, after or _nothing_after)
        self._monitors.append(entry)
        self.dispatch = self._monitored

        def undo() -> None:
            if entry in self._monitors:
                self._monitors.remove(entry)
            if not self._monitors:
                self.dispatch = self._process_message

        return undo

    def observe_events(self, observer: OnEvent) -> Callable[[], None]:
        """Be told of each watch event that is queued for a domain; call what is returned to stop."""
        return subscribe(self.daemon.event_observers, observer)

    def _monitored(self, conn: Connection, msg_type: int, tx_id: int, payload: bytes) -> Reply:
        monitors = list(self._monitors)
        for before, _ in monitors:
            before(conn.id, msg_type, tx_id, payload)
        reply = self._process_message(conn, msg_type, tx_id, payload)
        for _, after in monitors:
            after(conn.id, msg_type, tx_id, payload, reply)
        return reply

    def _process_message(self, conn: Connection, msg_type: int, tx_id: int, payload: bytes) -> Reply:
        func = WIRE_FUNCS.get(msg_type)
        if func is None:
            return xs_wire.XS_ERROR, error_payload("ENOSYS")
        handler, is_priv, is_notid = func
        if is_priv and conn.is_unprivileged:
            return xs_wire.XS_ERROR, error_payload("EACCES")
        if tx_id and not is_notid:
            conn.transaction = conn.transactions.get(tx_id)
            if conn.transaction is None:
                return xs_wire.XS_ERROR, error_payload("ENOENT")
        try:
            reply = handler(self.daemon, conn, payload)
        except XsError as error:
            return xs_wire.XS_ERROR, error_payload(error.name)
        finally:
            conn.transaction = None
        if len(reply) > xs_wire.XENSTORE_PAYLOAD_MAX:
            return xs_wire.XS_ERROR, error_payload("E2BIG")
        return msg_type, reply

    def settle(self) -> None:
        """Run the callbacks of dom0's watches until none is due, then hand the guests their messages.

        A callback may send requests; what they fire runs after it, in the order it was fired.
        """
        if self._is_settling:
            return
        self._is_settling = True
        try:
            events = self.daemon.events
            while events:
                _, watch, path = events.popleft()
                if watch.active and watch.callback is not None:
                    watch.callback(path.decode(), watch.token.decode())
        finally:
            self._is_settling = False
        for conn in self.daemon.watches.connections:
            if conn.out and conn.interface is not None:
                conn.interface.flush()


def _nothing(domid: int, msg_type: int, tx_id: int, payload: bytes) -> None:
    """Nobody wants to know before."""


def _nothing_after(domid: int, msg_type: int, tx_id: int, payload: bytes, reply: Reply) -> None:
    """Nobody wants to know after."""
