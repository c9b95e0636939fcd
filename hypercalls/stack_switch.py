"""stack_switch: the stack on which Xen enters the guest kernel (xen/arch/x86/pv/misc-hypercalls.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_stack_switch"]


def do_stack_switch(ctx: Context, ss: int, esp: int) -> int:
    """``ss``: selector, of which 16 bits count; ``esp``: stack pointer."""
    ctx.vcpu.stack_switch(ss & 0xFFFF, esp)
    return 0
