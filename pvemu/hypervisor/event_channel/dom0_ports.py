"""dom0's ends of the guest's channels, as ports of dom0's own (the other side of xen/common/event_channel.c).

A guest meets them in three ways: EVTCHNOP_status of its own port names the port at the other end; about dom0's ports it
may ask nothing, which it is told only of those that there are; and an end that was left alone, because the guest closed
its own, can be bound by the guest again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pvemu.hypervisor.event_channel.evtchn import EVTCHNS_PER_BUCKET

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BackendChannel", "Dom0Ports"]

#: Ports below are those that dom0 has for itself: interrupts, timers and its own consoles.
_FIRST_FREE = 32


class GuestPorts(Protocol):
    """The guest's half: its ports by number."""

    def raise_port(self, port: int) -> None:
        """An event for the guest on one of its ports."""

    def unbind_backend(self, port: int) -> None:
        """The port waits for dom0 again."""


class BackendChannel:
    """dom0's end of a channel. ``port`` is dom0's own, ``guest_port`` the one that it is bound to, or None when the
    guest has closed that: then it is the guest's to bind again.
    """

    def __init__(self, guest: GuestPorts, ports: Dom0Ports, guest_port: int, on_send: Callable[[], None]) -> None:
        self._guest = guest
        self._ports = ports
        self._on_send = on_send
        self.guest_port: int | None = guest_port
        self.port = ports.open(self)

    def send(self) -> None:
        """The guest has sent an event."""
        self._on_send()

    def notify(self) -> None:
        """Raise the guest's end; nothing where there is none."""
        if self.guest_port is not None:
            self._guest.raise_port(self.guest_port)

    def close(self) -> None:
        """Close dom0's end: the guest's becomes unbound again."""
        self._ports.close(self)
        if self.guest_port is not None:
            port, self.guest_port = self.guest_port, None
            self._guest.unbind_backend(port)


class Dom0Ports:
    """Those of dom0's ports that lead to the guest, by number."""

    def __init__(self) -> None:
        self._ends: dict[int, BackendChannel] = {}
        self._nr_valid = EVTCHNS_PER_BUCKET

    def open(self, end: BackendChannel) -> int:
        """The lowest free port for a new end."""
        port = _FIRST_FREE
        while port in self._ends:
            port += 1
        self._ends[port] = end
        self._nr_valid = max(self._nr_valid, (port // EVTCHNS_PER_BUCKET + 1) * EVTCHNS_PER_BUCKET)
        return port

    def close(self, end: BackendChannel) -> None:
        """The port of an end is free again; harmless a second time."""
        if self._ends.get(end.port) is end:
            del self._ends[end.port]

    def is_valid(self, port: int) -> bool:
        """port_is_valid for dom0: whether there ever was such a port, or one in its bucket."""
        return 0 <= port < self._nr_valid

    def unbound(self, port: int) -> BackendChannel | None:
        """The end at a port that waits for the guest to bind it."""
        end = self._ends.get(port)
        return end if end is not None and end.guest_port is None else None
