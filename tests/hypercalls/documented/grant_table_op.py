"""grant_table_op: each errno and each GNTST_* (xen/common/grant_table.c, xen/common/compat/grant_table.c,
xen/arch/x86/pv/grant_table.c).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hypercalls.public import errno as e
from hypercalls.public import grant_table as gt
from hypercalls.public.xen import DOMID_SELF
from tests.hypercalls.documented import Case, Family
from tests.hypercalls.documented.world import DOM0, DOMID, FREE, NOBODY, NOWHERE, PAGES, READ_ONLY, World

if TYPE_CHECKING:
    from collections.abc import Callable

HOST, DEVICE, RO, PTE = gt.GNTMAP_host_map, gt.GNTMAP_device_map, gt.GNTMAP_readonly, gt.GNTMAP_contains_pte
#: An entry that a test fills in, the address of a page without a mapping, and a page-sized sub-page word.
REF, SLOT = 9, FREE << 12
NO_FRAME = 0x7FFF_FFFF


def _grant(world: World, flags: int = gt.GTF_permit_access, domid: int = DOMID, frame: int | None = None) -> None:
    """Fill in entry REF; it grants an unused frame unless one is given."""
    world.grants.shared.put_reserved(REF, (flags, domid, world.mfns[FREE] if frame is None else frame))


def _call(world: World, argument: object, count: int = 1, pointer: int | None = None) -> int:
    """The operation that takes such an argument; its status if there is one and the call succeeds."""
    name = type(argument).__name__.removeprefix("gnttab_")
    at = world.put(argument) if pointer is None else pointer
    result = world.hypercall("grant_table_op", getattr(gt, f"GNTTABOP_{name}"), at, count)
    return result or getattr(world.get(type(argument), at), "status", 0)


def _map(world: World, flags: int = HOST, ref: int = REF, dom: int = DOMID, host_addr: int = SLOT) -> int:
    return _call(world, gt.gnttab_map_grant_ref(host_addr=host_addr, flags=flags, ref=ref, dom=dom))


def _mapped(world: World, flags: int = HOST) -> gt.gnttab_map_grant_ref:
    """A mapping of REF at SLOT."""
    _grant(world)
    at = world.put(gt.gnttab_map_grant_ref(host_addr=SLOT, flags=flags, ref=REF, dom=DOMID))
    assert world.hypercall("grant_table_op", gt.GNTTABOP_map_grant_ref, at, 1) == 0
    found: gt.gnttab_map_grant_ref = world.get(gt.gnttab_map_grant_ref, at)
    assert found.status == gt.GNTST_okay
    return found


def _copy(
    world: World, source: int | None = None, dest: int | None = None, dom: int = DOMID_SELF, flags: int = 0,
    offset: int = 0, length: int = 8,
) -> int:  # fmt: skip
    """GNTTABOP_copy; ``dom`` and ``offset`` are those of the source."""
    request = gt.gnttab_copy(len=length, flags=flags)
    request.source.u.gmfn = world.mfns[FREE] if source is None else source
    request.source.domid, request.source.offset = dom, offset
    request.dest.u.gmfn = world.mfns[FREE + 1] if dest is None else dest
    request.dest.domid = DOMID_SELF
    return _call(world, request)


def _granted(entry: int, domid: int = DOMID, frame: int | None = None, how: int = HOST) -> Callable[[World], int]:
    """Mapping an entry that says this."""

    def provoke(world: World) -> int:
        _grant(world, entry, domid, frame)
        return _map(world, how)

    return provoke


def _at(host_addr: Callable[[World], int], flags: int = HOST) -> Callable[[World], int]:
    def provoke(world: World) -> int:
        _grant(world)
        return _map(world, flags, host_addr=host_addr(world))

    return provoke


def _page_table_writable(world: World) -> int:
    _grant(world, frame=world.l1)
    return _map(world)


def _pins_overflow(world: World) -> int:
    _grant(world)
    request = gt.gnttab_map_grant_ref(flags=DEVICE | RO, ref=REF, dom=DOMID)
    at = world.put(world.abi.pack(request) * 128)
    assert world.hypercall("grant_table_op", gt.GNTTABOP_map_grant_ref, at, 128) == 0
    return _call(world, request)


def _no_handles(world: World) -> int:
    world.grants.mappings.maptrack.max_frames = 0
    _grant(world)
    return _map(world)


def _unmap(world: World, host_addr: int = 0, dev_bus_addr: int = 0, handle: int = 0) -> int:
    return _call(world, gt.gnttab_unmap_grant_ref(host_addr=host_addr, dev_bus_addr=dev_bus_addr, handle=handle))


def _unmap_twice(world: World) -> int:
    handle = _mapped(world).handle
    assert _unmap(world, SLOT, 0, handle) == gt.GNTST_okay
    return _unmap(world, SLOT, 0, handle)


def _unmap_at(address: Callable[[World], int]) -> Callable[[World], int]:
    return lambda world: _unmap(world, address(world), 0, _mapped(world).handle)


def _replace(world: World, host_addr: int, new_addr: int, handle: int) -> int:
    argument = gt.gnttab_unmap_and_replace(host_addr=host_addr, new_addr=new_addr, handle=handle)
    return _call(world, argument)


def _wrong_bus(world: World) -> int:
    mapped = _mapped(world, DEVICE)
    return _unmap(world, 0, mapped.dev_bus_addr + 0x1000, mapped.handle)


def _mapping_by_pte_replaced(world: World) -> int:
    _grant(world)
    at = (world.l1 << 12) + 8 * FREE
    assert _map(world, HOST | PTE, host_addr=at) == gt.GNTST_okay
    return _replace(world, at, PAGES.start, 0)


def _setup(world: World, nr_frames: int = 1, dom: int = DOMID_SELF, frame_list: int = PAGES.start + 0x800) -> int:
    return _call(world, gt.gnttab_setup_table(dom=dom, nr_frames=nr_frames, frame_list=frame_list))


def _status_frames(world: World, nr_frames: int = 1, dom: int = DOMID_SELF, frame_list: int | None = None) -> int:
    at = PAGES.start + 0x800 if frame_list is None else frame_list
    return _call(world, gt.gnttab_get_status_frames(nr_frames=nr_frames, dom=dom, frame_list=at))


def _version(world: World, version: int) -> int:
    return _call(world, gt.gnttab_set_version(version=version))


def _status_frames_nowhere(world: World) -> int:
    assert _version(world, 2) == 0
    return _status_frames(world, frame_list=NOWHERE)


def _version_while_mapped(world: World) -> int:
    _mapped(world)
    return _version(world, 2)


def _version_while_status_is_mapped(world: World) -> int:
    assert _version(world, 2) == 0
    world.mm.update_va_mapping(SLOT, world.grants.status[0] << 12 | 7, 0)
    return _version(world, 1)


def _version_of_large_frame(world: World) -> int:
    assert _version(world, 2) == 0
    world.grants.shared.put_reserved(2, (gt.GTF_permit_access, DOM0, 1 << 32))
    return _version(world, 1)


def _version_of_transitive(world: World) -> int:
    assert _version(world, 2) == 0
    world.grants.shared.put_reserved(7, (gt.GTF_transitive, DOM0, 0))
    return _version(world, 1)


def _version_1_alone(world: World) -> int:
    world.grants.max_version = 1
    return _version(world, 2)


def _transfer(world: World, mfn: int | None = None, domid: int = DOMID, ref: int = REF) -> int:
    argument = gt.gnttab_transfer(mfn=world.mfns[FREE] if mfn is None else mfn, domid=domid, ref=ref)
    return _call(world, argument)


def _transfer_into(flags: int, domid: int = DOMID) -> Callable[[World], int]:
    def provoke(world: World) -> int:
        _grant(world, flags, domid)
        return _transfer(world)

    return provoke


def _copy_from_ref(flags: int, domid: int = DOMID, frame: int | None = None) -> Callable[[World], int]:
    def provoke(world: World) -> int:
        _grant(world, flags, domid, frame)
        return _copy(world, REF, flags=gt.GNTCOPY_source_gref)

    return provoke


def _copy_to_ref(flags: int, frame: Callable[[World], int] | None = None) -> Callable[[World], int]:
    def provoke(world: World) -> int:
        _grant(world, flags, frame=frame(world) if frame is not None else None)
        return _copy(world, dest=REF, flags=gt.GNTCOPY_dest_gref)

    return provoke


def _copy_beyond_sub_page(world: World) -> int:
    assert _version(world, 2) == 0
    _grant(world, gt.GTF_permit_access | gt.GTF_sub_page)  # of no bytes
    return _copy(world, REF, flags=gt.GNTCOPY_source_gref, length=1)


def _copy_transitive(trans_domid: int, gref: int = 5) -> Callable[[World], int]:
    """An entry that passes on another domain's: version 2 has its number where full pages have the frame."""

    def provoke(world: World) -> int:
        assert _version(world, 2) == 0
        _grant(world, gt.GTF_transitive, frame=gref)
        world.ram.write((world.grants.table[0] << 12) + REF * 16 + 4, trans_domid.to_bytes(2, "little"))
        return _copy(world, REF, flags=gt.GNTCOPY_source_gref)

    return provoke


def _swap(world: World, ref_a: int, ref_b: int) -> int:
    return _call(world, gt.gnttab_swap_grant_ref(ref_a=ref_a, ref_b=ref_b))


def _swap_busy(ref_a: int, ref_b: int) -> Callable[[World], int]:
    def provoke(world: World) -> int:
        _mapped(world, DEVICE)
        return _swap(world, ref_a, ref_b)

    return provoke


def _flush(world: World, mfn: int, offset: int = 0, length: int = 8, op: int = gt.GNTTAB_CACHE_CLEAN) -> int:
    argument = gt.gnttab_cache_flush(offset=offset, length=length, op=op)
    argument.a.dev_bus_addr = mfn << 12
    return _call(world, argument)


def _flush_continued(world: World) -> int:
    at = world.put(gt.gnttab_cache_flush())
    return world.hypercall("grant_table_op", gt.GNTTABOP_cache_flush | 1 << 12, at, 1)


def _flush_free(world: World) -> int:
    world.mm.decrease_reservation(world.mfns[FREE], 0)
    return _flush(world, world.mfns[FREE])


def _pointers(cls: type, *, is_written: bool = True) -> list[Case]:
    """The array is not mapped, ends before its end, is Xen's, or cannot be written."""
    name = "GNTTABOP_" + cls.__name__.removeprefix("gnttab_")
    operation = getattr(gt, name)

    def call(at: Callable[[World], int], count: int = 1) -> Callable[[World], int]:
        return lambda world: world.hypercall("grant_table_op", operation, at(world), count)

    cases = [
        Case(name, e.EFAULT, call(lambda world: NOWHERE)),
        Case(name, e.EFAULT, call(lambda world: world.xen), 64),
        Case(name, e.EFAULT, call(lambda world: READ_ONLY.stop - world.abi.sizeof(cls) + 1)),
    ]
    if is_written:
        cases.append(Case(name, e.EFAULT, call(lambda world: world.put_read_only(bytes(64)))))
    return cases


def _count(name: str, count: int, error: int = e.EINVAL, bits: int = 0) -> Case:
    """So many of what there can be one of."""
    operation = getattr(gt, name)
    return Case(name, error, lambda world: world.hypercall("grant_table_op", operation, PAGES.start, count), bits)


_MAP, _UNMAP, _REPLACE, _SETUP = (
    "GNTTABOP_map_grant_ref", "GNTTABOP_unmap_grant_ref", "GNTTABOP_unmap_and_replace", "GNTTABOP_setup_table",
)  # fmt: skip
_TRANSFER, _COPY, _QUERY, _SET, _STATUS = (
    "GNTTABOP_transfer", "GNTTABOP_copy", "GNTTABOP_query_size", "GNTTABOP_set_version", "GNTTABOP_get_status_frames",
)  # fmt: skip
_GET, _SWAP, _FLUSH, _DUMP = (
    "GNTTABOP_get_version", "GNTTABOP_swap_grant_ref", "GNTTABOP_cache_flush", "GNTTABOP_dump_table",
)  # fmt: skip
_ARRAY = "an element is not mapped, or its status cannot be written"

FAMILY = Family(
    documented={
        ("grant_table_op", e.EINVAL): "2^31 elements or more; bits above the operation's twelve; do_grant_table_op",
        ("grant_table_op", e.ENOSYS): "no such operation; do_grant_table_op",
        (_DUMP, e.ENOSYS): "Xen 4.17 has no handler for it; do_grant_table_op",
        (_MAP, e.EFAULT): f"{_ARRAY}; gnttab_map_grant_ref",
        (_MAP, gt.GNTST_bad_gntref): "neither host nor device; an entry beyond the table; map_grant_ref",
        (_MAP, gt.GNTST_bad_domain): "no such domain, and DOMID_SELF names none; map_grant_ref",
        (_MAP, gt.GNTST_no_space): "no maptrack entry; map_grant_ref",
        (_MAP, gt.GNTST_general_error): "the entry does not grant this, or is in use by another domain or as something "
        "else; too many pins; no writable type; no level-1 entry for the address; map_grant_ref, _set_status, "
        "create_grant_pv_mapping",
        (_MAP, gt.GNTST_bad_page): "the entry's frame is not the granting domain's; get_paged_frame",
        (_UNMAP, e.EFAULT): f"{_ARRAY}; gnttab_unmap_grant_ref",
        (_UNMAP, gt.GNTST_bad_handle): "no mapping has this handle, or has it any more; unmap_common",
        (_UNMAP, gt.GNTST_bad_dev_addr): "the bus address is not the mapping's; unmap_common",
        (_UNMAP, gt.GNTST_general_error): "the entry at this address is not the mapping's; replace_grant_pv_mapping",
        (_REPLACE, e.EFAULT): f"{_ARRAY}; gnttab_unmap_and_replace",
        (_REPLACE, gt.GNTST_bad_handle): "no mapping has this handle; unmap_common",
        (_REPLACE, gt.GNTST_general_error): "either address has no level-1 entry, or the first not this mapping's; the "
        "mapping was made by its entry's address; replace_grant_pv_mapping, steal_linear_address",
        (_SETUP, e.EINVAL): "not one structure (none is fine in 32 bits); gnttab_setup_table, compat_grant_table_op",
        (_SETUP, e.EFAULT): "the structure is not mapped, or not writable; the list is Xen's; gnttab_setup_table",
        (_SETUP, gt.GNTST_general_error): "more frames than the domain may have; gnttab_setup_table",
        (_SETUP, gt.GNTST_bad_domain): "no such domain; gnttab_setup_table",
        (_SETUP, gt.GNTST_permission_denied): "another domain; xsm_grant_setup",
        (_SETUP, gt.GNTST_bad_virt_addr): "the list cannot be written; gnttab_setup_table (the 32-bit translation "
        "stores the status before it finds out)",
        (_TRANSFER, e.EFAULT): f"{_ARRAY}; gnttab_transfer",
        (_TRANSFER, gt.GNTST_bad_page): "the frame is not the caller's alone; gnttab_transfer, steal_page",
        (_TRANSFER, gt.GNTST_bad_domain): "no such domain; gnttab_transfer",
        (_TRANSFER, gt.GNTST_general_error): "no entry accepts it; gnttab_prepare_for_transfer",
        (_COPY, e.EFAULT): f"{_ARRAY}; gnttab_copy",
        (_COPY, gt.GNTST_permission_denied): "a frame of any domain but DOMID_SELF; gnttab_copy_lock_domain",
        (_COPY, gt.GNTST_bad_domain): "no such domain; gnttab_copy_lock_domain",
        (_COPY, gt.GNTST_bad_gntref): "an entry beyond the table, in the end; acquire_grant_for_copy",
        (_COPY, gt.GNTST_bad_page): "the frame is not the domain's; get_paged_frame",
        (_COPY, gt.GNTST_general_error): "the entry does not grant this; no writable type; beyond the part of a page "
        "that is granted; acquire_grant_for_copy, gnttab_copy_claim_buf, gnttab_copy_buf",
        (_COPY, gt.GNTST_bad_copy_arg): "over the end of a page; gnttab_copy_buf",
        (_QUERY, e.EINVAL): "not one structure; gnttab_query_size",
        (_QUERY, e.EFAULT): "the structure is not mapped, or not writable; gnttab_query_size",
        (_QUERY, gt.GNTST_bad_domain): "no such domain; gnttab_query_size",
        (_QUERY, gt.GNTST_permission_denied): "another domain; xsm_grant_query_size",
        (_SET, e.EFAULT): "the structure is not mapped, or not writable; gnttab_set_version",
        (_SET, e.EINVAL): "neither 1 nor 2; gnttab_set_version",
        (_SET, e.ENOSYS): "2, where the toolstack allows version 1 alone; gnttab_set_version",
        (_SET, e.EBUSY): "an entry beyond the toolstack's is in use, or a status frame is mapped; gnttab_set_version, "
        "gnttab_unpopulate_status_frames",
        (_SET, e.ERANGE): "version 1 cannot express one of the toolstack's entries; gnttab_set_version",
        (_STATUS, e.EINVAL): "not one structure (none is fine in 32 bits); gnttab_get_status_frames",
        (_STATUS, e.EFAULT): "the structure is not mapped, or not writable; the list is Xen's; "
        "gnttab_get_status_frames",
        (_STATUS, gt.GNTST_bad_domain): "no such domain; gnttab_get_status_frames",
        (_STATUS, gt.GNTST_permission_denied): "another domain; xsm_grant_setup",
        (_STATUS, gt.GNTST_general_error): "more than there are, in version 1 none; gnttab_get_status_frames",
        (_STATUS, gt.GNTST_bad_virt_addr): "the list cannot be written; gnttab_get_status_frames (not in 32 bits)",
        (_GET, e.EFAULT): "the structure is not mapped, or not writable; gnttab_get_version",
        (_GET, e.ESRCH): "no such domain; gnttab_get_version",
        (_GET, e.EPERM): "another domain; xsm_grant_query_size",
        (_SWAP, e.EFAULT): f"{_ARRAY}; gnttab_swap_grant_ref",
        (_SWAP, gt.GNTST_bad_gntref): "an entry beyond the table; swap_grant_ref",
        (_SWAP, gt.GNTST_eagain): "one of the two is in use; swap_grant_ref",
        (_FLUSH, e.EFAULT): "an element is not mapped; gnttab_cache_flush",
        (_FLUSH, e.EINVAL): "beyond a page, other operations, or no such frame; _cache_flush",
        (_FLUSH, e.EPERM): "a frame that no domain owns; _cache_flush",
        (_FLUSH, e.EOPNOTSUPP): "x86 cannot drop a line without writing it back; invalidate_dcache_va_range",
        (_FLUSH, e.EILSEQ): "continued, and nothing to flush; _cache_flush",
    },
    unreachable={
        (_MAP, gt.GNTST_permission_denied): "xsm_grant_mapref: the dummy policy lets every domain map",
        (_MAP, gt.GNTST_bad_virt_addr): "documented; Xen 4.17 says GNTST_general_error",
        (_MAP, gt.GNTST_no_device_space): "documented; Xen 4.17 never says it",
        (_MAP, gt.GNTST_eagain): "get_paged_frame: only a guest with translated frames has any that are paged out",
        (_UNMAP, gt.GNTST_permission_denied): "xsm_grant_unmapref: the dummy policy lets every domain unmap",
        (_TRANSFER, gt.GNTST_permission_denied): "xsm_grant_transfer: the dummy policy lets every domain transfer",
        (_TRANSFER, gt.GNTST_address_too_big): "a machine with frames past 2^32, and none free below",
        (_TRANSFER, e.EOPNOTSUPP): "only with gnttab=no-transfer on Xen's command line",
        (_COPY, gt.GNTST_eagain): "get_paged_frame: as for mapping",
        (_SET, e.EAGAIN): "only while dom0 or another vcpu copies a part of a page",
        (_SET, e.ENOMEM): "Xen's heap does not run out here",
    },
    cases=[
        Case("grant_table_op", e.EINVAL, lambda world: world.hypercall("grant_table_op", 0, PAGES.start, 1 << 31)),
        Case("grant_table_op", e.EINVAL, lambda world: world.hypercall("grant_table_op", gt.GNTTABOP_copy | 1 << 12)),
        Case("grant_table_op", e.ENOSYS, lambda world: world.hypercall("grant_table_op", 13, PAGES.start, 1)),
        Case(_DUMP, e.ENOSYS, lambda world: _call(world, gt.gnttab_dump_table(dom=DOMID_SELF))),
        # -- map
        *_pointers(gt.gnttab_map_grant_ref),
        Case(_MAP, gt.GNTST_bad_gntref, partial(_map, flags=RO | PTE)),
        Case(_MAP, gt.GNTST_bad_gntref, partial(_map, ref=512)),
        Case(_MAP, gt.GNTST_bad_gntref, partial(_map, ref=512, dom=DOM0)),
        Case(_MAP, gt.GNTST_bad_domain, partial(_map, dom=NOBODY)),
        Case(_MAP, gt.GNTST_bad_domain, partial(_map, dom=DOMID_SELF)),
        Case(_MAP, gt.GNTST_no_space, _no_handles),
        Case(_MAP, gt.GNTST_general_error, partial(_map, ref=511, dom=DOM0)),
        Case(_MAP, gt.GNTST_general_error, _granted(gt.GTF_invalid)),
        Case(_MAP, gt.GNTST_general_error, _granted(gt.GTF_accept_transfer)),
        Case(_MAP, gt.GNTST_general_error, _granted(gt.GTF_transitive)),
        Case(_MAP, gt.GNTST_general_error, _granted(gt.GTF_permit_access | gt.GTF_sub_page)),
        Case(_MAP, gt.GNTST_general_error, _granted(gt.GTF_permit_access, DOM0)),
        Case(_MAP, gt.GNTST_general_error, _granted(gt.GTF_permit_access, DOMID_SELF)),
        Case(_MAP, gt.GNTST_general_error, _granted(gt.GTF_permit_access | gt.GTF_readonly)),
        Case(_MAP, gt.GNTST_general_error, _page_table_writable),
        Case(_MAP, gt.GNTST_general_error, _pins_overflow),
        Case(_MAP, gt.GNTST_general_error, _at(lambda world: 1 << 31)),
        Case(_MAP, gt.GNTST_general_error, _at(lambda world: world.xen)),
        Case(_MAP, gt.GNTST_general_error, _at(lambda world: 1 << 32 | SLOT)),
        Case(_MAP, gt.GNTST_general_error, _at(lambda world: (world.l1 << 12) + 8 * FREE + 4, HOST | PTE)),
        Case(_MAP, gt.GNTST_general_error, _at(lambda world: world.root << 12, HOST | PTE)),
        Case(_MAP, gt.GNTST_general_error, _at(lambda world: world.mfns[FREE] << 12, HOST | PTE)),
        Case(_MAP, gt.GNTST_bad_page, _granted(gt.GTF_permit_access, frame=NO_FRAME)),
        Case(_MAP, gt.GNTST_bad_page, _granted(gt.GTF_permit_access, frame=0, how=DEVICE | RO)),
        # -- unmap
        *_pointers(gt.gnttab_unmap_grant_ref),
        Case(_UNMAP, gt.GNTST_bad_handle, _unmap),
        Case(_UNMAP, gt.GNTST_bad_handle, partial(_unmap, handle=0xFFFF_FFFF)),
        Case(_UNMAP, gt.GNTST_bad_handle, _unmap_twice),
        Case(_UNMAP, gt.GNTST_bad_dev_addr, _wrong_bus),
        Case(_UNMAP, gt.GNTST_general_error, _unmap_at(lambda world: PAGES.start)),
        Case(_UNMAP, gt.GNTST_general_error, _unmap_at(lambda world: 1 << 31)),
        Case(_UNMAP, gt.GNTST_general_error, _unmap_at(lambda world: world.xen)),
        *_pointers(gt.gnttab_unmap_and_replace),
        Case(_REPLACE, gt.GNTST_bad_handle, lambda world: _replace(world, SLOT, PAGES.start, 5)),
        Case(_REPLACE, gt.GNTST_general_error, lambda world: _replace(world, SLOT, 1 << 31, _mapped(world).handle)),
        Case(_REPLACE, gt.GNTST_general_error, lambda world: _replace(world, 1 << 31, SLOT, _mapped(world).handle)),
        Case(_REPLACE, gt.GNTST_general_error, lambda world: _replace(world, SLOT, SLOT, _mapped(world).handle)),
        Case(_REPLACE, gt.GNTST_general_error, _mapping_by_pte_replaced),
        # -- the table
        *_pointers(gt.gnttab_setup_table, is_written=False),
        Case(_SETUP, e.EFAULT, lambda world: _call(
            world, gt.gnttab_setup_table(),
            pointer=world.put_read_only(gt.gnttab_setup_table(dom=DOMID_SELF, frame_list=PAGES.start)),
        )),
        Case(_SETUP, e.EFAULT, lambda world: _setup(world, frame_list=world.xen)),
        _count(_SETUP, 2),
        _count(_SETUP, 0, bits=64),
        Case(_SETUP, gt.GNTST_general_error, partial(_setup, nr_frames=65)),
        Case(_SETUP, gt.GNTST_bad_domain, partial(_setup, dom=NOBODY)),
        Case(_SETUP, gt.GNTST_permission_denied, partial(_setup, dom=DOM0)),
        Case(_SETUP, gt.GNTST_bad_virt_addr, partial(_setup, frame_list=NOWHERE), 64),
        *_pointers(gt.gnttab_query_size),
        _count(_QUERY, 0),
        _count(_QUERY, 2),
        Case(_QUERY, gt.GNTST_bad_domain, lambda world: _call(world, gt.gnttab_query_size(dom=NOBODY))),
        Case(_QUERY, gt.GNTST_permission_denied, lambda world: _call(world, gt.gnttab_query_size(dom=DOM0))),
        *_pointers(gt.gnttab_set_version),
        Case(_SET, e.EINVAL, partial(_version, version=0)),
        Case(_SET, e.EINVAL, partial(_version, version=3)),
        Case(_SET, e.ENOSYS, _version_1_alone),
        Case(_SET, e.EBUSY, _version_while_mapped),
        Case(_SET, e.EBUSY, _version_while_status_is_mapped),
        Case(_SET, e.ERANGE, _version_of_large_frame),
        Case(_SET, e.ERANGE, _version_of_transitive),
        *_pointers(gt.gnttab_get_status_frames),
        Case(_STATUS, e.EFAULT, lambda world: _status_frames(world, frame_list=world.xen)),
        _count(_STATUS, 2),
        _count(_STATUS, 0, bits=64),
        Case(_STATUS, gt.GNTST_general_error, _status_frames),
        Case(_STATUS, gt.GNTST_bad_domain, partial(_status_frames, dom=NOBODY)),
        Case(_STATUS, gt.GNTST_permission_denied, partial(_status_frames, dom=DOM0)),
        Case(_STATUS, gt.GNTST_bad_virt_addr, _status_frames_nowhere, 64),
        *_pointers(gt.gnttab_get_version, is_written=False),
        Case(_GET, e.EFAULT, lambda world: _call(
            world, gt.gnttab_get_version(), pointer=world.put_read_only(gt.gnttab_get_version(dom=DOMID_SELF))
        )),
        Case(_GET, e.ESRCH, lambda world: _call(world, gt.gnttab_get_version(dom=NOBODY))),
        Case(_GET, e.EPERM, lambda world: _call(world, gt.gnttab_get_version(dom=DOM0))),
        # -- transfer, copy
        *_pointers(gt.gnttab_transfer),
        Case(_TRANSFER, gt.GNTST_bad_page, partial(_transfer, mfn=0)),
        Case(_TRANSFER, gt.GNTST_bad_page, lambda world: _transfer(world, world.mfn(PAGES.start))),
        Case(_TRANSFER, gt.GNTST_bad_page, lambda world: _transfer(world, world.grants.table[0])),
        Case(_TRANSFER, gt.GNTST_bad_domain, partial(_transfer, domid=NOBODY)),
        Case(_TRANSFER, gt.GNTST_bad_domain, partial(_transfer, domid=DOMID_SELF)),
        Case(_TRANSFER, gt.GNTST_general_error, partial(_transfer, ref=512)),
        Case(_TRANSFER, gt.GNTST_general_error, partial(_transfer, domid=DOM0)),
        Case(_TRANSFER, gt.GNTST_general_error, _transfer_into(gt.GTF_permit_access)),
        Case(_TRANSFER, gt.GNTST_general_error, _transfer_into(gt.GTF_accept_transfer, DOM0)),
        Case(_TRANSFER, gt.GNTST_general_error, _transfer_into(gt.GTF_accept_transfer | gt.GTF_transfer_committed)),
        *_pointers(gt.gnttab_copy),
        Case(_COPY, gt.GNTST_permission_denied, partial(_copy, dom=DOMID)),
        Case(_COPY, gt.GNTST_permission_denied, partial(_copy, dom=DOM0)),
        Case(_COPY, gt.GNTST_permission_denied, partial(_copy, dom=NOBODY)),
        Case(_COPY, gt.GNTST_bad_domain, lambda world: _copy(world, REF, dom=NOBODY, flags=gt.GNTCOPY_source_gref)),
        Case(_COPY, gt.GNTST_bad_gntref, lambda world: _copy(world, 512, flags=gt.GNTCOPY_source_gref)),
        Case(_COPY, gt.GNTST_bad_gntref, lambda world: _copy(world, 512, dom=DOM0, flags=gt.GNTCOPY_source_gref)),
        Case(_COPY, gt.GNTST_bad_gntref, lambda world: _copy(world, dest=512, flags=gt.GNTCOPY_dest_gref)),
        Case(_COPY, gt.GNTST_bad_gntref, _copy_transitive(DOM0, 512)),
        Case(_COPY, gt.GNTST_bad_page, lambda world: _copy(world, NO_FRAME)),
        Case(_COPY, gt.GNTST_bad_page, lambda world: _copy(world, dest=0)),
        Case(_COPY, gt.GNTST_bad_page, _copy_from_ref(gt.GTF_permit_access, frame=NO_FRAME)),
        Case(_COPY, gt.GNTST_general_error, _copy_from_ref(gt.GTF_invalid)),
        Case(_COPY, gt.GNTST_general_error, _copy_from_ref(gt.GTF_permit_access, DOM0)),
        Case(_COPY, gt.GNTST_general_error, lambda world: _copy(world, 5, dom=DOM0, flags=gt.GNTCOPY_source_gref)),
        Case(_COPY, gt.GNTST_general_error, _copy_to_ref(gt.GTF_permit_access | gt.GTF_readonly)),
        Case(_COPY, gt.GNTST_general_error, _copy_to_ref(gt.GTF_permit_access, lambda world: world.l1)),
        Case(_COPY, gt.GNTST_general_error, lambda world: _copy(world, dest=world.root)),
        Case(_COPY, gt.GNTST_general_error, _copy_beyond_sub_page),
        Case(_COPY, gt.GNTST_general_error, _copy_transitive(DOMID)),
        Case(_COPY, gt.GNTST_general_error, _copy_transitive(NOBODY)),
        Case(_COPY, gt.GNTST_general_error, _copy_transitive(DOM0)),
        Case(_COPY, gt.GNTST_bad_copy_arg, partial(_copy, offset=4089)),
        Case(_COPY, gt.GNTST_bad_copy_arg, partial(_copy, length=4097)),
        Case(_COPY, gt.GNTST_bad_copy_arg, partial(_copy, offset=4097, length=0)),
        # -- swap, flush
        *_pointers(gt.gnttab_swap_grant_ref),
        Case(_SWAP, gt.GNTST_bad_gntref, lambda world: _swap(world, 512, 8)),
        Case(_SWAP, gt.GNTST_bad_gntref, lambda world: _swap(world, 8, 0xFFFF_FFFF)),
        Case(_SWAP, gt.GNTST_eagain, _swap_busy(REF, 8)),
        Case(_SWAP, gt.GNTST_eagain, _swap_busy(8, REF)),
        *_pointers(gt.gnttab_cache_flush, is_written=False)[:1],
        Case(_FLUSH, e.EINVAL, lambda world: _flush(world, world.mfns[FREE], 4096, 0)),
        Case(_FLUSH, e.EINVAL, lambda world: _flush(world, world.mfns[FREE], 4090, 8)),
        Case(_FLUSH, e.EINVAL, lambda world: _flush(world, world.mfns[FREE], op=4)),
        Case(_FLUSH, e.EINVAL, lambda world: _flush(world, world.mfns[FREE], op=gt.GNTTAB_CACHE_SOURCE_GREF)),
        Case(_FLUSH, e.EINVAL, lambda world: _flush(world, 1 << 39)),
        Case(_FLUSH, e.EPERM, _flush_free),
        Case(_FLUSH, e.EOPNOTSUPP, lambda world: _flush(world, world.mfns[FREE], op=gt.GNTTAB_CACHE_INVAL)),
        Case(_FLUSH, e.EILSEQ, _flush_continued),
    ],
)  # fmt: skip
