"""set_timer_op: the calling vcpu's single-shot timer (xen/common/sched/core.c do_set_timer_op)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_set_timer_op"]


def do_set_timer_op(ctx: Context, timeout: int, hi: int = 0) -> int:
    """VIRQ_TIMER at ``timeout`` ns of system time, 0 for never. 32 bits: (low half, high half)."""
    ctx.vcpu.set_timer(timeout if ctx.abi.bits == 64 else timeout | hi << 32)
    return 0
