"""Names of nodes: what is a valid path, what a relative one stands for, who its parent is.

Mirrors ``is_valid_nodename``, ``canonicalize`` and ``get_parent`` of tools/xenstore/xenstored_core.c. Paths are bytes.
"""

from __future__ import annotations

import re

__all__ = ["basename", "canonicalize", "domain_path", "get_parent", "is_valid_nodename"]

#: "/" alone, or components of the permitted characters with single slashes between them and none at the end.
_NODENAME = re.compile(rb"/(?:[A-Za-z0-9\-_@]+(?:/[A-Za-z0-9\-_@]+)*)?")
#: A domain's home does not count against the length of a path; scanf's "%5u" takes a sign for one of the five.
_HOME = re.compile(rb"/local/domain/(?:[0-9]{1,5}|[+-][0-9]{1,4})/")


def domain_path(domid: int) -> bytes:
    """The home of a domain, which its relative paths start from."""
    return b"/local/domain/%d" % domid


def is_valid_nodename(path: bytes, max_len: int) -> bool:
    """Whether an absolute path may name a node; ``max_len`` bounds its length beyond the domain's home."""
    if _NODENAME.fullmatch(path) is None:
        return False
    if len(path) <= max_len:
        return True
    home = _HOME.match(path)
    return home is not None and len(path) <= home.end() + max_len


def canonicalize(home: bytes, name: bytes) -> bytes:
    """The absolute path of ``name`` as a connection at ``home`` means it; special names (``@``) stay as they are."""
    if name[:1] in (b"/", b"@"):
        return name
    return home + b"/" + name


def get_parent(path: bytes) -> bytes:
    """The path of a node's parent; the root is its own parent."""
    return path[: path.rfind(b"/")] or b"/"


def basename(path: bytes) -> bytes:
    """The last component of a path other than the root."""
    return path[path.rfind(b"/") + 1 :]
