"""The tree of nodes, with the rules of who may read and write them, inside a transaction or outside.

Mirrors the node functions of tools/xenstore/xenstored_core.c and the data base under them, which is flat: a node lies
under its full path and holds its children's names in the order they were made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pvemu.devices.xenstore import permissions as xp
from pvemu.devices.xenstore.node import NO_GENERATION, Node
from pvemu.devices.xenstore.paths import basename, get_parent, is_valid_nodename
from pvemu.devices.xenstore.transactions import AccessedNode, Transaction
from pvemu.devices.xenstore.wire import XsError

if TYPE_CHECKING:
    from pvemu.devices.xenstore.connection import Connection
    from pvemu.devices.xenstore.domains import Domains, Quotas

__all__ = ["Fire", "Store"]


class Fire(Protocol):
    """Tell the watches that a node changed; see :meth:`pvemu.devices.xenstore.watches.Watches.fire`."""

    def __call__(
        self,
        conn: Connection | None,
        path: bytes,
        node: Node | None,
        *,
        exact: bool,
        old_perms: xp.Permissions | None = None,
    ) -> None:
        """``node`` is the node as it is (or was, if it is being removed); None: look it up."""


class Store:
    """All nodes. ``conn`` is None for what xenstored does by itself, without limits."""

    def __init__(self, domains: Domains) -> None:
        self.domains = domains
        self.quotas: Quotas = domains.quotas
        self.generation = 0
        self.nodes: dict[bytes, Node] = {}
        owner = (xp.Permission(0, xp.XS_PERM_NONE),)
        for path, children in ((b"/", b"tool\0"), (b"/tool", b"xenstored\0"), (b"/tool/xenstored", b"")):
            self.generation += 1
            self.nodes[path] = Node(b"", children, owner, self.generation)

    # The data base: one node in, one node out.

    def read(self, conn: Connection | None, path: bytes) -> Node:
        """A node without asking for permission. Raises ENOENT, and ENOSPC when a transaction touches too many."""
        transaction = conn.transaction if conn is not None else None
        if transaction is None:
            node = self.nodes.get(path)
        else:
            assert conn is not None
            accessed = transaction.accessed.get(path)
            node = (accessed or self._access(conn, transaction, path)).node
        if node is None:
            raise XsError("ENOENT")
        perms = node.perms
        if len(perms) > 1:
            adjusted = self.domains.adjust_perms(perms, node.generation)
            if adjusted is not perms:
                return node._replace(perms=adjusted)
        return node

    def _access(self, conn: Connection, transaction: Transaction, path: bytes) -> AccessedNode:
        if len(transaction.accessed) >= self.quotas.trans_nodes and conn.is_unprivileged:
            transaction.fail = True
            raise XsError("ENOSPC")
        accessed = transaction.accessed[path] = AccessedNode(self.nodes.get(path))
        if accessed.node is not None:
            self.domains.memory_add(conn.id, accessed.node.record_size + transaction.key_size(path))
        return accessed

    def write(self, conn: Connection | None, path: bytes, node: Node, *, check: bool = True) -> Node:
        """Store a node with a new generation. Raises ENOSPC (too big) and EIO (the domain's memory is used up)."""
        self.generation += 1
        perms = self.domains.adjust_perms(node.perms, self.generation)
        node = Node(node.value, node.children, perms, self.generation)
        transaction = conn.transaction if conn is not None else None
        accessed = None
        if transaction is not None:
            assert conn is not None
            accessed = transaction.accessed.get(path) or self._access(conn, transaction, path)
            accessed.modified = True
        error = None
        if check and conn is not None and conn.is_unprivileged and node.record_size >= self.quotas.max_entry_size:
            error = "ENOSPC"
        elif not self._account(conn, accessed, path, node, check=check):
            error = "EIO"
        if error is not None:
            if transaction is not None:
                transaction.fail = True
            raise XsError(error)
        if accessed is not None:
            accessed.node = node
        else:
            self.nodes[path] = node
        return node

    def _account(
        self, conn: Connection | None, accessed: AccessedNode | None, path: bytes, node: Node | None, *, check: bool
    ) -> bool:
        """Move the memory of a node from its old owner to its new one; False if that one may not have it."""
        if accessed is not None:
            assert conn is not None
            assert conn.transaction is not None
            old = accessed.node
            key_size = conn.transaction.key_size(path)
        else:
            old = self.nodes.get(path)
            key_size = len(path)
        memory_add = self.domains.memory_add
        old_domid = conn.id if accessed is not None and conn is not None else old.perms[0].id if old is not None else 0
        if old is not None:
            memory_add(old_domid, -old.record_size - key_size)
        if node is None:
            return True
        new_domid = conn.id if accessed is not None and conn is not None else node.perms[0].id
        if memory_add(new_domid, node.record_size + key_size, check=check):
            return True
        if old is not None:
            memory_add(old_domid, old.record_size + key_size)
        return False

    def delete(self, conn: Connection | None, path: bytes) -> None:
        """Take a node out; its parent still names it."""
        self.generation += 1
        transaction = conn.transaction if conn is not None else None
        if transaction is None:
            self._account(conn, None, path, None, check=False)
            self.nodes.pop(path, None)
        else:
            assert conn is not None
            accessed = transaction.accessed.get(path) or self._access(conn, transaction, path)
            accessed.modified = True
            self._account(conn, accessed, path, None, check=False)
            accessed.node = None

    def _entry_add(self, conn: Connection | None, domid: int, number: int) -> None:
        if conn is not None and conn.transaction is not None:
            conn.transaction.entry_add(domid, number)
        else:
            self.domains.entry_add(domid, number)

    # Permission.

    def permitted(self, conn: Connection, perms: xp.Permissions) -> int:
        """The ``XS_PERM_*`` bits a connection has by ``perms``."""
        if not conn.is_unprivileged:
            return xp.XS_PERM_READ | xp.XS_PERM_WRITE | xp.XS_PERM_OWNER
        return xp.perm_for(perms, conn.id, conn.target_domid)

    def get(self, conn: Connection, path: bytes, perm: int) -> Node:
        """A node the connection has all of ``perm`` on. Raises EINVAL, EACCES, ENOENT.

        Who may not look into the nearest existing parent is not told whether the node exists.
        """
        if conn.transaction is None:
            # The case that guests wait for: a stored path is a valid one.
            node = self.nodes.get(path)
            if node is not None:
                perms = node.perms
                if len(perms) > 1:
                    perms = self.domains.adjust_perms(perms, node.generation)
                if not conn.is_unprivileged or xp.perm_for(perms, conn.id, conn.target_domid) & perm == perm:
                    return node if perms is node.perms else node._replace(perms=perms)
                raise XsError("EACCES")
        if not is_valid_nodename(path, self.quotas.max_path_len):
            raise XsError("EINVAL")
        try:
            node = self.read(conn, path)
        except XsError as error:
            if error.name != "ENOENT":
                raise
        else:
            if self.permitted(conn, node.perms) & perm == perm:
                return node
            self._ask_parents(conn, path)  # it may only touch them, in a transaction
            raise XsError("EACCES")
        raise XsError("ENOENT" if self._ask_parents(conn, path) & perm else "EACCES")

    def _ask_parents(self, conn: Connection, path: bytes) -> int:
        while True:
            path = get_parent(path)
            try:
                return self.permitted(conn, self.read(conn, path).perms)
            except XsError as error:
                if error.name != "ENOENT" or path == b"/":
                    raise

    # Making and removing.

    def set_value(self, conn: Connection, path: bytes, node: Node, value: bytes) -> Node:
        """Give an existing node a new value."""
        return self.write(conn, path, Node(value, node.children, node.perms, 0))

    def create(self, conn: Connection, path: bytes, value: bytes) -> Node:
        """Make a node and its missing parents; they inherit permissions, and a guest owns what it makes.

        Nothing is left behind on an error: ENOSPC (too many nodes, or too big), EIO.
        """
        missing = [path]
        while True:
            parent_path = get_parent(missing[-1])
            try:
                parent = self.read(conn, parent_path)
                break
            except XsError as error:
                if error.name != "ENOENT" or parent_path == b"/":
                    raise
            missing.append(parent_path)
        perms = parent.perms
        if conn.is_unprivileged:
            perms = (xp.Permission(conn.id, perms[0].perms), *perms[1:])
        if conn.transaction is not None:
            conn.transaction.node_created = True

        # Bottom up, the existing parent last: the order shows in generations and in the events of a commit.
        made: list[bytes] = []
        result: Node | None = None
        child = b""
        try:
            for name in missing:
                if conn.is_unprivileged and self._entries(conn) >= self.quotas.nb_entry_per_domain:
                    raise XsError("ENOSPC")
                node = self.write(conn, name, Node(value if result is None else b"", child, perms, 0))
                self._entry_add(conn, perms[0].id, 1)
                made.append(name)
                result = result or node
                child = basename(name) + b"\0"
            self.write(conn, parent_path, Node(parent.value, parent.children + child, parent.perms, 0))
        except XsError:
            for name in made:
                self._unmake(conn, name, perms[0].id)
            raise
        assert result is not None
        return result

    @staticmethod
    def _entries(conn: Connection) -> int:
        return conn.domain.nbentry if conn.domain is not None else 0

    def _unmake(self, conn: Connection, path: bytes, owner: int) -> None:
        self.delete(conn, path)
        self._entry_add(conn, owner, -1)
        if conn.transaction is not None:
            conn.transaction.fail = True

    def remove_tree(self, conn: Connection | None, path: bytes, fire: Fire) -> None:
        """Remove a node and all below it, children first, each one's watches told. Raises EINVAL without a parent."""
        parent_path = get_parent(path)
        try:
            self.read(conn, parent_path)
        except XsError as error:
            raise XsError("EINVAL" if error.name == "ENOENT" else error.name) from error
        self._remove(conn, path, path, fire)
        self._remove_child(conn, parent_path, basename(path))

    def _remove(self, conn: Connection | None, path: bytes, root: bytes, fire: Fire) -> None:
        # An explicit stack: a guest may nest a thousand nodes.
        stack = [(path, self.read(conn, path).child_names())]
        while stack:
            path, children = stack[-1]
            if children:
                child = (path if path != b"/" else b"") + b"/" + children.pop(0)
                stack.append((child, self.read(conn, child).child_names()))
                continue
            stack.pop()
            node = self.read(conn, path)
            self.delete(conn, path)
            fire(conn, path, node, exact=path != root)
            self._entry_add(conn, node.perms[0].id, -1)
            if stack:
                self._remove_child(conn, stack[-1][0], basename(path))

    def _remove_child(self, conn: Connection | None, path: bytes, name: bytes) -> None:
        node = self.read(conn, path)
        names = node.child_names()
        names.remove(name)
        children = b"".join(child + b"\0" for child in names)
        self.write(conn, path, Node(node.value, children, node.perms, 0), check=False)

    def set_perms(self, conn: Connection, path: bytes, node: Node, perms: xp.Permissions) -> Node:
        """Give a node new permissions, perhaps a new owner."""
        written = self.write(conn, path, Node(node.value, node.children, perms, 0))
        self._entry_add(conn, node.perms[0].id, -1)
        self._entry_add(conn, perms[0].id, 1)
        return written

    # Transactions.

    def transaction_forget(self, conn: Connection, transaction: Transaction) -> None:
        """Drop a transaction and its private nodes."""
        for path, accessed in transaction.accessed.items():
            if accessed.node is not None:
                self.domains.memory_add(conn.id, -accessed.node.record_size - transaction.key_size(path))
        transaction.accessed.clear()
        conn.transactions.pop(transaction.id, None)

    def transaction_commit(self, conn: Connection, transaction: Transaction, fire: Fire) -> None:
        """Make a transaction's changes everyone's. Raises EAGAIN (a conflict), ENOSPC (quota), ENOMEM (it failed).

        The caller forgets the transaction in any case.
        """
        if transaction.fail:
            raise XsError("ENOMEM")
        if transaction.node_created and conn.is_unprivileged:
            for domid, number in transaction.changed_domains.items():
                domain = self.domains.by_domid.get(domid)
                if domid and domain is not None and domain.nbentry + number >= self.quotas.nb_entry_per_domain:
                    raise XsError("ENOSPC")
        for path, accessed in transaction.accessed.items():
            node = self.nodes.get(path)
            if (NO_GENERATION if node is None else node.generation) != accessed.generation:
                raise XsError("EAGAIN")
        for path, accessed in transaction.accessed.items():
            if not accessed.modified:
                continue
            if accessed.node is not None:
                self.generation += 1
                node = accessed.node._replace(generation=self.generation)
                self._account(None, None, path, node, check=False)
                self.nodes[path] = node
            elif accessed.generation != NO_GENERATION:
                self._account(None, None, path, None, check=False)
                del self.nodes[path]
            if accessed.fire_watch:
                fire(conn, path, None, exact=accessed.watch_exact, old_perms=accessed.perms)
        for domid, number in transaction.changed_domains.items():
            self.domains.entry_add(domid, number)
