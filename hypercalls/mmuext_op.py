"""mmuext_op: pinning, base pointers, TLB flushes, LDT, page copies (xen/arch/x86/mm.c do_mmuext_op)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.arguments import addr_ok, s32, u16, u32
from hypercalls.domid import check_pg_owner
from hypercalls.errors import XenError
from hypercalls.guest_handle import check_native_handle, read_array
from hypercalls.mmu_update import MMU_UPDATE_PREEMPTED, begin_batch, finish_batch
from hypercalls.public import xen
from hypercalls.public.errno import EACCES, EINVAL, ENOSYS, EOPNOTSUPP

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["check_vcpumask", "do_mmuext_op"]


def do_mmuext_op(ctx: Context, uops: int, count: int, pdone: int, foreigndom: int) -> int:
    """``count`` operations at ``uops``; stops at the first that fails, with its errno.

    ``*pdone`` gets how many were done.
    """
    count, foreigndom = u32(count), u32(foreigndom)
    if count == MMU_UPDATE_PREEMPTED and not uops:
        return s32(foreigndom)
    if ctx.abi.bits == 32 and not count & ~MMU_UPDATE_PREEMPTED:
        return 0  # compat_mmuext_op hands nothing on
    count, before = begin_batch(ctx, count, pdone)
    check_native_handle(ctx, uops, count, ctx.abi.sizeof(xen.mmuext_op))
    denied = check_pg_owner(ctx, u16(foreigndom))
    if denied:
        return denied
    done = result = 0
    layout = ctx.abi.reader(xen.mmuext_op, "cmd", "arg1.mfn", "arg2.src_mfn")
    try:
        for cmd, arg1, arg2 in read_array(ctx, uops, count, layout):
            _one_op(ctx, cmd, arg1, arg2)
            done += 1
    except XenError as error:
        result = -error.errno
    finish_batch(ctx, pdone, before + done)
    return result


def _one_op(ctx: Context, cmd: int, arg1: int, arg2: int) -> None:  # noqa: C901 - one case per operation of the ABI
    """One operation; ``arg1`` and ``arg2`` are the unions read as frames (their other members are no wider)."""
    mm = ctx.mm
    match cmd:
        case xen.MMUEXT_PIN_L1_TABLE | xen.MMUEXT_PIN_L2_TABLE | xen.MMUEXT_PIN_L3_TABLE:
            mm.pin_table(cmd - xen.MMUEXT_PIN_L1_TABLE + 1, arg1)
        case xen.MMUEXT_PIN_L4_TABLE:
            if ctx.abi.bits == 64:  # else ignored: there is no such level
                mm.pin_table(4, arg1)
        case xen.MMUEXT_UNPIN_TABLE:
            mm.unpin_table(arg1)
        case xen.MMUEXT_NEW_BASEPTR:
            mm.new_baseptr(arg1)
        case xen.MMUEXT_NEW_USER_BASEPTR:
            mm.new_user_baseptr(arg1)
        case xen.MMUEXT_TLB_FLUSH_LOCAL | xen.MMUEXT_TLB_FLUSH_ALL:
            mm.tlb_flush()
        case xen.MMUEXT_INVLPG_LOCAL:
            mm.invlpg(arg1)
        case xen.MMUEXT_TLB_FLUSH_MULTI | xen.MMUEXT_INVLPG_MULTI:
            try:
                check_vcpumask(ctx, arg2)
            except XenError as error:
                raise XenError(EINVAL, error.reason) from error
            if cmd == xen.MMUEXT_TLB_FLUSH_MULTI:
                mm.tlb_flush()
            elif addr_ok(arg1):
                mm.invlpg(arg1)
        case xen.MMUEXT_INVLPG_ALL:
            if addr_ok(arg1):
                mm.invlpg(arg1)
        case xen.MMUEXT_FLUSH_CACHE:  # only for domains with devices, as the next
            raise XenError(EACCES, "cache flush without devices")
        case xen.MMUEXT_FLUSH_CACHE_GLOBAL:
            raise XenError(EINVAL, "cache flush without devices")
        case xen.MMUEXT_SET_LDT:
            ents = u32(arg2)
            if ents > 8192 or (ents and (arg1 & 0xFFF or not addr_ok(arg1))):
                raise XenError(EINVAL, f"LDT of {ents} entries at {arg1:#x}")
            mm.set_ldt(arg1 if ents else 0, ents)
        case xen.MMUEXT_CLEAR_PAGE:
            mm.clear_page(arg1)
        case xen.MMUEXT_COPY_PAGE:
            mm.copy_page(arg1, arg2)
        case xen.MMUEXT_MARK_SUPER | xen.MMUEXT_UNMARK_SUPER:
            raise XenError(EOPNOTSUPP, "superpage marks are gone")
        case _:
            raise XenError(ENOSYS, f"mmuext_op command {cmd}")


def check_vcpumask(ctx: Context, vcpumask: int) -> None:
    """vcpumask_to_pcpumask: XenError(EFAULT) for a bitmap of vcpus that cannot be read. No domain has more vcpus than
    its first word has bits, and whom it names does not matter: no TLB holds what the page tables do not say.
    """
    ctx.guest.copy_from_guest(vcpumask, ctx.abi.long_size)
