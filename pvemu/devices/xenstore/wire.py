"""What travels: the message header, errors as strings, strings in a payload.

Mirrors the readers of payloads in tools/xenstore/xenstored_core.c; the numbers are hypercalls.public.io.xs_wire's.
Everything on the wire is bytes; a payload is usually NUL-terminated strings, one after the other.
"""

from __future__ import annotations

import re
from typing import Final

from hypercalls.abi import ABI64
from hypercalls.public.io import xs_wire

__all__ = ["ACK", "HEADER", "XsError", "atoi", "count_strings", "error_payload", "get_strings", "onearg"]

#: ``struct xsd_sockmsg`` (the same in both widths).
HEADER: Final = ABI64.reader(xs_wire.xsd_sockmsg, "type", "req_id", "tx_id", "len")

#: The payload of a reply that says nothing but success.
ACK: Final = b"OK\0"

_INTEGER = re.compile(rb"[ \t\n\v\f\r]*([+-]?)0*([0-9]*)")
_LONG_MAX = (1 << 63) - 1


class XsError(Exception):
    """A request that xenstored answers with ``XS_ERROR``; ``name`` is the errno's name (``ENOENT``)."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def error_payload(name: str) -> bytes:
    """The payload of an ``XS_ERROR`` reply; an errno the protocol has no name for becomes EINVAL."""
    return (name if name in xs_wire.XSD_ERRORS else xs_wire.XSD_ERRORS[0]).encode() + b"\0"


def onearg(payload: bytes) -> bytes:
    """The only string of a payload: exactly one NUL, at the end.

    Raises EINVAL otherwise. (xenstored 4.17 answers with whatever errno was left over from an earlier call there.)
    """
    if not payload or payload.find(b"\0") != len(payload) - 1:
        raise XsError("EINVAL")
    return payload[:-1]


def get_strings(payload: bytes) -> list[bytes]:
    """Every NUL-terminated string of a payload; bytes after the last NUL are ignored."""
    return payload.split(b"\0")[:-1]


def count_strings(payload: bytes) -> int:
    """How many NUL-terminated strings a payload holds."""
    return payload.count(b"\0")


def atoi(text: bytes) -> int:
    """C's ``atoi`` as an unsigned int: leading blanks and a sign are taken, no digits are 0."""
    match = _INTEGER.match(text)
    assert match is not None
    sign, digits = match.groups()
    # 20 digits are past LONG_MAX already, and Python refuses to convert thousands of them.
    value = int(digits[:20] or b"0")
    return max(-value, -_LONG_MAX - 1) & 0xFFFFFFFF if sign == b"-" else min(value, _LONG_MAX) & 0xFFFFFFFF
