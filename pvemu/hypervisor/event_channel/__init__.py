"""Event channels (xen/common/event_*.c)."""

from __future__ import annotations

from pvemu.hypervisor.event_channel.dom0_ports import BackendChannel
from pvemu.hypervisor.event_channel.event_channel import EventChannels

__all__ = ["BackendChannel", "EventChannels"]
