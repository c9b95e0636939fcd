"""set_segment_base: FS and GS bases of 64-bit guests (xen/arch/x86/pv/misc-hypercalls.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.arguments import is_canonical_address, u16, u32
from hypercalls.public.arch_x86 import SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER, SEGBASE_GS_USER_SEL
from hypercalls.public.errno import EINVAL, ENOSYS

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_set_segment_base"]


def do_set_segment_base(ctx: Context, which: int, base: int) -> int:
    """``which``: a SEGBASE_*; ``base``: an address, or for SEGBASE_GS_USER_SEL a selector."""
    which = u32(which)
    if ctx.abi.bits == 32:
        return -ENOSYS
    if which == SEGBASE_GS_USER_SEL:
        ctx.vcpu.set_segment_base(which, u16(base))
        return 0
    if which not in (SEGBASE_FS, SEGBASE_GS_USER, SEGBASE_GS_KERNEL) or not is_canonical_address(base):
        return -EINVAL
    ctx.vcpu.set_segment_base(which, base)
    return 0
