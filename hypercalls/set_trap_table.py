"""set_trap_table: the guest's interrupt table (xen/arch/x86/pv/callback.c do_set_trap_table)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.arguments import is_canonical_address
from hypercalls.context import TrapEntry
from hypercalls.errors import XenError
from hypercalls.guest_handle import read_array
from hypercalls.public.arch_x86 import trap_info
from hypercalls.public.errno import EFAULT, EINVAL

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_set_trap_table"]

#: no end but address 0; memory ends before this many rows
ENDLESS = 1 << 32


def do_set_trap_table(ctx: Context, traps: int) -> int:
    """Rows up to one with address 0; a null pointer clears all vectors. Rows before a bad one have taken effect."""
    if not traps:
        ctx.vcpu.set_trap_table([])
        return 0
    rows: list[TrapEntry] = []
    result = 0
    try:
        for row in read_array(ctx, traps, ENDLESS, ctx.abi.reader(trap_info)):
            entry = TrapEntry(*row)
            if entry.address == 0:
                break
            if not is_canonical_address(entry.address):
                result = -EINVAL
                break
            rows.append(entry)
    except XenError:
        result = -EFAULT
    if rows:
        ctx.vcpu.set_trap_table(rows)
    return result
