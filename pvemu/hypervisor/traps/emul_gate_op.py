"""Far calls and jumps of 32-bit guests through a call gate (xen/arch/x86/pv/emul-gate-op.c).

Xen takes the privilege level out of every call gate that a guest writes, so that its use is a #GP with its selector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hypercalls.errors import XenError
from pvemu.cpu.exits import PF_WRITE
from pvemu.hypervisor.traps.traps import GuestException
from pvemu.hypervisor.vcpu.current import ServesCurrent

if TYPE_CHECKING:
    from pvemu.hypervisor.descriptor_tables import DescriptorTables
    from pvemu.hypervisor.guest_access import GuestMemory
    from pvemu.hypervisor.traps.emulate import CodeReader, Instruction, Segment
    from pvemu.hypervisor.vcpu import Vcpu

__all__ = ["GateOps"]

_TS, _NP, _SS, _GP, _PF = 10, 11, 12, 13, 14
_S, _P, _CODE, _EC, _WR = 1 << 12, 1 << 15, 1 << 11, 1 << 10, 1 << 9
_CALL_GATE_TYPE, _TYPE = 0xC00, 0x1F00
_JMP_FAR, _CALL_FAR, _GROUP_5 = 0xEA, 0x9A, 0xFF
_U32 = 0xFFFF_FFFF
_KERNEL_RPL = 1


class _Gate(NamedTuple):
    selector: int
    offset: int
    dpl: int
    nr_parameters: int


class _FarBranch(NamedTuple):
    is_jump: bool
    selector: int
    length: int


class GateOps(ServesCurrent):
    """Emulates for ``vcpu``, whose instructions ``code`` reads."""

    def __init__(
        self, vcpu: Vcpu, guest: GuestMemory, code: CodeReader, descriptor_tables: DescriptorTables
    ) -> None:
        self._vcpu = vcpu
        self._regs = vcpu.regs
        self._guest = guest
        self._code = code
        self._tables = descriptor_tables

    def emulate(self, error_code: int) -> None:
        """pv_emulate_gate_op: stand where the gate leads. GuestException where it does not."""
        regs = self._regs
        cpl = regs.read("cs") & 3
        gate = self._read_gate(error_code)
        if gate is None or gate.dpl < cpl:
            raise GuestException(_GP, error_code)
        if not self._tables.read_descriptor(error_code) >> 32 & _P:
            raise GuestException(_NP, error_code)
        branch = self._branch()
        if branch is None or branch.selector & ~3 != error_code or gate.dpl < branch.selector & 3:
            raise GuestException(_GP, error_code)
        target = self._target(gate, cpl, branch.is_jump)
        selector = gate.selector | cpl
        if not branch.is_jump:
            selector, ss, esp = self._push_frame(gate, target, cpl, branch.length, error_code)
        else:
            ss, esp = regs.read("ss"), regs.read("rsp")
        self._vcpu.set_frame(gate.offset, selector, regs.read("rflags"), esp, ss)

    def _read_gate(self, selector: int) -> _Gate | None:
        """read_gate_descriptor."""
        tables = self._tables
        if selector < 4 or selector >> 3 >= (tables.ldt_entries if selector & 4 else tables.gdt_entries):
            return None
        desc = tables.read_descriptor(selector)
        a, b = desc & _U32, desc >> 32
        if b & 3 << 13 or b & _TYPE != _CALL_GATE_TYPE:
            return None
        return _Gate(a >> 16 & 0xFFFC, a & 0xFFFF | b & 0xFFFF_0000, a >> 16 & 3, b & 0x1F)

    def _branch(self) -> _FarBranch | None:
        """The far call or jump at rip; None for anything else."""
        instruction = self._code.instruction()
        if instruction is None:
            return None
        opcode, size = instruction.opcode, instruction.operand_size
        if opcode in (_JMP_FAR, _CALL_FAR):
            operand = instruction.rest[: size + 2]
            if len(operand) < size + 2:
                return None
            selector = int.from_bytes(operand[size:], "little")
            return _FarBranch(opcode == _JMP_FAR, selector, instruction.length + size + 2)
        modrm = instruction.modrm
        if opcode != _GROUP_5 or modrm is None or modrm >= 0xC0 or modrm >> 3 & 7 not in (3, 5):
            return None
        return self._indirect(instruction, is_jump=modrm >> 3 & 7 == 5)

    def _indirect(self, instruction: Instruction, *, is_jump: bool) -> _FarBranch | None:
        operand = self._code.memory_operands(instruction)[0]
        address = self._code.linear(operand.segment, operand.offset + instruction.operand_size, instruction.bits)
        if not self._code.is_within_limit(operand.segment, address + 1):
            return None
        try:
            selector = int.from_bytes(self._guest.copy_from_guest(address, 2), "little")
        except XenError:
            raise GuestException(_PF, 0, address) from None
        return _FarBranch(is_jump, selector, instruction.length + instruction.modrm_length)

    def _target(self, gate: _Gate, cpl: int, is_jump: bool) -> Segment:
        """The code segment behind the gate."""
        target = self._code.segment(gate.selector)
        is_inner_okay = not is_jump or bool(target.ar & _EC)
        fits = target.dpl <= cpl if is_inner_okay else target.dpl == cpl
        if not target.ar & _S or not target.ar & _CODE or not fits:
            raise GuestException(_GP, gate.selector)
        if not target.ar & _P:
            raise GuestException(_NP, gate.selector)
        if gate.offset > target.limit:
            raise GuestException(_GP, 0)
        return target

    def _push_frame(
        self, gate: _Gate, target: Segment, cpl: int, length: int, error_code: int
    ) -> tuple[int, int, int]:
        """What a call pushes; code selector, stack selector and stack pointer behind it."""
        regs = self._regs
        old_ss, old_esp = regs.read("ss"), regs.read("rsp") & _U32
        words = [regs.read("cs"), (regs.read("rip") + length) & _U32]
        if target.dpl >= cpl:
            stack = self._code.segment(old_ss)
            if stack.dpl != cpl:
                raise GuestException(_GP, error_code)
            if not _has_room(stack, old_esp, 8):
                raise GuestException(_SS, 0)
            return gate.selector | cpl, old_ss, self._push(stack, old_esp, words)
        if target.dpl != _KERNEL_RPL:  # the inner stack is known for the kernel's ring alone
            raise GuestException(_GP, error_code)
        ss, esp = self._vcpu.kernel_ss, self._vcpu.kernel_sp & _U32
        stack = self._code.segment(ss)
        if ss & 3 != target.dpl or stack.dpl != target.dpl or stack.ar & (_S | _CODE | _WR) != _S | _WR:
            raise GuestException(_TS, ss & ~3)
        size = (4 + gate.nr_parameters) * 4
        if not stack.ar & _P or not _has_room(stack, esp, size):
            raise GuestException(_SS, ss & ~3)
        words = [old_ss, old_esp, *self._parameters(gate.nr_parameters, old_ss, old_esp, error_code), *words]
        return gate.selector | target.dpl, ss, self._push(stack, esp, words)

    def _parameters(self, count: int, ss: int, esp: int, error_code: int) -> list[int]:
        """Words of the caller's stack, the highest first."""
        stack = self._code.segment(ss)
        if count and stack.ar & (_S | _CODE | _WR) != _S | _WR:
            raise GuestException(_GP, error_code)
        words = []
        for i in reversed(range(count)):
            address = (stack.base + esp + 4 * i) & _U32
            try:
                words.append(int.from_bytes(self._guest.copy_from_guest(address, 4), "little"))
            except XenError:
                raise GuestException(_PF, 0, address) from None
        return words

    def _push(self, stack: Segment, esp: int, words: list[int]) -> int:
        for word in words:
            esp = (esp - 4) & _U32
            address = (stack.base + esp) & _U32
            try:
                self._guest.copy_to_guest(address, word.to_bytes(4, "little"))
            except XenError:
                raise GuestException(_PF, PF_WRITE, address) from None
        return esp


def _has_room(stack: Segment, esp: int, size: int) -> bool:
    """check_stack_limit."""
    low, high = (esp - size) & _U32, (esp - 1) & _U32
    return low < high and (low > stack.limit if stack.ar & _EC else high <= stack.limit)
