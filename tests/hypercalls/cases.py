"""What each hypercall and each of its operations answers: at least once as asked, at least once with an error.

``CASES`` is the whole list. The ports of the fake context grant what they are asked, or raise what a case says; whether
the real ports raise it is tested beside them.
"""

from __future__ import annotations

from typing import NamedTuple

from hypercalls.public import arch_x86, nmi, sched, vcpu, version, xen
from hypercalls.public import callback as cb
from hypercalls.public import errno as e
from hypercalls.public import event_channel as ec
from hypercalls.public import grant_table as gt
from hypercalls.public import memory as xm
from hypercalls.public import physdev as pd
from tests.hypercalls.fake_context import BASE, OWN_DOMID

__all__ = ["CASES", "Case"]

SELF, DOM0, NOBODY = xen.DOMID_SELF, 0, 999
NOWHERE = 0x10
BUFFER = BASE + 0x8000
NONCANONICAL = 1 << 47


class Case(NamedTuple):
    """``args`` are numbers, or structures, which stand in guest memory; ``bits`` 0 is both widths."""

    call: str
    args: tuple[object, ...]
    result: int
    refusal: tuple[str, int] | None = None  #: what a port raises
    bits: int = 0


def ok(call: str, *args: object, result: int = 0, bits: int = 0) -> Case:
    """Done as asked."""
    return Case(call, args, result, bits=bits)


def no(errno: int, call: str, *args: object, bits: int = 0) -> Case:
    """Refused by the handler."""
    return Case(call, args, -errno, bits=bits)


def port(name: str, errno: int, call: str, *args: object, bits: int = 0) -> Case:
    """Refused by a port."""
    return Case(call, args, -errno, (name, errno), bits)


def _events() -> list[Case]:
    op = "event_channel_op"
    arguments: list[tuple[str, object]] = [
        ("alloc_unbound", ec.evtchn_alloc_unbound(dom=SELF)),
        ("bind_interdomain", ec.evtchn_bind_interdomain()),
        ("bind_virq", ec.evtchn_bind_virq()),
        ("bind_pirq", ec.evtchn_bind_pirq()),
        ("bind_ipi", ec.evtchn_bind_ipi()),
        ("close", ec.evtchn_close()),
        ("send", ec.evtchn_send()),
        ("status", ec.evtchn_status(dom=SELF)),
        ("bind_vcpu", ec.evtchn_bind_vcpu()),
        ("unmask", ec.evtchn_unmask()),
        ("reset", ec.evtchn_reset(dom=SELF)),
        ("init_control", ec.evtchn_init_control()),
        ("expand_array", ec.evtchn_expand_array()),
        ("set_priority", ec.evtchn_set_priority()),
    ]
    cases = [
        no(e.ENOSYS, op, 15, NOWHERE),
        ok(op, 14, ec.evtchn_reset(dom=SELF)),
        port("reset", e.EBUSY, op, 14, ec.evtchn_reset(dom=SELF)),
    ]
    for name, argument in arguments:
        number = getattr(ec, f"EVTCHNOP_{name}")
        cases += [
            ok(op, number, argument),
            no(e.EFAULT, op, number, NOWHERE),
            port(name, e.EINVAL, op, number, argument),
        ]
    old = ec.evtchn_op(cmd=ec.EVTCHNOP_bind_ipi)
    return [
        *cases,
        ok("event_channel_op_compat", old),
        port("bind_ipi", e.ENOENT, "event_channel_op_compat", old),
        no(e.EFAULT, "event_channel_op_compat", NOWHERE),
        no(e.ENOSYS, "event_channel_op_compat", ec.evtchn_op(cmd=ec.EVTCHNOP_reset)),
    ]


def _grants() -> list[Case]:
    op = "grant_table_op"
    arguments: list[tuple[str, object]] = [
        ("map_grant_ref", gt.gnttab_map_grant_ref()),
        ("unmap_grant_ref", gt.gnttab_unmap_grant_ref()),
        ("setup_table", gt.gnttab_setup_table(dom=SELF, frame_list=BUFFER)),
        ("transfer", gt.gnttab_transfer()),
        ("copy", gt.gnttab_copy()),
        ("query_size", gt.gnttab_query_size(dom=SELF)),
        ("unmap_and_replace", gt.gnttab_unmap_and_replace()),
        ("set_version", gt.gnttab_set_version(version=1)),
        ("get_status_frames", gt.gnttab_get_status_frames(dom=SELF, frame_list=BUFFER)),
        ("get_version", gt.gnttab_get_version(dom=SELF)),
        ("swap_grant_ref", gt.gnttab_swap_grant_ref()),
        ("cache_flush", gt.gnttab_cache_flush(length=1, op=1)),
    ]
    cases = [
        no(e.ENOSYS, op, gt.GNTTABOP_dump_table, NOWHERE, 1),
        no(e.ENOSYS, op, 13, NOWHERE, 1),
        no(e.EINVAL, op, 0, NOWHERE, 1 << 31),
        no(e.EINVAL, op, 1 << 12, NOWHERE, 1),
        port("set_version", e.EBUSY, op, gt.GNTTABOP_set_version, gt.gnttab_set_version(version=2), 1),
        port("cache_flush", e.EPERM, op, gt.GNTTABOP_cache_flush, gt.gnttab_cache_flush(length=1, op=1), 1),
        no(e.EINVAL, op, gt.GNTTABOP_set_version, gt.gnttab_set_version(version=3), 1),
        no(e.EINVAL, op, gt.GNTTABOP_cache_flush, gt.gnttab_cache_flush(offset=4096), 1),
        no(e.EILSEQ, op, gt.GNTTABOP_cache_flush | 1 << 12, gt.gnttab_cache_flush(), 1),
        ok(op, gt.GNTTABOP_cache_flush | 1 << 12, gt.gnttab_cache_flush(length=1, op=1), 1),
        no(e.EPERM, op, gt.GNTTABOP_get_version, gt.gnttab_get_version(dom=DOM0), 1),
        no(e.ESRCH, op, gt.GNTTABOP_get_version, gt.gnttab_get_version(dom=NOBODY), 1),
    ]
    for name, argument in arguments:
        number = getattr(gt, f"GNTTABOP_{name}")
        cases += [ok(op, number, argument, 1), no(e.EFAULT, op, number, NOWHERE, 1)]
    for name in ("setup_table", "query_size", "get_status_frames"):
        cases.append(no(e.EINVAL, op, getattr(gt, f"GNTTABOP_{name}"), NOWHERE, 2))
    return cases


def _memory() -> list[Case]:
    op = "memory_op"
    reservation = xm.xen_memory_reservation(extent_start=BUFFER, nr_extents=1, domid=SELF)
    exchange = xm.xen_memory_exchange()
    exchange.in_ = xm.xen_memory_reservation(extent_start=BUFFER, nr_extents=1, domid=SELF)
    exchange.out = xm.xen_memory_reservation(extent_start=BUFFER + 0x100, nr_extents=1, domid=SELF)
    bad_exchange = xm.xen_memory_exchange(in_=exchange.in_, out=xm.xen_memory_reservation(domid=SELF))
    cases: list[Case] = []
    for name in ("increase_reservation", "decrease_reservation", "populate_physmap"):
        number = getattr(xm, f"XENMEM_{name}")
        cases += [
            ok(op, number, reservation, result=1),
            ok(op, number, NOWHERE),  # never an error: none was done
            Case(op, (number, reservation), 0, (name, e.ENOMEM)),
        ]
    for name in ("current_reservation", "maximum_reservation", "maximum_gpfn"):
        number = getattr(xm, f"XENMEM_{name}")
        value = {"current_reservation": 0x2000, "maximum_reservation": 0x2100, "maximum_gpfn": 0x1FFF}[name]
        cases += [
            ok(op, number, xm.xen_memory_domain(domid=SELF), result=value),
            no(e.EFAULT, op, number, NOWHERE),
            no(e.EPERM, op, number, xm.xen_memory_domain(domid=DOM0)),
            no(e.ESRCH, op, number, xm.xen_memory_domain(domid=NOBODY)),
            no(e.EINVAL, op, number | 1 << 6, NOWHERE),
        ]
    xatp, batch = xm.xen_add_to_physmap(domid=SELF), xm.xen_add_to_physmap_batch(domid=SELF)
    pod = xm.xen_pod_target(domid=SELF)
    resource = xm.xen_mem_acquire_resource(domid=NOBODY, nr_frames=1)
    return [
        *cases,
        ok(op, xm.XENMEM_maximum_ram_page, 0, result=0x8000),
        no(e.EINVAL, op, xm.XENMEM_maximum_ram_page | 1 << 6, 0),
        ok(op, xm.XENMEM_exchange, exchange),
        no(e.EFAULT, op, xm.XENMEM_exchange, NOWHERE),
        no(e.EINVAL, op, xm.XENMEM_exchange, bad_exchange),
        port("exchange_frames", e.ENOMEM, op, xm.XENMEM_exchange, exchange),
        ok(op, xm.XENMEM_machphys_mfn_list, xm.xen_machphys_mfn_list(max_extents=9, extent_start=BUFFER)),
        no(e.EFAULT, op, xm.XENMEM_machphys_mfn_list, xm.xen_machphys_mfn_list(max_extents=9, extent_start=NOWHERE)),
        ok(op, xm.XENMEM_machphys_compat_mfn_list, xm.xen_machphys_mfn_list(max_extents=9, extent_start=BUFFER)),
        no(e.EFAULT, op, xm.XENMEM_machphys_compat_mfn_list, NOWHERE),
        ok(op, xm.XENMEM_machphys_mapping, xm.xen_machphys_mapping()),
        no(e.EFAULT, op, xm.XENMEM_machphys_mapping, NOWHERE),
        no(e.EACCES, op, xm.XENMEM_add_to_physmap, xatp),
        no(e.EFAULT, op, xm.XENMEM_add_to_physmap, NOWHERE),
        no(e.ESRCH, op, xm.XENMEM_add_to_physmap, xm.xen_add_to_physmap(domid=NOBODY)),
        no(
            e.ENOSYS, op, xm.XENMEM_add_to_physmap, xm.xen_add_to_physmap(domid=SELF, space=xm.XENMAPSPACE_gmfn_foreign)
        ),
        no(e.EACCES, op, xm.XENMEM_add_to_physmap_batch, batch),
        no(e.EFAULT, op, xm.XENMEM_add_to_physmap_batch, NOWHERE),
        no(e.EACCES, op, xm.XENMEM_remove_from_physmap, xm.xen_remove_from_physmap(domid=SELF)),
        no(e.ESRCH, op, xm.XENMEM_remove_from_physmap, xm.xen_remove_from_physmap(domid=NOBODY)),
        ok(op, xm.XENMEM_memory_map, xm.xen_memory_map(nr_entries=9, buffer=BUFFER)),
        no(e.EFAULT, op, xm.XENMEM_memory_map, xm.xen_memory_map(nr_entries=9, buffer=NOWHERE)),
        port("memory_map", e.ENOSYS, op, xm.XENMEM_memory_map, xm.xen_memory_map(nr_entries=9, buffer=BUFFER)),
        no(e.EPERM, op, xm.XENMEM_machine_memory_map, xm.xen_memory_map()),
        ok(op, xm.XENMEM_set_memory_map, xm.xen_foreign_memory_map(domid=SELF)),
        no(e.EPERM, op, xm.XENMEM_set_memory_map, xm.xen_foreign_memory_map(domid=DOM0)),
        no(e.EINVAL, op, xm.XENMEM_set_pod_target, pod),
        no(e.EFAULT, op, xm.XENMEM_set_pod_target, NOWHERE),
        no(e.EINVAL, op, xm.XENMEM_get_pod_target, pod),
        no(e.EFAULT, op, xm.XENMEM_get_pod_target, NOWHERE),
        no(e.ESRCH, op, xm.XENMEM_acquire_resource, resource),
        no(e.EFAULT, op, xm.XENMEM_acquire_resource, NOWHERE),
        no(e.EOPNOTSUPP, op, xm.XENMEM_get_vnumainfo, xm.xen_vnuma_topology_info(domid=SELF)),
        no(e.EINVAL, op, xm.XENMEM_get_vnumainfo, xm.xen_vnuma_topology_info(domid=SELF, pad=1)),
        no(e.ENOSYS, op, 63, NOWHERE),
        no(e.ENOSYS, op, 20, NOWHERE),
        no(e.EPERM, op, 21, bytes(2) + OWN_DOMID.to_bytes(2, "little") + bytes(20)),
        ok(op, 18, 0),
        ok(op, 19, 0),
    ]


def _scheduling() -> list[Case]:
    op, old = "sched_op", "sched_op_compat"
    remote = sched.sched_remote_shutdown(domain_id=DOM0)
    return [
        ok(op, sched.SCHEDOP_yield, 0),
        ok(op, sched.SCHEDOP_block, 0),
        no(e.ENOSYS, op, 8, 0),
        ok(op, sched.SCHEDOP_shutdown, sched.sched_shutdown()),
        no(e.EFAULT, op, sched.SCHEDOP_shutdown, NOWHERE),
        ok(op, sched.SCHEDOP_shutdown_code, sched.sched_shutdown()),
        no(e.EFAULT, op, sched.SCHEDOP_shutdown_code, NOWHERE),
        ok(op, sched.SCHEDOP_poll, sched.sched_poll(ports=BUFFER, nr_ports=1)),
        no(e.EFAULT, op, sched.SCHEDOP_poll, NOWHERE),
        no(e.EINVAL, op, sched.SCHEDOP_poll, sched.sched_poll(nr_ports=129)),
        no(e.EPERM, op, sched.SCHEDOP_remote_shutdown, remote),
        no(e.ESRCH, op, sched.SCHEDOP_remote_shutdown, sched.sched_remote_shutdown(domain_id=NOBODY)),
        no(e.EFAULT, op, sched.SCHEDOP_remote_shutdown, NOWHERE),
        ok(op, sched.SCHEDOP_watchdog, sched.sched_watchdog(), result=1),
        no(e.EFAULT, op, sched.SCHEDOP_watchdog, NOWHERE),
        no(e.EINVAL, op, sched.SCHEDOP_watchdog, sched.sched_watchdog(id=3)),
        port("watchdog", e.ENOSPC, op, sched.SCHEDOP_watchdog, sched.sched_watchdog(), bits=32),
        no(e.EPERM, op, sched.SCHEDOP_pin_override, 0),
        ok(old, sched.SCHEDOP_yield, 0),
        ok(old, sched.SCHEDOP_block, 0),
        ok(old, sched.SCHEDOP_shutdown, 0),
        no(e.ENOSYS, old, sched.SCHEDOP_poll, 0),
    ]


def _vcpus() -> list[Case]:
    op = "vcpu_op"
    area = BUFFER.to_bytes(8, "little")
    arguments: list[tuple[str, str, object, int]] = [
        ("initialise", "initialise", arch_x86.vcpu_guest_context(), 0),
        ("up", "up", 0, 0),
        ("down", "down", 0, 0),
        ("is_up", "is_up", 0, 1),
        ("get_runstate_info", "runstate", vcpu.vcpu_runstate_info(), 0),
        ("register_runstate_memory_area", "register_runstate_area", area, 0),
        ("register_vcpu_time_memory_area", "register_time_area", area, 0),
        ("set_periodic_timer", "set_periodic_timer", vcpu.vcpu_set_periodic_timer(period_ns=10**7), 0),
        ("stop_periodic_timer", "stop_periodic_timer", 0, 0),
        ("set_singleshot_timer", "set_singleshot_timer", vcpu.vcpu_set_singleshot_timer(), 0),
        ("stop_singleshot_timer", "stop_singleshot_timer", 0, 0),
        ("register_vcpu_info", "register_vcpu_info", vcpu.vcpu_register_vcpu_info(), 0),
        ("send_nmi", "send_nmi", 0, 0),
    ]
    cases = [
        no(e.ENOSYS, op, 14, 0),
        no(e.EINVAL, op, vcpu.VCPUOP_get_physid, 0),
        no(e.EINVAL, op, vcpu.VCPUOP_send_nmi, 0, 1),
        no(e.EINVAL, op, vcpu.VCPUOP_set_singleshot_timer, 1, vcpu.vcpu_set_singleshot_timer()),
        no(e.EINVAL, op, vcpu.VCPUOP_stop_singleshot_timer, 1),
        no(e.EINVAL, op, vcpu.VCPUOP_set_periodic_timer, 0, vcpu.vcpu_set_periodic_timer(period_ns=1)),
    ]
    for name, method, argument, result in arguments:
        number = getattr(vcpu, f"VCPUOP_{name}")
        cases += [
            ok(op, number, 0, argument, result=result),
            no(e.ENOENT, op, number, 9, argument),
            port(method, e.EEXIST, op, number, 0, argument),
        ]
        if argument:
            cases.append(no(e.EFAULT, op, number, 0, NOWHERE))
    return cases


def _devices() -> list[Case]:
    op = "physdev_op"
    cases = [
        ok(op, pd.PHYSDEVOP_IRQ_UNMASK_NOTIFY, 0),
        ok(op, pd.PHYSDEVOP_eoi, pd.physdev_eoi()),
        port("eoi", e.EINVAL, op, pd.PHYSDEVOP_eoi, pd.physdev_eoi()),
        no(e.EFAULT, op, pd.PHYSDEVOP_eoi, NOWHERE),
        ok(op, pd.PHYSDEVOP_irq_status_query, pd.physdev_irq_status_query(irq=3)),
        no(e.EINVAL, op, pd.PHYSDEVOP_irq_status_query, pd.physdev_irq_status_query(irq=999)),
        ok(op, pd.PHYSDEVOP_set_iopl, pd.physdev_set_iopl(iopl=1)),
        no(e.EINVAL, op, pd.PHYSDEVOP_set_iopl, pd.physdev_set_iopl(iopl=4)),
        no(e.EFAULT, op, pd.PHYSDEVOP_set_iopl, NOWHERE),
        ok(op, pd.PHYSDEVOP_set_iobitmap, pd.physdev_set_iobitmap(bitmap=BUFFER, nr_ports=8)),
        no(e.EINVAL, op, pd.PHYSDEVOP_set_iobitmap, pd.physdev_set_iobitmap(nr_ports=65537)),
        ok(op, pd.PHYSDEVOP_get_free_pirq, pd.physdev_get_free_pirq()),
        port("get_free_pirq", e.ENOSPC, op, pd.PHYSDEVOP_get_free_pirq, pd.physdev_get_free_pirq()),
        no(e.EPERM, op, pd.PHYSDEVOP_map_pirq, pd.physdev_map_pirq(domid=SELF)),
        no(e.ESRCH, op, pd.PHYSDEVOP_map_pirq, pd.physdev_map_pirq(domid=NOBODY)),
        no(e.EPERM, op, pd.PHYSDEVOP_unmap_pirq, pd.physdev_unmap_pirq(domid=SELF)),
        no(e.ESRCH, op, pd.PHYSDEVOP_unmap_pirq, pd.physdev_unmap_pirq(domid=NOBODY)),
        no(e.EPERM, op, pd.PHYSDEVOP_setup_gsi, pd.physdev_setup_gsi(gsi=4)),
        no(e.EINVAL, op, pd.PHYSDEVOP_setup_gsi, pd.physdev_setup_gsi(gsi=24)),
        no(e.EPERM, op, pd.PHYSDEVOP_pci_mmcfg_reserved, 0),
        no(e.EPERM, op, pd.PHYSDEVOP_dbgp_op, 0),
        no(e.ENOSYS, op, pd.PHYSDEVOP_free_irq_vector, 0),
        no(e.ENOSYS, op, 99, 0),
        no(e.ENODEV, op, pd.PHYSDEVOP_restore_msi, pd.physdev_restore_msi(bus=1)),
        no(e.ENODEV, op, pd.PHYSDEVOP_restore_msi_ext, pd.physdev_pci_device(seg=1)),
        ok("physdev_op_compat", pd.physdev_op(cmd=pd.PHYSDEVOP_set_iopl)),
        no(e.EPERM, "physdev_op_compat", pd.physdev_op(cmd=pd.PHYSDEVOP_apic_read)),
        no(e.EFAULT, "physdev_op_compat", NOWHERE),
    ]
    for name in ("pirq_eoi_gmfn_v1", "pirq_eoi_gmfn_v2"):
        number = getattr(pd, f"PHYSDEVOP_{name}")
        cases += [
            ok(op, number, pd.physdev_pirq_eoi_gmfn()),
            port("set_pirq_eoi_map", e.EBUSY, op, number, pd.physdev_pirq_eoi_gmfn()),
        ]
    for names, argument in (
        ("apic_read apic_write", pd.physdev_apic()),
        ("alloc_irq_vector", pd.physdev_irq()),
        ("manage_pci_add manage_pci_remove", pd.physdev_manage_pci()),
        ("manage_pci_add_ext", pd.physdev_manage_pci_ext()),
        ("pci_device_add", pd.physdev_pci_device_add()),
        ("prepare_msix release_msix pci_device_remove", pd.physdev_pci_device()),
    ):
        for name in names.split():
            number = getattr(pd, f"PHYSDEVOP_{name}")
            cases += [no(e.EPERM, op, number, argument), no(e.EFAULT, op, number, NOWHERE)]
    return cases


def _versions() -> list[Case]:
    op = "xen_version"
    cases = [
        ok(op, version.XENVER_version, 0, result=4 << 16 | 17),
        ok(op, version.XENVER_pagesize, 0, result=4096),
        no(e.EINVAL, op, version.XENVER_pagesize, BASE),
        no(e.EPERM, op, version.XENVER_build_id, 0),
        no(e.ENOSYS, op, 11, 0),
        ok(op, version.XENVER_get_features, version.xen_feature_info()),
        no(e.EINVAL, op, version.XENVER_get_features, version.xen_feature_info(submap_idx=9)),
    ]
    names = "extraversion compile_info capabilities changeset platform_parameters guest_handle commandline get_features"
    for name in names.split():
        number = getattr(version, f"XENVER_{name}")
        cases += [ok(op, number, BUFFER), no(e.EFAULT, op, number, NOWHERE)]
    return cases


def _mm() -> list[Case]:
    mfn = BASE >> 12
    names = {
        "PIN_L1_TABLE": "pin_table",
        "PIN_L2_TABLE": "pin_table",
        "PIN_L3_TABLE": "pin_table",
        "UNPIN_TABLE": "unpin_table",
        "NEW_BASEPTR": "new_baseptr",
        "NEW_USER_BASEPTR": "new_user_baseptr",
        "CLEAR_PAGE": "clear_page",
        "COPY_PAGE": "copy_page",
        "SET_LDT": "set_ldt",
        "TLB_FLUSH_LOCAL": "",
        "TLB_FLUSH_ALL": "",
        "INVLPG_LOCAL": "",
        "INVLPG_ALL": "",
    }
    cases: list[Case] = []
    for name, method in names.items():
        argument = xen.mmuext_op(cmd=getattr(xen, f"MMUEXT_{name}"))
        argument.arg1.mfn = mfn
        cases.append(ok("mmuext_op", argument, 1, 0, SELF))
        cases.append(no(e.ESRCH, "mmuext_op", argument, 1, 0, NOBODY))
        if method:
            cases.append(port(method, e.EINVAL, "mmuext_op", argument, 1, 0, SELF))
    pin4 = xen.mmuext_op(cmd=xen.MMUEXT_PIN_L4_TABLE)
    cases += [
        ok("mmuext_op", pin4, 1, 0, SELF),
        port("pin_table", e.EINVAL, "mmuext_op", pin4, 1, 0, SELF, bits=64),
        no(e.EPERM, "mmuext_op", pin4, 1, 0, DOM0),
        no(e.EFAULT, "mmuext_op", NOWHERE, 1, 0, SELF),
    ]
    for name in ("TLB_FLUSH_MULTI", "INVLPG_MULTI"):
        argument = xen.mmuext_op(cmd=getattr(xen, f"MMUEXT_{name}"))
        argument.arg2.vcpumask = BUFFER
        bad = xen.mmuext_op(cmd=getattr(xen, f"MMUEXT_{name}"))
        bad.arg2.vcpumask = NOWHERE
        cases += [ok("mmuext_op", argument, 1, 0, SELF), no(e.EINVAL, "mmuext_op", bad, 1, 0, SELF)]
    for name, errno in (
        ("FLUSH_CACHE", e.EACCES),
        ("FLUSH_CACHE_GLOBAL", e.EINVAL),
        ("MARK_SUPER", e.EOPNOTSUPP),
        ("UNMARK_SUPER", e.EOPNOTSUPP),
    ):
        cases.append(no(errno, "mmuext_op", xen.mmuext_op(cmd=getattr(xen, f"MMUEXT_{name}")), 1, 0, SELF))
    cases.append(no(e.ENOSYS, "mmuext_op", xen.mmuext_op(cmd=99), 1, 0, SELF))
    for command in range(4):
        update = xen.mmu_update(ptr=0x1000 | command, val=7)
        cases += [
            ok("mmu_update", update, 1, 0, SELF),
            port("mmu_update", e.EINVAL, "mmu_update", update, 1, 0, SELF),
            no(e.EPERM, "mmu_update", update, 1, 0, DOM0),
            no(e.ESRCH, "mmu_update", update, 1, 0, NOBODY),
        ]
    cases += [
        no(e.ENOSYS, "mmu_update", xen.mmu_update(ptr=4), 1, 0, SELF),
        no(e.EFAULT, "mmu_update", NOWHERE, 1, 0, SELF),
        ok("update_va_mapping", BASE, 7, 0, 0),
        port("update_va_mapping", e.EBUSY, "update_va_mapping", BASE, 7, 0, 0),
        ok("update_va_mapping_otherdomain", BASE, 7, 0, SELF, bits=64),
        no(e.EPERM, "update_va_mapping_otherdomain", BASE, 7, 0, DOM0, bits=64),
        no(e.ESRCH, "update_va_mapping_otherdomain", BASE, 7, 0, NOBODY, bits=64),
        ok("update_va_mapping_otherdomain", BASE, 7, 0, 0, SELF, bits=32),
        no(e.EPERM, "update_va_mapping_otherdomain", BASE, 7, 0, 0, DOM0, bits=32),
    ]
    return cases


def _traps() -> list[Case]:
    cases = [
        ok("set_trap_table", 0),
        no(e.EFAULT, "set_trap_table", NOWHERE),
        no(e.EINVAL, "set_trap_table", arch_x86.trap_info(address=NONCANONICAL), bits=64),
        ok("set_gdt", BUFFER, 512),
        no(e.EINVAL, "set_gdt", BUFFER, 65535),
        no(e.EFAULT, "set_gdt", NOWHERE, 512),
        port("set_gdt", e.EINVAL, "set_gdt", BUFFER, 512),
        ok("stack_switch", 0, 0),
        ok("set_callbacks", 0, 0, 0, 0),
        ok("fpu_taskswitch", 1),
        ok("iret"),
        ok("set_debugreg", 7, 0),
        no(e.ENODEV, "set_debugreg", 8, 0),
        no(e.EPERM, "set_debugreg", 7, 1 << 13),
        no(e.EPERM, "set_debugreg", 0, 0xFFFF_8000_0000_0000, bits=64),
        no(e.EINVAL, "set_debugreg", 6, 1 << 32, bits=64),
        ok("get_debugreg", 6, result=0xFFFF_0FF0),
        no(e.ENODEV, "get_debugreg", 8),
        ok("update_descriptor", BASE, 0, 0, 0),
        no(e.EINVAL, "update_descriptor", BASE + 4, 0, 0, 0),
        port("update_descriptor", e.EINVAL, "update_descriptor", BASE, 0, 0, 0),
        ok("set_timer_op", 0, 0),
        ok("set_segment_base", 0, 0, bits=64),
        no(e.EINVAL, "set_segment_base", 0, NONCANONICAL, bits=64),
        no(e.EINVAL, "set_segment_base", 9, 0, bits=64),
        no(e.ENOSYS, "set_segment_base", 0, 0, bits=32),
    ]
    register, unregister = cb.CALLBACKOP_register, cb.CALLBACKOP_unregister
    good = cb.callback_register(type=cb.CALLBACKTYPE_event)
    return [
        *cases,
        ok("callback_op", register, good),
        no(e.EFAULT, "callback_op", register, NOWHERE),
        no(e.ENOSYS, "callback_op", register, cb.callback_register(type=9)),
        ok("callback_op", unregister, cb.callback_unregister(type=cb.CALLBACKTYPE_nmi)),
        no(e.EINVAL, "callback_op", unregister, cb.callback_unregister(type=cb.CALLBACKTYPE_event)),
        no(e.ENOSYS, "callback_op", 2, 0, bits=64),
        no(e.EINVAL, "callback_op", 2, 0, bits=32),
        ok("nmi_op", nmi.XENNMI_register_callback, nmi.xennmi_callback()),
        no(e.EFAULT, "nmi_op", nmi.XENNMI_register_callback, NOWHERE),
        ok("nmi_op", nmi.XENNMI_unregister_callback, 0),
        no(e.ENOSYS, "nmi_op", 2, 0),
    ]


def _assists() -> list[Case]:
    cases = [no(e.EINVAL, "vm_assist", xen.VMASST_CMD_enable, 6)]
    for name, number in vars(xen).items():
        if name.startswith("VMASST_TYPE_"):
            bits = 64 if name == "VMASST_TYPE_m2p_strict" else 0
            cases += [
                ok("vm_assist", xen.VMASST_CMD_enable, number, bits=bits),
                ok("vm_assist", xen.VMASST_CMD_disable, number, bits=bits),
                no(e.ENOSYS, "vm_assist", 2, number, bits=bits),
            ]
    cases.append(no(e.EINVAL, "vm_assist", xen.VMASST_CMD_enable, xen.VMASST_TYPE_m2p_strict, bits=32))
    call = xen.multicall_entry(op=xen.__HYPERVISOR_xen_version)
    return [*cases, ok("multicall", call, 1), ok("multicall", NOWHERE, 0), no(e.EFAULT, "multicall", NOWHERE, 1)]


def _hvm() -> list[Case]:
    op = "hvm_op"
    own, nobody = OWN_DOMID.to_bytes(16, "little"), NOBODY.to_bytes(16, "little")
    return [
        no(e.EINVAL, op, 0, own),
        no(e.EINVAL, op, 0, NOBODY.to_bytes(4, "little") + bytes([39]) + bytes(11)),  # no such parameter
        no(e.ESRCH, op, 0, nobody),
        no(e.EINVAL, op, 1, bytes(16)),
        no(e.EFAULT, op, 1, NOWHERE),
        no(e.EINVAL, op, 5, 0),
        no(e.EINVAL, op, 9, own),
        no(e.EOPNOTSUPP, op, 9, bytes(16)),
        ok(op, 10, BUFFER),
        no(e.EFAULT, op, 10, NOWHERE),
        ok(op, 11, bytes(32)),
        no(e.EINVAL, op, 11, bytes(2) + b"\x1d" + bytes(29)),
        no(e.EINVAL, op, 11, b"\0\x10" + bytes(30)),
        no(e.EINVAL, op, 15, own),
        no(e.EPERM, op, 15, bytes(16)),
        no(e.EINVAL, op, 23, NOWHERE),
        ok(op, 24, 0),
        no(e.EINVAL, op, 24, BUFFER),
        no(e.EOPNOTSUPP, op, 25, NOWHERE),
        no(e.ENOSYS, op, 99, 0),
    ]


def _refused() -> list[Case]:
    toolstack = bytes(4) + (0x15).to_bytes(4, "little") + OWN_DOMID.to_bytes(2, "little") + bytes(134)
    platform = bytes(4) + (0x0300_0001).to_bytes(4, "little") + bytes(128)
    return [
        no(e.EPERM, "platform_op", platform),
        no(e.EACCES, "platform_op", bytes(136)),
        no(e.EPERM, "sysctl", toolstack),
        no(e.EACCES, "sysctl", bytes(136)),
        no(e.EPERM, "domctl", b"\2" + toolstack[1:]),
        no(e.EACCES, "domctl", bytes(144)),
        no(e.EOPNOTSUPP, "paging_domctl_cont", bytes(144)),
        no(e.EPERM, "kexec_op", 0, 0),
        no(e.EPERM, "mca", 0),
        no(e.EPERM, "hypfs_op", 0, 0, 0, 0, 0),
        no(e.ENOSYS, "xsm_op", 0),
        no(e.EOPNOTSUPP, "xenpmu_op", 0, 0),
        no(e.EPERM, "xenoprof_op", 1, 0),
        no(e.ENODEV, "xenoprof_op", 0, bytes(72)),
        no(e.EFAULT, "xenoprof_op", 0, NOWHERE),
        ok("xenoprof_op", 14, bytes(24)),
        # which version of events there is: for everybody (vm_event_domctl)
        ok("domctl", b"".join(word.to_bytes(4, "little") for word in (56, 0x15, OWN_DOMID, 0, 3)).ljust(144, b"\0")),
        port("get_buffer", e.EBUSY, "xenoprof_op", 14, bytes(24)),
        no(e.EFAULT, "xenoprof_op", 14, NOWHERE),
        no(e.EINVAL, "xenoprof_op", 18, 0),
        no(e.ENODATA, "dm_op", 0, 0, 0),
        no(e.E2BIG, "dm_op", 0, 3, 0),
        no(e.EFAULT, "dm_op", 0, 1, NOWHERE),
        *_hvm(),
        no(e.EPERM, "console_io", 0, 1, BASE),
        no(e.ENOSYS, "tmem_op"),
        no(e.ENOSYS, "argo_op"),
    ]


CASES: list[Case] = [
    *_events(),
    *_grants(),
    *_memory(),
    *_scheduling(),
    *_vcpus(),
    *_devices(),
    *_versions(),
    *_mm(),
    *_traps(),
    *_assists(),
    *_refused(),
]
