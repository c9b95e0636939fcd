"""vm_assist: behaviours of Xen that a guest may switch (xen/common/domain.c do_vm_assist)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypercalls.arguments import u32
from hypercalls.public import xen
from hypercalls.public.errno import EINVAL, ENOSYS

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_vm_assist"]

#: PV32_VM_ASSIST_MASK (xen/arch/x86/include/asm/domain.h); 64-bit guests have m2p_strict besides
PV32_VM_ASSISTS: Final = frozenset(
    {
        xen.VMASST_TYPE_4gb_segments,
        xen.VMASST_TYPE_4gb_segments_notify,
        xen.VMASST_TYPE_writable_pagetables,
        xen.VMASST_TYPE_pae_extended_cr3,
        xen.VMASST_TYPE_architectural_iopl,
        xen.VMASST_TYPE_runstate_update_flag,
    }
)


def do_vm_assist(ctx: Context, cmd: int, type_: int) -> int:
    """``cmd``: VMASST_CMD_enable or disable; ``type_``: a VMASST_TYPE_*, EINVAL if not of this width."""
    cmd, type_ = u32(cmd), u32(type_)
    if type_ not in PV32_VM_ASSISTS and (type_ != xen.VMASST_TYPE_m2p_strict or ctx.abi.bits == 32):
        return -EINVAL
    if cmd not in (xen.VMASST_CMD_enable, xen.VMASST_CMD_disable):
        return -ENOSYS
    ctx.domain.vm_assist(type_, cmd == xen.VMASST_CMD_enable)
    return 0
