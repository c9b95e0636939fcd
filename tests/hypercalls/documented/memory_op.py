"""memory_op (xen/common/memory.c, xen/arch/x86/mm.c, and for 32-bit guests their compat halves).

Reservations never fail: they return how far they came, see ``test_extents``.
"""

from __future__ import annotations

from typing import Any

from hypercalls.public import errno as e
from hypercalls.public import memory as xm
from hypercalls.public.xen import DOMID_SELF
from tests.hypercalls.documented import Case, Family
from tests.hypercalls.documented.world import DOM0, DOMID, FREE, NOBODY, NOWHERE, World

START = 1 << 6  #: a first extent in the command
PAGING_OP, ACCESS_OP, SHARING_OP, CLAIM_PAGES, RESERVED_DEVICE_MEMORY_MAP = 20, 21, 22, 24, 27


def _op(world: World, op: int, argument: Any = NOWHERE) -> int:
    return world.hypercall("memory_op", op, argument)


def _case(name: str, error: int, argument: Any = NOWHERE, bits: int = 0, extra: int = 0) -> Case:
    """One operation by its public name; ``extra`` is added to the command."""
    operation = getattr(xm, name) | extra
    return Case(name, error, lambda world: _op(world, operation, argument), bits)


def _other(error: int, operation: int, argument: Any = NOWHERE, bits: int = 0) -> Case:
    """One operation that the public headers have for the toolstack alone."""
    return Case("memory_op", error, lambda world: _op(world, operation, argument), bits)


def _unknown_domain(name: str, cls: type) -> Case:
    return _case(name, e.ESRCH, cls(domid=NOBODY))


def _access(domid: int) -> bytes:
    return bytes(2) + domid.to_bytes(2, "little") + bytes(28)


def _device_map(world: World, flags: int, nr_entries: int, buffer: int) -> int:
    long_size = world.abi.long_size
    head = b"".join(value.to_bytes(4, "little") for value in (flags, nr_entries))
    return _op(world, RESERVED_DEVICE_MEMORY_MAP, head + buffer.to_bytes(long_size, "little") + bytes(8))


def _exchange(world: World, mfns: list[int] | int, gpfns: list[int] | int, **fields: int) -> int:
    """Lists of frames or where they are; ``in_order``, ``out_order``, ``in_nr``, ``out_nr``, ``domid``, ``flags``,
    ``done`` as said.
    """
    in_at = mfns if isinstance(mfns, int) else world.put(mfns)
    out_at = gpfns if isinstance(gpfns, int) else world.put(gpfns)
    exch = xm.xen_memory_exchange(nr_exchanged=fields.get("done", 0))
    domid = fields.get("domid", DOMID_SELF)
    exch.in_ = xm.xen_memory_reservation(
        extent_start=in_at, nr_extents=fields.get("in_nr", 1), extent_order=fields.get("in_order", 0), domid=domid
    )
    exch.out = xm.xen_memory_reservation(
        extent_start=out_at, nr_extents=fields.get("out_nr", 1), extent_order=fields.get("out_order", 0),
        domid=fields.get("out_domid", domid), mem_flags=fields.get("flags", 0),
    )  # fmt: skip
    return _op(world, xm.XENMEM_exchange, exch)


def _exchange_case(error: int, bits: int = 0, mfn: int | None = None, **fields: int) -> Case:
    """A free frame for another, with something wrong."""

    def provoke(world: World) -> int:
        return _exchange(world, [world.mfns[FREE] if mfn is None else mfn], [FREE], **fields)

    return Case("XENMEM_exchange", error, provoke, bits)


def _told_in_vain(world: World) -> int:
    return _exchange(world, [world.mfns[FREE]], world.put_read_only(bytes(8)))


def _mapped_frame(world: World) -> int:
    return _exchange(world, [world.root], [0])


def _no_memory_map(world: World) -> int:
    empty = xm.xen_foreign_memory_map(domid=DOMID_SELF)
    assert _op(world, xm.XENMEM_set_memory_map, empty) == 0
    return _op(world, xm.XENMEM_memory_map, xm.xen_memory_map(nr_entries=1, buffer=world.put(bytes(20))))


def _set_memory_map(domid: int, nr_entries: int, buffer: int) -> xm.xen_foreign_memory_map:
    fmap = xm.xen_foreign_memory_map(domid=domid)
    fmap.map = xm.xen_memory_map(nr_entries=nr_entries, buffer=buffer)
    return fmap


def _resource(**fields: int) -> xm.xen_mem_acquire_resource:
    return xm.xen_mem_acquire_resource(**{"domid": DOM0, "nr_frames": 1} | fields)


def _batch_lists(world: World) -> int:
    """A 32-bit guest's lists are read first."""
    batch = xm.xen_add_to_physmap_batch(domid=NOBODY, size=1, idxs=NOWHERE, gpfns=NOWHERE, errs=NOWHERE)
    return _op(world, xm.XENMEM_add_to_physmap_batch, batch)


_NUMBERS = ("XENMEM_current_reservation", "XENMEM_maximum_reservation", "XENMEM_maximum_gpfn")
_RESERVATIONS = ("XENMEM_increase_reservation", "XENMEM_decrease_reservation", "XENMEM_populate_physmap")
_POD = ("XENMEM_set_pod_target", "XENMEM_get_pod_target")
_LISTS = ("XENMEM_machphys_mfn_list", "XENMEM_machphys_compat_mfn_list")

FAMILY = Family(
    documented={
        ("memory_op", e.ENOSYS): "no such operation, one that is not built, or a first extent for one of the"
                                 " architecture's; XENMEM_claim_pages of 32 bits; do_memory_op, compat_memory_op",
        ("memory_op", e.EFAULT): "XENMEM_claim_pages, access_op, reserved_device_memory_map: not mapped; do_memory_op",
        ("memory_op", e.EINVAL): "XENMEM_claim_pages with more than a number; access_op of a PV domain; unknown flags"
                                 " for reserved_device_memory_map; a first extent; do_memory_op, mem_access_memop",
        ("memory_op", e.EPERM): "XENMEM_claim_pages; access_op of oneself; do_memory_op, rcu_lock_remote_domain_by_id",
        ("memory_op", e.ESRCH): "access_op of no domain; rcu_lock_remote_domain_by_id",
        ("XENMEM_exchange", e.EFAULT): "the structure or a list is not mapped, or cannot be written; memory_exchange",
        ("XENMEM_exchange", e.EPERM): "an order beyond 9, or domain 0; memory_exchange",
        ("XENMEM_exchange", e.EINVAL): "lists of different sizes or domains, an exact node, a frame that is not one's"
                                       " own or in use, a first extent; memory_exchange, steal_page",
        ("XENMEM_exchange", e.ESRCH): "no such domain; memory_exchange",
        ("XENMEM_exchange", e.ENOMEM): "no frames at such addresses; alloc_domheap_pages",
        ("XENMEM_exchange", e.E2BIG): "orders that cannot be translated; compat_memory_op",
        ("XENMEM_maximum_ram_page", e.EINVAL): "a first extent; do_memory_op",
        **{(name, e.EINVAL): "a first extent; do_memory_op" for name in _NUMBERS},
        **{(name, e.EFAULT): "the structure is not mapped; do_memory_op" for name in _NUMBERS},
        **{(name, e.ESRCH): "no such domain; do_memory_op" for name in _NUMBERS},
        **{(name, e.EPERM): "domain 0; xsm_memory_stat_reservation" for name in _NUMBERS},
        **{(name, e.EFAULT): "the structure or the list is not mapped; subarch_memory_op" for name in _LISTS},
        ("XENMEM_machphys_mapping", e.EFAULT): "the structure cannot be written; arch_memory_op",
        ("XENMEM_add_to_physmap", e.EDOM): "a first extent beyond 65535; do_memory_op",
        ("XENMEM_add_to_physmap", e.EFAULT): "the structure is not mapped; do_memory_op",
        ("XENMEM_add_to_physmap", e.ENOSYS): "a foreign frame; do_memory_op",
        ("XENMEM_add_to_physmap", e.ESRCH): "no such domain; do_memory_op",
        ("XENMEM_add_to_physmap", e.EACCES): "a PV domain has no physmap; xatp_permission_check",
        ("XENMEM_add_to_physmap_batch", e.EDOM): "a first extent beyond 65535; do_memory_op",
        ("XENMEM_add_to_physmap_batch", e.EFAULT): "the structure is not mapped, of 32 bits a list; compat_memory_op",
        ("XENMEM_add_to_physmap_batch", e.EOPNOTSUPP): "a range; do_memory_op",
        ("XENMEM_add_to_physmap_batch", e.ESRCH): "no such domain; do_memory_op",
        ("XENMEM_add_to_physmap_batch", e.EACCES): "a PV domain has no physmap; xatp_permission_check",
        ("XENMEM_remove_from_physmap", e.EINVAL): "a first extent; do_memory_op",
        ("XENMEM_remove_from_physmap", e.EFAULT): "the structure is not mapped; do_memory_op",
        ("XENMEM_remove_from_physmap", e.ESRCH): "no such domain; do_memory_op",
        ("XENMEM_remove_from_physmap", e.EACCES): "a PV domain has no physmap; do_memory_op",
        ("XENMEM_memory_map", e.EFAULT): "the structure or the buffer is not mapped; arch_memory_op",
        ("XENMEM_memory_map", e.ENOSYS): "none was set; arch_memory_op",
        ("XENMEM_machine_memory_map", e.EPERM): "for domain 0; xsm_machine_memory_map",
        ("XENMEM_machine_memory_map", e.EFAULT): "of 32 bits the structure is copied first; compat_arch_memory_op",
        ("XENMEM_set_memory_map", e.EFAULT): "the structure or the buffer is not mapped; arch_memory_op",
        ("XENMEM_set_memory_map", e.EINVAL): "more than 1024 rows; arch_memory_op",
        ("XENMEM_set_memory_map", e.ESRCH): "no such domain; arch_memory_op",
        ("XENMEM_set_memory_map", e.EPERM): "domain 0; xsm_domain_memory_map",
        **{(name, e.EFAULT): "the structure is not mapped; arch_memory_op" for name in _POD},
        **{(name, e.ESRCH): "no such domain; arch_memory_op" for name in _POD},
        **{(name, e.EINVAL): "not for PV domains; arch_memory_op" for name in _POD},
        ("XENMEM_get_vnumainfo", e.EINVAL): "padding that is not 0, or a first extent; do_memory_op",
        ("XENMEM_get_vnumainfo", e.EFAULT): "the structure is not mapped; do_memory_op",
        ("XENMEM_get_vnumainfo", e.ESRCH): "no such domain; do_memory_op",
        ("XENMEM_get_vnumainfo", e.EPERM): "domain 0; xsm_get_vnumainfo",
        ("XENMEM_get_vnumainfo", e.EOPNOTSUPP): "the domain has no virtual nodes; do_memory_op",
        ("XENMEM_acquire_resource", e.EFAULT): "the structure is not mapped; acquire_resource",
        ("XENMEM_acquire_resource", e.EINVAL): "padding that is not 0, frames beyond 32 bits, of 32 bits a first extent"
                                               " behind the last; acquire_resource, compat_memory_op",
        ("XENMEM_acquire_resource", e.ESRCH): "no such domain, DOMID_SELF; rcu_lock_remote_domain_by_id",
        ("XENMEM_acquire_resource", e.EPERM): "oneself, or domain 0; acquire_resource",
    },
    cases=[
        _other(e.ENOSYS, 8), _other(e.ENOSYS, PAGING_OP), _other(e.ENOSYS, SHARING_OP), _other(e.ENOSYS, 63),
        _other(e.ENOSYS, xm.XENMEM_memory_map | START), _other(e.ENOSYS, xm.XENMEM_machphys_mapping | START),
        _other(e.ENOSYS, CLAIM_PAGES, bits=32),
        _other(e.EFAULT, CLAIM_PAGES, bits=64), _other(e.EFAULT, ACCESS_OP),
        _other(e.EFAULT, RESERVED_DEVICE_MEMORY_MAP),
        Case("memory_op", e.EFAULT, lambda world: _device_map(world, 0, 1, world.xen)),
        _other(e.EINVAL, CLAIM_PAGES, xm.xen_memory_reservation(domid=DOMID, extent_order=1), 64),
        _other(e.EINVAL, CLAIM_PAGES, xm.xen_memory_reservation(domid=DOMID, mem_flags=1), 64),
        _other(e.EINVAL, CLAIM_PAGES, xm.xen_memory_reservation(domid=DOMID, extent_start=1), 64),
        _other(e.EINVAL, CLAIM_PAGES, xm.xen_memory_reservation(domid=DOMID_SELF), 64),
        _other(e.EINVAL, CLAIM_PAGES | START, bits=64),
        _other(e.EINVAL, RESERVED_DEVICE_MEMORY_MAP | START),
        _other(e.EINVAL, ACCESS_OP, _access(DOM0)), _other(e.EINVAL, ACCESS_OP | START, _access(DOM0)),
        Case("memory_op", e.EINVAL, lambda world: _device_map(world, 2, 0, 0)),
        _other(e.EPERM, CLAIM_PAGES, xm.xen_memory_reservation(domid=DOMID, nr_extents=9), 64),
        _other(e.EPERM, ACCESS_OP, _access(DOMID)),
        _other(e.ESRCH, ACCESS_OP, _access(NOBODY)), _other(e.ESRCH, ACCESS_OP, _access(DOMID_SELF)),
        _case("XENMEM_exchange", e.EFAULT),
        Case("XENMEM_exchange", e.EFAULT, lambda world: _exchange(world, NOWHERE, [FREE])),
        Case("XENMEM_exchange", e.EFAULT, lambda world: _exchange(world, [world.mfns[FREE]], NOWHERE)),
        Case("XENMEM_exchange", e.EFAULT, lambda world: _exchange(world, world.xen, [FREE])),
        Case("XENMEM_exchange", e.EFAULT, _told_in_vain),
        _exchange_case(e.EPERM, in_order=10, out_order=10), _exchange_case(e.EPERM, domid=DOM0),
        _exchange_case(e.EINVAL, out_nr=2), _exchange_case(e.EINVAL, done=2), _exchange_case(e.EINVAL, out_domid=DOMID),
        _exchange_case(e.EINVAL, flags=xm.XENMEMF_exact_node_request | 1 << 8),
        _exchange_case(e.EINVAL, flags=xm.XENMEMF_vnode | xm.XENMEMF_exact_node_request | 1 << 8),
        _exchange_case(e.EINVAL, mfn=0x12345), Case("XENMEM_exchange", e.EINVAL, _mapped_frame),
        _exchange_case(e.EINVAL, 32, in_nr=4, out_order=2, done=1),
        _case("XENMEM_exchange", e.EINVAL, xm.xen_memory_exchange(), extra=START),
        _exchange_case(e.ESRCH, domid=NOBODY), _exchange_case(e.ENOMEM, flags=20), _exchange_case(e.ENOMEM, flags=1),
        _exchange_case(e.E2BIG, 32, in_nr=1024, out_order=10), _exchange_case(e.EPERM, 64, in_nr=1024, out_order=10),
        _case("XENMEM_maximum_ram_page", e.EINVAL, extra=START),
        *(_case(name, e.EINVAL, extra=START) for name in _NUMBERS),
        *(_case(name, e.EFAULT) for name in _NUMBERS),
        *(_unknown_domain(name, xm.xen_memory_domain) for name in _NUMBERS),
        *(_case(name, e.EPERM, xm.xen_memory_domain(domid=DOM0)) for name in _NUMBERS),
        *(_case(name, e.EFAULT) for name in _LISTS),
        *(_case(name, e.EFAULT, xm.xen_machphys_mfn_list(max_extents=1, extent_start=NOWHERE)) for name in _LISTS),
        _case("XENMEM_machphys_mapping", e.EFAULT),
        _case("XENMEM_add_to_physmap", e.EDOM, xm.xen_add_to_physmap(), extra=0x10000 << 6),
        _case("XENMEM_add_to_physmap", e.EDOM, NOWHERE, 64, 0x10000 << 6),
        _case("XENMEM_add_to_physmap", e.EFAULT, NOWHERE, 32, 0x10000 << 6),
        _case("XENMEM_add_to_physmap", e.EFAULT),
        _case("XENMEM_add_to_physmap", e.ENOSYS, xm.xen_add_to_physmap(space=xm.XENMAPSPACE_gmfn_foreign)),
        _unknown_domain("XENMEM_add_to_physmap", xm.xen_add_to_physmap),
        _case("XENMEM_add_to_physmap", e.EACCES, xm.xen_add_to_physmap(domid=DOMID_SELF)),
        _case("XENMEM_add_to_physmap", e.EACCES, xm.xen_add_to_physmap(domid=DOM0)),
        _case("XENMEM_add_to_physmap_batch", e.EDOM, xm.xen_add_to_physmap_batch(), extra=0x10000 << 6),
        _case("XENMEM_add_to_physmap_batch", e.EFAULT), Case("XENMEM_add_to_physmap_batch", e.EFAULT, _batch_lists, 32),
        Case("XENMEM_add_to_physmap_batch", e.ESRCH, _batch_lists, 64),
        _case("XENMEM_add_to_physmap_batch", e.EOPNOTSUPP,
              xm.xen_add_to_physmap_batch(space=xm.XENMAPSPACE_gmfn_range)),
        _unknown_domain("XENMEM_add_to_physmap_batch", xm.xen_add_to_physmap_batch),
        _case("XENMEM_add_to_physmap_batch", e.EACCES, xm.xen_add_to_physmap_batch(domid=DOMID)),
        _case("XENMEM_remove_from_physmap", e.EINVAL, xm.xen_remove_from_physmap(), extra=START),
        _case("XENMEM_remove_from_physmap", e.EINVAL, NOWHERE, 64, START),
        _case("XENMEM_remove_from_physmap", e.EFAULT, NOWHERE, 32, START),
        _case("XENMEM_remove_from_physmap", e.EFAULT),
        _unknown_domain("XENMEM_remove_from_physmap", xm.xen_remove_from_physmap),
        _case("XENMEM_remove_from_physmap", e.EACCES, xm.xen_remove_from_physmap(domid=DOMID_SELF)),
        _case("XENMEM_memory_map", e.EFAULT),
        _case("XENMEM_memory_map", e.EFAULT, xm.xen_memory_map(nr_entries=1, buffer=NOWHERE)),
        Case("XENMEM_memory_map", e.ENOSYS, _no_memory_map),
        _case("XENMEM_machine_memory_map", e.EPERM, xm.xen_memory_map()),
        _case("XENMEM_machine_memory_map", e.EPERM, NOWHERE, 64),
        _case("XENMEM_machine_memory_map", e.EFAULT, NOWHERE, 32),
        _case("XENMEM_set_memory_map", e.EFAULT),
        _case("XENMEM_set_memory_map", e.EFAULT, _set_memory_map(DOMID_SELF, 1, NOWHERE)),
        _case("XENMEM_set_memory_map", e.EINVAL, _set_memory_map(NOBODY, 1025, 0)),
        _case("XENMEM_set_memory_map", e.ESRCH, _set_memory_map(NOBODY, 1, 0)),
        _case("XENMEM_set_memory_map", e.EPERM, _set_memory_map(DOM0, 1, 0)),
        *(_case(name, e.EFAULT) for name in _POD),
        *(_unknown_domain(name, xm.xen_pod_target) for name in _POD),
        *(_case(name, e.EINVAL, xm.xen_pod_target(domid=domid)) for name in _POD for domid in (DOMID_SELF, DOM0)),
        _case("XENMEM_get_vnumainfo", e.EINVAL, xm.xen_vnuma_topology_info(domid=NOBODY, pad=1)),
        _case("XENMEM_get_vnumainfo", e.EINVAL, xm.xen_vnuma_topology_info(), extra=START),
        _case("XENMEM_get_vnumainfo", e.EFAULT),
        _unknown_domain("XENMEM_get_vnumainfo", xm.xen_vnuma_topology_info),
        _case("XENMEM_get_vnumainfo", e.EPERM, xm.xen_vnuma_topology_info(domid=DOM0)),
        _case("XENMEM_get_vnumainfo", e.EOPNOTSUPP, xm.xen_vnuma_topology_info(domid=DOMID_SELF)),
        _case("XENMEM_acquire_resource", e.EFAULT),
        _case("XENMEM_acquire_resource", e.EINVAL, _resource(pad=1)),
        _case("XENMEM_acquire_resource", e.EINVAL, _resource(frame=1 << 32)),
        _case("XENMEM_acquire_resource", e.EINVAL, _resource(frame=0xFFFF_FFFF)),
        _case("XENMEM_acquire_resource", e.EINVAL, _resource(frame_list=NOWHERE), 32, START),
        _case("XENMEM_acquire_resource", e.EPERM, _resource(frame_list=NOWHERE), 64, START),
        _case("XENMEM_acquire_resource", e.ESRCH, _resource(domid=NOBODY)),
        _case("XENMEM_acquire_resource", e.ESRCH, _resource(domid=DOMID_SELF)),
        _case("XENMEM_acquire_resource", e.EPERM, _resource(domid=DOMID)),
        _case("XENMEM_acquire_resource", e.EPERM, _resource()),
    ],
    unreachable={
        ("XENMEM_machphys_compat_mfn_list", e.EOPNOTSUPP): "this Xen has 32-bit domains (opt_pv32)",
        ("XENMEM_set_memory_map", e.ENOMEM): "Xen's heap does not run out",
        ("XENMEM_get_vnumainfo", e.ENOBUFS): "the domain has no virtual nodes",
        ("XENMEM_get_vnumainfo", e.EAGAIN): "the domain has no virtual nodes",
        ("XENMEM_get_vnumainfo", e.ENOMEM): "the domain has no virtual nodes",
        ("XENMEM_acquire_resource", e.EACCES): "for translated domains (arch_acquire_resource_check)",
        ("XENMEM_acquire_resource", e.EOPNOTSUPP): "an unknown resource is found out after the permission",
    },
    never_fails={
        **dict.fromkeys(_RESERVATIONS, "do_memory_op: the number of extents done is returned, which may be 0"),
    },
)  # fmt: skip
