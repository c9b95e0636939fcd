"""The ports of a back end over this project's hypervisor: grants that dom0 maps, event channels that it binds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from pvemu.devices.backend import EventError, GrantError
from pvemu.hypervisor.grant_table import GrantRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.devices.backend import BackendChannel
    from pvemu.hypervisor.event_channel import EventChannels
    from pvemu.hypervisor.grant_table import GrantTable
    from pvemu.memory.ram import Ram

__all__ = ["GuestEventChannels", "GuestGrants"]


class GuestGrants:
    """The guest's grants to dom0 as pages of machine memory (a :class:`~pvemu.devices.backend.GrantMapper`)."""

    def __init__(self, table: GrantTable, ram: Ram) -> None:
        self._table = table
        self._ram = ram

    def map(self, ref: int, readonly: bool) -> memoryview:
        """The granted frame's bytes; a writable mapping drops what was translated from them."""
        try:
            mfn = self._table.map_for_backend(ref, readonly)
        except GrantRefused as refused:
            raise GrantError(refused.status) from refused
        ram = self._ram
        if not readonly and mfn in ram.code_frames:
            ram.on_code_write(mfn)
        return ram.frame(mfn)

    def unmap(self, ref: int) -> None:
        """Drop one mapping."""
        self._table.unmap_for_backend(ref)


class GuestEventChannels:
    """The guest's event channels to dom0 (an :class:`~pvemu.devices.backend.EventBinder`)."""

    def __init__(self, channels: EventChannels) -> None:
        self._channels = channels

    def bind_backend(self, port: int, notify: Callable[[], None]) -> BackendChannel:
        """Bind the guest's unbound port."""
        try:
            return self._channels.bind_backend(port, notify)
        except XenError as refused:
            raise EventError(refused.errno) from refused
