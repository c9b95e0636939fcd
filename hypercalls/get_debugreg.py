"""get_debugreg: a debug register of the guest (xen/arch/x86/pv/misc-hypercalls.c, x86emul_read_dr)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.arguments import u32
from hypercalls.public.errno import ENODEV

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_get_debugreg"]


def do_get_debugreg(ctx: Context, reg: int) -> int:
    """The register's value; ENODEV for one that is not there."""
    reg = u32(reg)
    return -ENODEV if reg > 7 else ctx.vcpu.get_debugreg(reg)
