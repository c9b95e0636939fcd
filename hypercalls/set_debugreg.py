"""set_debugreg: a debug register of the guest (xen/arch/x86/pv/misc-hypercalls.c set_debugreg)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypercalls.arguments import addr_ok, u32
from hypercalls.public.errno import EINVAL, ENODEV, EPERM

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_set_debugreg"]

DR_GENERAL_DETECT: Final = 1 << 13


def do_set_debugreg(ctx: Context, reg: int, value: int) -> int:
    """ENODEV for a register that is not there, EPERM for one in Xen or GD, EINVAL for upper bits of DR6, DR7."""
    reg = u32(reg)
    if reg > 7:
        return -ENODEV
    if reg < 4 and not addr_ok(value):
        return -EPERM
    if reg >= 4 and value >> 32:
        return -EINVAL
    if reg in (5, 7) and value & DR_GENERAL_DETECT:
        return -EPERM
    ctx.vcpu.set_debugreg(reg, value)
    return 0
