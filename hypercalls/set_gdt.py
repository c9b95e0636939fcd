"""set_gdt: the frames of the guest's descriptor table (xen/arch/x86/pv/descriptor-tables.c do_set_gdt)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.arguments import u32
from hypercalls.guest_handle import read_longs
from hypercalls.public.arch_x86 import FIRST_RESERVED_GDT_ENTRY
from hypercalls.public.errno import EINVAL

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_set_gdt"]


def do_set_gdt(ctx: Context, frame_list: int, entries: int) -> int:
    """``entries`` descriptors in the machine frames listed at ``frame_list``, 512 in each."""
    entries = u32(entries)
    if entries > FIRST_RESERVED_GDT_ENTRY:
        return -EINVAL
    ctx.descriptor_tables.set_gdt(list(read_longs(ctx, frame_list, -(-entries // 512))), entries)
    return 0
