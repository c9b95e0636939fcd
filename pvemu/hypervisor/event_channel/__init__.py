"""Event channels (xen/common/event_*.c)."""

from __future__ import annotations

from pvemu.hypervisor.event_channel.event_channel import BackendChannel, EventChannels

__all__ = ["BackendChannel", "EventChannels"]
