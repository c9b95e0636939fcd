"""update_descriptor: one entry of a descriptor table (xen/arch/x86/pv/descriptor-tables.c do_update_descriptor)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.public.errno import EINVAL

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_update_descriptor"]


def do_update_descriptor(ctx: Context, gaddr: int, desc: int, desc_lo: int = 0, desc_hi: int = 0) -> int:
    """Store ``desc`` at machine address ``gaddr``. 32 bits: (gaddr_lo, gaddr_hi, desc_lo, desc_hi)."""
    if ctx.abi.bits == 32:
        gaddr, desc = gaddr | desc << 32, desc_lo | desc_hi << 32
    if gaddr & 7:
        return -EINVAL
    ctx.descriptor_tables.update_descriptor(gaddr, desc)
    return 0
