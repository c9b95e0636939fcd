"""set_callbacks: the main entry points of the guest at once (xen/arch/x86/pv/callback.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.callback_op import register_guest_callback
from hypercalls.public import callback as cb

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_set_callbacks"]


def do_set_callbacks(ctx: Context, event: int, failsafe: int, syscall: int, failsafe_address: int = 0) -> int:
    """The main callbacks at once; one that cannot be is left as it was.

    64 bits: (event, failsafe, syscall) addresses. 32 bits: (event selector, address, failsafe selector, address).
    """
    if ctx.abi.bits == 64:
        register_guest_callback(ctx, cb.CALLBACKTYPE_event, 0, 0, event)
        register_guest_callback(ctx, cb.CALLBACKTYPE_failsafe, 0, 0, failsafe)
        register_guest_callback(ctx, cb.CALLBACKTYPE_syscall, 0, 0, syscall)
    else:
        register_guest_callback(ctx, cb.CALLBACKTYPE_event, 0, event & 0xFFFF, failsafe)
        register_guest_callback(ctx, cb.CALLBACKTYPE_failsafe, 0, syscall & 0xFFFF, failsafe_address)
    return 0
