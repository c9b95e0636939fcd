"""Far calls and jumps through call gates, which Xen emulates for 32-bit guests (pv/emul-gate-op.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest, MicroGuest

NP, GP = 11, 13


@pytest.fixture
def guest(micro: MakeGuest) -> MicroGuest:
    return micro("call_gates32.S", bits=32).run_to("poweroff")


def test_a_call_within_the_kernel_returns(guest: MicroGuest) -> None:
    values = guest.values
    assert values["set_gdt"] == values["stack_left"] == 0
    assert (values["ring1_eip"], values["ring1_cs"]) == (guest.symbols["back"], 0xE019)
    assert values["jumped"] == 1


def test_a_call_of_user_mode_gets_the_kernels_stack(guest: MicroGuest) -> None:
    values = guest.values
    assert values["user_target_cs"] == 0xE019
    assert (values["user_eip"], values["user_cs"]) == (guest.symbols["user_after"], 0xE02B)
    assert (values["parameter0"], values["parameter1"]) == (0x1111, 0x2222)
    assert (values["user_esp"], values["user_ss"]) == (guest.symbols["user_stack"] + 4096 - 8, 0xE033)
    assert values["user_room"] == (1 << 32) - 24


def test_what_leads_nowhere(guest: MicroGuest) -> None:
    got = [(trap.vector, trap.error) for trap in guest.traps32]
    assert got == [(NP, 0x10), (GP, 0), (GP, 0x28)]
