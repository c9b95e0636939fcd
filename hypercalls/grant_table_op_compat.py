"""The operations of grant_table_op whose structures differ in 32 bits (xen/common/compat/grant_table.c).

Xen translates them into an area of two pages of its own and runs the native code on that: of transfers and copies as
many at a time as fit in, all of which are read before the first is done. What the guest sees of it: a fault while they
are read undoes the whole portion, and one while the statuses are written comes after all of it was done. Statuses of
operations with a list are stored before the list is, so that a list that cannot be written goes unreported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hypercalls.errors import XenError
from hypercalls.grant_copy import COPY_FIELDS, decode_copy
from hypercalls.guest_handle import check_handle, copy_field_to_guest, patched, put_array
from hypercalls.public import grant_table as gt
from hypercalls.public.errno import EFAULT, EINVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hypercalls.context import Context

__all__ = ["COMPAT_HANDLERS"]

#: COMPAT_ARG_XLAT_SIZE, and the native structures that are in it
_XLAT_SIZE: Final = 2 * 4096
_TRANSFERS, _COPIES = _XLAT_SIZE // 24, _XLAT_SIZE // 40
_SETUP_FRAMES, _STATUS_FRAMES = (_XLAT_SIZE - 24) // 8, (_XLAT_SIZE - 16) // 8


def _portions(
    ctx: Context, cls: type, uop: int, count: int, size: int, *fields: str
) -> Iterator[tuple[int, list[tuple[int, ...]]]]:
    """(address, fields of each) of up to ``size`` structures of an array at a time."""
    layout = ctx.abi.reader(cls, *fields)
    for first in range(0, count, size):
        start = uop + first * layout.size
        stop = start + min(size, count - first) * layout.size
        yield start, [
            layout.unpack(ctx.guest.copy_from_guest(place, layout.size)) for place in range(start, stop, layout.size)
        ]


def _put_statuses(ctx: Context, cls: type, start: int, statuses: list[int]) -> None:
    """Last to first, all that can be written; XenError(EFAULT) when some cannot."""
    fault: XenError | None = None
    size = ctx.abi.sizeof(cls)
    for index, status in reversed(list(enumerate(statuses))):
        try:
            copy_field_to_guest(ctx, start + index * size, cls, "status", status)
        except XenError as error:
            fault = error
    if fault is not None:
        raise fault


def _transfer(ctx: Context, uop: int, count: int) -> int:
    cls = gt.gnttab_transfer
    for start, portion in _portions(ctx, cls, uop, count, _TRANSFERS, "mfn", "domid", "ref"):
        _put_statuses(ctx, cls, start, [ctx.grant_table.transfer(mfn, domid, ref) for mfn, domid, ref in portion])
    return 0


def _copy(ctx: Context, uop: int, count: int) -> int:
    cls = gt.gnttab_copy
    for start, portion in _portions(ctx, cls, uop, count, _COPIES, *COPY_FIELDS):
        copies = ctx.grant_table.begin_copy()
        statuses = [copies.copy(*decode_copy(values)) for values in portion]
        copies.release()
        _put_statuses(ctx, cls, start, statuses)
    return 0


def _setup_table(ctx: Context, uop: int, count: int) -> int:
    if count > 1:
        return -EINVAL
    return _with_list(ctx, uop, gt.gnttab_setup_table, 4, _SETUP_FRAMES, ctx.grant_table.setup_table) if count else 0


def _get_status_frames(ctx: Context, uop: int, count: int) -> int:
    if count > 1:
        return -EINVAL
    ask = ctx.grant_table.get_status_frames
    return _with_list(ctx, uop, gt.gnttab_get_status_frames, 8, _STATUS_FRAMES, ask) if count else 0


def _with_list(
    ctx: Context, uop: int, cls: type, size: int, limit: int, ask: Callable[[int, int], tuple[int, list[int]]]
) -> int:
    """One structure, whose frame_list gets numbers of ``size`` bytes, as many as the translation area has room for."""
    was = ctx.guest.copy_from_guest(uop, ctx.abi.sizeof(cls))
    argument: Any = ctx.abi.unpack(cls, was)
    dom, nr_frames, frame_list = argument.dom, argument.nr_frames, argument.frame_list
    if nr_frames >= 0xFFFF_FFFF // size:
        raise XenError(EFAULT, f"a list of {nr_frames:#x}")
    check_handle(ctx, frame_list, nr_frames, size)
    status, frames = ask(dom, nr_frames)
    if nr_frames > limit and status == gt.GNTST_okay:
        status, frames = gt.GNTST_general_error, []
    put_array(ctx, frame_list, frames, size)
    ctx.guest.copy_to_guest(uop, patched(ctx, was, cls, status=status))
    return 0


COMPAT_HANDLERS: Final[dict[int, Callable[[Context, int, int], int]]] = {
    gt.GNTTABOP_setup_table: _setup_table,
    gt.GNTTABOP_transfer: _transfer,
    gt.GNTTABOP_copy: _copy,
    gt.GNTTABOP_get_status_frames: _get_status_frames,
}
