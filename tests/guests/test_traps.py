"""Exceptions reach the guest's handlers with Xen's frames (xen/arch/x86/traps.c, x86_64/entry.S)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest, MicroGuest


@pytest.fixture
def traps(micro: MakeGuest) -> MicroGuest:
    return micro("traps.S").run_to("poweroff")


TRY = 12  # bytes of the store before the instruction in `try`

#: index, label, vector, error code, offset of the frame's rip from the instruction
EXPECTED = [
    (0, "at_de", 0, -1, 0),
    (1, "at_int3", 3, -1, 1),
    (2, "at_ud", 6, -1, 0),
    (3, "at_gp", 13, 0, 0),
    (4, "at_pf_read", 14, 0, 0),
    (5, "at_pf_write", 14, 2, 0),
    (6, "at_noncanonical", 13, 0, 0),
    (7, "at_selector", 13, 0x800, 0),
    (8, "at_int22", 13, 0x22 * 8 + 2, 0),
    (9, "at_int21", 0x21, -1, 2),
    (10, "at_int80", 0x80, -1, 2),
    (11, "at_int13", 13, 13 * 8 + 2, 0),
    (12, "at_int14", 13, 14 * 8 + 2, 0),
    (13, "at_int6", 13, 6 * 8 + 2, 0),
    (14, "at_int99", 13, 0x99 * 8 + 2, 0),
    (15, "at_int3_long", 3, -1, 2),
    (16, "at_icebp", 1, -1, 1),
    (17, "at_xen", 14, 1, 0),  # the linear page table has something there
    (18, "at_hole", 14, 0, 0),
    (20, "at_unaligned", 6, -1, 0),
]


def test_vector_error_code_and_rip(traps: MicroGuest) -> None:
    log = traps.traps
    got = [
        (i, label, log[i].vector, log[i].error, log[i].rip - traps.symbols[label] - TRY) for i, label, *_ in EXPECTED
    ]
    assert got == EXPECTED


def test_the_rest_of_the_frame(traps: MicroGuest) -> None:
    for i, trap in enumerate(traps.traps):
        assert trap.cs == 0xE030, i  # RPL 0 says: from kernel mode
        assert (trap.ss, trap.handler_cs, trap.handler_ss) == (0xE02B, 0xE033, 0xE02B), i
        assert trap.entry_rsp % 16 == (0 if trap.error >= 0 else 8), i  # 8 or 7 words below a multiple of 16
        assert trap.saved_mask == 1, i
        assert not trap.rflags & 0x200, i  # upcalls are masked: IF reads 0
        assert not trap.handler_rflags & 0x100, i
    first = traps.traps[0]
    assert (first.rcx, first.r11) == (0x1234567890ABCDEF, 0x1122334455667788)


def test_cr2_is_the_exact_address(traps: MicroGuest) -> None:
    log = traps.traps
    assert log[4].cr2 == log[5].cr2 == 0x666666666008
    assert log[17].cr2 == 0xFFFF_8100_0000_0000
    assert log[18].cr2 == 0xFFFF_8070_0000_0000


def test_jump_into_the_hypervisor_is_a_page_fault(traps: MicroGuest) -> None:
    trap = traps.traps[19]
    assert (trap.vector, trap.error, trap.rip) == (14, 0x10, 0xFFFF_82D0_4000_0000)


def test_frame_below_an_unaligned_stack(traps: MicroGuest) -> None:
    trap = traps.traps[20]
    assert trap.rsp % 16 == 13 - 8
    assert trap.entry_rsp == (trap.rsp & ~15) - 7 * 8


def test_single_step(traps: MicroGuest) -> None:
    trap = traps.traps[21]
    assert (trap.vector, trap.error) == (1, -1)
    assert trap.rip == traps.symbols["stepped"]
    assert trap.rflags & 0x100
    assert traps.machine.vcpu.get_debugreg(6) & 0x4000


def test_repeated_faults_never_become_double_faults(traps: MicroGuest) -> None:
    assert [(t.vector, t.error) for t in traps.traps[22:42]] == [(13, 0)] * 20
    assert len(traps.traps) == 42
