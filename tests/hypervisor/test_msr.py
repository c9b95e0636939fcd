"""Which MSRs a PV guest may read and write, case by case (xen/arch/x86/msr.c, pv/emul-priv-op.c, mcheck/vmce.c)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hypercalls.context import TrapEntry
from hypercalls.errors import XenError
from pvemu.hypervisor.time import VirtualClock
from pvemu.hypervisor.traps.msr import Msrs
from pvemu.hypervisor.tsc import Tsc

ONES = (1 << 64) - 1
GP, OK = None, True


class Registers(dict[str, int]):
    """fs_base and gs_base."""

    def read(self, name: str) -> int:
        return self[name]

    def write(self, name: str, value: int) -> None:
        self[name] = value


class World:
    """A vcpu with a #GP handler, and one frame that may be written."""

    def __init__(self, is_compat: bool = False) -> None:
        table = [TrapEntry(0, 0, 0, 0)] * 13 + [TrapEntry(13, 0, 0xE033, 0x1000)]
        vcpu: Any = SimpleNamespace(trap_table=table, gs_base_user=7, regs=Registers(fs_base=1, gs_base=2))
        self.vcpu = vcpu
        self.written: list[tuple[int, bytes]] = []
        memory: Any = SimpleNamespace(write=lambda maddr, data: self.written.append((maddr, data)))
        types: Any = SimpleNamespace(get_page_and_type=self.get, put_page_and_type=lambda mfn: None)
        self.msrs = Msrs(self.vcpu, Tsc(VirtualClock()), memory, types, b"page", is_compat)

    def get(self, mfn: int, kind: object) -> None:
        if mfn != 0x123:
            raise XenError(22)


@pytest.mark.parametrize(("number", "read", "write", "write_0"), [
    (0x0, 0, GP, GP), (0x1, 0, GP, GP), (0x17, GP, GP, GP), (0x1B, 0xFEE00900, GP, GP), (0x3A, GP, GP, GP),
    (0x48, GP, GP, GP), (0x49, GP, GP, GP), (0x79, GP, GP, GP), (0x8B, 0x01000065, GP, GP), (0xC1, GP, GP, GP),
    (0xCE, 0, GP, GP), (0xE7, GP, OK, OK), (0xE8, GP, OK, OK), (0x10A, GP, GP, GP), (0x140, 0, GP, OK),
    (0x179, 2, OK, OK), (0x17A, 0, OK, OK), (0x17B, 0, OK, OK), (0x186, GP, GP, GP), (0x198, GP, GP, GP),
    (0x199, GP, GP, GP), (0x19A, GP, GP, GP), (0x19C, GP, GP, GP), (0x1A0, 0x801801, OK, OK), (0x1B0, GP, GP, GP),
    (0x1D9, GP, GP, GP), (0x277, 0x50100070406, GP, GP), (0x280, 0, OK, OK), (0x29F, 0, OK, OK), (0x309, GP, GP, GP),
    (0x345, 0, GP, GP), (0x38F, GP, GP, GP), (0x400, ONES, OK, OK), (0x401, 0, GP, OK), (0x407, 0, GP, OK),
    (0x408, 0, OK, OK), (0x47F, 0, OK, OK), (0x480, GP, GP, GP), (0x4D0, GP, GP, GP), (0x800, GP, GP, GP),
    (0xDA0, GP, GP, GP), (0x4000_0000, 0, GP, GP), (0x4000_0001, GP, GP, GP), (0xC000_0080, 0xD01, GP, GP),
    (0xC000_0081, GP, GP, GP), (0xC000_0103, 0, OK, OK), (0xC001_0000, 0, OK, OK), (0xC001_0007, 0, OK, OK),
    (0xC001_0010, GP, GP, GP), (0xC001_0015, 0, OK, OK), (0xC001_001F, 0, OK, OK), (0xC001_0020, GP, GP, GP),
    (0xC001_0041, 0, OK, OK), (0xC001_0058, GP, GP, GP), (0xC001_006B, 0, OK, OK), (0xC001_011F, GP, GP, GP),
    (0xC001_020B, 0, OK, OK), (0xC001_02F0, GP, GP, GP), (0xC001_1019, GP, GP, GP), (0xC001_1029, 2, OK, OK),
])  # fmt: skip
def test_each(number: int, read: int | None, write: bool | None, write_0: bool | None) -> None:
    msrs = World().msrs
    assert msrs.read(number) == read
    assert (msrs.write(number, 0x5A5A_0F01), World().msrs.write(number, 0)) == (bool(write), bool(write_0))


def test_what_keeps_its_value() -> None:
    world = World()
    msrs, regs = world.msrs, world.vcpu.regs
    assert [msrs.read(n) for n in (0xC000_0100, 0xC000_0101, 0xC000_0102)] == [1, 2, 7]
    assert msrs.write(0xC000_0100, 0xFFFF_8000_0000_0000)
    assert msrs.write(0xC000_0102, 0x1234)
    assert not msrs.write(0xC000_0101, 1 << 47)
    assert (regs, world.vcpu.gs_base_user) == ({"fs_base": 0xFFFF_8000_0000_0000, "gs_base": 2}, 0x1234)
    assert msrs.write(0x17A, 5)
    assert msrs.read(0x17A) == 5
    assert msrs.write(0xC000_0080, 0xD01)
    assert msrs.write(0xC000_0103, 0xFFFF_FFFF)
    assert not msrs.write(0xC000_0103, 1 << 32)
    assert msrs.read(0xC000_0103) == msrs.tsc_aux == 0xFFFF_FFFF


def test_32_bit_domains_have_no_long_mode() -> None:
    msrs = World(is_compat=True).msrs
    assert [msrs.read(n) for n in (0xC000_0080, 0xC000_0100)] == [0x801, None]
    assert not msrs.write(0xC000_0100, 0)
    assert msrs.write(0xC000_0080, 0x801)


def test_hypercall_page() -> None:
    world = World()
    assert world.msrs.write(0x4000_0000, 0x123000)
    assert world.written == [(0x123000, b"page")]
    assert not world.msrs.write(0x4000_0000, 0x123001)
    assert not world.msrs.write(0x4000_0000, 0x124000)


def test_reads_are_faked_for_a_kernel_that_takes_no_fault() -> None:
    world = World()
    world.vcpu.trap_table[13] = TrapEntry(0, 0, 0, 0)
    assert (world.msrs.read(0x17), world.msrs.read(0x4000_0001)) == (0, None)
    assert not world.msrs.write(0x17, 0)
