"""fpu_taskswitch: CR0.TS as the guest sees it (xen/arch/x86/pv/misc-hypercalls.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.arguments import u32

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_fpu_taskswitch"]


def do_fpu_taskswitch(ctx: Context, set_: int) -> int:
    """Set TS when ``set_`` is not zero, else clear it."""
    ctx.vcpu.fpu_taskswitch(u32(set_) != 0)
    return 0
