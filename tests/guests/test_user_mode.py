"""User mode beside the kernel, both in ring 3 (toggle_guest_mode, x86_64/entry.S switch_to_kernel)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest, MicroGuest


@pytest.fixture
def guest(micro: MakeGuest) -> MicroGuest:
    return micro("user_mode.S").run_to("poweroff")


def test_iret_to_user_mode(guest: MicroGuest) -> None:
    assert [guest.quad("user_saw", i) for i in range(4)] == [0x7777, 0x3333, 0x1111, 0x5E5E]
    assert guest.values["gs_kernel"] == guest.values["gs_kernel_again"] == 0x1C1C


def test_system_call_frame(guest: MicroGuest) -> None:
    rcx, r11, rip, cs, rflags, rsp, ss, gs = (guest.quad("frame", i) for i in range(8))
    assert rcx == rip == guest.symbols["after_syscall"]
    assert r11 & 0x203 == 0x203
    assert rflags & 0x203 == 0x203
    assert cs & 0xFFFF == 0xE033
    assert (rsp, ss, gs) == (guest.symbols["user_stack_top"], 0xE02B, 0x1C1C)
    assert guest.quad("frame_at") == guest.symbols["kernel_stack_top"] - 7 * 8


def test_exceptions_of_user_mode(guest: MicroGuest) -> None:
    log = guest.traps
    assert [(t.vector, t.error) for t in log] == [
        (13, 0), (14, 4), (3, -1), (13, 0x22 * 8 + 2), (0x21, -1), (13, 0), (13, 0),
    ]  # fmt: skip
    for trap in log:
        assert trap.cs == 0xE033  # from user mode: RPL 3
        top = guest.symbols["kernel_stack_top"]
        assert trap.entry_rsp == top - (8 if trap.error >= 0 else 7) * 8
        assert trap.rsp == guest.symbols["user_stack_top"]
    assert log[1].cr2 == 0x7FFFFF8
