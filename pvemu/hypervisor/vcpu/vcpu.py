"""One virtual CPU: what Xen keeps for it beside its registers, and the hypercalls that act on it.

Mirrors struct vcpu / pv_vcpu and xen/arch/x86/pv/{callback,misc-hypercalls}.c; vcpu_op is in ``operations``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.context import TrapEntry
from hypercalls.errors import XenError
from hypercalls.public import arch_x86
from hypercalls.public import callback as cb
from hypercalls.public import errno as e
from hypercalls.public import vcpu as vc
from pvemu.hypervisor.domain import DomainCrashError
from pvemu.hypervisor.traps.debugreg import DebugRegisters
from pvemu.hypervisor.vcpu.areas import VcpuAreas
from pvemu.hypervisor.vcpu.operations import VcpuOperations
from pvemu.hypervisor.vcpu.parked import Parked
from pvemu.hypervisor.vcpu.timers import VcpuTimers

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercalls.abi import Abi
    from pvemu.cpu.exits import Exit
    from pvemu.cpu.registers import Registers
    from pvemu.hypervisor.domain_page import DomainPages
    from pvemu.hypervisor.event_channel import EventChannels
    from pvemu.hypervisor.guest_access import GuestMemory
    from pvemu.hypervisor.shared_info import VcpuInfo
    from pvemu.hypervisor.time import VirtualClock

__all__ = ["CALLBACK_KINDS", "Vcpu"]

#: CALLBACKTYPE_* that a 64-bit PV vcpu can register.
CALLBACK_KINDS = frozenset((cb.CALLBACKTYPE_event, cb.CALLBACKTYPE_failsafe, cb.CALLBACKTYPE_syscall,
                            cb.CALLBACKTYPE_sysenter, cb.CALLBACKTYPE_syscall32, cb.CALLBACKTYPE_nmi))  # fmt: skip
#: PV_CR4_GUEST_VISIBLE_MASK of what Xen runs with: PAE MCE OSFXSR OSXMMEXCPT.
_CR4_VISIBLE = 0x660
#: domain_crash in do_iret, where Xen 4.17 has it.
CRASHED = "domain_crash called from arch/x86/pv/iret.c:104"
_UNSET = TrapEntry(0, 0, 0, 0)
_CR0_TS = 8
_CR4_TSD, _CR4_DE, _CR4_FSGSBASE = 1 << 2, 1 << 3, 1 << 16
#: PV_CR4_GUEST_MASK: what of CR4 a guest of this CPU may change.
_CR4_GUEST = _CR4_TSD | _CR4_DE | _CR4_FSGSBASE
_RF = 1 << 16
_IF, _IOPL, _VM = 1 << 9, 3 << 12, 1 << 17
_VECTOR_NMI, _TI_IF = 2, 4


def _is_canonical(address: int) -> bool:
    return address >> 47 in (0, 0x1FFFF)


class Vcpu(VcpuOperations):
    """State of vcpu ``vcpu_id``; vcpu 0 runs from the start, others when they are brought up. ``regs`` are the CPU's:
    this vcpu's while it runs.

    ``leave`` asks the engine to stop; ``resume`` is what the run loop then does before it goes on (an IRET).
    """

    #: CS and SS that the kernel stands with when the frame it was to get cannot be entered.
    flat_selectors = arch_x86.FLAT_KERNEL_CS64, arch_x86.FLAT_KERNEL_SS64

    def __init__(
        self, abi: Abi, vcpu_id: int, regs: Registers, clock: VirtualClock, guest: GuestMemory,
        pages: DomainPages, event_channels: EventChannels, infos: list[VcpuInfo], leave: Callable[[], None],
        enter: Callable[[int, int, int, int, int], Exit | None], toggle_guest_mode: Callable[[], bool],
    ) -> None:  # fmt: skip
        is_first = not vcpu_id
        areas = VcpuAreas(
            abi, vcpu_id, infos, clock, guest, pages, vc.RUNSTATE_running if is_first else vc.RUNSTATE_offline
        )
        timers = VcpuTimers(vcpu_id, clock, event_channels, is_first)
        super().__init__(vcpu_id, clock, areas, timers)
        self._abi = abi
        self.regs = regs
        self._guest = guest
        self._leave = leave
        self.on_kick = lambda: self.leave_for(lambda: None)
        self._enter = enter
        #: Swap the page-table root and GS base with user mode's; False where user mode has no tables.
        self.toggle_guest_mode = toggle_guest_mode
        self._kernel_mode = True
        self.trap_table: list[TrapEntry] = [_UNSET] * 256
        self.callbacks: dict[int, int] = {}
        self.callback_cs: dict[int, int] = {}  #: their selectors, which only a 32-bit guest chooses
        self.callback_flags: dict[int, int] = {}
        self.kernel_ss = arch_x86.FLAT_KERNEL_SS64
        self.kernel_sp = 0
        self.task_switched = False
        self.iopl = 0
        self.gs_base_kernel = 0
        self.gs_base_user = 0
        self.debugreg = DebugRegisters()
        self.resumes_at = -1  #: the instruction that no breakpoint on fetching it stops
        self.set_debugreg, self.get_debugreg = self.debugreg.write, self.debugreg.read
        self.cr2 = 0
        self.cr4 = _CR4_VISIBLE  #: as the guest sees it
        self.iobitmap = (0, 0)  #: PHYSDEVOP_set_iobitmap: address and number of ports
        self.resume: Callable[[], None] | None = None
        #: An IRET to selectors that the CPU refuses: the exception, and the selectors that its frame shows.
        self.refused_frame: tuple[Exit, int, int] | None = None
        self.nmi_masked = False
        #: What the rooms that serve the running vcpu have of this one, while it does not run.
        self.parked = Parked()
        #: Where the segment of a selector begins: 0 for all that 64-bit code and stacks use.
        self.segment_base: Callable[[int], int] = lambda selector: 0
        #: Whether the guest sees an IOPL of its own (VMASST_TYPE_architectural_iopl).
        self.has_architectural_iopl: Callable[[], bool] = lambda: False
        self.continuation: tuple[int, ...] | None = None  #: a hypercall that was interrupted: its number and arguments
        self.softirq_pending = False  #: SCHEDULE_SOFTIRQ, until the guest goes on

    @property
    def kernel_mode(self) -> bool:
        """guest_kernel_mode: whether the guest's kernel runs, not its user mode."""
        return self._kernel_mode

    @kernel_mode.setter
    def kernel_mode(self, value: bool) -> None:
        self._kernel_mode = value

    def leave_for(self, action: Callable[[], None]) -> None:
        """Stop the engine; ``action`` runs before the guest goes on."""
        self.resume = action
        self._leave()

    # -- traps and callbacks -----------------------------------------------------------------------------------------
    def set_trap_table(self, entries: list[TrapEntry]) -> None:
        """HYPERVISOR_set_trap_table: replace rows, or all of them by nothing."""
        if not entries:
            self.trap_table = [_UNSET] * 256
        for entry in entries:
            self.trap_table[entry.vector] = entry

    def register_callback(self, type: int, flags: int, cs: int, address: int) -> None:
        """CALLBACKOP_register / set_callbacks."""
        kind = cb.CALLBACKTYPE_sysenter if type == cb.CALLBACKTYPE_sysenter_deprecated else type
        if kind not in CALLBACK_KINDS:
            raise XenError(e.ENOSYS, f"callback type {kind}")
        if not _is_canonical(address):
            raise XenError(e.EINVAL, f"callback address {address:#x} is not canonical")
        if kind == cb.CALLBACKTYPE_nmi:
            self.trap_table[_VECTOR_NMI] = TrapEntry(_VECTOR_NMI, _TI_IF, arch_x86.FLAT_KERNEL_CS64, address)
            return
        self.callbacks[kind] = address
        self.callback_flags[kind] = flags

    def unregister_callback(self, type: int) -> None:
        """CALLBACKOP_unregister: only the NMI's can be taken away."""
        if type == cb.CALLBACKTYPE_nmi:
            self.trap_table[_VECTOR_NMI] = _UNSET
            return
        known = type in CALLBACK_KINDS or type == cb.CALLBACKTYPE_sysenter_deprecated
        raise XenError(e.EINVAL if known else e.ENOSYS, f"callback type {type} cannot be unregistered")

    def register_nmi_callback(self, address: int) -> None:
        """XENNMI_register_callback."""
        self.register_callback(cb.CALLBACKTYPE_nmi, 0, 0, address)

    def stack_switch(self, ss: int, sp: int) -> None:
        """HYPERVISOR_stack_switch: where frames from user mode go."""
        self.kernel_ss = ss | 3  # fixup_guest_stack_selector
        self.kernel_sp = sp

    def fpu_taskswitch(self, set: bool) -> None:
        """HYPERVISOR_fpu_taskswitch: CR0.TS."""
        self.task_switched = set
        cr0 = self.regs.read("cr0")
        self.regs.write("cr0", cr0 | _CR0_TS if set else cr0 & ~_CR0_TS)

    def set_cr4(self, value: int) -> None:
        """CR4 as far as the guest may set it (pv_fixup_guest_cr4)."""
        self.cr4 = value & _CR4_GUEST | _CR4_VISIBLE
        self.debugreg.has_extensions = bool(value & _CR4_DE)

    def write_cr4(self, value: int) -> None:
        """The same while the vcpu runs: the CPU must know of it."""
        self.set_cr4(value)
        self.regs.write("cr4", self.regs.read("cr4") & ~_CR4_TSD | value & _CR4_TSD)

    def set_segment_base(self, which: int, base: int) -> None:
        """HYPERVISOR_set_segment_base."""
        if which == arch_x86.SEGBASE_GS_USER_SEL:
            kernel_base = self.regs.read("gs_base")  # Xen loads the selector between two SWAPGS
            selector = base & 0xFFFF
            self.regs.write("gs", selector | 3 if selector > 3 else selector)
            self.gs_base_user = self.regs.read("gs_base")
            self.regs.write("gs_base", kernel_base)
            return
        if not _is_canonical(base):
            raise XenError(e.EINVAL, f"segment base {base:#x} is not canonical")
        if which == arch_x86.SEGBASE_FS:
            self.regs.write("fs_base", base)
        elif which == arch_x86.SEGBASE_GS_USER:
            self.gs_base_user = base
        elif which == arch_x86.SEGBASE_GS_KERNEL:
            self.gs_base_kernel = base
            self.regs.write("gs_base", base)
        else:
            raise XenError(e.EINVAL, f"segment base {which}")


    # -- long hypercalls ---------------------------------------------------------------------------------------------
    def preempt_check(self) -> bool:
        """hypercall_preempt_check: an upcall could be delivered, or somebody else is to run first."""
        info = self.info
        return self.softirq_pending or self.resume is not None or bool(info.upcall_pending and not info.upcall_mask)

    def create_continuation(self, op: int, *args: int) -> int:
        """hypercall_create_continuation: the guest makes another hypercall at the same place when it goes on."""
        self.continuation = (op, *args)
        self.softirq_pending = False
        return op

    def take_continuation(self, rip: int) -> bool:
        """Have the guest stand before the hypercall at ``rip`` once more, with what it is to be called with now; False
        when it is done.
        """
        if self.continuation is None:
            return False
        (op, *args), self.continuation = self.continuation, None
        regs, then = self.regs, self.resume
        regs.write("rax", op)
        for name, value in zip(self._abi.arg_registers, args, strict=False):
            regs.write(name, value)

        def go_back() -> None:
            regs.write("rip", rip)
            if then is not None:
                then()

        self.leave_for(go_back)
        return True

    # -- HYPERVISOR_iret ---------------------------------------------------------------------------------------------
    def iret(self) -> None:
        """HYPERVISOR_iret: the frame on the guest's stack is taken when the engine has left the hypercall."""
        self.leave_for(self._take_iret_frame)

    def _take_iret_frame(self) -> None:
        """do_iret of xen/arch/x86/pv/iret.c."""
        regs = self.regs
        try:
            raw = self._guest.copy_from_guest(regs.read("rsp"), self._abi.sizeof(arch_x86.iret_context))
        except XenError:
            raise DomainCrashError(["%pv Fault while reading IRET context from guest stack", CRASHED]) from None
        frame = self._abi.unpack(arch_x86.iret_context, raw)
        if frame.cs & 3 == 3 and not self.toggle_guest_mode():
            raise DomainCrashError(["%pv Guest switching to user mode with no user page tables", CRASHED])
        if self.has_architectural_iopl():
            self.iopl = frame.rflags & _IOPL
        self.nmi_masked = False
        regs.write("rax", frame.rax)
        if not frame.flags & arch_x86.VGCF_in_syscall:
            regs.write("r11", frame.r11)
            regs.write("rcx", frame.rcx)
        self.set_frame(
            frame.rip, frame.cs & 0xFFFF | 3, frame.rflags & ~(_IOPL | _VM) | _IF, frame.rsp, frame.ss & 0xFFFF | 3
        )
        self.info.upcall_mask = 0 if frame.rflags & _IF else 1

    def load_flat_selectors(self) -> None:
        """Go on behind a SYSCALL that was made with other selectors than Xen's own."""
        rip, rsp, rflags = (self.regs.read(name) for name in ("rip", "rsp", "rflags"))
        self.set_frame(rip, arch_x86.FLAT_KERNEL_CS64, rflags, rsp, arch_x86.FLAT_KERNEL_SS64)

    def take_resume_flag(self, rip: int, rflags: int) -> int:
        """``rflags`` without RF, which the engine's CPU would keep for longer than the one instruction at ``rip``."""
        self.resumes_at = rip if rflags & _RF else -1
        return rflags & ~_RF

    def set_frame(self, rip: int, cs: int, rflags: int, rsp: int, ss: int) -> None:
        """Stand at ``rip`` with these selectors; the engine is left."""
        rflags = self.take_resume_flag(rip, rflags)
        regs = self.regs
        if cs == regs.read("cs") and ss == regs.read("ss"):
            regs.write("rip", rip)
            regs.write("rsp", rsp)
            regs.write("rflags", rflags | 2)
            return
        refusal = self._enter(rip, rsp, cs, ss, rflags | 2)
        if refusal is not None:
            self._enter(rip, rsp, *self.flat_selectors, rflags | 2)
            self.refused_frame = refusal, cs, ss
