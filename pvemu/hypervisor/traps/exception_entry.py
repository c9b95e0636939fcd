"""What Xen does with an exception of the guest before the guest sees it: emulate, redirect, or pass on.

Mirrors ``do_general_protection``, ``do_page_fault``, ``do_invalid_op``, ``do_debug`` and ``do_device_not_available`` of
xen/arch/x86/traps.c and xen/arch/x86/pv/emul-inv-op.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import arch_x86, xen
from pvemu.cpu.exits import PF_INSTR, PF_PRESENT, PF_WRITE, Exit
from pvemu.hypervisor.descriptor_tables import GDT_VADDR
from pvemu.hypervisor.traps.debugreg import DR_STEP
from pvemu.hypervisor.traps.emul_priv_op import NO_STEP
from pvemu.hypervisor.traps.memory_write import may_modify, modifies
from pvemu.hypervisor.traps.traps import GuestException
from pvemu.hypervisor.vcpu.current import ServesCurrent
from pvemu.observers import subscribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.domain import Domain
    from pvemu.hypervisor.guest_access import GuestMemory
    from pvemu.hypervisor.traps.breakpoints import Breakpoints
    from pvemu.hypervisor.traps.emul_gate_op import GateOps
    from pvemu.hypervisor.traps.emul_priv_op import PrivilegedOps
    from pvemu.hypervisor.traps.emulate import CodeReader
    from pvemu.hypervisor.traps.far_branch import FarBranches
    from pvemu.hypervisor.traps.ro_page_fault import RoPageFault
    from pvemu.hypervisor.traps.traps import Traps
    from pvemu.hypervisor.vcpu import Vcpu

__all__ = ["ExceptionEntry"]

_DB, _BP, _OF, _UD, _NM, _SS, _GP, _PF = 1, 3, 4, 6, 7, 12, 13, 14
#: Exceptions whose frame shows RF: all that are faults.
_FAULTS = frozenset((0, 5, 6, 7, 10, 11, 12, 13, 14, 16, 17, 19))
_X86_XEC_IDT = 2
_EFLAGS_TF, _EFLAGS_RF = 1 << 8, 1 << 16
_INT80 = 0x80
_FORCED_EMULATION = b"\x0f\x0bxen"
_CPUID = b"\x0f\xa2"
_ICEBP = 0xF1
_QUICK_LOOK = 4  #: bytes that tell most instructions apart
_INT = 0xCD
_CMPXCHG16B = 0x0FC7
_SYSEXIT, _GROUP_7, _XSETBV = 0x0F35, 0x0F01, b"\xd1"
#: MOV to and from control and debug registers, and which control registers there are.
_MOVE_TO_SPECIAL, _CONTROL = frozenset(range(0x0F20, 0x0F24)), (0, 2, 3, 4, 8)
#: SYSRET and RDPMC are #GP outside ring 0; the engine takes them for unknown.
_NOT_FOR_USERS = frozenset((0x0F07, 0x0F33))
_GDT_LDT_VCPU_SIZE = 0x20000
_GDT_LDT_END = GDT_VADDR + arch_x86.XEN_LEGACY_MAX_VCPUS * _GDT_LDT_VCPU_SIZE


class ExceptionEntry(ServesCurrent):
    """Handles the exceptions of one vcpu, whose instructions ``code`` reads. ``cpuid(leaf, subleaf)`` is the guest's
    CPUID; a 32-bit one has call ``gates``.
    """

    def __init__(
        self, domain: Domain, vcpu: Vcpu, guest: GuestMemory, traps: Traps, privileged: PrivilegedOps,
        ro_page_fault: RoPageFault, breakpoints: Breakpoints, code: CodeReader, ldt_base: Callable[[], int],
        cpuid: Callable[[int, int], tuple[int, int, int, int]], gates: GateOps | None,
        far_branches: FarBranches,
    ) -> None:  # fmt: skip
        self._domain = domain
        self._vcpu = vcpu
        self._guest = guest
        self._traps = traps
        self._privileged = privileged
        self._ro_page_fault = ro_page_fault
        self._breakpoints = breakpoints
        self._code = code
        self._ldt_base = ldt_base
        self._cpuid = cpuid
        self._gates = gates
        self._far_branches = far_branches
        self._observers: list[Callable[[Exit], None]] = []

    def observe(self, observer: Callable[[Exit], None]) -> Callable[[], None]:
        """Tell ``observer`` of every exception and ``int n`` before Xen looks at it; returns how to stop that."""
        return subscribe(self._observers, observer)

    def handle(self, leaving: Exit) -> None:
        """One exception, or ``int n``, with the registers as the CPU left them. DomainCrashError as in ``Traps``."""
        vector = leaving.vector
        if vector == _PF and self._breakpoints.is_watched_fault(leaving):
            found = self._breakpoints.serve()
            if found is None:
                return
            if found.vector == _DB:
                self._traps.inject_exception(_DB, -1)
                return
            leaving, vector = found, found.vector
        if vector == _PF and not leaving.error_code & (PF_WRITE | PF_INSTR) and self._is_modifying():
            leaving = leaving._replace(error_code=leaving.error_code | PF_WRITE)
        for observer in tuple(self._observers):
            observer(leaving)
        try:
            if leaving.is_software:
                self._software_interrupt(vector)
            elif vector == _GP:
                self._general_protection(leaving)
            elif vector == _PF:
                self._page_fault(leaving.error_code, leaving.address)
            elif vector == _UD:
                self._invalid_op()
            elif vector == _DB:
                self._debug()
            else:
                self._pass_on(vector, leaving.error_code)
        except GuestException as raised:
            self._pass_on(raised.vector, raised.error_code, raised.address)

    def _pass_on(self, vector: int, error_code: int, address: int = 0) -> None:
        if vector in _FAULTS:
            self._set_resume(True)
        self._traps.inject_exception(vector, error_code, address)
        if vector == _NM:
            self._vcpu.fpu_taskswitch(False)

    def _set_resume(self, is_set: bool) -> None:
        """EFLAGS.RF, as the CPU shows it in the frame of a fault and clears it behind each instruction."""
        regs = self._vcpu.regs
        rflags = regs.read("rflags")
        regs.write("rflags", rflags | _EFLAGS_RF if is_set else rflags & ~_EFLAGS_RF)

    def _debug(self) -> None:
        """do_debug for a single step."""
        vcpu = self._vcpu
        if vcpu.regs.read("rflags") & _EFLAGS_TF:
            vcpu.debugreg.record(DR_STEP)
        self._traps.inject_exception(_DB, -1)

    def _software_interrupt(self, vector: int) -> None:
        """The gates have privilege level 0, so ``int n`` raises a #GP that names the gate; rip is behind it here. Those
        of INT3, INTO and the old system call are open to all.
        """
        entry = self._vcpu.trap_table[vector]
        if vector in (_BP, _OF):
            self._traps.inject_exception(vector, -1)
        elif vector == _INT80 and not self._traps.is_null(entry.cs, entry.address):
            self._traps.inject_software_interrupt(vector)
        elif entry.flags & 3 >= (1 if self._vcpu.kernel_mode else 3):
            self._set_resume(True)
            self._traps.inject_software_interrupt(vector)
        else:
            regs = self._vcpu.regs
            regs.write("rip", regs.read("rip") - 2)
            if vector == _INT80:  # int80_slow_path: no fault of the CPU's, hence without RF
                self._traps.inject_exception(_GP, vector << 3 | _X86_XEC_IDT)
            else:
                self._pass_on(_GP, vector << 3 | _X86_XEC_IDT)

    def _general_protection(self, leaving: Exit) -> None:
        if leaving.address:  # an address that is not canonical, which the engine's CPU takes for #GP always
            segment = self._code.segment_of_access(leaving.address)
            self._pass_on(_SS if segment == "ss" else _GP, 0)
            return
        if self._gates is not None and leaving.error_code:
            self._gates.emulate(leaving.error_code)
            self._instruction_done()
            return
        match = self._privileged.emulate() if leaving.error_code == 0 else None
        if match is None and leaving.error_code == 0 and self._is_unknown():
            self._pass_on(_UD, -1)
        elif match is None:
            self._pass_on(_GP, leaving.error_code)
        else:
            self._instruction_done(match)

    def _is_unknown(self) -> bool:
        """Whether the CPU does not know what stands at rip, and the engine takes it for what is not allowed: SYSEXIT,
        which AMD's CPUs do not have in long mode, XSETBV, which this one does not have, LOCK where it cannot stand,
        control and debug registers that are none.
        """
        instruction = self._code.instruction()
        if instruction is None:
            return False
        opcode, rest = instruction.opcode, instruction.rest
        if opcode in _MOVE_TO_SPECIAL and rest:
            number = rest[0] >> 3 & 7 | (instruction.rex & 4) << 1
            return instruction.is_locked or number not in (_CONTROL if opcode & 1 == 0 else range(8))
        cannot_be_locked = instruction.is_locked and opcode != _CMPXCHG16B
        return cannot_be_locked or opcode == _SYSEXIT or (opcode == _GROUP_7 and rest[:1] == _XSETBV)

    def _instruction_done(self, match: int = 0) -> None:
        """pv_emul_instruction_done: a single step over an emulated instruction traps as well. ``match`` are DR6 bits of
        breakpoints that it hit.
        """
        self._set_resume(False)
        if match == NO_STEP:
            return
        if self._vcpu.regs.read("rflags") & _EFLAGS_TF:
            match |= DR_STEP
        if match:
            self._vcpu.debugreg.record(match)
            self._traps.inject_exception(_DB, -1)

    def _page_fault(self, error_code: int, address: int) -> None:
        if self._gates is not None:
            self._check_limit(error_code, address)
        if self._privileged.is_port_string():
            match = self._privileged.emulate()
            if match is None:
                raise GuestException(_GP, 0)
            self._instruction_done(match)
            return
        if (
            GDT_VADDR <= address < _GDT_LDT_END
            and not error_code & (PF_WRITE | PF_INSTR)
            and not self._code.touches(address)
        ):
            self._pass_on(*self._descriptor_fault(error_code, (address - GDT_VADDR) % _GDT_LDT_VCPU_SIZE))
            return
        if (
            error_code & (PF_PRESENT | PF_WRITE | PF_INSTR) == PF_PRESENT | PF_WRITE
            and self._vcpu.kernel_mode
            and xen.VMASST_TYPE_writable_pagetables in self._domain.assists
            and self._ro_page_fault.handle(address)
        ):
            return
        self._pass_on(_PF, error_code, address)

    def _is_modifying(self) -> bool:
        """Whether the instruction that was refused a read was to write there as well: the engine's CPU reads first,
        others see to it that they can write.
        """
        try:
            code = self._guest.copy_from_guest(self._code.rip(), _QUICK_LOOK)
        except XenError:
            code = b""
        if code and not may_modify(code):
            return False
        instruction = self._code.instruction()
        return instruction is not None and modifies(instruction)

    def _check_limit(self, error_code: int, address: int) -> None:
        """Segment limits come before page tables. The engine's CPU knows none, so they are looked at here, where an
        access fails anyway.
        """
        is_fetch = bool(error_code & PF_INSTR)
        segment = "cs" if is_fetch else self._code.segment_of_access(address)
        if segment is not None and not self._code.is_within_limit(segment, address):
            raise GuestException(_SS if segment == "ss" else _GP, 0)

    def refused_frame(self, refusal: Exit, cs: int, ss: int) -> None:
        """The IRET to the guest was refused: an exception where it would stand, with its selectors in the frame."""
        raised = refusal.vector, refusal.error_code, refusal.address
        if refusal.vector == _PF and GDT_VADDR <= refusal.address < _GDT_LDT_END:
            raised = self._descriptor_fault(refusal.error_code, (refusal.address - GDT_VADDR) % _GDT_LDT_VCPU_SIZE)
        self._set_resume(True)
        self._traps.inject_exception(*raised, (cs, ss))

    def _descriptor_fault(self, error_code: int, offset: int) -> tuple[int, int, int]:
        """handle_gdt_ldt_mapping_fault: vector, error code and address for a descriptor where the guest's tables have
        none.
        """
        if offset < 0x10000:
            return _GP, offset & 0xFFF8, 0
        address = self._ldt_base() + offset - 0x10000
        if address >> 47 not in (0, 0x1FFFF):
            return _GP, (offset & 0xFFF8) | 4, 0
        return _PF, error_code, address

    def _invalid_op(self) -> None:
        regs = self._vcpu.regs
        rip = regs.read("rip")
        code = self._fetch(rip, len(_FORCED_EMULATION + _CPUID))
        if code == _FORCED_EMULATION + _CPUID:
            leaf, subleaf = regs.read("rax") & 0xFFFF_FFFF, regs.read("rcx") & 0xFFFF_FFFF
            for name, value in zip(("rax", "rbx", "rcx", "rdx"), self._cpuid(leaf, subleaf), strict=True):
                regs.write(name, value)
            regs.write("rip", rip + len(code))
            self._instruction_done()
        elif code[:1] == bytes((_ICEBP,)):  # the engine does not know INT1
            regs.write("rip", rip + 1)
            self._traps.inject_exception(_DB, -1)
        elif code[:2] == bytes((_INT, _UD)):  # which it reports as the fault itself
            regs.write("rip", rip + 2)
            self._software_interrupt(_UD)
        elif self._privileged.access_segment_base() or self._far_branches.run():
            self._instruction_done()
        elif self._code.opcode(rip) in _NOT_FOR_USERS:
            self._pass_on(_GP, 0)
        else:
            self._pass_on(_UD, -1)

    def _fetch(self, rip: int, size: int) -> bytes:
        code = b""
        try:
            for i in range(size):
                code += self._guest.copy_from_guest(rip + i, 1)
        except XenError:
            pass  # an instruction may end where its page does
        return code
