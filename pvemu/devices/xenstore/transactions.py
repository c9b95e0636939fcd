"""Transactions: private copies of the nodes a client touches, and the check for conflicts when it is done.

Mirrors tools/xenstore/xenstored_transaction.c. There is no snapshot: a node is copied when the transaction first
touches it. It fails with EAGAIN if any node it touched, parents included, has been written outside since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.devices.xenstore.node import NO_GENERATION

if TYPE_CHECKING:
    from pvemu.devices.xenstore.node import Node
    from pvemu.devices.xenstore.permissions import Permissions

__all__ = ["AccessedNode", "Transaction"]


class AccessedNode:
    """A node as one transaction sees it; ``node`` is None while it does not exist there."""

    __slots__ = ("fire_watch", "generation", "modified", "node", "perms", "watch_exact")

    def __init__(self, node: Node | None) -> None:
        self.node = node
        self.generation = NO_GENERATION if node is None else node.generation  #: outside, when first touched
        self.perms: Permissions | None = None if node is None else node.perms  #: likewise, for the watch events
        self.modified = False
        self.fire_watch = False
        self.watch_exact = False


class Transaction:
    """One transaction of a connection; ``accessed`` is in the order of first touch, which commits and events follow."""

    __slots__ = ("accessed", "changed_domains", "fail", "generation", "id", "node_created")

    def __init__(self, trans_id: int, generation: int) -> None:
        self.id = trans_id
        self.generation = generation
        self.accessed: dict[bytes, AccessedNode] = {}
        self.changed_domains: dict[int, int] = {}  #: nodes gained or lost by owner
        self.node_created = False
        self.fail = False  #: something could not be undone: it will end with ENOMEM

    def key_size(self, path: bytes) -> int:
        """Bytes of the key xenstored keeps the private copy under: ``<generation>/<path>``."""
        return len(str(self.generation)) + 1 + len(path)

    def entry_add(self, domid: int, number: int) -> None:
        """Count nodes a domain gains (or loses) by this transaction."""
        self.changed_domains[domid] = self.changed_domains.get(domid, 0) + number

    def queue_watches(self, path: bytes, *, exact: bool) -> None:
        """Fire a node's watches when the transaction succeeds; an event for a whole subtree replaces an exact one."""
        accessed = self.accessed.get(path)
        if accessed is None:
            self.fail = True
        elif not accessed.fire_watch:
            accessed.fire_watch = True
            accessed.watch_exact = exact
        elif not exact:
            accessed.watch_exact = False
