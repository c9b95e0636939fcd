"""XENMEM_increase_reservation, decrease_reservation, populate_physmap (xen/common/memory.c, compat/memory.c).

The list of extents is read and answered one by one, so that a fault ends it at the extent it is at. For a 32-bit guest
Xen does a batch of them on a list of its own, and the guest's is read before and answered after each batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from hypercalls.domid import check_target_domain
from hypercalls.errors import XenError
from hypercalls.guest_handle import handle_ok, put_longs, read_longs
from hypercalls.public import memory as xm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypercalls.context import Context

__all__ = ["COMPAT_ARG_XLAT_SIZE", "DOMU_MAX_ORDER", "address_bits", "memory_reservation", "node_ok"]

#: the largest extent of a domain without devices (CONFIG_DOMU_MAX_ORDER)
DOMU_MAX_ORDER: Final = 9
#: so many that a continuation can still be encoded
MAX_EXTENTS: Final = 0xFFFFFFFF >> 6
PAGE_SIZE: Final = 4096
PAGE_SHIFT: Final = 12
#: where Xen translates a 32-bit guest's arguments, in bytes (xen/arch/x86/include/asm/x86_64/uaccess.h)
COMPAT_ARG_XLAT_SIZE: Final = 2 * PAGE_SIZE
#: a struct xen_memory_reservation of 64 bits and so many extents fit in there
COMPAT_BATCH: Final = (COMPAT_ARG_XLAT_SIZE - 32) // 8


class _Extents(NamedTuple):
    """What is asked for each extent; ``place`` of the list, whose elements have ``size`` bytes."""

    op: int
    place: int
    size: int
    order: int
    bits: int


def address_bits(mem_flags: int) -> int:
    """XENMEMF_get_address_bits: frames below so many bits are asked for, 0 for any."""
    return mem_flags & 0xFF


def node_ok(mem_flags: int) -> bool:
    """``propagate_node``: an unprivileged domain may wish for a node of the machine, and not insist."""
    return ((mem_flags >> 8) - 1) & 0xFF == 0xFF or not mem_flags & xm.XENMEMF_exact_node_request


def _mem_flags_ok(mem_flags: int) -> bool:
    """``construct_memop_from_reservation``. A domain has no virtual nodes: to name one means nothing."""
    return not 0 < address_bits(mem_flags) <= PAGE_SHIFT and (mem_flags & xm.XENMEMF_vnode != 0 or node_ok(mem_flags))


def memory_reservation(ctx: Context, op: int, start_extent: int, arg: int) -> int:
    """Extents ``start_extent`` and up; returns the index behind the last one done. Never an error."""
    try:
        data = ctx.guest.copy_from_guest(arg, ctx.abi.sizeof(xm.xen_memory_reservation))
        extent_start, nr_extents, order, mem_flags, domid = ctx.abi.reader(xm.xen_memory_reservation).unpack(data)
        if nr_extents > MAX_EXTENTS or start_extent >= nr_extents:
            return start_extent
        check_target_domain(ctx, domid)
    except XenError:
        return start_extent
    is_compat, size = ctx.abi.bits == 32, ctx.abi.long_size
    first = 0 if is_compat else start_extent
    if extent_start and not handle_ok(ctx, extent_start + first * size, nr_extents - first, size):
        return start_extent
    if order > DOMU_MAX_ORDER or not _mem_flags_ok(mem_flags):
        return start_extent
    if op == xm.XENMEM_populate_physmap and mem_flags & xm.XENMEMF_populate_on_demand:
        return start_extent  # not of one's own
    if not is_compat or not extent_start:
        # a null list of a 32-bit guest is handed on as it is: one of 64-bit elements at address 0
        extents = _Extents(op, extent_start, 8, order, address_bits(mem_flags))
        return _one_by_one(ctx, extents, start_extent, nr_extents)
    return _in_batches(ctx, _Extents(op, extent_start, 4, order, address_bits(mem_flags)), start_extent, nr_extents)


def _do(ctx: Context, extents: _Extents, gfn: int) -> int:
    """One extent: its first mfn, or XenError."""
    if extents.op == xm.XENMEM_decrease_reservation:
        ctx.mm.decrease_reservation(gfn, extents.order)
        return 0
    if extents.op == xm.XENMEM_populate_physmap:
        return ctx.mm.populate_physmap(gfn, extents.order, extents.bits)
    return ctx.mm.increase_reservation(extents.order, extents.bits)


def _one_by_one(ctx: Context, extents: _Extents, start: int, end: int) -> int:
    """A page of the list at a time, and of each page the first extent alone, since whether the page can be written
    shows only there.
    """
    wants_list = extents.op != xm.XENMEM_increase_reservation
    is_told = extents.op != xm.XENMEM_decrease_reservation and (wants_list or extents.place != 0)
    done = start
    while done < end:
        place = extents.place + done * extents.size
        count = min(max((PAGE_SIZE - place % PAGE_SIZE) // extents.size, 1), end - done)
        try:
            gfns = list(read_longs(ctx, place, count, extents.size)) if wants_list else [0] * count
        except XenError:
            return done
        for piece in (gfns[:1], gfns[1:]):
            mfns = list(_until_refused(ctx, extents, piece))
            told = put_longs(ctx, place, mfns, extents.size) if is_told else len(mfns)
            done += told
            if told < len(piece):
                return done
            place += extents.size
    return done


def _until_refused(ctx: Context, extents: _Extents, gfns: list[int]) -> Iterator[int]:
    try:
        for gfn in gfns:
            yield _do(ctx, extents, gfn)
    except XenError:
        return


def _in_batches(ctx: Context, extents: _Extents, start: int, nr_extents: int) -> int:
    """``compat_memory_op``: extents behind one that cannot be told of are done, and do not count."""
    done = start
    while done < nr_extents:
        place = extents.place + done * extents.size
        count = min(COMPAT_BATCH, nr_extents - done)
        gfns = [0] * count
        if extents.op != xm.XENMEM_increase_reservation:
            gfns = list(_until_fault(read_longs(ctx, place, count)))
        mfns = list(_until_refused(ctx, extents, gfns))
        told = len(mfns)
        if extents.op != xm.XENMEM_decrease_reservation:
            told = put_longs(ctx, place, mfns)
        done += told
        if told < count:
            break
    return done


def _until_fault(gfns: Iterator[int]) -> Iterator[int]:
    try:
        yield from gfns
    except XenError:
        return
