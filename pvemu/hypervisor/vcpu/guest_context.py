"""Vcpus beside the first: they exist, and everything about them can be set up and asked; but one CPU runs the guest.

Xen would start such a vcpu on VCPUOP_up. Here that is refused (EOPNOTSUPP), and VCPUOP_is_up, by which guests count
their processors, finds none (ENOENT): a guest comes up on one. All else is as in xen/common/domain.c do_vcpu_op and
xen/arch/x86/domain.c arch_set_info_guest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.arguments import addr_ok, is_canonical_address
from hypercalls.errors import XenError
from hypercalls.public import arch_x86
from hypercalls.public import errno as e
from pvemu.frames import PAGE_MASK, PAGE_SHIFT
from pvemu.hypervisor.descriptor_tables import FIRST_RESERVED_GDT_ENTRY
from pvemu.memory.frame_table import PageType

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercalls.abi import Abi
    from pvemu.hypervisor.page_types import PageTypes
    from pvemu.hypervisor.vcpu.areas import VcpuAreas
    from pvemu.hypervisor.vcpu.timers import VcpuTimers

__all__ = ["OfflineVcpu"]

_MAX_LDT_ENTRIES, _MAX_GDT_FRAMES, _ENTRIES_PER_FRAME = 8192, 16, 512


class OfflineVcpu:
    """Vcpu ``vcpu_id``; ``log`` is Xen's console. The page tables and GDT that it was given stay typed as such."""

    def __init__(
        self, abi: Abi, domid: int, vcpu_id: int, areas: VcpuAreas, timers: VcpuTimers, types: PageTypes,
        log: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._abi = abi
        self._name = f"d{domid}v{vcpu_id}"
        self.areas = areas
        self.timers = timers
        self._types = types
        self._log = log
        self.is_initialised = False
        self.nmi_pending = False

    def up(self) -> None:
        """VCPUOP_up: EINVAL before VCPUOP_initialise, as on Xen; then it is refused."""
        if not self.is_initialised:
            raise XenError(e.EINVAL, f"{self._name} is not initialised")
        self._refuse_to_run("VCPUOP_up")

    def _refuse_to_run(self, what: str) -> None:
        self._log(f"{self._name}: {what}: pvemu runs one vcpu, this one stays down")
        raise XenError(e.EOPNOTSUPP, f"{self._name} cannot be brought up")

    def initialise(self, raw: bytes) -> None:
        """VCPUOP_initialise with a vcpu_guest_context: checked, and its page tables and GDT taken."""
        if self.is_initialised:
            raise XenError(e.EEXIST, f"{self._name} is initialised")
        context = self._abi.unpack(arch_x86.vcpu_guest_context, raw)
        if self._abi.bits == 64:
            _check_addresses(context)
        if context.ldt_base & PAGE_MASK or context.ldt_ents > _MAX_LDT_ENTRIES:
            raise XenError(e.EINVAL, f"LDT of {context.ldt_ents} entries at {context.ldt_base:#x}")
        if -(-context.gdt_ents // _ENTRIES_PER_FRAME) > _MAX_GDT_FRAMES:
            raise XenError(e.EINVAL, f"GDT of {context.gdt_ents} entries")
        is_user = self._abi.bits == 64 and not context.flags & arch_x86.VGCF_in_kernel
        if is_user and not context.ctrlreg[1]:
            raise XenError(e.EINVAL, "user mode without page tables")
        if context.flags & arch_x86.VGCF_online:
            self._refuse_to_run("VGCF_online")
        self._take_tables(context)
        self.is_initialised = True

    def _take_tables(self, context: arch_x86.vcpu_guest_context) -> None:
        """pv_set_gdt and the roots of both modes; all or none of them."""
        if context.gdt_ents > FIRST_RESERVED_GDT_ENTRY:
            raise XenError(e.EINVAL, f"GDT of {context.gdt_ents} entries")
        wanted = [(mfn, PageType.SEG_DESC) for mfn in context.gdt_frames[: -(-context.gdt_ents // _ENTRIES_PER_FRAME)]]
        cr3 = context.ctrlreg[3]
        if self._abi.bits == 64:
            wanted.append((cr3 >> PAGE_SHIFT, PageType.L4))
            if context.ctrlreg[1]:
                wanted.append((context.ctrlreg[1] >> PAGE_SHIFT, PageType.L4))
        else:
            wanted.append(((cr3 >> PAGE_SHIFT | cr3 << 20) & 0xFFFF_FFFF, PageType.L3))  # compat_cr3_to_pfn
        taken: list[int] = []
        try:
            for mfn, kind in wanted:
                self._types.get_page_and_type(mfn, kind)
                taken.append(mfn)
        except XenError as error:
            for mfn in taken:
                self._types.put_page_and_type(mfn)
            raise XenError(e.EINVAL, error.reason) from error


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
