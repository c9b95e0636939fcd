"""The disk of strictness (pvemu.strict.disk): every request is answered once and rightly, late and in any order."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from hypercalls.public.io import blkif
from pvemu.strict.disk import UnorderedBlkifRing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.devices.conftest import Guest

READS = 20


def connected(make_guest: Callable[..., Guest], seed: int) -> Guest:
    rng = random.Random(seed)

    def make_ring(**how: Any) -> UnorderedBlkifRing:
        return UnorderedBlkifRing(rng, **how)

    guest = make_guest(make_ring=make_ring)
    guest.connect()
    return guest


def read_all(guest: Guest) -> list[tuple[int, int, int]]:
    for i in range(READS):
        guest.page(10 + i)
        guest.put_read(i * 8, 10 + i, id=i)
    answered = guest.push()
    assert answered == []  # nothing comes at once
    while len(answered) < READS:
        guest.clock.run()
        answered += guest.responses()
    return answered


@pytest.mark.parametrize("seed", range(3))
def test_each_request_is_answered_once_and_with_its_own_data(make_guest: Callable[..., Guest], seed: int) -> None:
    guest = connected(make_guest, seed)
    answered = read_all(guest)
    assert sorted(answered) == [(i, blkif.BLKIF_OP_READ, blkif.BLKIF_RSP_OKAY) for i in range(READS)]
    assert [one[0] for one in answered] != list(range(READS))
    for i in range(READS):
        assert bytes(guest.grants.pages[10 + i][:512]) == b"%08d" % (i * 8) * 64


def test_the_order_is_the_seed_s(make_guest: Callable[..., Guest]) -> None:
    assert read_all(connected(make_guest, 1)) == read_all(connected(make_guest, 1))
    assert read_all(connected(make_guest, 1)) != read_all(connected(make_guest, 2))


@pytest.mark.parametrize("seed", range(5))
def test_nothing_overtakes_a_flush(make_guest: Callable[..., Guest], seed: int) -> None:
    guest = connected(make_guest, seed)
    guest.page(8)
    for i in range(4):
        guest.put_read(0, 8, id=i)
    guest.put(blkif.blkif_request(operation=blkif.BLKIF_OP_FLUSH_DISKCACHE, id=100))
    for i in range(4, 8):
        guest.put_read(0, 8, id=i)
    answered = guest.push()
    while len(answered) < 9:
        guest.clock.run()
        answered += guest.responses()
    identities = [one[0] for one in answered]
    assert sorted(identities[:4]) == [0, 1, 2, 3]
    assert identities[4] == 100
    assert sorted(identities[5:]) == [4, 5, 6, 7]


def test_a_front_end_that_lies_is_left_alone(make_guest: Callable[..., Guest]) -> None:
    guest = connected(make_guest, 0)
    guest.poke("req_prod", 1000)
    guest.events.channels[-1].send()
    assert "Frontend provided bogus ring requests" in guest.klog[0]
    guest.clock.run()
    assert guest.responses() == []
