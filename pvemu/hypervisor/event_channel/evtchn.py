"""One event channel, and what an ABI of event delivery does with it (xen/include/xen/sched.h struct evtchn, event.h).

There are two such ABIs: ``event_2l`` and ``event_fifo``. Which one a domain uses, the guest decides while it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["ECS_FREE", "ECS_INTERDOMAIN", "ECS_IPI", "ECS_RESERVED", "ECS_UNBOUND", "ECS_VIRQ", "EVTCHNS_PER_BUCKET",
           "BackendEnd", "Evtchn", "PortOps"]  # fmt: skip

#: States of a channel. There is none for interrupts of devices: such a domain has no devices.
ECS_FREE, ECS_RESERVED, ECS_UNBOUND, ECS_INTERDOMAIN, ECS_VIRQ, ECS_IPI = range(6)
#: Ports come into being in groups of so many; one of a group without an owner is closed, not bad.
EVTCHNS_PER_BUCKET = 64


class BackendEnd(Protocol):
    """dom0's end of a channel: ``port`` is dom0's own, ``guest_port`` the guest's that it is bound to."""

    guest_port: int | None

    @property
    def port(self) -> int:
        """Its number in dom0."""

    def send(self) -> None:
        """The guest has sent an event."""


@dataclass(slots=True)
class Evtchn:
    """Channel ``port``; it exists for as long as the domain does, whoever has it open."""

    port: int
    state: int = ECS_FREE
    notify_vcpu_id: int = 0
    remote_dom: int = 0
    remote_port: int = 0
    virq: int = 0
    backend: BackendEnd | None = None  #: dom0's end
    # -- of the FIFO ABI; closing the port does not change them
    priority: int = 0
    pending: bool = False  #: it was raised when the array had no word for it
    last_vcpu_id: int = 0  #: of the queue that it stood in last
    last_priority: int = 0

    @property
    def is_usable(self) -> bool:
        """evtchn_usable: somebody has it open."""
        return self.state > ECS_RESERVED


class PortOps(Protocol):
    """struct evtchn_port_ops: what an ABI does for the channels of one domain."""

    @property
    def max_evtchns(self) -> int:
        """How many ports the ABI has."""

    def init(self, chn: Evtchn) -> None:
        """The channel was opened."""

    def set_pending(self, chn: Evtchn, vcpu_id: int) -> bool:
        """An event for a vcpu; False when it was pending before, or is lost."""

    def clear_pending(self, chn: Evtchn) -> None:
        """No event any more, without more ado."""

    def unmask(self, chn: Evtchn) -> None:
        """Deliver events of the channel, a pending one now."""

    def is_pending(self, chn: Evtchn) -> bool:
        """Whether an event of the channel has not been taken yet."""

    def is_busy(self, chn: Evtchn) -> bool:
        """Whether a closed port cannot be opened yet."""

    def set_priority(self, chn: Evtchn, priority: int) -> None:
        """For events to come; XenError(ENOSYS) where there are no priorities."""
