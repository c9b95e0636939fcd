"""dom0's view of the guest, as back-ends want it: its grants mapped, its event channels bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from pvemu.devices.backend import EventError, GrantError
from pvemu.hypervisor.grant_table import GrantRefusedError, GrantTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.event_channel import BackendChannel, EventChannels
    from pvemu.memory.ram import Ram

__all__ = ["EventBinder", "GrantMapper"]


class GrantMapper:
    """dom0's view of the guest's grants, as back-ends want it."""

    def __init__(self, ram: Ram, grants: GrantTable) -> None:
        self._ram = ram
        self._grants = grants

    def map(self, ref: int, readonly: bool) -> memoryview:
        """The frame that the guest granted under ``ref``; GrantError with Xen's status."""
        try:
            mfn = self._grants.map_for_backend(ref, readonly)
        except GrantRefusedError as refused:
            raise GrantError(refused.status) from None
        if not readonly and mfn in self._ram.code_frames:
            self._ram.on_code_write(mfn)
        view = self._ram.frame(mfn)
        return view.toreadonly() if readonly else view

    def unmap(self, ref: int) -> None:
        """Undo one ``map``."""
        self._grants.unmap_for_backend(ref)


class EventBinder:
    """dom0's end of event channels, as back-ends want it."""

    def __init__(self, events: EventChannels) -> None:
        self._events = events

    def bind_backend(self, port: int, notify: Callable[[], None]) -> BackendChannel:
        """Bind a port that the guest offers; EventError with Xen's errno."""
        try:
            return self._events.bind_backend(port, notify)
        except XenError as error:
            raise EventError(error.errno) from None
