"""nmi_op: the guest's NMI handler (xen/arch/x86/pv/callback.c do_nmi_op)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.arguments import u32
from hypercalls.callback_op import register_guest_callback
from hypercalls.public import nmi
from hypercalls.public.callback import CALLBACKTYPE_nmi
from hypercalls.public.errno import ENOSYS

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_nmi_op"]


def do_nmi_op(ctx: Context, cmd: int, arg: int) -> int:
    """``cmd``: an XENNMI_*; ``arg``: its structure."""
    cmd = u32(cmd)
    if cmd == nmi.XENNMI_register_callback:
        layout = ctx.abi.reader(nmi.xennmi_callback, "handler_address")
        (address,) = layout.unpack(ctx.guest.copy_from_guest(arg, layout.size))
        return register_guest_callback(ctx, CALLBACKTYPE_nmi, 0, 0, address)
    if cmd == nmi.XENNMI_unregister_callback:
        ctx.vcpu.unregister_callback(CALLBACKTYPE_nmi)
        return 0
    return -ENOSYS
