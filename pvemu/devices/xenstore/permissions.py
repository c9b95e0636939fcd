"""Permissions of a node: its owner and what everyone else may do, then exceptions by domain.

Mirrors ``struct xs_permissions``, xs_lib.c (``xs_strings_to_perms``, ``xs_perm_to_string``) and ``perm_for_conn`` of
tools/xenstore/xenstored_core.c.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pvemu.devices.xenstore.wire import XsError

__all__ = [
    "XS_PERM_IGNORE",
    "XS_PERM_NONE",
    "XS_PERM_OWNER",
    "XS_PERM_READ",
    "XS_PERM_WRITE",
    "Permission",
    "Permissions",
    "format_permissions",
    "parse_permissions",
    "perm_for",
    "without_domain",
]

XS_PERM_NONE = 0
XS_PERM_READ = 1
XS_PERM_WRITE = 2
XS_PERM_OWNER = 8
#: An entry for a domain that is gone: kept, and shown, but of no effect.
XS_PERM_IGNORE = 16

_ALL = XS_PERM_READ | XS_PERM_WRITE | XS_PERM_OWNER
_LETTERS = {
    b"n": XS_PERM_NONE,
    b"r": XS_PERM_READ,
    b"w": XS_PERM_WRITE,
    b"b": XS_PERM_READ | XS_PERM_WRITE,
}
_LETTER_OF = {mask: letter.decode() for letter, mask in _LETTERS.items()}
#: strtol with base 0, the whole string.
_DOMID = re.compile(rb"[ \t\n\v\f\r]*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))")
_LONG_MAX = (1 << 63) - 1


class Permission(NamedTuple):
    """One entry. In the first, ``id`` is the owner and ``perms`` are everyone else's; others are single domains'."""

    id: int
    perms: int


Permissions = tuple[Permission, ...]


def _strtol(text: bytes) -> int:
    match = _DOMID.fullmatch(text)
    if match is None:
        raise XsError("EINVAL")
    sign, hexadecimal, octal, decimal = match.groups()
    # More digits than a long has saturate, as strtol does; Python would refuse thousands of them.
    if hexadecimal is not None:
        value = int(hexadecimal.lstrip(b"0")[:17] or b"0", 16)
    elif octal is not None:
        value = int(octal.lstrip(b"0")[:23] or b"0", 8)
    else:
        value = int(decimal[:20])
    value = max(-value, -_LONG_MAX - 1) if sign == b"-" else min(value, _LONG_MAX)
    return value & 0xFFFFFFFF


def parse_permissions(strings: list[bytes]) -> Permissions:
    """``n0``, ``r1``, ... as a request carries them. Raises EINVAL for a bad letter or domain id."""
    entries = []
    for string in strings:
        mask = _LETTERS.get(string[:1])
        if mask is None:
            raise XsError("EINVAL")
        entries.append(Permission(_strtol(string[1:]), mask))
    return tuple(entries)


def format_permissions(perms: Permissions) -> list[str]:
    """The strings :func:`parse_permissions` takes; ignored entries are shown as the rest."""
    return [
        f"{_LETTER_OF[entry.perms & ~XS_PERM_IGNORE]}{entry.id - (1 << 32) if entry.id >> 31 else entry.id}"
        for entry in perms
    ]


def perm_for(perms: Permissions, domid: int, target: int | None = None) -> int:
    """What an unprivileged domain may do; ``target`` is the domain it acts for (XS_SET_TARGET).

    Callers know themselves that a privileged connection may do everything.
    """
    owner, others = perms[0]
    if owner in (domid, target):
        return _ALL
    for entry_id, mask in perms[1:]:
        if entry_id in (domid, target) and not mask & XS_PERM_IGNORE:
            return mask & _ALL
    return others & _ALL


def without_domain(perms: Permissions, domid: int) -> Permissions:
    """The entries left when a domain is gone; dom0 inherits what it owned."""
    first = Permission(0, perms[0].perms) if perms[0].id == domid else perms[0]
    return (first, *(entry for entry in perms[1:] if entry.id != domid))
