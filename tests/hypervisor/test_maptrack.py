"""Handles of grant mappings: their order, one list for each vcpu, and what happens when there are no more."""

from __future__ import annotations

from pvemu.hypervisor.grant_table.maptrack import Maptrack


def test_a_handle_that_was_given_back_comes_last() -> None:
    maptrack = Maptrack(1024)
    assert [maptrack.get() for _ in range(3)] == [0, 1, 2]
    maptrack.put(1)
    assert [maptrack.get() for _ in range(253)] == list(range(3, 256))
    # one stays in the list: a new frame's come before it
    assert [maptrack.get() for _ in range(256)] == list(range(256, 512))
    maptrack.put(300)
    assert [maptrack.get(), maptrack.get()] == [1, 512]


def test_each_vcpu_has_its_own() -> None:
    maptrack = Maptrack(2)
    assert [maptrack.get(), maptrack.get()] == [0, 1]
    maptrack.vcpu = 1
    assert [maptrack.get(), maptrack.get()] == [256, 257]
    maptrack.put(0)  # unmapped by vcpu 1: it goes back to vcpu 0
    maptrack.put(257)
    assert [maptrack.get() for _ in range(254)] == list(range(258, 512))
    maptrack.vcpu = 0
    assert [maptrack.get() for _ in range(254)] == list(range(2, 256))


def test_a_vcpu_without_any_takes_them_from_another() -> None:
    """get_maptrack_handle: one is taken to stay in its list, and one to be used."""
    maptrack = Maptrack(1)
    assert maptrack.get() == 0
    maptrack.vcpu = 1
    assert maptrack.get() == 2
    maptrack.put(2)
    assert [maptrack.get(), maptrack.get()] == [1, 3]
    maptrack.vcpu = 0
    assert [maptrack.get() for _ in range(252)] == [*range(4, 255), None][:252]
    assert maptrack.get() is None


def test_there_may_be_none_at_all() -> None:
    assert Maptrack(0).get() is None
