"""xenstored's state, and what happens to a domain in it: introduced, shut down, released.

Mirrors the life-cycle half of tools/xenstore/xenstored_domain.c. What a request does to the state is in requests.py,
how requests come to it in dispatch.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from pvemu.devices.xenstore import permissions as xp
from pvemu.devices.xenstore.connection import Connection, Watch
from pvemu.devices.xenstore.domains import Domains, Quotas
from pvemu.devices.xenstore.store import Store
from pvemu.devices.xenstore.watches import Watches
from pvemu.devices.xenstore.wire import XsError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Daemon", "OnEvent"]

#: Told of a watch event for a domain: domid, path, token.
OnEvent = Callable[[int, bytes, bytes], None]


class Daemon:
    """The store, the domains, their connections and watches.

    ``introduced`` has the connection of each introduced domain's own, by domid; ``events`` are those of in-process
    clients.
    """

    def __init__(self, existing: Iterable[int]) -> None:
        self.quotas = Quotas()
        self.domains = Domains(self.quotas, {0, *existing})
        self.store = Store(self.domains)
        self.watches = Watches(self.store, self._send_event)
        self.events: deque[tuple[Connection, Watch, bytes]] = deque()
        self.event_observers: list[OnEvent] = []
        dom0 = self.domains.find_or_alloc(0, self.store.generation)
        assert dom0 is not None
        dom0.nbentry = len(self.store.nodes)
        dom0.introduced = True
        self.introduced = {0: self.new_connection(0, dom0_ring=True)}

    def new_connection(self, domid: int, *, dom0_ring: bool = False) -> Connection:
        """A connection of a domain, for dom0 one of its tools' unless it is its kernel's. Raises ENOENT."""
        domain = self.domains.find_or_alloc(domid, self.store.generation)
        if domain is None:
            raise XsError("ENOENT")
        conn = Connection(domid, domain if domid or dom0_ring else None)
        self.watches.connections.append(conn)
        return conn

    def connection_of(self, domid: int) -> Connection:
        """An introduced domain's connection. Raises ENOENT for any other."""
        self.domains.connected(domid)
        return self.introduced[domid]

    def _send_event(self, conn: Connection, watch: Watch, path: bytes, cause: Connection | None) -> None:
        if watch.callback is not None:
            if not any(c is conn and w.token == watch.token and p == path for c, w, p in self.events):
                self.events.append((conn, watch, path))
        elif conn.interface is not None and not conn.is_ignored:
            request = cause.request if cause is not None and cause.is_unprivileged else None
            if conn.queue_event(self.domains, path, watch.token, request):
                for observer in self.event_observers:
                    observer(conn.id, path, watch.token)

    def send_deferred(self, conn: Connection) -> None:
        """Queue the events that had to wait for the reply."""
        for watch, path in conn.deferred:
            self._send_event(conn, watch, path, None)
        conn.deferred.clear()

    def forget_all(self, conn: Connection) -> None:
        """Drop a connection's watches, transactions and waiting messages."""
        self.watches.remove_all(conn)
        self.forget_transactions(conn)
        conn.drop_messages(self.domains)

    def forget_transactions(self, conn: Connection) -> None:
        """Drop all transactions of a connection, the current one included."""
        for transaction in list(conn.transactions.values()):
            self.store.transaction_forget(conn, transaction)
        conn.transaction = None

    def ignore_connection(self, conn: Connection, error: int) -> None:
        """Give a connection up for ``XENSTORE_ERROR_*``: its page says so and nothing more is read or written there."""
        conn.is_ignored = True
        self.forget_all(conn)
        if conn.interface is not None:
            conn.interface.ignored(error)

    def introduce(self, domid: int) -> Connection:
        """A domain's page may be used from now on; introduced again, its connection starts afresh. Raises ENOENT."""
        domain = self.domains.find_or_alloc(domid, self.store.generation)
        if domain is None:
            raise XsError("ENOENT")
        conn = self.introduced.get(domid)
        if conn is None:
            domain.introduced = True
            domain.shutdown = False
            conn = self.introduced[domid] = self.new_connection(domid)
            self.watches.fire(None, b"@introduceDomain", None, exact=True)
        self.forget_all(conn)
        if conn.interface is not None:
            conn.interface.reset()
        return conn

    def domain_shutdown(self, domid: int) -> None:
        """The hypervisor reports that a domain shut down or crashed: ``@releaseDomain`` fires, once."""
        domain = self.domains.by_domid.get(domid)
        if domain is not None and domain.introduced and not domain.shutdown:
            domain.shutdown = True
            self.watches.fire(None, b"@releaseDomain", None, exact=True)

    def release(self, domid: int) -> None:
        """Forget a domain: its connection, the nodes it owns, its entries in permissions; ``@releaseDomain`` fires."""
        conn = self.connection_of(domid)
        self.forget_all(conn)
        conn.is_ignored = True
        self.watches.connections.remove(conn)
        for other in self.watches.connections:
            if other.target is conn:
                other.target = None
        self._remove_owned(domid)
        del self.domains.by_domid[domid]
        del self.introduced[domid]
        special = self.domains.special
        for name, perms in special.items():
            special[name] = xp.without_domain(perms, domid)
        self.watches.fire(None, b"@releaseDomain", None, exact=True)

    def _remove_owned(self, domid: int) -> None:
        stack = [b"/"]
        while stack:
            path = stack.pop()
            node = self.store.read(None, path)
            if node.perms[0].id == domid and path != b"/":
                self.store.remove_tree(None, path, self.watches.fire)
            else:
                below = b"/" if path == b"/" else path + b"/"
                stack.extend(below + name for name in reversed(node.child_names()))

    def close(self, conn: Connection) -> None:
        """An in-process client goes away."""
        self.forget_all(conn)
        self.watches.connections.remove(conn)
