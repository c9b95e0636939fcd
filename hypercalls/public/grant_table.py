"""Grant tables: entries, operations, their arguments and statuses (public/grant_table.h)."""

from __future__ import annotations

from typing import TypeAlias

from hypercalls.declare import ZERO, cstruct, cunion, guest_handle, s16, u16, u32, u64, xen_pfn_t
from hypercalls.public.event_channel import domid_t  # noqa: TC001 - layouts evaluate annotations

grant_ref_t: TypeAlias = u32
grant_handle_t: TypeAlias = u32

GNTTAB_NR_RESERVED_ENTRIES = 8
GNTTAB_RESERVED_CONSOLE = 0
GNTTAB_RESERVED_XENSTORE = 1
GNTTAB_CACHE_CLEAN = 1 << 0
GNTTAB_CACHE_INVAL = 1 << 1
GNTTAB_CACHE_SOURCE_GREF = 1 << 31

# -- grant_entry_v1.flags
GTF_invalid = 0
GTF_permit_access = 1 << 0
GTF_accept_transfer = 1 << 1
GTF_transitive = 3
GTF_type_mask = 3
GTF_readonly = 1 << 2
GTF_reading = 1 << 3
GTF_writing = 1 << 4
GTF_PWT = 1 << 5
GTF_PCD = 1 << 6
GTF_PAT = 1 << 7
GTF_sub_page = 1 << 8
GTF_transfer_committed = 1 << 2
GTF_transfer_completed = 1 << 3


@cstruct
class grant_entry_v1:
    """``frame`` is a gfn; the guest writes it before ``flags``."""

    flags: u16 = 0
    domid: domid_t = 0
    frame: u32 = 0


@cstruct
class grant_entry_header:
    flags: u16 = 0
    domid: domid_t = 0


@cstruct
class grant_entry_v2_full_page:
    hdr: grant_entry_header = ZERO
    pad0: u32 = 0
    frame: u64 = 0


@cstruct
class grant_entry_v2_sub_page:
    hdr: grant_entry_header = ZERO
    page_off: u16 = 0
    length: u16 = 0
    frame: u64 = 0


@cstruct
class grant_entry_v2_transitive:
    hdr: grant_entry_header = ZERO
    trans_domid: domid_t = 0
    pad0: u16 = 0
    gref: grant_ref_t = 0


@cunion
class grant_entry_v2:
    hdr: grant_entry_header = ZERO
    full_page: grant_entry_v2_full_page = ZERO
    sub_page: grant_entry_v2_sub_page = ZERO
    transitive: grant_entry_v2_transitive = ZERO


GNTTABOP_map_grant_ref = 0
GNTTABOP_unmap_grant_ref = 1
GNTTABOP_setup_table = 2
GNTTABOP_dump_table = 3
GNTTABOP_transfer = 4
GNTTABOP_copy = 5
GNTTABOP_query_size = 6
GNTTABOP_unmap_and_replace = 7
GNTTABOP_set_version = 8
GNTTABOP_get_status_frames = 9
GNTTABOP_get_version = 10
GNTTABOP_swap_grant_ref = 11
GNTTABOP_cache_flush = 12


@cstruct
class gnttab_map_grant_ref:
    host_addr: u64 = 0
    flags: u32 = 0
    ref: grant_ref_t = 0
    dom: domid_t = 0
    status: s16 = 0
    handle: grant_handle_t = 0
    dev_bus_addr: u64 = 0


@cstruct
class gnttab_unmap_grant_ref:
    host_addr: u64 = 0
    dev_bus_addr: u64 = 0
    handle: grant_handle_t = 0
    status: s16 = 0


@cstruct
class gnttab_setup_table:
    dom: domid_t = 0
    nr_frames: u32 = 0
    status: s16 = 0
    frame_list: guest_handle = 0


@cstruct
class gnttab_dump_table:
    dom: domid_t = 0
    status: s16 = 0


@cstruct
class gnttab_transfer:
    mfn: xen_pfn_t = 0
    domid: domid_t = 0
    ref: grant_ref_t = 0
    status: s16 = 0


@cstruct
class gnttab_query_size:
    dom: domid_t = 0
    nr_frames: u32 = 0
    max_nr_frames: u32 = 0
    status: s16 = 0


@cstruct
class gnttab_unmap_and_replace:
    host_addr: u64 = 0
    new_addr: u64 = 0
    handle: grant_handle_t = 0
    status: s16 = 0


@cstruct
class gnttab_set_version:
    version: u32 = 0


@cstruct
class gnttab_get_status_frames:
    nr_frames: u32 = 0
    dom: domid_t = 0
    status: s16 = 0
    frame_list: guest_handle = 0


@cstruct
class gnttab_get_version:
    dom: domid_t = 0
    pad: u16 = 0
    version: u32 = 0


@cstruct
class gnttab_swap_grant_ref:
    ref_a: grant_ref_t = 0
    ref_b: grant_ref_t = 0
    status: s16 = 0


@cunion
class gnttab_copy_ptr_u:
    ref: grant_ref_t = 0
    gmfn: xen_pfn_t = 0


@cstruct
class gnttab_copy_ptr:
    u: gnttab_copy_ptr_u = ZERO
    domid: domid_t = 0
    offset: u16 = 0


@cstruct
class gnttab_copy:
    source: gnttab_copy_ptr = ZERO
    dest: gnttab_copy_ptr = ZERO
    len: u16 = 0
    flags: u16 = 0
    status: s16 = 0


@cunion
class gnttab_cache_flush_a:
    dev_bus_addr: u64 = 0
    ref: grant_ref_t = 0


@cstruct
class gnttab_cache_flush:
    a: gnttab_cache_flush_a = ZERO
    offset: u16 = 0
    length: u16 = 0
    op: u32 = 0


# -- gnttab_copy.flags
GNTCOPY_source_gref = 1 << 0
GNTCOPY_dest_gref = 1 << 1

# -- gnttab_map_grant_ref.flags
GNTMAP_device_map = 1 << 0
GNTMAP_host_map = 1 << 1
GNTMAP_readonly = 1 << 2
GNTMAP_application_map = 1 << 3
GNTMAP_contains_pte = 1 << 4
GNTMAP_guest_avail_mask = 0xFFFF0000

# -- statuses
GNTST_okay = 0
GNTST_general_error = -1
GNTST_bad_domain = -2
GNTST_bad_gntref = -3
GNTST_bad_handle = -4
GNTST_bad_virt_addr = -5
GNTST_bad_dev_addr = -6
GNTST_no_device_space = -7
GNTST_permission_denied = -8
GNTST_bad_page = -9
GNTST_bad_copy_arg = -10
GNTST_address_too_big = -11
GNTST_eagain = -12
GNTST_no_space = -13
