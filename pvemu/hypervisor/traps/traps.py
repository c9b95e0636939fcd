"""Delivering exceptions, events and system calls to the guest kernel: the bounce frame
(xen/arch/x86/x86_64/entry.S create_bounce_frame, xen/arch/x86/pv/traps.c pv_inject_event).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from hypercalls.errors import XenError
from hypercalls.public import arch_x86, xen
from hypercalls.public import callback as cb
from pvemu.cpu.exits import PF_USER
from pvemu.cpu.paging import access_ok
from pvemu.hypervisor.domain import Domain, DomainCrashError
from pvemu.hypervisor.vcpu.current import ServesCurrent
from pvemu.observers import subscribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.guest_access import GuestMemory
    from pvemu.hypervisor.vcpu import Vcpu

__all__ = ["CALLBACKF_MASK_EVENTS", "HAS_ERROR_CODE", "VECTOR_NAMES", "Delivery", "GuestException", "Traps"]

#: Exceptions that push an error code (TRAP_HAVE_EC).
HAS_ERROR_CODE = frozenset((8, 10, 11, 12, 13, 14, 17, 21, 29, 30))
#: vector_name() of xen/arch/x86/traps.c.
VECTOR_NAMES = ("#DE", "#DB", "#NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "#CS", "#TS", "#NP", "#SS", "#GP",
                "#PF", "#SPV", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP")  # fmt: skip
_VECTOR_NMI, _VECTOR_UD, _VECTOR_PF = 2, 6, 14
_TI_IF = 4
CALLBACKF_MASK_EVENTS = 1
_FLAT_USER_32 = arch_x86.FLAT_RING3_CS32, arch_x86.FLAT_RING3_SS32
_DF = 1 << 10
_TF, _IF, _IOPL, _NT, _RF, _VM, _AC = 1 << 8, 1 << 9, 3 << 12, 1 << 14, 1 << 16, 1 << 17, 1 << 18


class GuestException(Exception):  # noqa: N818 - an exception of the guest's CPU, not an error of ours
    """What an emulated instruction raises in the guest; ``address`` is CR2 of a page fault."""

    def __init__(self, vector: int, error_code: int = -1, address: int = 0) -> None:
        super().__init__(vector, error_code, address)
        self.vector = vector
        self.error_code = error_code
        self.address = address


class Delivery(NamedTuple):
    """A frame that is about to be built; the registers still show what it interrupts."""

    kind: str  #: exception, interrupt (an ``int n``), event, nmi or syscall
    vector: int = -1  #: of an exception or interrupt
    error_code: int = -1
    address: int = 0  #: CR2 of a page fault


class Traps(ServesCurrent):
    """Builds frames on the guest's kernel stack for one vcpu."""

    def __init__(self, domain: Domain, vcpu: Vcpu, guest: GuestMemory) -> None:
        self._domain = domain
        self._vcpu = vcpu
        self._guest = guest
        #: Whether 64-bit code runs.
        self.is_long_code: Callable[[], bool] = lambda: True
        self._observers: list[Callable[[Delivery], None]] = []

    def observe(self, observer: Callable[[Delivery], None]) -> Callable[[], None]:
        """Tell ``observer`` of everything that is delivered to the guest kernel; returns how to stop that."""
        return subscribe(self._observers, observer)

    def _tell(self, *delivery: Any) -> None:
        for observer in tuple(self._observers):
            observer(Delivery(*delivery))

    def inject_exception(
        self, vector: int, error_code: int, address: int = 0, selectors: tuple[int, int] | None = None
    ) -> None:
        """pv_inject_event for a hardware exception; ``address`` is CR2 of a page fault, ``selectors`` the cs and ss to
        show where they are not those in force.

        DomainCrashError when the guest has no handler for it.
        """
        vcpu = self._vcpu
        entry = vcpu.trap_table[vector]
        if vector == _VECTOR_PF:
            vcpu.cr2 = address
            vcpu.info.set_cr2(address)
            error_code = (error_code & ~PF_USER) | (0 if vcpu.kernel_mode else PF_USER)
        if self.is_null(entry.cs, entry.address):
            shown = error_code if vector in HAS_ERROR_CODE else 0xFFFF_FFFF
            name = VECTOR_NAMES[vector] if vector < len(VECTOR_NAMES) else "???"
            raise DomainCrashError(
                [f"d{self._domain.domid}v{vcpu.vcpu_id} Unhandled: vec {vector}, {name}[{shown:04x}]"]
            )
        if self._observers:
            self._tell("exception", vector, error_code if vector in HAS_ERROR_CODE else -1, address)
        self._bounce(
            entry.cs, entry.address, error_code if vector in HAS_ERROR_CODE else None,
            masks_events=bool(entry.flags & _TI_IF), selectors=selectors,
        )  # fmt: skip

    def inject_software_interrupt(self, vector: int) -> None:
        """An ``int n`` of the guest, with n a gate that the guest filled in."""
        entry = self._vcpu.trap_table[vector]
        if self.is_null(entry.cs, entry.address):
            raise DomainCrashError(
                [f"d{self._domain.domid}v{self._vcpu.vcpu_id} Unhandled: vec {vector}, ???[ffffffff]"]
            )
        if self._observers:
            self._tell("interrupt", vector)
        self._bounce(entry.cs, entry.address, None, masks_events=bool(entry.flags & _TI_IF))

    def deliver_events(self) -> bool:
        """test_all_events: an NMI, or an upcall that is pending and not masked. True when a frame was built."""
        vcpu = self._vcpu
        info = vcpu.info
        nmi = vcpu.trap_table[_VECTOR_NMI]
        if vcpu.nmi_pending and not vcpu.nmi_masked and nmi.address:
            vcpu.nmi_pending, vcpu.nmi_masked = False, True
            if self._observers:
                self._tell("nmi", _VECTOR_NMI)
            self._bounce(nmi.cs, nmi.address, None, masks_events=True)
            return True
        if info.upcall_mask or not info.upcall_pending:
            return False
        if self._observers:
            self._tell("event")
        event = cb.CALLBACKTYPE_event
        self._bounce(vcpu.callback_cs.get(event, 0), vcpu.callbacks.get(event, 0), None, masks_events=True)
        return True

    def inject_syscall(self) -> None:
        """SYSCALL in user mode: to the registered entry (xen/arch/x86/x86_64/entry.S switch_to_kernel). Frames of
        64-bit code show Xen's own selectors whatever it used; 32-bit code has an entry of its own.
        """
        regs, callbacks = self._vcpu.regs, self._vcpu.callbacks
        rip, rflags = regs.read("rip"), regs.read("rflags")
        regs.write("rcx", rip)
        regs.write("r11", rflags)
        is_long = self.is_long_code()
        kind = cb.CALLBACKTYPE_syscall if is_long else cb.CALLBACKTYPE_syscall32
        handler = callbacks.get(kind, 0)
        if not handler:
            regs.write("rip", rip - 2)
            self.inject_exception(_VECTOR_UD, -1)
            return
        if self._observers:
            self._tell("syscall")
        flags = self._vcpu.callback_flags.get(cb.CALLBACKTYPE_syscall, 0)
        selectors = (arch_x86.FLAT_KERNEL_CS64, arch_x86.FLAT_KERNEL_SS64) if is_long else _FLAT_USER_32
        self._bounce(0, handler, None, masks_events=bool(flags & CALLBACKF_MASK_EVENTS), selectors=selectors)
        regs.write("rflags", regs.read("rflags") & ~_DF)

    @staticmethod
    def is_null(_cs: int, address: int) -> bool:
        """null_trap_bounce: whether there is no handler."""
        return not address

    def _bounce(
        self, _cs: int, handler: int, error_code: int | None, masks_events: bool,
        selectors: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        """create_bounce_frame: store the frame and stand at the handler."""
        vcpu = self._vcpu
        regs = vcpu.regs
        cs, ss, rsp, rflags = regs.read("cs"), regs.read("ss"), regs.read("rsp"), regs.read("rflags")
        if selectors is not None:
            cs, ss = selectors
        if vcpu.kernel_mode:
            cs &= ~3
            stack = rsp
        else:
            vcpu.toggle_guest_mode()
            stack = vcpu.kernel_sp
        stack &= ~0xF
        saved_mask = vcpu.info.upcall_mask
        if masks_events:
            vcpu.info.upcall_mask = 1
        shown_flags = rflags & ~(_IF | _IOPL) | (0 if saved_mask else _IF)
        if xen.VMASST_TYPE_architectural_iopl in self._domain.assists:
            shown_flags |= vcpu.iopl
        frame = [regs.read("rcx"), regs.read("r11")]
        if error_code is not None:
            frame.append(error_code)
        frame += [regs.read("rip"), saved_mask << 32 | cs, shown_flags, rsp, ss]
        stack -= 8 * len(frame)
        if not access_ok(stack, 8 * len(frame)):
            raise DomainCrashError(self._sync_crash("bad stack"))
        self._push(stack, struct.pack(f"<{len(frame)}Q", *frame))
        if not handler:
            raise DomainCrashError(self._sync_crash("no handler"))
        vcpu.set_frame(
            handler, arch_x86.FLAT_KERNEL_CS64, rflags & ~(_AC | _VM | _RF | _NT | _TF), stack,
            arch_x86.FLAT_KERNEL_SS64,
        )  # fmt: skip

    def _push(self, stack: int, frame: bytes) -> None:
        try:
            self._guest.copy_to_guest(stack, frame)
        except XenError:
            raise DomainCrashError(self._sync_crash("page fault on the guest's stack")) from None

    def _sync_crash(self, why: str) -> list[str]:
        return [f"domain_crash_sync called from entry.S: create_bounce_frame: {why}"]
