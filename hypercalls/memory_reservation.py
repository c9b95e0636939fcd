"""XENMEM_increase_reservation, decrease_reservation, populate_physmap (xen/common/memory.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypercalls.domid import check_target_domain
from hypercalls.errors import XenError
from hypercalls.guest_handle import put_longs, read_longs
from hypercalls.public import memory as xm

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["DOMU_MAX_ORDER", "mem_flags_ok", "memory_reservation"]

#: the largest extent of a domain without devices (CONFIG_DOMU_MAX_ORDER)
DOMU_MAX_ORDER: Final = 9
#: so many that a continuation can still be encoded
MAX_EXTENTS: Final = 0xFFFFFFFF >> 6


def mem_flags_ok(mem_flags: int) -> bool:
    """``construct_memop_from_reservation``: whether frames so placed may be asked for."""
    address_bits = mem_flags & 0xFF
    if 0 < address_bits <= 12:
        return False
    node = ((mem_flags >> 8) - 1) & 0xFF
    return mem_flags & xm.XENMEMF_vnode != 0 or node == 0xFF or not mem_flags & xm.XENMEMF_exact_node_request


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
    if order > DOMU_MAX_ORDER or not mem_flags_ok(mem_flags):
        return start_extent
    place = extent_start + start_extent * ctx.abi.long_size
    todo = nr_extents - start_extent
    match op:
        case xm.XENMEM_increase_reservation:
            return start_extent + _increase(ctx, extent_start and place, todo, order)
        case xm.XENMEM_decrease_reservation:
            return start_extent + _decrease(ctx, place, todo, order)
        case _:
            # a domain may not populate itself on demand
            on_demand = mem_flags & xm.XENMEMF_populate_on_demand
            return start_extent if on_demand else start_extent + _populate(ctx, place, todo, order)


def _increase(ctx: Context, place: int, todo: int, order: int) -> int:
    """New frames, their mfns stored at ``place`` unless that is null."""
    mfns: list[int] = []
    try:
        for _ in range(todo):
            mfns.append(ctx.mm.increase_reservation(order))  # noqa: PERF401 - those before a failure count
    except XenError:
        todo = len(mfns)
    return put_longs(ctx, place, mfns) if place else todo


def _decrease(ctx: Context, place: int, todo: int, order: int) -> int:
    done = 0
    try:
        for gmfn in read_longs(ctx, place, todo):
            ctx.mm.decrease_reservation(gmfn, order)
            done += 1
    except XenError:
        return done
    return done


def _populate(ctx: Context, place: int, todo: int, order: int) -> int:
    """Frames for the pfns at ``place``, which the mfns replace."""
    mfns: list[int] = []
    populate = ctx.mm.populate_physmap
    try:
        for gpfn in read_longs(ctx, place, todo):
            mfns.append(populate(gpfn, order))  # noqa: PERF401 - those before a failure count
    except XenError:
        return put_longs(ctx, place, mfns)
    return put_longs(ctx, place, mfns)
