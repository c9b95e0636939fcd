"""mmu_update: a batch of page-table writes (xen/arch/x86/mm.c do_mmu_update)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.arguments import s32, u16, u32
from hypercalls.domid import check_pg_owner
from hypercalls.errors import XenError
from hypercalls.guest_handle import check_native_handle, copy_array
from hypercalls.public.errno import ENOSYS, EPERM, ESRCH
from hypercalls.public.xen import DOMID_IO, mmu_update

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["MMU_UPDATE_PREEMPTED", "begin_batch", "do_mmu_update", "finish_batch"]

#: in ``count``: the rest of a batch that Xen interrupted itself; ``*pdone`` has what was done before
MMU_UPDATE_PREEMPTED = 1 << 31


def begin_batch(ctx: Context, count: int, pdone: int) -> tuple[int, int]:
    """(requests to do, requests done before) of a batch's ``count`` and ``pdone`` arguments."""
    if not count & MMU_UPDATE_PREEMPTED:
        return count, 0
    done = 0
    if pdone:
        try:
            done = int.from_bytes(ctx.guest.copy_from_guest(pdone, 4), "little")
        except XenError:
            done = 0  # Xen goes on without it
    return count & ~MMU_UPDATE_PREEMPTED, done


def finish_batch(ctx: Context, pdone: int, done: int) -> None:
    """Tell the guest how many requests were done; nobody hears of a bad ``pdone``."""
    if not pdone:
        return
    try:
        ctx.guest.copy_to_guest(pdone, u32(done).to_bytes(4, "little"))
    except XenError:
        return


def do_mmu_update(ctx: Context, ureqs: int, count: int, pdone: int, foreigndom: int) -> int:
    """``count`` requests at ``ureqs``; stops at the first that fails, with its errno. ``*pdone`` gets the number done.

    ``foreigndom``: low half the owner of the frames, high half one more than the owner of the tables.
    """
    count, foreigndom = u32(count), u32(foreigndom)
    if count == MMU_UPDATE_PREEMPTED and not ureqs:
        return s32(foreigndom)
    count, before = begin_batch(ctx, count, pdone)
    check_native_handle(ctx, ureqs, count, 16)
    pt_dom = foreigndom >> 16
    if pt_dom and pt_dom - 1 not in (0, ctx.domain.domid):
        raise XenError(ESRCH, f"page-table owner {pt_dom - 1}")
    done = result = 0
    try:
        is_io = u16(foreigndom) == DOMID_IO  # nobody needs a permission for it; what it owns, others do
        denied = not is_io and check_pg_owner(ctx, u16(foreigndom))
        denied = denied or (pt_dom and pt_dom - 1 != ctx.domain.domid)
        request = ctx.abi.reader(mmu_update)
        for piece in copy_array(ctx, ureqs, count, request.size):
            for ptr, val in request.iter_unpack(piece):
                if ptr & 4:
                    raise XenError(ENOSYS, f"mmu_update command {ptr & 7}")
                if denied:
                    raise XenError(EPERM, f"mmu_update for {foreigndom:#x}")
                ctx.mm.mmu_update(ptr, val, is_io)
                done += 1
    except XenError as error:
        result = -error.errno
    finish_batch(ctx, pdone, before + done)
    return result
