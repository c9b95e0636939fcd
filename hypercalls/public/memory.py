"""memory_op: reservations, physical maps, memory maps (public/memory.h)."""

from __future__ import annotations

from hypercalls.declare import ZERO, cstruct, cunion, guest_handle, u16, u32, u64, ulong, xen_pfn_t
from hypercalls.public.event_channel import domid_t  # noqa: TC001 - layouts evaluate annotations

XENMEM_increase_reservation = 0
XENMEM_decrease_reservation = 1
XENMEM_populate_physmap = 6
XENMEM_exchange = 11
XENMEM_maximum_ram_page = 2
XENMEM_current_reservation = 3
XENMEM_maximum_reservation = 4
XENMEM_maximum_gpfn = 14
XENMEM_machphys_mfn_list = 5
XENMEM_machphys_compat_mfn_list = 25
XENMEM_machphys_mapping = 12
XENMEM_add_to_physmap = 7
XENMEM_add_to_physmap_batch = 23
XENMEM_remove_from_physmap = 15
XENMEM_memory_map = 9
XENMEM_machine_memory_map = 10
XENMEM_set_memory_map = 13
XENMEM_set_pod_target = 16
XENMEM_get_pod_target = 17
XENMEM_acquire_resource = 28
XENMEM_resource_ioreq_server = 0
XENMEM_resource_grant_table = 1
XENMEM_resource_vmtrace_buf = 2
XENMEM_resource_grant_table_id_shared = 0
XENMEM_resource_grant_table_id_status = 1
XENMEM_resource_ioreq_server_frame_bufioreq = 0
XENMEM_get_vnumainfo = 26

# -- xen_memory_reservation.mem_flags
XENMEMF_populate_on_demand = 1 << 16
XENMEMF_exact_node_request = 1 << 17
XENMEMF_vnode = 1 << 18

XENMAPSPACE_shared_info = 0
XENMAPSPACE_grant_table = 1
XENMAPSPACE_gmfn = 2
XENMAPSPACE_gmfn_range = 3
XENMAPSPACE_gmfn_foreign = 4
XENMAPSPACE_dev_mmio = 5
XENMAPIDX_grant_table_status = 0x80000000


@cstruct
class xen_memory_reservation:
    extent_start: guest_handle = 0
    nr_extents: ulong = 0
    extent_order: u32 = 0
    mem_flags: u32 = 0
    domid: domid_t = 0


@cstruct
class xen_memory_exchange:
    in_: xen_memory_reservation = ZERO
    out: xen_memory_reservation = ZERO
    nr_exchanged: ulong = 0


@cstruct
class xen_memory_domain:
    domid: domid_t = 0


@cstruct
class xen_machphys_mfn_list:
    max_extents: u32 = 0
    extent_start: guest_handle = 0
    nr_extents: u32 = 0


@cstruct
class xen_machphys_mapping:
    v_start: ulong = 0
    v_end: ulong = 0
    max_mfn: ulong = 0


@cstruct
class xen_add_to_physmap:
    domid: domid_t = 0
    size: u16 = 0
    space: u32 = 0
    idx: ulong = 0
    gpfn: xen_pfn_t = 0


@cunion
class xen_add_to_physmap_batch_u:
    foreign_domid: domid_t = 0
    res0: u16 = 0


@cstruct
class xen_add_to_physmap_batch:
    domid: domid_t = 0
    space: u16 = 0
    size: u16 = 0
    u: xen_add_to_physmap_batch_u = ZERO
    idxs: guest_handle = 0
    gpfns: guest_handle = 0
    errs: guest_handle = 0


@cstruct
class xen_remove_from_physmap:
    domid: domid_t = 0
    gpfn: xen_pfn_t = 0


@cstruct
class xen_memory_map:
    nr_entries: u32 = 0
    buffer: guest_handle = 0


@cstruct
class xen_foreign_memory_map:
    domid: domid_t = 0
    map: xen_memory_map = ZERO


@cstruct
class xen_pod_target:
    target_pages: u64 = 0
    tot_pages: u64 = 0
    pod_cache_pages: u64 = 0
    pod_entries: u64 = 0
    domid: domid_t = 0


@cstruct
class xen_mem_acquire_resource:
    domid: domid_t = 0
    type: u16 = 0
    id: u32 = 0
    nr_frames: u32 = 0
    pad: u32 = 0
    frame: u64 = 0
    frame_list: guest_handle = 0


@cstruct
class xen_vmemrange:
    start: u64 = 0
    end: u64 = 0
    flags: u32 = 0
    nid: u32 = 0


@cunion
class xen_vnuma_topology_info_vdistance:
    h: guest_handle = 0
    pad: u64 = 0


@cunion
class xen_vnuma_topology_info_vcpu_to_vnode:
    h: guest_handle = 0
    pad: u64 = 0


@cunion
class xen_vnuma_topology_info_vmemrange:
    h: guest_handle = 0
    pad: u64 = 0


@cstruct
class xen_vnuma_topology_info:
    domid: domid_t = 0
    pad: u16 = 0
    nr_vnodes: u32 = 0
    nr_vcpus: u32 = 0
    nr_vmemranges: u32 = 0
    vdistance: xen_vnuma_topology_info_vdistance = ZERO
    vcpu_to_vnode: xen_vnuma_topology_info_vcpu_to_vnode = ZERO
    vmemrange: xen_vnuma_topology_info_vmemrange = ZERO
