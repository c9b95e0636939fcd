from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from hypercalls.errors import XenError
from pvemu.devices.backend import EventError, GrantError
from pvemu.devices.ports import GuestEventChannels, GuestGrants
from pvemu.frames import Mfn
from pvemu.hypervisor.grant_table import GrantRefused
from pvemu.memory.ram import Ram

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.event_channel import EventChannels
    from pvemu.hypervisor.grant_table import GrantTable


class OneGrant:
    """Reference 8 grants frame 101."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def map_for_backend(self, ref: int, readonly: bool) -> Mfn:
        self.calls.append(("map", ref))
        if ref != 8:
            raise GrantRefused(-3, "bad reference")
        return Mfn(101)

    def unmap_for_backend(self, ref: int) -> None:
        self.calls.append(("unmap", ref))


def test_a_grant_is_the_frame_itself() -> None:
    ram = Ram(Mfn(100), 4)
    table = OneGrant()
    grants = GuestGrants(cast("GrantTable", table), ram)
    page = grants.map(8, False)
    page[5] = 77
    assert len(page) == 4096
    assert ram.frame(Mfn(101))[5] == 77
    grants.unmap(8)
    assert table.calls == [("map", 8), ("unmap", 8)]


def test_a_refused_grant_keeps_its_status() -> None:
    grants = GuestGrants(cast("GrantTable", OneGrant()), Ram(Mfn(100), 4))
    with pytest.raises(GrantError) as caught:
        grants.map(9, True)
    assert caught.value.status == -3


def test_code_in_a_page_that_is_mapped_for_writing_is_dropped() -> None:
    ram = Ram(Mfn(100), 4)
    ram.code_frames.add(101)
    dropped: list[int] = []
    ram.on_code_write = dropped.append
    grants = GuestGrants(cast("GrantTable", OneGrant()), ram)
    grants.map(8, True)
    assert dropped == []
    grants.map(8, False)
    assert dropped == [101]


def test_a_refused_channel_keeps_its_errno() -> None:
    class NoChannels:
        def bind_backend(self, port: int, notify: Callable[[], None]) -> None:
            raise XenError(22)

    with pytest.raises(EventError) as caught:
        GuestEventChannels(cast("EventChannels", NoChannels())).bind_backend(3, lambda: None)
    assert caught.value.errno == 22
