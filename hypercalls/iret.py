"""iret: return from an event or trap handler (xen/arch/x86/pv/iret.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_iret"]


def do_iret(ctx: Context) -> int:
    """Take the frame on the guest's stack, and with it all registers: nobody may store the 0 as a result."""
    ctx.vcpu.iret()
    return 0
