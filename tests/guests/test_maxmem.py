"""A domain whose maxmem is more than its memory: what it is told of, what it starts with, what it may have."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hypercalls.context import E820Entry
from hypercalls.errors import XenError
from pvemu.config import DomainConfig
from pvemu.errors import ConfigError
from pvemu.machine import Machine

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest


def test_it_is_told_of_what_it_may_have_some_day(micro: MakeGuest) -> None:
    path = micro("main: poweroff").path
    config = DomainConfig(kernel=str(path), memory_mib=16, maxmem_mib=24)
    machine = Machine.create(config)
    reservation = machine.reservation
    assert machine.nr_pages == reservation.current_reservation() == 4096
    assert reservation.memory_map() == [E820Entry(0, 24 << 20, 1)]
    store = machine.xenstore.client()
    assert store.read("/local/domain/1/memory/static-max") == b"24576"
    assert store.read("/local/domain/1/memory/target") == b"16384"
    assert reservation.maximum_reservation() == 4096 + 256  # target and a MiB, as libxl sets it
    for gpfn in range(4096, 4352):
        reservation.populate_physmap(gpfn, 0)
    with pytest.raises(XenError):
        reservation.populate_physmap(4352, 0)
    machine.close()
    again = Machine.create(replace(config, maxmem_mib=0))
    assert again.reservation.memory_map() == [E820Entry(0, 16 << 20, 1)]
    again.close()


def test_a_maxmem_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="maxmem 8: is at least the guest's memory, 16 MiB"):
        DomainConfig(kernel="k", memory_mib=16, maxmem_mib=8)
