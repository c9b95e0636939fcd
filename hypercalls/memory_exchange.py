"""XENMEM_exchange: frames for frames of another order or place (xen/common/memory.c memory_exchange, and for 32-bit
guests xen/common/compat/memory.c before it).

The smallest number of extents that is whole on both sides is a chunk; a chunk is exchanged or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from hypercalls.domid import check_target_domain
from hypercalls.errors import XenError
from hypercalls.guest_handle import check_handle, copy_field_to_guest, put_longs, read_longs
from hypercalls.memory_reservation import COMPAT_ARG_XLAT_SIZE, DOMU_MAX_ORDER, address_bits, node_ok
from hypercalls.public.errno import E2BIG, EFAULT, EINVAL, EPERM
from hypercalls.public.memory import xen_memory_exchange

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypercalls.context import Context

__all__ = ["memory_exchange"]

_FIELDS = tuple(
    f"{side}.{field}"
    for side in ("in_", "out")
    for field in ("extent_start", "nr_extents", "extent_order", "mem_flags", "domid")
)
#: longs beside a 64-bit struct xen_memory_exchange where a 32-bit guest's arguments are translated
COMPAT_SPACE: Final = (COMPAT_ARG_XLAT_SIZE - 72) // 8
#: a frame number that fits no address: frames may be anywhere
ANYWHERE: Final = 64 + 12


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
    return _compat_exchange(ctx, arg, exch) if ctx.abi.bits == 32 else _native_exchange(ctx, arg, exch)


# -- 64 bits -----------------------------------------------------------------------------------------------------------
def _native_exchange(ctx: Context, arg: int, exch: _Exchange) -> int:
    done = exch.nr_exchanged
    result = 0
    try:
        _check_sizes(exch)
        if done == exch.in_nr:
            return 0
        _check_lists(ctx, exch)
        _check_owner(ctx, exch)
        for first in _chunks(exch):
            done = first
            if _place_frames(ctx, exch, first, _exchange_chunk(ctx, exch, first)):  # the chunk is done; does not count
                raise XenError(EFAULT, f"extent list at {exch.out_start:#x}")
        done = exch.in_nr
    except XenError as error:
        result = -error.errno
    copy_field_to_guest(ctx, arg, xen_memory_exchange, "nr_exchanged", done)
    return result


def _check_sizes(exch: _Exchange) -> None:
    """The order first, so that the sizes can be computed."""
    if max(exch.in_order, exch.out_order) > DOMU_MAX_ORDER:
        raise XenError(EPERM, "extent order")
    limit = (1 << 64) - 1
    if (
        exch.nr_exchanged > exch.in_nr
        or exch.in_domid != exch.out_domid
        or limit >> exch.in_order < exch.in_nr
        or limit >> exch.out_order < exch.out_nr
        or exch.in_nr << exch.in_order != exch.out_nr << exch.out_order
    ):
        raise XenError(EINVAL, "extent lists do not match")


def _check_lists(ctx: Context, exch: _Exchange) -> None:
    """The part of each list that is left to do must begin outside of Xen's part."""
    size, done = ctx.abi.long_size, exch.nr_exchanged
    out_done = (done << exch.in_order) >> exch.out_order
    for start, first, count in ((exch.in_start, done, exch.in_nr), (exch.out_start, out_done, exch.out_nr)):
        check_handle(ctx, start + first * size, count - first, size)


def _check_owner(ctx: Context, exch: _Exchange) -> None:
    if not node_ok(exch.out_flags):
        raise XenError(EINVAL, "memory node")
    check_target_domain(ctx, exch.in_domid)


def _in_extents(exch: _Exchange) -> int:
    """Input extents of a chunk."""
    return 1 << max(exch.out_order - exch.in_order, 0)


def _chunks(exch: _Exchange) -> range:
    """First input extents of the chunks that are left to do."""
    size = _in_extents(exch)
    return range(exch.nr_exchanged // size * size, exch.in_nr // size * size, size)


def _exchange_chunk(ctx: Context, exch: _Exchange, first: int) -> list[int]:
    """The new extents' first mfns, for the chunk of input extent ``first``."""
    place = exch.in_start + first * ctx.abi.long_size
    return _take(ctx, exch, read_longs(ctx, place, _in_extents(exch)))


def _take(ctx: Context, exch: _Exchange, bases: Iterator[int]) -> list[int]:
    frames = (base + index for base in bases for index in range(1 << exch.in_order))
    count = (_in_extents(exch) << exch.in_order) >> exch.out_order
    return ctx.mm.exchange_frames(frames, exch.out_order, count, address_bits(exch.out_flags) or ANYWHERE)


def _place_frames(ctx: Context, exch: _Exchange, first: int, mfns: list[int]) -> int:
    """Give new extents the pfns of the list, and tell their mfns there; how many could not be read or written."""
    size = ctx.abi.long_size
    place = exch.out_start + ((first << exch.in_order) >> exch.out_order) * size
    faults = 0
    for at, mfn in enumerate(mfns):
        try:
            (gpfn,) = read_longs(ctx, place + at * size, 1)
        except XenError:
            faults += 1
            continue
        ctx.mm.place_extent(mfn, gpfn, exch.out_order)
        faults += put_longs(ctx, place + at * size, [mfn]) != 1
    return faults


# -- 32 bits -----------------------------------------------------------------------------------------------------------
def _compat_exchange(ctx: Context, arg: int, exch: _Exchange) -> int:
    """Both lists are read before as many chunks as can be translated at once are exchanged, and are told of after them;
    nothing is told of those where one cannot be exchanged.
    """
    while True:
        _check_compat(ctx, exch)
        start, shift = exch.nr_exchanged, _shift(exch)
        at_once = COMPAT_SPACE // ((1 << shift) + 1) << (shift if exch.out_order > exch.in_order else 0)
        piece = exch._replace(in_nr=min(start + at_once, exch.in_nr))
        piece = piece._replace(out_nr=_out_index(exch, piece.in_nr))
        out_first = _out_index(exch, start)
        out_start = exch.out_start + 4 * out_first
        in_list = list(read_longs(ctx, exch.in_start + 4 * start, piece.in_nr - start))
        out_list = list(read_longs(ctx, out_start, piece.out_nr - out_first))
        mfns = _exchange_translated(ctx, piece, in_list, out_list)
        is_told = put_longs(ctx, out_start, mfns) == len(mfns)
        copy_field_to_guest(ctx, arg, xen_memory_exchange, "nr_exchanged", piece.in_nr)
        if not is_told:
            raise XenError(EFAULT, f"extent list at {exch.out_start:#x}")
        if piece.in_nr == exch.in_nr:
            return 0
        layout = ctx.abi.reader(xen_memory_exchange, *_FIELDS, "nr_exchanged")
        exch = _Exchange(*layout.unpack(ctx.guest.copy_from_guest(arg, layout.size)))


def _exchange_translated(ctx: Context, exch: _Exchange, in_list: list[int], out_list: list[int]) -> list[int]:
    """The new extents' mfns, which have their pfns; the lists begin at extent ``nr_exchanged``."""
    _check_sizes(exch)
    start = exch.nr_exchanged
    if start == exch.in_nr:
        return []
    _check_owner(ctx, exch)
    mfns: list[int] = []
    for first in _chunks(exch):
        at = first - start
        for mfn in _take(ctx, exch, iter(in_list[at : at + _in_extents(exch)])):
            ctx.mm.place_extent(mfn, out_list[len(mfns)], exch.out_order)
            mfns.append(mfn)
    return mfns


def _shift(exch: _Exchange) -> int:
    """The difference of the orders, of which the CPU takes five bits when it shifts by them."""
    return abs(exch.out_order - exch.in_order) & 31


def _out_index(exch: _Exchange, in_index: int) -> int:
    """The output extent that begins where input extent ``in_index`` does."""
    return in_index >> _shift(exch) if exch.out_order > exch.in_order else in_index << _shift(exch)


def _check_compat(ctx: Context, exch: _Exchange) -> None:
    """Sizes are computed in 32 bits, with the orders as they are."""
    in_shift, out_shift, limit = exch.in_order & 31, exch.out_order & 31, (1 << 32) - 1
    if (
        exch.nr_exchanged > exch.in_nr
        or (exch.out_order > exch.in_order and exch.nr_exchanged & ((1 << _shift(exch)) - 1))
        or limit >> in_shift < exch.in_nr
        or limit >> out_shift < exch.out_nr
        or exch.in_nr << in_shift != exch.out_nr << out_shift
    ):
        raise XenError(EINVAL, "extent lists do not match")
    check_handle(ctx, exch.in_start, exch.in_nr, 4)
    check_handle(ctx, exch.out_start, exch.out_nr, 4)
    if COMPAT_SPACE // ((1 << _shift(exch)) + 1) == 0:
        raise XenError(E2BIG, f"extents of orders {exch.in_order} and {exch.out_order} cannot be translated")
