"""Reading the guest's instructions and segment descriptors, for what Xen emulates (xen/arch/x86/pv/emulate.c, and of
x86_emulate.c the decoding of prefixes and memory operands).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hypercalls.errors import XenError
from pvemu.cpu.registers import GENERAL_64
from pvemu.frames import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.cpu.registers import Registers
    from pvemu.hypervisor.guest_access import GuestMemory

__all__ = ["MODRM_ORDER", "CodeReader", "Instruction", "MemoryOperand", "Segment", "decode"]

#: General registers by their number in instructions.
MODRM_ORDER = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *GENERAL_64[8:])
_U64, _U32, _U16 = 0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF, 0xFFFF
_MAX_LENGTH = 15
_SEGMENT_PREFIXES = {0x26: "es", 0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0x64: "fs", 0x65: "gs"}
_REP_PREFIXES = frozenset((0xF2, 0xF3))
_SP, _BP = 4, 5
#: One-byte opcodes with a ModRM byte: the arithmetic rows, and single ones.
_MODRM = frozenset((
    *(row + n for row in range(0, 0x40, 8) for n in range(4)), 0x62, 0x63, 0x69, 0x6B, *range(0x80, 0x90), 0xC0, 0xC1,
    0xC4, 0xC5, 0xC6, 0xC7, *range(0xD0, 0xD4), *range(0xD8, 0xE0), 0xF6, 0xF7, 0xFE, 0xFF,
))  # fmt: skip
#: Two-byte opcodes without one.
_NO_MODRM_0F = frozenset((
    0x05, 0x06, 0x07, 0x08, 0x09, 0x0B, 0x0E, *range(0x30, 0x38), 0x77, *range(0x80, 0x90), 0xA0, 0xA1, 0xA2, 0xA8,
    0xA9, 0xAA, *range(0xC8, 0xD0),
))  # fmt: skip
_POP_SS, _MOV_SREG, _SS = 0x17, 0x8E, 2
#: MOV between an accumulator and an absolute address.
_MOFFS = frozenset(range(0xA0, 0xA4))
#: PUSH, POP, CALL, RET, ENTER, LEAVE, IRET and their like go by the stack pointer.
_BY_STACK = frozenset((
    0x06, 0x07, 0x0E, 0x16, 0x17, 0x1E, 0x1F, *range(0x50, 0x62), 0x68, 0x6A, 0x8F, 0x9A, 0x9C, 0x9D, 0xC2, 0xC3, 0xC8,
    0xC9, 0xCA, 0xCB, 0xCF, 0xE8, 0xFF, 0x0FA0, 0x0FA1, 0x0FA8, 0x0FA9,
))  # fmt: skip
#: No operand is longer.
_LONGEST_OPERAND = 512
#: INS MOVS CMPS STOS LODS SCAS and OUTS go by rsi and rdi.
_BY_SI, _BY_DI = frozenset((0x6E, 0x6F, 0xA4, 0xA5, 0xA6, 0xA7, 0xAC, 0xAD)), frozenset((
    0x6C, 0x6D, 0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAE, 0xAF))  # fmt: skip
#: Base and index registers of 16-bit addressing, by r/m.
_PAIRS_16 = ((3, 6), (3, 7), (5, 6), (5, 7), (6,), (7,), (5,), (3,))


class Segment(NamedTuple):
    """A descriptor as pv_emul_read_descriptor gives it; ``ar`` are its bits 32..63 that describe it."""

    base: int
    limit: int
    ar: int

    @property
    def dpl(self) -> int:
        """Descriptor privilege level."""
        return self.ar >> 13 & 3


class MemoryOperand(NamedTuple):
    """Where an instruction's ModRM byte, or its implied pointer, points: segment and offset."""

    segment: str
    offset: int


class Instruction(NamedTuple):
    """Prefixes and opcode at the front of an instruction; ``rest`` are the bytes behind, ``length`` its start."""

    opcode: int  #: 0x0f00 and more for two-byte opcodes, 0x0f3800 for three
    rest: bytes
    length: int
    rex: int = 0
    is_locked: bool = False
    segment: str | None = None  #: an override
    rep: int = 0  #: the last of F2 and F3
    operand_size: int = 4  #: bytes, 2 or 4; 8 with REX.W
    address_size: int = 8  #: bytes, 2, 4 or 8
    bits: int = 64  #: of the code segment

    @property
    def is_rep(self) -> bool:
        """Whether a string instruction repeats."""
        return self.rep != 0

    @property
    def modrm(self) -> int | None:
        """The ModRM byte, None where the opcode has none."""
        if self.opcode < 0x100:
            has_one = self.opcode in _MODRM
        else:
            has_one = self.opcode > 0xFFFF or self.opcode & 0xFF not in _NO_MODRM_0F
        return self.rest[0] if has_one and self.rest else None

    @property
    def modrm_length(self) -> int:
        """Bytes of ModRM, SIB and displacement of a memory operand (of 32- or 64-bit addressing)."""
        modrm = self.modrm
        if modrm is None or modrm >= 0xC0:
            return 0 if modrm is None else 1
        mod, rm = modrm >> 6, modrm & 7
        if self.address_size == 2:
            return 1 + (2 if mod == 2 or (mod, rm) == (0, 6) else mod)
        sib = rm == _SP
        base = self.rest[1] & 7 if sib and len(self.rest) > 1 else rm
        return 1 + sib + (4 if mod == 2 or (mod == 0 and base == _BP) else mod)

    def through(self, segment: str) -> str:
        """The segment used where ``segment`` is the default: 64-bit code overrides it by FS and GS only."""
        if self.segment is not None and (self.bits < 64 or self.segment in ("fs", "gs")):
            return self.segment
        return segment

    @property
    def loads_ss(self) -> bool:
        """Whether it is a MOV or POP to SS, behind which no #DB comes for one instruction."""
        if self.opcode == _MOV_SREG:
            return bool(self.rest) and self.rest[0] >> 3 & 7 == _SS
        return self.opcode == _POP_SS and self.bits < 64


def decode(code: bytes, bits: int) -> Instruction | None:
    """What stands at the front of ``code``, for a code segment of 64, 32 or 16 bits; None where it goes on behind."""
    at, rex, is_locked, rep, segment = 0, 0, False, 0, None
    operand_size, address_size = (2 if bits == 16 else 4), bits // 8
    while at < len(code):
        byte = code[at]
        at += 1
        if bits == 64 and byte & 0xF0 == 0x40:
            rex = byte
            continue
        if byte == 0xF0:
            is_locked = True
        elif byte in _SEGMENT_PREFIXES:
            segment = _SEGMENT_PREFIXES[byte]
        elif byte in _REP_PREFIXES:
            rep = byte
        elif byte == 0x66:
            operand_size = 4 if bits == 16 else 2
        elif byte == 0x67:
            address_size = {64: 4, 32: 2, 16: 4}[bits]
        else:
            opcode = byte
            if byte == 0x0F:
                for _ in range(2 if code[at : at + 1] in (b"\x38", b"\x3a") else 1):
                    if at >= len(code):
                        return None
                    opcode = opcode << 8 | code[at]
                    at += 1
            if rex & 8:
                operand_size = 8
            return Instruction(
                opcode, code[at:], at, rex, is_locked, segment, rep, operand_size, address_size, bits
            )
        rex = 0  # REX counts only right before the opcode
    return None


class CodeReader:
    """Decodes what stands at rip. ``read_descriptor`` is the quad of a selector in the vcpu's tables, 0 where there
    is none; ``is_compat`` says that the domain is of 32 bits.
    """

    def __init__(
        self, regs: Registers, guest: GuestMemory, read_descriptor: Callable[[int], int], is_compat: bool
    ) -> None:
        self._regs = regs
        self._guest = guest
        self._read_descriptor = read_descriptor
        self._is_compat = is_compat

    def segment(self, selector: int) -> Segment:
        """pv_emul_read_descriptor."""
        desc = self._read_descriptor(selector) if selector >= 4 else 0
        a, b = desc & _U32, desc >> 32
        limit = b & 0xF_0000 | a & 0xFFFF
        if b & 1 << 23:
            limit = limit << 12 | 0xFFF
        return Segment(b & 0xFF00_0000 | (b & 0xFF) << 16 | a >> 16, limit, b & 0x00F0_FF00)

    def bits(self) -> int:
        """Width of the code that runs: 64, 32 or 16."""
        ar = self.segment(self._regs.read("cs")).ar
        if ar & 1 << 21 and not self._is_compat:
            return 64
        return 32 if ar & 1 << 22 else 16

    def linear(self, segment: str, offset: int, bits: int) -> int:
        """Linear address of an offset in a segment."""
        if bits == 64:
            base = self._regs.read(segment + "_base") if segment in ("fs", "gs") else 0
            return (base + offset) & _U64
        return (self.segment(self._regs.read(segment)).base + offset) & _U32

    def rip(self) -> int:
        """Linear address of the next instruction."""
        return self.linear("cs", self._regs.read("rip"), self.bits())

    def rsp(self) -> int:
        """Linear address of the top of the stack."""
        return self.linear("ss", self._regs.read("rsp"), self.bits())

    def opcode(self, rip: int) -> int:
        """Of the instruction at ``rip``; -1 where it cannot be read."""
        instruction = self.instruction(rip)
        return -1 if instruction is None else instruction.opcode

    def instruction(self, rip: int | None = None) -> Instruction | None:
        """What is to run next, or stands at ``rip``, as far as its opcode; None where it cannot be read."""
        bits = self.bits()
        at = self.linear("cs", self._regs.read("rip") if rip is None else rip, bits)
        code = b""
        size = min(_MAX_LENGTH, PAGE_SIZE - at % PAGE_SIZE)
        try:
            code = self._guest.copy_from_guest(at, size)
            code += self._guest.copy_from_guest(at + size, _MAX_LENGTH - size)
        except XenError:
            pass  # it may well end before the page that is not there
        return decode(code, bits)

    def segment_of_access(self, address: int) -> str | None:
        """Through which segment the next instruction gets to linear ``address``; None where it does not say."""
        instruction = self.instruction()
        if instruction is None:
            return None
        for operand in self.memory_operands(instruction):
            start = self.linear(operand.segment, operand.offset, instruction.bits)
            if (address - start) & _U64 < _LONGEST_OPERAND:
                return operand.segment
        return "ss" if instruction.opcode in _BY_STACK else None

    def touches(self, address: int) -> bool:
        """Whether the next instruction itself gets to linear ``address``; else the CPU does, for a descriptor."""
        instruction = self.instruction()
        if instruction is None:
            return True
        starts = [self.linear(*operand, instruction.bits) for operand in self.memory_operands(instruction)]
        if instruction.opcode in _BY_STACK:
            starts.append((self.rsp() - _LONGEST_OPERAND // 2) & _U64)
        return any((address - start) & _U64 < _LONGEST_OPERAND for start in starts)

    def is_within_limit(self, segment: str, address: int) -> bool:
        """Whether 32-bit code may get to linear ``address`` through ``segment``."""
        selector = self._regs.read(segment)
        found = self.segment(selector)
        offset = (address - found.base) & _U32
        if selector < 4:
            return False
        if found.ar & (1 << 11 | 1 << 10) == 1 << 10:  # data, expand-down
            return found.limit < offset <= (_U32 if found.ar & 1 << 22 else _U16)
        return offset <= found.limit

    def memory_operands(self, instruction: Instruction) -> list[MemoryOperand]:
        """What it points to, apart from the stack."""
        mask = (1 << 8 * instruction.address_size) - 1
        opcode, read = instruction.opcode, self._regs.read
        found = []
        if opcode in _BY_SI:
            found.append(MemoryOperand(instruction.through("ds"), read("rsi") & mask))
        if opcode in _BY_DI:
            found.append(MemoryOperand("es", read("rdi") & mask))
        if opcode in _MOFFS:
            offset = int.from_bytes(instruction.rest[: instruction.address_size], "little")
            found.append(MemoryOperand(instruction.through("ds"), offset))
        modrm = instruction.modrm
        if modrm is not None and modrm < 0xC0:
            operand = self._modrm_operand(instruction, modrm)
            found.append(operand._replace(offset=operand.offset & mask))
        return found

    def _modrm_operand(self, instruction: Instruction, modrm: int) -> MemoryOperand:
        mod, rm, rest = modrm >> 6, modrm & 7, instruction.rest[1:]
        bases: tuple[int, ...]
        offset = 0
        if instruction.address_size == 2:
            bases = () if (mod, rm) == (0, 6) else _PAIRS_16[rm]
            width = 2 if mod == 2 or not bases else mod
        else:
            base: int | None = rm | (instruction.rex & 1) << 3
            if rm == _SP and rest:
                sib, rest = rest[0], rest[1:]
                index = sib >> 3 & 7 | (instruction.rex & 2) << 2
                if index != _SP:
                    offset += self._regs.read(MODRM_ORDER[index]) << (sib >> 6)
                base = sib & 7 | (instruction.rex & 1) << 3
                rm = sib & 7
            if rm == _BP and mod == 0:
                base = None
            bases = () if base is None else (base,)
            width = 4 if mod == 2 or base is None else mod
        offset += int.from_bytes(rest[:width], "little", signed=True)
        offset += sum(self._regs.read(MODRM_ORDER[n]) for n in bases)
        by_stack = bases[:1] in ((_SP,), (_BP,))
        return MemoryOperand(instruction.through("ss" if by_stack else "ds"), offset & _U64)
