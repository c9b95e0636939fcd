"""Watches: who is told when a node changes.

Mirrors tools/xenstore/xenstored_watch.c. A watch matches its node and all below it. Within a transaction events wait
for the commit. A watcher must be able to read the node or its parent, or have been able to read the node before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.public.io.xs_wire import XENSTORE_REL_PATH_MAX
from pvemu.devices.xenstore import permissions as xp
from pvemu.devices.xenstore.connection import Connection, Watch
from pvemu.devices.xenstore.paths import canonicalize, get_parent, is_valid_nodename
from pvemu.devices.xenstore.wire import XsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.devices.xenstore.node import Node
    from pvemu.devices.xenstore.store import Store

__all__ = ["Watches"]


def _is_child(child: bytes, parent: bytes) -> bool:
    return parent in (b"/", child) or (child.startswith(parent) and child[len(parent) : len(parent) + 1] == b"/")


class Watches:
    """The watches of all connections. ``send`` is given each event: connection, watch, path as reported, and cause."""

    def __init__(self, store: Store, send: Callable[[Connection, Watch, bytes, Connection | None], None]) -> None:
        self.store = store
        self.send = send
        self.connections: list[Connection] = []

    def fire(
        self,
        conn: Connection | None,
        path: bytes,
        node: Node | None,
        *,
        exact: bool,
        old_perms: xp.Permissions | None = None,
    ) -> None:
        """Tell every watch that ``path`` changed by a request of ``conn`` (None: by xenstored itself).

        ``exact`` leaves out watches above the node; ``old_perms`` are those before a change of permissions.
        """
        if conn is not None and conn.transaction is not None:
            conn.transaction.queue_watches(path, exact=exact)
            return
        for watcher in self.connections:
            if not watcher.watches:
                continue
            matching = [w for w in watcher.watches if (w.path == path if exact else _is_child(path, w.path))]
            if matching and self._permitted(watcher, path, node, old_perms):
                for watch in matching:
                    self.send(watcher, watch, watch.reported_path(path), conn)

    def _permitted(self, watcher: Connection, path: bytes, node: Node | None, old_perms: xp.Permissions | None) -> bool:
        store = self.store
        special = store.domains.special.get(path)
        if special is not None:
            return bool(store.permitted(watcher, special) & xp.XS_PERM_READ)
        if old_perms is not None and store.permitted(watcher, old_perms) & xp.XS_PERM_READ:
            return True
        try:
            if node is None:
                node = store.read(None, path)
            if store.permitted(watcher, node.perms) & xp.XS_PERM_READ:
                return True
            parent = store.read(None, get_parent(path))
        except XsError:
            return False
        return bool(store.permitted(watcher, parent.perms) & xp.XS_PERM_READ)

    def add(self, conn: Connection, name: bytes, token: bytes) -> None:
        """Set a watch; it fires once at once, behind the reply. Raises EINVAL, EEXIST, E2BIG (too many), ENOMEM."""
        quotas = self.store.quotas
        path = canonicalize(conn.home, name)
        if name[:1] == b"@":
            if len(name) > XENSTORE_REL_PATH_MAX:
                raise XsError("EINVAL")
        elif not is_valid_nodename(path, quotas.max_path_len):
            raise XsError("EINVAL")
        if any(watch.path == path and watch.token == token for watch in conn.watches):
            raise XsError("EEXIST")
        if conn.is_unprivileged and conn.domain is not None and conn.domain.nbwatch > quotas.nb_watch_per_domain:
            raise XsError("E2BIG")
        if not self.store.domains.memory_add(conn.id, len(path) + len(token), check=True):
            raise XsError("ENOMEM")
        watch = Watch(path, token, 0 if name[:1] in (b"/", b"@") else len(conn.home))
        if conn.domain is not None:
            conn.domain.nbwatch += 1
        conn.watches.append(watch)
        conn.deferred.append((watch, watch.reported_path(path)))

    def remove(self, conn: Connection, name: bytes, token: bytes) -> None:
        """Take a watch away; events that wait already are still sent. Raises ENOENT."""
        path = canonicalize(conn.home, name)
        for watch in conn.watches:
            if watch.path == path and watch.token == token:
                self._drop(conn, watch)
                return
        raise XsError("ENOENT")

    def remove_all(self, conn: Connection) -> None:
        """Take all watches of a connection away."""
        for watch in list(conn.watches):
            self._drop(conn, watch)

    def _drop(self, conn: Connection, watch: Watch) -> None:
        conn.watches.remove(watch)
        watch.active = False
        self.store.domains.memory_add(conn.id, -len(watch.path) - len(watch.token))
        if conn.domain is not None and conn.domain.nbwatch:
            conn.domain.nbwatch -= 1
