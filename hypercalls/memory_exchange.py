"""XENMEM_exchange: frames for frames of another order or place (xen/common/memory.c memory_exchange)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hypercalls.domid import check_target_domain
from hypercalls.errors import XenError
from hypercalls.guest_handle import check_handle, copy_field_to_guest, put_longs, read_longs
from hypercalls.memory_reservation import DOMU_MAX_ORDER, mem_flags_ok
from hypercalls.public.errno import EFAULT, EINVAL, EPERM
from hypercalls.public.memory import xen_memory_exchange

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["memory_exchange"]

_FIELDS = tuple(
    f"{side}.{field}"
    for side in ("in_", "out")
    for field in ("extent_start", "nr_extents", "extent_order", "mem_flags", "domid")
)


class _Exchange(NamedTuple):
    in_start: int
    in_nr: int
    in_order: int
    in_flags: int
    in_domid: int
    out_start: int
    out_nr: int
    out_order: int
    out_flags: int
    out_domid: int
    nr_exchanged: int


def memory_exchange(ctx: Context, arg: int) -> int:
    """Exchange from extent ``nr_exchanged`` on; stores there how many input extents were exchanged. 0 or -errno."""
    layout = ctx.abi.reader(xen_memory_exchange, *_FIELDS, "nr_exchanged")
    exch = _Exchange(*layout.unpack(ctx.guest.copy_from_guest(arg, layout.size)))
    done = exch.nr_exchanged
    result = 0
    try:
        _check(ctx, exch)
        if done == exch.in_nr:
            return 0
        _check_lists(ctx, exch)
        in_extents = 1 << max(exch.out_order - exch.in_order, 0)
        for first in range(done // in_extents * in_extents, exch.in_nr // in_extents * in_extents, in_extents):
            done = first
            _exchange_chunk(ctx, exch, first, in_extents)
        done = exch.in_nr
    except XenError as error:
        result = -error.errno
    copy_field_to_guest(ctx, arg, xen_memory_exchange, "nr_exchanged", done)
    return result


def _check(ctx: Context, exch: _Exchange) -> None:
    limit = ctx.abi.long_mask
    if max(exch.in_order, exch.out_order) > DOMU_MAX_ORDER:
        raise XenError(EPERM, "extent order")
    if (
        exch.nr_exchanged > exch.in_nr
        or exch.in_domid != exch.out_domid
        or limit >> exch.in_order < exch.in_nr
        or limit >> exch.out_order < exch.out_nr
        or exch.in_nr << exch.in_order != exch.out_nr << exch.out_order
    ):
        raise XenError(EINVAL, "extent lists do not match")


def _check_lists(ctx: Context, exch: _Exchange) -> None:
    check_handle(ctx, exch.in_start, exch.in_nr, ctx.abi.long_size)
    check_handle(ctx, exch.out_start, exch.out_nr, ctx.abi.long_size)
    if not mem_flags_ok(exch.out_flags & ~0xFF):
        raise XenError(EINVAL, "memory node")
    check_target_domain(ctx, exch.in_domid)


def _exchange_chunk(ctx: Context, exch: _Exchange, first: int, in_extents: int) -> None:
    """The smallest number of extents that is whole on both sides, from input extent ``first`` on."""
    size = ctx.abi.long_size
    bases = read_longs(ctx, exch.in_start + first * size, in_extents)
    frames = [base + index for base in bases for index in range(1 << exch.in_order)]
    mfns = ctx.mm.exchange_frames(frames, exch.out_order, len(frames) >> exch.out_order)
    place = exch.out_start + ((first << exch.in_order) >> exch.out_order) * size
    bad_places = [at for at, mfn in enumerate(mfns) if not _place_extent(ctx, place + at * size, mfn, exch.out_order)]
    if bad_places:  # the chunk is done, and does not count
        raise XenError(EFAULT, f"extent list at {place:#x}")


def _place_extent(ctx: Context, place: int, mfn: int, order: int) -> bool:
    """Give a new extent the pfn at ``place``, and tell its mfn there; False where that cannot be read or written."""
    try:
        (gpfn,) = read_longs(ctx, place, 1)
    except XenError:
        return False
    ctx.mm.place_extent(mfn, gpfn, order)
    return put_longs(ctx, place, [mfn]) == 1
