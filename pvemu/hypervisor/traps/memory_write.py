"""What an instruction stores, for the stores that Xen does itself on behalf of a guest (``x86_insn_is_mem_write`` and
the operand sizes of xen/arch/x86/x86_emulate/x86_emulate.c, as far as ``ptwr_emulate_ops`` gives it the means: no FPU,
no segment registers, no ports).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pvemu.hypervisor.traps.emulate import Instruction

__all__ = ["Store", "may_modify", "modifies", "store_of"]

#: Opcodes that store a byte; the next one up stores an operand: arithmetic rows, XCHG, MOV, MOVS, STOS, shifts,
#: CMPXCHG, XADD. Of the groups among them only some members do.
_BYTE_OR_OPERAND = frozenset((
    *range(0x00, 0x38, 8), 0x80, 0x82, 0x86, 0x88, 0xA2, 0xA4, 0xAA, 0xC0, 0xC6, 0xD0, 0xD2, 0xF6, 0xFE, 0x0FB0, 0x0FC0,
))  # fmt: skip
#: Members of a group (the register field of ModRM) that store.
_MEMBERS = {
    0x80: range(7), 0x82: range(7), 0xC6: range(1), 0xF6: range(2, 4), 0xFE: range(2), 0x0FBA: range(5, 8),
    0x0FC7: range(1, 2),
}  # fmt: skip
_SHLD_SHRD_MOVNTI_MOVBE = frozenset((0x0FA4, 0x0FA5, 0x0FAC, 0x0FAD, 0x0FC3, 0x0F38F1))
_BIT_STRINGS = frozenset((0x0FAB, 0x0FB3, 0x0FBB, 0x0FBA))
_SETCC = range(0x0F90, 0x0FA0)
_XCHG, _GROUP_9, _GROUP_5 = 0x86, 0x0FC7, 0xFF
_PUSHES = frozenset((*range(0x50, 0x58), 0x68, 0x6A, 0xE8))
_CALL_OR_PUSH = (2, 6)
#: Those of the above that only store, and never look at what was there.
_ONLY_STORE = frozenset((0x88, 0xA2, 0xA4, 0xAA, 0xC6))
_PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3, *range(0x40, 0x50)))
_MODIFYING = frozenset(
    opcode | odd for opcode in _BYTE_OR_OPERAND - _ONLY_STORE if opcode < 0x100 for odd in (0, 1)
) | {0x0F}  # fmt: skip


class Store(NamedTuple):
    """``size`` bytes, at the instruction's last memory operand, or below the stack pointer, or as many bits from that
    operand on as a register says. Size 0 is one that Xen cannot do, unless it changes nothing.
    """

    size: int
    is_push: bool = False
    is_bit_string: bool = False
    is_atomic: bool = False  #: made as a compare-and-exchange


def store_of(instruction: Instruction) -> Store | None:
    """What ``instruction`` stores; None where it is none of those that Xen does."""
    opcode, modrm = instruction.opcode, instruction.modrm
    member = 0 if modrm is None else modrm >> 3 & 7
    if opcode in _PUSHES or (opcode == _GROUP_5 and member in _CALL_OR_PUSH):
        return Store(8 if instruction.bits == 64 else instruction.operand_size, is_push=True)
    if modrm is not None and modrm >= 0xC0:
        return None
    even = opcode & ~1
    if member not in _MEMBERS.get(opcode if opcode in _MEMBERS else even, range(8)):
        return None
    is_atomic = instruction.is_locked or even == _XCHG
    if even in _BYTE_OR_OPERAND:
        return Store(instruction.operand_size if opcode & 1 else 1, is_atomic=is_atomic)
    if opcode in _BIT_STRINGS:
        return Store(instruction.operand_size, is_bit_string=True, is_atomic=is_atomic)
    if opcode in _SHLD_SHRD_MOVNTI_MOVBE:
        return Store(instruction.operand_size)
    if opcode in _SETCC:
        return Store(1)
    if opcode == _GROUP_9:
        return Store(16 if instruction.rex & 8 else 8, is_atomic=is_atomic)
    return None


def may_modify(code: bytes) -> bool:
    """Whether what starts with ``code`` could be an instruction that ``modifies`` its operand: a quick look."""
    for byte in code:
        if byte not in _PREFIXES:
            return byte in _MODIFYING
    return False


def modifies(instruction: Instruction) -> bool:
    """Whether it reads its memory operand to write it back: a CPU makes sure that it can write first."""
    store = store_of(instruction)
    if store is None or store.is_push or instruction.opcode & ~1 in _ONLY_STORE:
        return False
    return instruction.opcode not in _SETCC and instruction.opcode not in (0x0FC3, 0x0F38F1)
