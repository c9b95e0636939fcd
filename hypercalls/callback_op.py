"""callback_op: where Xen enters the guest (xen/arch/x86/pv/callback.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypercalls.arguments import is_canonical_address, s32
from hypercalls.public import callback as cb
from hypercalls.public.errno import EINVAL, ENOSYS

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_callback_op", "register_guest_callback"]

#: types that can be registered and not taken back, in both widths; 64-bit guests have syscall besides
TYPES32: Final = frozenset(
    {cb.CALLBACKTYPE_event, cb.CALLBACKTYPE_failsafe, cb.CALLBACKTYPE_syscall32, cb.CALLBACKTYPE_sysenter}
)


def do_callback_op(ctx: Context, cmd: int, arg: int) -> int:
    """``cmd``: a CALLBACKOP_*; ``arg``: its structure."""
    match s32(cmd):
        case cb.CALLBACKOP_register:
            layout = ctx.abi.reader(cb.callback_register, *_REGISTER_FIELDS[ctx.abi.bits])
            type_, flags, *address = layout.unpack(ctx.guest.copy_from_guest(arg, layout.size))
            return register_guest_callback(ctx, type_, flags, 0 if ctx.abi.bits == 64 else address[0], address[-1])
        case cb.CALLBACKOP_unregister:
            layout = ctx.abi.reader(cb.callback_unregister, "type")
            (type_,) = layout.unpack(ctx.guest.copy_from_guest(arg, layout.size))
            if type_ == cb.CALLBACKTYPE_nmi:
                ctx.vcpu.unregister_callback(type_)
                return 0
            return -EINVAL if _is_known(ctx, type_) else -ENOSYS
        case _:
            return -ENOSYS if ctx.abi.bits == 64 else -EINVAL


_REGISTER_FIELDS: Final = {
    64: ("type", "flags", "address.eip"),
    32: ("type", "flags", "address.cs", "address.eip"),
}


def _is_known(ctx: Context, type_: int) -> bool:
    return type_ in TYPES32 or (type_ == cb.CALLBACKTYPE_syscall and ctx.abi.bits == 64)


def register_guest_callback(ctx: Context, type_: int, flags: int, cs: int, address: int) -> int:
    """Set one entry point: 0, EINVAL for an address that is not canonical, ENOSYS for a type of the other width."""
    if not is_canonical_address(address):
        return -EINVAL
    if type_ == cb.CALLBACKTYPE_nmi:
        ctx.vcpu.register_nmi_callback(address)
        return 0
    if not _is_known(ctx, type_):
        return -ENOSYS
    ctx.vcpu.register_callback(type_, flags, cs & 0xFFFF, address)
    return 0
