"""The vcpu of a 32-bit guest: kernel in ring 1, user mode in ring 3, selectors of the guest's own choice.

Mirrors the compat halves of xen/arch/x86/pv/{callback,iret,misc-hypercalls}.c.
"""

from __future__ import annotations

import struct
from typing import Any

from hypercalls.context import TrapEntry
from hypercalls.errors import XenError
from hypercalls.public import arch_x86
from hypercalls.public import callback as cb
from pvemu.hypervisor.compat.descriptor_tables import fixup_guest_selector
from pvemu.hypervisor.domain import DomainCrashError
from pvemu.hypervisor.vcpu import Vcpu

__all__ = ["CompatVcpu"]

_TF, _IF, _IOPL, _NT, _RF, _VM = 1 << 8, 1 << 9, 3 << 12, 1 << 14, 1 << 16, 1 << 17
_VECTOR_NMI, _VECTOR_GP, _TI_IF = 2, 13, 4
_MASK = 0xFFFF_FFFF
_VM86_FRAME = 40
#: Lines of xen/arch/x86/pv/iret.c in which compat_iret crashes the domain; it says no more.
_CRASH_EAX, _CRASH_EIP_CS, _CRASH_EFLAGS, _CRASH_VM86_COPY = 121, 129, 139, 183
_CRASH_VM86_ERROR_CODE, _CRASH_RING0, _CRASH_ESP_SS = 196, 204, 213


def _crashed(line: int) -> DomainCrashError:
    return DomainCrashError([f"domain_crash called from arch/x86/pv/iret.c:{line}"])


class CompatVcpu(Vcpu):
    """As :class:`Vcpu`; there is one set of page tables, so that nothing is swapped between the modes."""

    flat_selectors = arch_x86.FLAT_RING1_CS, arch_x86.FLAT_RING1_SS

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.toggle_guest_mode = lambda: True
        self.kernel_ss = arch_x86.FLAT_RING1_SS

    @property
    def kernel_mode(self) -> bool:
        """guest_kernel_mode: in ring 1."""
        return self.regs.read("cs") & 3 == 1

    @kernel_mode.setter
    def kernel_mode(self, value: bool) -> None:
        raise AttributeError("the mode of a 32-bit guest is in its CS")

    def set_trap_table(self, entries: list[TrapEntry]) -> None:
        """HYPERVISOR_set_trap_table: no selector names ring 0."""
        super().set_trap_table([entry._replace(cs=fixup_guest_selector(entry.cs)) for entry in entries])

    def register_callback(self, type: int, flags: int, cs: int, address: int) -> None:
        """CALLBACKOP_register / set_callbacks."""
        if type == cb.CALLBACKTYPE_nmi:
            self.trap_table[_VECTOR_NMI] = TrapEntry(_VECTOR_NMI, _TI_IF, arch_x86.FLAT_RING1_CS, address)
            return
        super().register_callback(type, flags, cs, address)
        self.callback_cs[type] = fixup_guest_selector(cs)

    def stack_switch(self, ss: int, sp: int) -> None:
        """HYPERVISOR_stack_switch: where frames from user mode go."""
        self.kernel_ss = fixup_guest_selector(ss)
        self.kernel_sp = sp

    def _words(self, esp: int, first: int, count: int, line: int) -> tuple[int, ...]:
        """32-bit words of the guest's stack. Where they cannot be read, Xen crashes the domain in this line."""
        try:
            raw = b"".join(self._guest.copy_from_guest((esp + 4 * i) & _MASK, 4) for i in range(first, first + count))
        except XenError:
            raise _crashed(line) from None
        return struct.unpack(f"<{count}I", raw)

    def _take_iret_frame(self) -> None:
        """compat_iret of xen/arch/x86/pv/iret.c: eax eip cs eflags, and esp ss for a return to an outer ring."""
        regs = self.regs
        esp = regs.read("rsp") & _MASK
        (eax,) = self._words(esp, 0, 1, _CRASH_EAX)
        eip, cs = self._words(esp, 1, 2, _CRASH_EIP_CS)
        (eflags,) = self._words(esp, 3, 1, _CRASH_EFLAGS)
        cs &= 0xFFFF
        if self.has_architectural_iopl():
            self.iopl = eflags & _IOPL
        regs.write("rax", eax)
        if eflags & _VM:
            eflags = self._refuse_vm86(esp, eflags)
        elif cs & 3 == 0:
            raise _crashed(_CRASH_RING0)
        else:
            ss, new_esp = regs.read("ss"), (esp + 16) & _MASK
            if cs & 3 != 1:
                new_esp, ss = self._words(esp, 4, 2, _CRASH_ESP_SS)
            self.set_frame(eip, cs, eflags & ~_IOPL | _IF, new_esp, ss & 0xFFFF)
        self.nmi_masked = False
        self.info.upcall_mask = 0 if eflags & _IF else 1

    def _refuse_vm86(self, esp: int, eflags: int) -> int:
        """There is no VM86 mode: a #GP on its first instruction, as a frame that is there already. The new flags."""
        ksp = (self.kernel_sp - _VM86_FRAME) & _MASK
        gate = self.trap_table[_VECTOR_GP]
        frame = self._words(esp, 1, 9, _CRASH_VM86_COPY) if ksp != esp else ()
        for at, words, line in ((ksp + 4, frame, _CRASH_VM86_COPY), (ksp, (0,), _CRASH_VM86_ERROR_CODE)):
            try:
                self._guest.copy_to_guest(at & _MASK, struct.pack(f"<{len(words)}I", *words))
            except XenError:
                raise _crashed(line) from None
        if gate.flags & _TI_IF:
            eflags &= ~_IF
        flags = (eflags & ~(_IOPL | _VM | _RF | _NT | _TF)) | _IF
        self.set_frame(gate.address, gate.cs, flags, ksp, self.kernel_ss)
        return eflags
