"""Kernel and user mode of a 64-bit guest, both in ring 3 (xen/arch/x86/pv/domain.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.frames import PAGE_SHIFT

if TYPE_CHECKING:
    from pvemu.cpu.paging import PageWalker
    from pvemu.hypervisor.mm import Mm
    from pvemu.hypervisor.vcpu import Vcpu

__all__ = ["toggle_guest_mode"]


def toggle_guest_mode(vcpu: Vcpu, mm: Mm, walker: PageWalker) -> bool:
    """Swap GS base and root table with the other mode's; False where user mode has no tables."""
    if vcpu.kernel_mode and not mm.guest_root_user:
        return False
    gs_base = vcpu.regs.read("gs_base")
    if vcpu.kernel_mode:
        vcpu.gs_base_kernel = gs_base
        vcpu.regs.write("gs_base", vcpu.gs_base_user)
        walker.load_root(mm.guest_root_user << PAGE_SHIFT)
    else:
        vcpu.gs_base_user = gs_base
        vcpu.regs.write("gs_base", vcpu.gs_base_kernel)
        walker.load_root(mm.guest_root << PAGE_SHIFT)
    vcpu.kernel_mode = not vcpu.kernel_mode
    return True
