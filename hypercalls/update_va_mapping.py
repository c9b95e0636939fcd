"""update_va_mapping, update_va_mapping_otherdomain: write the L1 entry that maps an address (xen/arch/x86/mm.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.arguments import u16
from hypercalls.domid import check_pg_owner
from hypercalls.mmuext_op import check_vcpumask
from hypercalls.public.xen import UVMF_ALL, UVMF_FLUSHTYPE_MASK, UVMF_INVLPG, UVMF_LOCAL, UVMF_TLB_FLUSH

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_update_va_mapping", "do_update_va_mapping_otherdomain"]


def do_update_va_mapping(ctx: Context, va: int, val: int, flags_or_hi: int, flags32: int = 0) -> int:
    """``flags`` is a flush type and whom to flush: UVMF_LOCAL, UVMF_ALL or the address of a vcpu bitmap; EFAULT where
    that cannot be read, with the entry changed.

    64 bits: (va, val, flags). 32 bits: (va, val_lo, val_hi, flags).
    """
    if ctx.abi.bits == 64:
        return _update(ctx, va, val, flags_or_hi)
    return _update(ctx, va, val | flags_or_hi << 32, flags32)


def _update(ctx: Context, va: int, val: int, flags: int) -> int:
    ctx.mm.update_va_mapping(va, val, flags)
    whom = flags & ~UVMF_FLUSHTYPE_MASK
    if whom not in (UVMF_LOCAL, UVMF_ALL) and flags & UVMF_FLUSHTYPE_MASK in (UVMF_TLB_FLUSH, UVMF_INVLPG):
        check_vcpumask(ctx, whom)
    return 0


def do_update_va_mapping_otherdomain(
    ctx: Context, va: int, val: int, flags_or_hi: int, domid_or_flags: int, domid32: int = 0
) -> int:
    """As update_va_mapping, with the owner of the frame as last argument."""
    if ctx.abi.bits == 64:
        flags, domid = flags_or_hi, domid_or_flags
    else:
        val, flags, domid = val | flags_or_hi << 32, domid_or_flags, domid32
    return check_pg_owner(ctx, u16(domid)) or _update(ctx, va, val, flags)
