"""A node of the store: a value, its children's names, who may do what, and when it was written.

Mirrors ``struct node`` of tools/xenstore/xenstored_core.h. Nodes are values; a write replaces one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pvemu.devices.xenstore.permissions import Permissions

__all__ = ["NO_GENERATION", "Node"]

#: The generation of a node that does not exist.
NO_GENERATION = (1 << 64) - 1

#: sizeof(struct xs_tdb_record_hdr) and sizeof(struct xs_permissions): the quota on a node's size counts them.
_RECORD_HDR = 24
_RECORD_PERM = 8


class Node(NamedTuple):
    """A node: ``children`` are NUL-terminated names one after the other, as XS_DIRECTORY answers them."""

    value: bytes
    children: bytes
    perms: Permissions
    generation: int

    @property
    def record_size(self) -> int:
        """Bytes of the node in xenstored's data base."""
        return _RECORD_HDR + _RECORD_PERM * len(self.perms) + len(self.value) + len(self.children)

    def child_names(self) -> list[bytes]:
        """The children's names in order."""
        return self.children.split(b"\0")[:-1]
