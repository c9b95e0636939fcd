"""memory_op: the domain's frames (xen/common/memory.c, xen/common/compat/memory.c, xen/arch/x86/mm.c arch_memory_op).

A reservation that fails half-way is no error: the result is the number of extents done so far, which may be 0.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from hypercalls.arguments import u32
from hypercalls.context import E820Entry
from hypercalls.domid import (
    check_existing_domain,
    check_remote_domain,
    check_remote_domain_exists,
    check_target_domain,
)
from hypercalls.guest_handle import check_handle, patched, put_longs, read_array
from hypercalls.memory_exchange import memory_exchange
from hypercalls.memory_reservation import COMPAT_ARG_XLAT_SIZE, memory_reservation
from hypercalls.public import memory as xm
from hypercalls.public.errno import EACCES, EDOM, EFAULT, EINVAL, ENOSYS, EOPNOTSUPP, EPERM

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercalls.context import Context

__all__ = ["do_memory_op"]

#: cmd: six bits of operation, then the extent to start at (xen/include/xen/hypercall.h)
MEMOP_EXTENT_SHIFT: Final = 6
MEMOP_CMD_MASK: Final = (1 << MEMOP_EXTENT_SHIFT) - 1

#: struct e820entry (xen/arch/x86/include/asm/e820.h): packed, the same in both widths
E820ENTRY: Final = Struct("<QQI")
E820MAX: Final = 1024
#: operations of the toolstack's headers
XENMEM_get_sharing_freed_pages: Final = 18
XENMEM_get_sharing_shared_pages: Final = 19
XENMEM_access_op: Final = 21
XENMEM_claim_pages: Final = 24
XENMEM_reserved_device_memory_map: Final = 27
XENMEM_RDM_ALL: Final = 1
#: elements of two lists, and of one, that are translated at once for a 32-bit guest beside their 64-bit structures
COMPAT_BATCH: Final = (COMPAT_ARG_XLAT_SIZE - 32) // 16
COMPAT_FRAMES: Final = (COMPAT_ARG_XLAT_SIZE - 32) // 8


def do_memory_op(ctx: Context, cmd: int, arg: int) -> int:
    """``cmd``: an XENMEM_*, with the first extent to do in the bits above it."""
    is_compat = ctx.abi.bits == 32
    if is_compat:
        cmd = u32(cmd)
    start_extent, op = cmd >> MEMOP_EXTENT_SHIFT, cmd & MEMOP_CMD_MASK
    if op in (xm.XENMEM_increase_reservation, xm.XENMEM_decrease_reservation, xm.XENMEM_populate_physmap):
        return memory_reservation(ctx, op, start_extent, arg)
    if op in (xm.XENMEM_add_to_physmap, xm.XENMEM_add_to_physmap_batch):
        return _add_to_physmap(ctx, op, start_extent, arg)
    if op == xm.XENMEM_acquire_resource:
        return _acquire_resource(ctx, start_extent, arg)
    handler = _HANDLERS.get(op)
    if handler is None or (is_compat and op == XENMEM_claim_pages):
        return -ENOSYS
    if start_extent and op != XENMEM_access_op:
        if is_compat and op in _TRANSLATED:  # what is copied first is missed first
            _copy(ctx, _TRANSLATED[op], arg)
        # the common operations refuse one; the arch ones look at all of cmd, so that it names no operation
        return -EINVAL if op in _COMMON else -ENOSYS
    return handler(ctx, op, arg)


def _exchange(ctx: Context, _op: int, arg: int) -> int:
    return memory_exchange(ctx, arg)


def _maximum_ram_page(ctx: Context, _op: int, _arg: int) -> int:
    return ctx.mm.maximum_ram_page()


def _of_domain(ctx: Context, op: int, arg: int) -> int:
    """Numbers about a domain: only about the caller."""
    (domid,) = ctx.abi.reader(xm.xen_memory_domain).unpack(_copy(ctx, xm.xen_memory_domain, arg))
    check_target_domain(ctx, domid)
    match op:
        case xm.XENMEM_current_reservation:
            return ctx.mm.current_reservation()
        case xm.XENMEM_maximum_reservation:
            return ctx.mm.maximum_reservation()
        case _:
            return ctx.mm.maximum_gpfn()


def _add_to_physmap(ctx: Context, op: int, start_extent: int, arg: int) -> int:
    """Only translated domains have a physmap to add to."""
    batch = op == xm.XENMEM_add_to_physmap_batch
    cls = xm.xen_add_to_physmap_batch if batch else xm.xen_add_to_physmap
    if ctx.abi.bits == 32:
        data = _copy(ctx, cls, arg)
        if batch:
            _read_batch(ctx, data, start_extent)
    if start_extent > 0xFFFF:
        return -EDOM
    domid, space = ctx.abi.reader(cls, "domid", "space").unpack(_copy(ctx, cls, arg))
    if batch and space == xm.XENMAPSPACE_gmfn_range:
        return -EOPNOTSUPP
    if not batch and space == xm.XENMAPSPACE_gmfn_foreign:
        return -ENOSYS
    if domid != 0:  # domain 0 is found, and refused for the same reason as the caller itself
        check_existing_domain(ctx, domid)
    return -EACCES


def _read_batch(ctx: Context, data: bytes, start_extent: int) -> None:
    """``compat_memory_op`` translates the lists before anything else: XenError(EFAULT) where they cannot be read."""
    size, idxs, gpfns, errs = ctx.abi.reader(xm.xen_add_to_physmap_batch, "size", "idxs", "gpfns", "errs").unpack(data)
    for handle in (idxs, gpfns, errs):
        check_handle(ctx, handle, size, 4)
    for index in range(start_extent, min(start_extent + COMPAT_BATCH, size)):
        ctx.guest.copy_from_guest(idxs + 4 * index, 4)
        ctx.guest.copy_from_guest(gpfns + 4 * index, 4)


def _remove_from_physmap(ctx: Context, _op: int, arg: int) -> int:
    domid, _ = ctx.abi.reader(xm.xen_remove_from_physmap).unpack(_copy(ctx, xm.xen_remove_from_physmap, arg))
    if domid != 0:
        check_existing_domain(ctx, domid)
    return -EACCES


def _get_vnumainfo(ctx: Context, _op: int, arg: int) -> int:
    cls = xm.xen_vnuma_topology_info
    domid, pad = ctx.abi.reader(cls, "domid", "pad").unpack(_copy(ctx, cls, arg))
    if pad:
        return -EINVAL
    check_target_domain(ctx, domid)
    return -EOPNOTSUPP


def _acquire_resource(ctx: Context, start_extent: int, arg: int) -> int:
    """Resources of other domains, for those that run them."""
    cls = xm.xen_mem_acquire_resource
    layout = ctx.abi.reader(cls, "domid", "nr_frames", "pad", "frame", "frame_list")
    domid, nr_frames, pad, frame, frame_list = layout.unpack(_copy(ctx, cls, arg))
    if ctx.abi.bits == 32 and frame_list and nr_frames:
        if start_extent >= nr_frames:
            return -EINVAL
        nr_frames, frame = min(nr_frames - start_extent, COMPAT_FRAMES), frame + start_extent & (1 << 64) - 1
    if pad or frame >> 32 or (frame + nr_frames) >> 32:
        return -EINVAL
    check_remote_domain(ctx, domid)
    return -EPERM


def _reserved_device_memory_map(ctx: Context, _op: int, arg: int) -> int:
    """Memory that devices of the machine claim: without an IOMMU nobody asks for any. struct
    xen_reserved_device_memory_map is the toolstack's: flags, nr_entries, a handle, a device; an entry is two longs.
    """
    size = ctx.abi.long_size
    data = ctx.guest.copy_from_guest(arg, 8 + 2 * size)
    flags, nr_entries, buffer = (int.from_bytes(field, "little") for field in (data[:4], data[4:8], data[8 : 8 + size]))
    check_handle(ctx, buffer, nr_entries, 2 * size)
    if flags & ~XENMEM_RDM_ALL:
        return -EINVAL
    ctx.guest.copy_to_guest(arg, data[:4] + bytes(4) + data[8:])
    return 0


def _memory_map(ctx: Context, _op: int, arg: int) -> int:
    data = _copy(ctx, xm.xen_memory_map, arg)
    nr_entries, buffer = ctx.abi.reader(xm.xen_memory_map).unpack(data)
    entries = ctx.mm.memory_map()
    if not entries:
        return -ENOSYS
    entries = entries[:nr_entries]
    if entries:
        ctx.guest.copy_to_guest(buffer, b"".join([E820ENTRY.pack(*entry) for entry in entries]))
    ctx.guest.copy_to_guest(arg, patched(ctx, data, xm.xen_memory_map, nr_entries=len(entries)))
    return 0


def _machine_memory_map(ctx: Context, _op: int, arg: int) -> int:
    if ctx.abi.bits == 32:
        _copy(ctx, xm.xen_memory_map, arg)
    return -EPERM


def _set_memory_map(ctx: Context, _op: int, arg: int) -> int:
    cls = xm.xen_foreign_memory_map
    layout = ctx.abi.reader(cls, "domid", "map.nr_entries", "map.buffer")
    domid, nr_entries, buffer = layout.unpack(_copy(ctx, cls, arg))
    if nr_entries > E820MAX:
        return -EINVAL
    check_target_domain(ctx, domid)
    ctx.mm.set_memory_map([E820Entry(*entry) for entry in read_array(ctx, buffer, nr_entries, E820ENTRY)])
    return 0


def _machphys_mapping(ctx: Context, _op: int, arg: int) -> int:
    ctx.guest.copy_to_guest(arg, ctx.abi.reader(xm.xen_machphys_mapping).pack(*ctx.mm.machphys_mapping()))
    return 0


def _machphys_mfn_list(ctx: Context, op: int, arg: int) -> int:
    cls = xm.xen_machphys_mfn_list
    data = _copy(ctx, cls, arg)
    max_extents, extent_start, _ = ctx.abi.reader(cls).unpack(data)
    is_compat = op == xm.XENMEM_machphys_compat_mfn_list
    mfns = (ctx.mm.machphys_compat_mfn_list() if is_compat else ctx.mm.machphys_mfn_list())[:max_extents]
    if put_longs(ctx, extent_start, mfns) != len(mfns):
        return -EFAULT
    ctx.guest.copy_to_guest(arg, patched(ctx, data, cls, nr_extents=len(mfns)))
    return 0


def _pod_target(ctx: Context, _op: int, arg: int) -> int:
    """Populate on demand is not for PV domains."""
    (domid,) = ctx.abi.reader(xm.xen_pod_target, "domid").unpack(_copy(ctx, xm.xen_pod_target, arg))
    if domid != 0:
        check_existing_domain(ctx, domid)
    return -EINVAL


def _claim_pages(ctx: Context, _op: int, arg: int) -> int:
    """For the toolstack. Not by DOMID_SELF, and with nothing but a number of extents."""
    cls = xm.xen_memory_reservation
    fields = ("extent_start", "extent_order", "mem_flags", "domid")
    extent_start, extent_order, mem_flags, domid = ctx.abi.reader(cls, *fields).unpack(_copy(ctx, cls, arg))
    if extent_start or extent_order or mem_flags or domid not in (0, ctx.domain.domid):
        return -EINVAL
    return -EPERM


def _access_op(ctx: Context, _op: int, arg: int) -> int:
    """For introspection tools, on another domain; a PV domain has no such rights on its memory. Of struct
    xen_mem_access_op, which is no guest's, the domain id is two bytes in, and two handles are at the end.
    """
    data = ctx.guest.copy_from_guest(arg, 16 + 2 * ctx.abi.long_size)
    check_remote_domain_exists(ctx, int.from_bytes(data[2:4], "little"))
    return -EINVAL


def _copy(ctx: Context, cls: type, arg: int) -> bytes:
    return ctx.guest.copy_from_guest(arg, ctx.abi.sizeof(cls))


def _no_shared_pages(_ctx: Context, _op: int, _arg: int) -> int:
    return 0


_HANDLERS: Final[dict[int, Callable[[Context, int, int], int]]] = {
    xm.XENMEM_maximum_ram_page: _maximum_ram_page,
    xm.XENMEM_current_reservation: _of_domain,
    xm.XENMEM_maximum_reservation: _of_domain,
    xm.XENMEM_maximum_gpfn: _of_domain,
    xm.XENMEM_machphys_mfn_list: _machphys_mfn_list,
    xm.XENMEM_machphys_compat_mfn_list: _machphys_mfn_list,
    xm.XENMEM_memory_map: _memory_map,
    xm.XENMEM_machine_memory_map: _machine_memory_map,
    xm.XENMEM_exchange: _exchange,
    xm.XENMEM_machphys_mapping: _machphys_mapping,
    xm.XENMEM_set_memory_map: _set_memory_map,
    xm.XENMEM_remove_from_physmap: _remove_from_physmap,
    xm.XENMEM_set_pod_target: _pod_target,
    xm.XENMEM_get_pod_target: _pod_target,
    XENMEM_get_sharing_freed_pages: _no_shared_pages,
    XENMEM_get_sharing_shared_pages: _no_shared_pages,
    XENMEM_access_op: _access_op,
    XENMEM_claim_pages: _claim_pages,
    xm.XENMEM_get_vnumainfo: _get_vnumainfo,
    XENMEM_reserved_device_memory_map: _reserved_device_memory_map,
}

#: operations of xen/common/memory.c, which refuse a start extent
_COMMON: Final = frozenset(
    {
        xm.XENMEM_exchange,
        xm.XENMEM_maximum_ram_page,
        xm.XENMEM_current_reservation,
        xm.XENMEM_maximum_reservation,
        xm.XENMEM_maximum_gpfn,
        xm.XENMEM_remove_from_physmap,
        xm.XENMEM_get_vnumainfo,
        XENMEM_reserved_device_memory_map,
        XENMEM_claim_pages,
    }
)

#: operations whose structure is copied for a 32-bit guest before the start extent is looked at
_TRANSLATED: Final[dict[int, type]] = {
    xm.XENMEM_exchange: xm.xen_memory_exchange,
    xm.XENMEM_remove_from_physmap: xm.xen_remove_from_physmap,
    xm.XENMEM_get_vnumainfo: xm.xen_vnuma_topology_info,
}
