from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.devices.blkback_trace import ReadRanges

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.devices.conftest import Guest


def test_nothing_read() -> None:
    assert ReadRanges().in_order() == ReadRanges().ranges() == []


def test_reads_are_joined(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    ranges = ReadRanges()
    guest.blkback.observe(ranges)
    guest.connect()
    guest.page(8)
    for sector, last in ((100, 7), (108, 7), (116, 0), (0, 1), (2, 1), (104, 3), (1, 0)):
        guest.rw(0, sector, (8, 0, last))
    guest.rw(0, 5000, (8, 0, 0))  # fails
    guest.rw(1, 300, (8, 0, 0))  # writes
    assert ranges.in_order() == [(100, 17), (0, 4), (104, 4), (1, 1)]
    assert ranges.ranges() == [(0, 4), (100, 17)]
