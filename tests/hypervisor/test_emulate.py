"""Decoding prefixes, opcodes and memory operands (xen/arch/x86/pv/emulate.c, x86_emulate.c)."""

from __future__ import annotations

from typing import Any

import pytest

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from pvemu.hypervisor.traps.emulate import CodeReader, Instruction, decode

CODE = 0x1FF8
SEGMENTS = {
    0xE033: 0x00AF_FB00_0000_FFFF, 0xE019: 0x00CF_BB00_0000_FFFF, 0x10: 0x0000_B300_0000_FFFF,
    0x18: 0x0040_F700_1000_0FFF,  # expand-down, base 0x1000, limit 0xfff
    0x21: 0x00C7_F300_0000_FFFF,  # 2 GiB
}  # fmt: skip


class Cpu:
    """Registers, memory and descriptors of a test."""

    def __init__(self, code: str, cs: int = 0xE033, **registers: int) -> None:
        self.registers = {"rip": CODE, "cs": cs, "ss": 0x21, "ds": 0x21, "es": 0x21, "fs": 0x21, "gs": 0} | registers
        self.memory = bytes.fromhex(code)

    def read(self, name: str) -> int:
        return self.registers.get(name, 0)

    def write(self, name: str, value: int) -> None:
        raise NotImplementedError

    def copy_from_guest(self, vaddr: int, size: int) -> bytes:
        if vaddr >= 0x2000 > len(self.memory) + CODE:
            raise XenError(e.EFAULT)
        return self.memory[vaddr - CODE : vaddr - CODE + size]

    @property
    def code(self) -> CodeReader:
        memory: Any = self  # of guest memory it needs copy_from_guest alone
        return CodeReader(self, memory, lambda selector: SEGMENTS.get(selector, 0), self.read("cs") != 0xE033)


@pytest.mark.parametrize(("code", "bits", "opcode", "length", "rex", "segment", "operand", "address"), [
    ("90", 64, 0x90, 1, 0, None, 4, 8),
    ("480f22c0", 64, 0x0F22, 3, 0x48, None, 8, 8),
    ("4889c0", 32, 0x48, 1, 0, None, 4, 4),  # DEC: no REX there
    ("482e0fa2", 64, 0x0FA2, 4, 0, "cs", 4, 8),  # a REX that does not count
    ("66f36e", 64, 0x6E, 3, 0, None, 2, 8),
    ("67648b00", 32, 0x8B, 3, 0, "fs", 4, 2),
    ("660f3a0fc108", 64, 0x0F3A0F, 4, 0, None, 2, 8),
])  # fmt: skip
def test_decode(
    code: str, bits: int, opcode: int, length: int, rex: int, segment: str | None, operand: int, address: int
) -> None:
    found = decode(bytes.fromhex(code), bits)
    assert found is not None
    assert (found.opcode, found.length, found.rex, found.segment) == (opcode, length, rex, segment)
    assert (found.operand_size, found.address_size, found.bits) == (operand, address, bits)


@pytest.mark.parametrize("code", ["", "66", "0f", "480f", "0f38", "f0f2f3"])
def test_what_goes_on_behind_the_page_is_none(code: str) -> None:
    assert decode(bytes.fromhex(code), 64) is None
    assert Cpu(code).code.instruction() is None


@pytest.mark.parametrize(("code", "cs", "expected"), [
    ("8b03", 0xE033, ("ds", 0x300)), ("8b0424", 0xE033, ("ss", 0x400)), ("8b45f0", 0xE033, ("ss", 0x4F0)),
    ("3e8b45f0", 0xE033, ("ss", 0x4F0)), ("648b4500", 0xE033, ("fs", 0x500)), ("418b0424", 0xE033, ("ds", 0xC00)),
    ("428b44e310", 0xE033, ("ds", 0x300 + 8 * 0xC00 + 0x10)), ("8b04250400f0ff", 0xE033, ("ds", (1 << 64) - 0xFFFFC)),
    ("a1 0400000000000000", 0xE033, ("ds", 4)), ("3e8b4500", 0xE019, ("ds", 0x500)),
    ("67 8b 42 02", 0xE019, ("ss", 0xB02)),
    ("67 8b 1e 3412", 0xE019, ("ds", 0x1234)), ("6c", 0xE019, ("es", 0x700)), ("656e", 0xE033, ("gs", 0x600)),
])  # fmt: skip
def test_memory_operands(code: str, cs: int, expected: tuple[str, int]) -> None:
    cpu = Cpu(code, cs, rbx=0x300, rsp=0x400, rbp=0x500, rsi=0x600, rdi=0x700, r12=0xC00)
    instruction = cpu.code.instruction()
    assert instruction is not None
    assert cpu.code.memory_operands(instruction)[0] == expected


def test_segments_of_accesses() -> None:
    far = 1 << 47
    for code, registers, expected in (
        ("8b0424", {"rsp": far}, "ss"), ("8b03", {"rbx": far}, "ds"), ("50", {"rsp": far}, "ss"),
        ("ff33", {"rbx": far, "rsp": 0x100}, "ds"), ("90", {}, None),
    ):  # fmt: skip
        cpu = Cpu(code, **registers)
        assert cpu.code.segment_of_access(far) == expected, code


def test_limits() -> None:
    code = Cpu("90", 0xE019, ss=0x18, ds=0x21, es=0, fs=0x10).code
    assert [code.is_within_limit("ds", a) for a in (0, 0x7FFF_FFFF, 0x8000_0000)] == [True, True, False]
    assert [code.is_within_limit("ss", a) for a in (0x1000, 0x1FFF, 0x2000, 0xFFF)] == [False, False, True, True]
    assert not code.is_within_limit("es", 0)  # a null selector
    assert [code.is_within_limit("fs", a) for a in (0xFFFF, 0x10000)] == [True, False]
    assert (Cpu("90", 0xE019).code.bits(), Cpu("90").code.bits(), Cpu("90", 0x10).code.bits()) == (32, 64, 16)


def test_loads_of_ss() -> None:
    assert decode(b"\x8e\xd0", 64) is not None
    for code, bits, expected in (("8ed0", 64, True), ("8ec0", 64, False), ("17", 32, True), ("17", 64, False)):
        found = decode(bytes.fromhex(code), bits)
        assert isinstance(found, Instruction)
        assert found.loads_ss is expected
