"""Page tables of the guest's own making: stores to them, updates, pins (xen/arch/x86/mm.c, pv/ro-page-fault.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest, MicroGuest

EINVAL, EBUSY = (1 << 64) - 22, (1 << 64) - 16


@pytest.fixture
def guest(micro: MakeGuest) -> MicroGuest:
    return micro("writable_tables.S").run_to("poweroff")


def test_stores_to_a_level_1_table_are_emulated(guest: MicroGuest) -> None:
    values = guest.values
    assert values["entry"] >> 12 & 0xFF_FFFF_FFFF == guest.maddr(guest.symbols["target"]) >> 12
    assert values["xchg_old"] == values["entry"]
    assert values["xchg_new"] == 0
    assert values["back"] == 0x55
    assert (values["btr_carry"], values["cmpxchg_zf"]) == (1, 1)
    assert [(t.vector, t.error) for t in guest.traps[1:3]] == [(14, 0), (14, 3)]


def test_stores_that_an_update_would_refuse_fault(guest: MicroGuest) -> None:
    without_assist, refused, level_4 = guest.traps[0], *guest.traps[3:]
    assert (without_assist.vector, without_assist.error) == (14, 3)
    assert (refused.vector, refused.error, refused.rip) == (14, 3, guest.symbols["at_bad"] + 12)
    assert (level_4.vector, level_4.error) == (14, 3)


def test_refusals(guest: MicroGuest) -> None:
    values = guest.values
    assert values["writable_table"] == EBUSY
    assert values["foreign"] == EBUSY  # somebody else's memory
    assert values["xen_slot"] == EINVAL


def test_pins(guest: MicroGuest) -> None:
    values = guest.values
    assert values["pin_writable"] == EINVAL
    assert values["make_readonly"] == 0
    assert values["pin_bad"] == EBUSY
    assert values["make_writable"] == 0  # the failed pin has left nothing behind
    assert values["pin_good"] == 0
    assert values["map_pinned"] == EBUSY
    assert values["unpin"] == 0
    assert values["unpin_twice"] == EINVAL
    assert values["writable_again"] == 0
