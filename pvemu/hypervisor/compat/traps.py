"""Frames on the kernel stack of a 32-bit guest (xen/arch/x86/x86_64/compat/entry.S compat_create_bounce_frame)."""

from __future__ import annotations

import struct

from hypercalls.public import arch_x86, xen
from hypercalls.public import callback as cb
from pvemu.hypervisor.domain import DomainCrashError
from pvemu.hypervisor.traps.traps import CALLBACKF_MASK_EVENTS, Traps

__all__ = ["CompatTraps"]

_TF, _IF, _IOPL, _NT, _RF, _VM = 1 << 8, 1 << 9, 3 << 12, 1 << 14, 1 << 16, 1 << 17
_VECTOR_GP = 13
_SYSCALL_LENGTH = 2
_MASK = 0xFFFF_FFFF


class CompatTraps(Traps):
    """As :class:`Traps`: eip, cs with the upcall mask, eflags, and from user mode esp and ss, below an error code."""

    @staticmethod
    def is_null(cs: int, _address: int) -> bool:
        """null_trap_bounce: whether there is no handler."""
        return not cs & ~3

    def inject_syscall(self) -> None:
        """SYSCALL, as AMD's CPUs have it outside 64-bit code (compat/entry.S compat_syscall): to the registered entry;
        the frame shows user mode's own selectors whatever it was made from.
        """
        vcpu, kind = self._vcpu, cb.CALLBACKTYPE_syscall32
        regs = vcpu.regs
        rip, rflags = regs.read("rip"), regs.read("rflags")
        regs.write("rcx", rip)
        regs.write("r11", rflags)
        selectors = arch_x86.FLAT_RING3_CS, arch_x86.FLAT_RING3_SS
        cs, handler = vcpu.callback_cs.get(kind, 0), vcpu.callbacks.get(kind, 0)
        if self.is_null(cs, handler):
            regs.write("rip", (rip - _SYSCALL_LENGTH) & _MASK)
            self.inject_exception(_VECTOR_GP, 0, selectors=selectors)
            return
        if self._observers:
            self._tell("syscall")
        masks_events = bool(vcpu.callback_flags.get(kind, 0) & CALLBACKF_MASK_EVENTS)
        self._bounce(cs, handler, None, masks_events, selectors)

    def _bounce(
        self, new_cs: int, handler: int, error_code: int | None, masks_events: bool,
        selectors: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        vcpu = self._vcpu
        regs = vcpu.regs
        esp, eflags = regs.read("rsp") & _MASK, regs.read("rflags")
        cs, ss = selectors if selectors is not None else (regs.read("cs"), regs.read("ss"))
        saved_mask = vcpu.info.upcall_mask
        if masks_events:
            vcpu.info.upcall_mask = 1
        shown_flags = eflags & ~(_IF | _IOPL) | (0 if saved_mask else _IF)
        if xen.VMASST_TYPE_architectural_iopl in self._domain.assists:
            shown_flags |= vcpu.iopl
        frame = [] if error_code is None else [error_code]
        frame += [regs.read("rip") & _MASK, saved_mask << 16 | cs, shown_flags]
        stack = esp
        if cs & 2:
            frame += [esp, ss]
            stack, ss = vcpu.kernel_sp, vcpu.kernel_ss
        stack = (stack - 4 * len(frame)) & _MASK
        raw = struct.pack(f"<{len(frame)}I", *(word & _MASK for word in frame))
        self._push((stack + vcpu.segment_base(ss)) & _MASK, raw)
        if self.is_null(new_cs, handler):
            raise DomainCrashError(self._sync_crash("null selector"))
        vcpu.set_frame(handler, new_cs, eflags & ~(_VM | _RF | _NT | _TF), stack, ss)

    def _sync_crash(self, why: str) -> list[str]:
        return [f"domain_crash_sync called from entry.S: compat_create_bounce_frame: {why}"]
