"""Requests as xenstored's trace file shows them, without the clock: ``IN READ (device/vbd )``.

Mirrors ``trace_io`` of tools/xenstore/xenstored_core.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.public.io.xs_wire import XS_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.devices.xenstore.dispatch import Dispatcher, Reply

__all__ = ["format_io", "trace_requests", "without_clock"]


_UNKNOWN = "**UNKNOWN**"


def format_io(direction: str, msg_type: int, payload: bytes) -> str:
    """One line; ``direction`` is IN (a request) or OUT (a reply). NULs show as spaces."""
    text = payload.replace(b"\0", b" ").decode("latin-1")
    return f"{direction} {XS_NAMES.get(msg_type, _UNKNOWN).removeprefix('XS_')} ({text})"


def without_clock(line: str) -> str:
    """A line of a recorded trace (``IN 08:11:53 READ (...)``) in the form of :func:`format_io`."""
    direction, _, rest = line.split(" ", 2)
    return f"{direction} {rest}"


def trace_requests(store: Dispatcher, domid: int, log: Callable[[str], None]) -> Callable[[], None]:
    """Pass the requests of one domain and their replies to ``log``, a line each; call the result to stop."""

    def before(conn_domid: int, msg_type: int, tx_id: int, payload: bytes) -> None:
        if conn_domid == domid:
            log(format_io("IN", msg_type, payload))

    def after(conn_domid: int, msg_type: int, tx_id: int, payload: bytes, reply: Reply) -> None:
        if conn_domid == domid:
            log(format_io("OUT", *reply))

    return store.monitor(before, after)
