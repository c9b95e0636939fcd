"""grant_table_op: arrays of operations, each with its own status (xen/common/grant_table.c do_grant_table_op).

The port answers with GNTST_* statuses; this module copies. Each element is read when its turn comes, and a fault ends
the array with -EFAULT. Operations whose structures differ in 32 bits go through hypercalls.grant_table_op_compat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypercalls.arguments import s32, u32
from hypercalls.domid import check_target_domain
from hypercalls.errors import XenError
from hypercalls.grant_copy import COPY_FIELDS, decode_copy
from hypercalls.grant_table_op_compat import COMPAT_HANDLERS
from hypercalls.guest_handle import check_handle, check_native_handle, copy_field_to_guest, patched, put_array
from hypercalls.public import grant_table as gt
from hypercalls.public.errno import EILSEQ, EINVAL, ENOSYS
from hypercalls.public.xen import DOMID_SELF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hypercalls.context import Context

__all__ = ["do_grant_table_op"]

#: cmd: twelve bits of operation, then what a continued cache_flush remembers
GNTTABOP_CMD_MASK: Final = 0xFFF
PAGE_SIZE: Final = 4096


def do_grant_table_op(ctx: Context, cmd: int, uop: int, count: int) -> int:
    """``cmd``: a GNTTABOP_*; ``uop``: ``count`` structures of its kind."""
    cmd, count = u32(cmd), u32(count)
    if s32(count) < 0:
        return -EINVAL
    if ctx.abi.bits == 32 and cmd in COMPAT_HANDLERS:
        return COMPAT_HANDLERS[cmd](ctx, uop, count)
    op = cmd & GNTTABOP_CMD_MASK
    if op not in (cmd, gt.GNTTABOP_cache_flush):
        return -EINVAL
    if op == gt.GNTTABOP_cache_flush:
        return _cache_flush(ctx, uop, count, cmd & ~GNTTABOP_CMD_MASK != 0)
    handler = _HANDLERS.get(op)
    return -ENOSYS if handler is None else handler(ctx, uop, count)


def _each(ctx: Context, cls: type, uop: int, count: int, *fields: str) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(address, fields) of each structure of an array, read one by one: an operation may change those after it."""
    layout = ctx.abi.reader(cls, *fields)
    check_native_handle(ctx, uop, count, layout.size)
    for place in range(uop, uop + count * layout.size, layout.size):
        yield place, layout.unpack(ctx.guest.copy_from_guest(place, layout.size))


def _one(ctx: Context, cls: type, uop: int, *fields: str) -> tuple[int, ...]:
    layout = ctx.abi.reader(cls, *fields)
    return layout.unpack(ctx.guest.copy_from_guest(uop, layout.size))


def _map_grant_ref(ctx: Context, uop: int, count: int) -> int:
    cls = gt.gnttab_map_grant_ref
    layout = ctx.abi.reader(cls)
    for place, (host_addr, flags, ref, dom, _, *was) in _each(ctx, cls, uop, count):
        status, *mapped = ctx.grant_table.map_grant_ref(host_addr, flags, ref, dom)
        answer = mapped if status == gt.GNTST_okay else was
        ctx.guest.copy_to_guest(place, layout.pack(host_addr, flags, ref, dom, status, *answer))
    return 0


def _unmap_grant_ref(ctx: Context, uop: int, count: int) -> int:
    cls = gt.gnttab_unmap_grant_ref
    for place, (host_addr, dev_bus_addr, handle) in _each(ctx, cls, uop, count, "host_addr", "dev_bus_addr", "handle"):
        status = ctx.grant_table.unmap_grant_ref(host_addr, dev_bus_addr, handle)
        copy_field_to_guest(ctx, place, cls, "status", status)
    return 0


def _unmap_and_replace(ctx: Context, uop: int, count: int) -> int:
    cls = gt.gnttab_unmap_and_replace
    for place, (host_addr, new_addr, handle) in _each(ctx, cls, uop, count, "host_addr", "new_addr", "handle"):
        status = ctx.grant_table.unmap_and_replace(host_addr, new_addr, handle)
        copy_field_to_guest(ctx, place, cls, "status", status)
    return 0


def _setup_table(ctx: Context, uop: int, count: int) -> int:
    if count != 1:
        return -EINVAL
    cls = gt.gnttab_setup_table
    dom, nr_frames, frame_list = _one(ctx, cls, uop, "dom", "nr_frames", "frame_list")
    check_handle(ctx, frame_list, nr_frames, ctx.abi.long_size)
    status, frames = ctx.grant_table.setup_table(dom, nr_frames)
    if not put_array(ctx, frame_list, frames, ctx.abi.long_size):
        status = gt.GNTST_bad_virt_addr
    copy_field_to_guest(ctx, uop, cls, "status", status)
    return 0


def _transfer(ctx: Context, uop: int, count: int) -> int:
    cls = gt.gnttab_transfer
    for place, (mfn, domid, ref) in _each(ctx, cls, uop, count, "mfn", "domid", "ref"):
        copy_field_to_guest(ctx, place, cls, "status", ctx.grant_table.transfer(mfn, domid, ref))
    return 0


def _copy(ctx: Context, uop: int, count: int) -> int:
    cls = gt.gnttab_copy
    copies = ctx.grant_table.begin_copy()
    try:
        for place, values in _each(ctx, cls, uop, count, *COPY_FIELDS):
            copy_field_to_guest(ctx, place, cls, "status", copies.copy(*decode_copy(values)))
    finally:
        copies.release()
    return 0


def _query_size(ctx: Context, uop: int, count: int) -> int:
    if count != 1:
        return -EINVAL
    cls = gt.gnttab_query_size
    was = ctx.guest.copy_from_guest(uop, ctx.abi.sizeof(cls))
    status, nr_frames, max_nr_frames = ctx.grant_table.query_size(ctx.abi.unpack(cls, was).dom)
    answer = {"nr_frames": nr_frames, "max_nr_frames": max_nr_frames} if status == gt.GNTST_okay else {}
    ctx.guest.copy_to_guest(uop, patched(ctx, was, cls, status=status, **answer))
    return 0


def _set_version(ctx: Context, uop: int, _count: int) -> int:
    (version,) = _one(ctx, gt.gnttab_set_version, uop)
    result = 0
    try:
        if version not in (1, 2):
            raise XenError(EINVAL, f"grant table version {version}")
        version = ctx.grant_table.set_version(version)
    except XenError as error:
        result, version = -error.errno, ctx.grant_table.get_version(DOMID_SELF)
    copy_field_to_guest(ctx, uop, gt.gnttab_set_version, "version", version)
    return result


def _get_version(ctx: Context, uop: int, _count: int) -> int:
    dom, _, _ = _one(ctx, gt.gnttab_get_version, uop)
    check_target_domain(ctx, dom)
    copy_field_to_guest(ctx, uop, gt.gnttab_get_version, "version", ctx.grant_table.get_version(dom))
    return 0


def _get_status_frames(ctx: Context, uop: int, count: int) -> int:
    if count != 1:
        return -EINVAL
    cls = gt.gnttab_get_status_frames
    nr_frames, dom, frame_list = _one(ctx, cls, uop, "nr_frames", "dom", "frame_list")
    check_handle(ctx, frame_list, nr_frames, 8)
    status, frames = ctx.grant_table.get_status_frames(dom, nr_frames)
    if not put_array(ctx, frame_list, frames, 8):
        status = gt.GNTST_bad_virt_addr
    copy_field_to_guest(ctx, uop, cls, "status", status)
    return 0


def _swap_grant_ref(ctx: Context, uop: int, count: int) -> int:
    cls = gt.gnttab_swap_grant_ref
    for place, (ref_a, ref_b) in _each(ctx, cls, uop, count, "ref_a", "ref_b"):
        copy_field_to_guest(ctx, place, cls, "status", ctx.grant_table.swap_grant_ref(ref_a, ref_b))
    return 0


def _cache_flush(ctx: Context, uop: int, count: int, is_continued: bool) -> int:
    """No status here: the first refusal ends the array. Xen only ever continues where there is something to flush."""
    cls = gt.gnttab_cache_flush
    for _, (dev_bus_addr, offset, length, op) in _each(
        ctx, cls, uop, count, "a.dev_bus_addr", "offset", "length", "op"
    ):
        if offset >= PAGE_SIZE or offset + length > PAGE_SIZE or op & ~(gt.GNTTAB_CACHE_INVAL | gt.GNTTAB_CACHE_CLEAN):
            return -EINVAL
        if length and op:
            ctx.grant_table.cache_flush(dev_bus_addr, offset, length, op)
        elif is_continued:
            return -EILSEQ
        is_continued = False
    return 0


_HANDLERS: Final[dict[int, Callable[[Context, int, int], int]]] = {
    gt.GNTTABOP_map_grant_ref: _map_grant_ref,
    gt.GNTTABOP_unmap_grant_ref: _unmap_grant_ref,
    gt.GNTTABOP_setup_table: _setup_table,
    gt.GNTTABOP_transfer: _transfer,
    gt.GNTTABOP_copy: _copy,
    gt.GNTTABOP_query_size: _query_size,
    gt.GNTTABOP_unmap_and_replace: _unmap_and_replace,
    gt.GNTTABOP_set_version: _set_version,
    gt.GNTTABOP_get_status_frames: _get_status_frames,
    gt.GNTTABOP_get_version: _get_version,
    gt.GNTTABOP_swap_grant_ref: _swap_grant_ref,
}
