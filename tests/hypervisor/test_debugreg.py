"""Debug registers by themselves (xen/arch/x86/pv/misc-hypercalls.c set_debugreg)."""

from __future__ import annotations

import pytest

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from pvemu.hypervisor.traps.debugreg import Breakpoint, DebugRegisters


@pytest.fixture
def registers() -> DebugRegisters:
    return DebugRegisters()


def refused(errno: int, registers: DebugRegisters, reg: int, value: int) -> None:
    with pytest.raises(XenError) as refusal:
        registers.write(reg, value)
    assert refusal.value.errno == errno


def test_breakpoints_are_aligned_to_their_size(registers: DebugRegisters) -> None:
    for n, address in enumerate((0x1003, 0x1003, 0x100F, 0x1001)):
        registers.write(n, address)
    registers.write(7, 0x9_D_3_0 << 16 | 0x55)  # from DR3: 8 bytes written, 4 written, 1 read or written, fetched
    assert registers.breakpoints == [
        Breakpoint(0, 0x1003, 0x1004, True, True), Breakpoint(1, 0x1003, 0x1004, False, True),
        Breakpoint(2, 0x100C, 0x1010, False, False), Breakpoint(3, 0x1000, 0x1008, False, False),
    ]  # fmt: skip
    registers.write(7, 0x9_D_3_0 << 16)
    assert registers.breakpoints == []


def test_ports_need_the_extensions(registers: DebugRegisters) -> None:
    registers.write(1, 0x3F8)
    io = 0x0060_0000 | 8 | 0x400  # DR1, two ports
    refused(e.EPERM, registers, 7, io)
    registers.has_extensions = True
    registers.write(7, io)
    assert (registers.read(7), registers.dr7, registers.breakpoints) == (io, io & ~8, [])
    accesses = ((0x3F8, 1), (0x3F9, 1), (0x3FA, 1), (0x3F6, 4))
    assert [registers.io_match(port, size) for port, size in accesses] == [2, 2, 0, 2]
    registers.has_extensions = False
    assert registers.io_match(0x3F8, 1) == 0
    refused(e.EPERM, registers, 7, io)
    assert registers.read(7) == io, "a refused write changes nothing"
    registers.write(7, 0)
    assert registers.read(7) == 0x400


def test_aliases_end_with_the_extensions(registers: DebugRegisters) -> None:
    registers.write(4, 0x4000)
    assert registers.read(4) == registers.read(6) == 0xFFFF_4FF0
    registers.has_extensions = True
    for reg in (4, 5):
        refused(e.ENODEV, registers, reg, 0)
        with pytest.raises(XenError):
            registers.read(reg)


def test_changes_are_told(registers: DebugRegisters) -> None:
    told = []
    registers.on_change = lambda: told.append(len(registers.breakpoints))
    registers.write(0, 0x1000)
    registers.write(6, 0)
    registers.write(7, 1)
    assert told == [0, 1]
