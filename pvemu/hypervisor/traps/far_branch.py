"""Far calls and jumps of 64-bit code with REX.W, as AMD's CPUs do them: through a pointer of 16:32 bits (AMD64
Architecture Programmer's Manual 3, CALL (Far), JMP (Far)).

The engine, which decodes for Intel, does not run them; it says #UD.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from pvemu.cpu.exits import PF_WRITE
from pvemu.cpu.paging import is_canonical
from pvemu.hypervisor.traps.traps import GuestException
from pvemu.hypervisor.vcpu.current import ServesCurrent

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.guest_access import GuestMemory
    from pvemu.hypervisor.traps.emulate import CodeReader
    from pvemu.hypervisor.vcpu import Vcpu

__all__ = ["FarBranches"]

_NP, _SS, _GP, _PF = 11, 12, 13, 14
_GROUP_5, _CALL, _JMP = 0xFF, 3, 5
_S, _P, _CODE, _CONFORMING, _L, _D = 1 << 12, 1 << 15, 1 << 11, 1 << 10, 1 << 21, 1 << 22
_CPL = 3
_POINTER = struct.Struct("<IH")
_U64 = 0xFFFF_FFFF_FFFF_FFFF


class FarBranches(ServesCurrent):
    """Those of ``vcpu``, whose instructions ``code`` reads; ``read_descriptor`` as in CodeReader."""

    def __init__(
        self, vcpu: Vcpu, guest: GuestMemory, code: CodeReader, read_descriptor: Callable[[int], int]
    ) -> None:
        self._vcpu = vcpu
        self._guest = guest
        self._code = code
        self._read_descriptor = read_descriptor

    def run(self) -> bool:
        """Do what stands at rip, if it is one. GuestException where it faults."""
        instruction = self._code.instruction()
        if instruction is None or instruction.opcode != _GROUP_5 or instruction.operand_size != 8:
            return False
        modrm = instruction.modrm
        if modrm is None or modrm >= 0xC0 or modrm >> 3 & 7 not in (_CALL, _JMP) or instruction.is_locked:
            return False
        operand = self._code.memory_operands(instruction)[0]
        length = instruction.length + instruction.modrm_length
        offset = operand.offset + (length if modrm & 0xC7 == 5 else 0)  # rip-relative
        address = self._code.linear(operand.segment, offset & _U64, instruction.bits)
        target, selector = self._pointer(address, operand.segment)
        self._check(selector)
        regs = self._vcpu.regs
        rsp = regs.read("rsp")
        if modrm >> 3 & 7 == _CALL:
            rsp = self._push(rsp, regs.read("cs"), (regs.read("rip") + length) & _U64)
        self._vcpu.set_frame(target, selector & ~3 | _CPL, regs.read("rflags"), rsp, regs.read("ss"))
        return True

    def _pointer(self, address: int, segment: str) -> tuple[int, int]:
        if not is_canonical(address):
            raise GuestException(_SS if segment == "ss" else _GP, 0)
        try:
            target, selector = _POINTER.unpack(self._guest.copy_from_guest(address, _POINTER.size))
        except XenError:
            raise GuestException(_PF, 0, address) from None
        return target, selector

    def _check(self, selector: int) -> None:
        """Whether the code segment may be entered."""
        if selector < 4:
            raise GuestException(_GP, 0)
        desc = self._read_descriptor(selector) >> 32
        dpl, error_code = desc >> 13 & 3, selector & 0xFFFC
        fits = dpl <= _CPL if desc & _CONFORMING else dpl == _CPL
        if not desc & _S or not desc & _CODE or not fits or desc & (_L | _D) == _L | _D:
            raise GuestException(_GP, error_code)
        if not desc & _P:
            raise GuestException(_NP, error_code)

    def _push(self, rsp: int, cs: int, rip: int) -> int:
        top = (rsp - 16) & _U64
        if not is_canonical(top) or not is_canonical((rsp - 1) & _U64):
            raise GuestException(_SS, 0)
        try:
            self._guest.copy_to_guest(top, struct.pack("<QQ", rip, cs))
        except XenError:
            raise GuestException(_PF, PF_WRITE, top) from None
        return top
