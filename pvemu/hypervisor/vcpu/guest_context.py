"""The context that a vcpu begins with: VCPUOP_initialise's vcpu_guest_context, checked, taken apart and loaded
(arch_set_info_guest and load_segments of xen/arch/x86/domain.c).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from hypercalls.arguments import addr_ok, is_canonical_address
from hypercalls.context import TrapEntry
from hypercalls.errors import XenError
from hypercalls.public import arch_x86
from hypercalls.public import callback as cb
from hypercalls.public import errno as e
from pvemu.cpu.registers import GENERAL_64
from pvemu.frames import PAGE_MASK, PAGE_SHIFT, Mfn
from pvemu.hypervisor.compat.descriptor_tables import fixup_guest_selector
from pvemu.hypervisor.compat.mm import compat_cr3_to_pfn
from pvemu.hypervisor.descriptor_tables import FIRST_RESERVED_GDT_ENTRY
from pvemu.hypervisor.traps.debugreg import DebugRegisters
from pvemu.hypervisor.vcpu.parked import Descriptors
from pvemu.memory.frame_table import PageType

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercalls.abi import Abi
    from pvemu.cpu.exits import Exit
    from pvemu.hypervisor.page_types import PageTypes
    from pvemu.hypervisor.vcpu.vcpu import Vcpu

__all__ = ["GuestContexts"]

_MAX_LDT_ENTRIES, _MAX_GDT_FRAMES, _ENTRIES_PER_FRAME = 8192, 16, 512
_CR0_TS, _IF, _IOPL, _VM = 8, 1 << 9, 3 << 12, 1 << 17
#: Of an FXSAVE image: FCW_DEFAULT at 0, MXCSR_DEFAULT at 24.
_FRESH_FPU = b"\x7f\x03".ljust(24, b"\0") + b"\x80\x1f".ljust(488, b"\0")
_DATA_SELECTORS = ("ds", "es", "fs", "gs")


class GuestContexts:
    """Gives vcpus of one width their contexts, with frames that ``types`` counts. ``load_fpu(image)`` loads what FXSAVE
    stores, ``enter(rip, rsp, cs, ss, rflags, (ds, es, fs, gs))`` selectors, telling the exception if they are refused.
    """

    def __init__(
        self, abi: Abi, types: PageTypes, load_fpu: Callable[[bytes], None],
        enter: Callable[[int, int, int, int, int, tuple[int, int, int, int]], Exit | None],
        load_ldt: Callable[[], None],
    ) -> None:  # fmt: skip
        self._abi = abi
        self._is_compat = abi.bits == 32
        self._types = types
        self._load_fpu = load_fpu
        self._enter = enter
        self._load_ldt = load_ldt

    def set(self, vcpu: Vcpu, raw: bytes) -> None:
        """arch_set_info_guest of a vcpu that has no context yet. What a context names that is online starts no vcpu, as
        nothing wakes it.
        """
        context = self._abi.unpack(arch_x86.vcpu_guest_context, raw)
        if not self._is_compat:
            _check_addresses(context)
        if context.ldt_base & PAGE_MASK or context.ldt_ents > _MAX_LDT_ENTRIES:
            raise XenError(e.EINVAL, f"LDT of {context.ldt_ents} entries at {context.ldt_base:#x}")
        if -(-context.gdt_ents // _ENTRIES_PER_FRAME) > _MAX_GDT_FRAMES:
            raise XenError(e.EINVAL, f"GDT of {context.gdt_ents} entries")
        is_user = not self._is_compat and not context.flags & arch_x86.VGCF_in_kernel
        if is_user and not context.ctrlreg[1]:
            raise XenError(e.EINVAL, "user mode without page tables")
        self._take_tables(vcpu, context)
        self._fill(vcpu, context)
        if not self._is_compat:
            vcpu.kernel_mode = not is_user
        vcpu.resume = lambda: self._load(vcpu, context)
        vcpu.is_initialised = True
        vcpu.is_down = not context.flags & arch_x86.VGCF_online

    def _take_tables(self, vcpu: Vcpu, context: arch_x86.vcpu_guest_context) -> None:
        """pv_set_gdt and the roots of both modes; all or none of them."""
        if context.gdt_ents > FIRST_RESERVED_GDT_ENTRY:
            raise XenError(e.EINVAL, f"GDT of {context.gdt_ents} entries")
        gdt = context.gdt_frames[: -(-context.gdt_ents // _ENTRIES_PER_FRAME)]
        wanted = [(mfn, PageType.SEG_DESC) for mfn in gdt]
        user_root = 0
        if self._is_compat:
            root = compat_cr3_to_pfn(context.ctrlreg[3])
            wanted.append((root, PageType.L3))
        else:
            root, user_root = context.ctrlreg[3] >> PAGE_SHIFT, context.ctrlreg[1] >> PAGE_SHIFT
            wanted.append((root, PageType.L4))
            if context.ctrlreg[1]:
                wanted.append((user_root, PageType.L4))
        taken: list[int] = []
        try:
            for mfn, kind in wanted:
                self._types.get_page_and_type(mfn, kind)
                taken.append(mfn)
        except XenError as error:
            for mfn in taken:
                self._types.put_page_and_type(mfn)
            raise XenError(e.EINVAL, error.reason) from error
        parked = vcpu.parked
        parked.guest_root, parked.guest_root_user = Mfn(root), Mfn(user_root)
        parked.descriptors = Descriptors(
            [Mfn(mfn) for mfn in gdt], context.gdt_ents, context.ldt_base if context.ldt_ents else 0, context.ldt_ents
        )

    def _fill(self, vcpu: Vcpu, context: arch_x86.vcpu_guest_context) -> None:
        """What Xen keeps of the vcpu beside its registers."""
        compat = self._is_compat
        vcpu.set_trap_table([TrapEntry(i, t.flags, t.cs, t.address) for i, t in enumerate(context.trap_ctxt)])
        vcpu.stack_switch(context.kernel_ss & 0xFFFF, context.kernel_sp)
        vcpu.callbacks = {
            cb.CALLBACKTYPE_event: context.event_callback_eip, cb.CALLBACKTYPE_failsafe: context.failsafe_callback_eip,
        }  # fmt: skip
        vcpu.callback_flags = {}
        if compat:
            for kind, cs in ((cb.CALLBACKTYPE_event, context.event_callback_cs),
                             (cb.CALLBACKTYPE_failsafe, context.failsafe_callback_cs)):  # fmt: skip
                vcpu.callback_cs[kind] = fixup_guest_selector(cs & 0xFFFF)
        else:
            vcpu.callbacks[cb.CALLBACKTYPE_syscall] = context.syscall_callback_eip
            vcpu.gs_base_kernel, vcpu.gs_base_user = context.gs_base_kernel, context.gs_base_user
        for kind, flag in ((cb.CALLBACKTYPE_failsafe, arch_x86.VGCF_failsafe_disables_events),
                           (cb.CALLBACKTYPE_syscall, arch_x86.VGCF_syscall_disables_events)):  # fmt: skip
            if context.flags & flag:
                vcpu.callback_flags[kind] = cb.CALLBACKF_mask_events
        vcpu.iopl = (context.user_regs.eflags if compat else context.user_regs.rflags) & _IOPL
        vcpu.set_cr4(context.ctrlreg[4])
        extensions, vcpu.debugreg = vcpu.debugreg.has_extensions, DebugRegisters()
        vcpu.debugreg.has_extensions = extensions
        vcpu.set_debugreg, vcpu.get_debugreg = vcpu.debugreg.write, vcpu.debugreg.read
        for number in (0, 1, 2, 3, 6, 7):
            with suppress(XenError):  # as if it had not been named
                vcpu.debugreg.write(number, context.debugreg[number])

    def _load(self, vcpu: Vcpu, context: arch_x86.vcpu_guest_context) -> None:
        """Give the CPU the registers: the vcpu runs for the first time."""
        regs, given = vcpu.regs, context.user_regs
        for name in GENERAL_64:
            if name != "rsp":
                regs.write(name, getattr(given, "e" + name[1:], 0) if self._is_compat else getattr(given, name))
        self._load_fpu(context.fpu_ctxt if context.flags & arch_x86.VGCF_i387_valid else _FRESH_FPU)
        self._load_ldt()
        vcpu.write_cr4(vcpu.cr4)
        rip, rsp, rflags = (
            (given.eip, given.esp, given.eflags) if self._is_compat else (given.rip, given.rsp, given.rflags)
        )
        rflags = vcpu.take_resume_flag(rip, rflags & ~(_IOPL | _VM) | _IF | 2)
        cs, ss = fixup_guest_selector(given.cs), fixup_guest_selector(given.ss)
        if not self._is_compat:
            cs, ss = cs | 3, ss | 3
        data = (given.ds, given.es, given.fs, given.gs)
        refusal = self._enter(rip, rsp, cs, ss, rflags, data)
        if refusal is not None and any(data):  # a selector that cannot be loaded is null
            refusal = self._enter(rip, rsp, cs, ss, rflags, (0, 0, 0, 0))
        if refusal is not None:
            self._enter(rip, rsp, *vcpu.flat_selectors, rflags, (0, 0, 0, 0))
            vcpu.refused_frame = refusal, cs, ss
        if not self._is_compat:
            regs.write("fs_base", context.fs_base)
            regs.write("gs_base", vcpu.gs_base_kernel if vcpu.kernel_mode else vcpu.gs_base_user)
        vcpu.fpu_taskswitch(bool(context.ctrlreg[0] & _CR0_TS))


def _check_addresses(context: arch_x86.vcpu_guest_context) -> None:
    """Every address of a 64-bit context is canonical, the LDT's besides not in Xen."""
    registers = context.user_regs
    addresses = [
        registers.rip, registers.rsp, context.kernel_sp, context.fs_base, context.gs_base_kernel, context.gs_base_user,
        context.event_callback_eip, context.syscall_callback_eip, context.failsafe_callback_eip,
        *(gate.address for gate in context.trap_ctxt),
    ]  # fmt: skip
    if context.ldt_ents:
        addresses.append(context.ldt_base)
    if not all(map(is_canonical_address, addresses)) or not addr_ok(context.ldt_base):
        raise XenError(e.EINVAL, "an address of the context is not canonical")
