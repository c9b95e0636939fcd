"""Hypercalls of the domain as a whole: sched_op, xen_version, vm_assist, physdev_op."""

from __future__ import annotations

import pytest

from hypercalls.abi import ABI32, Abi
from hypercalls.public import physdev as pd
from hypercalls.public import sched, xen
from hypercalls.public import version as xv
from hypercalls.public.errno import EFAULT, EINVAL, ENODEV, ENOSYS, EPERM, ESRCH
from tests.hypercalls.fake_context import BASE, BOTH, HANDLE, OWN_DOMID, FakeContext

WIDTHS = pytest.mark.parametrize("abi", BOTH, ids=["64", "32"])
PORTS = BASE + 0x1000

SCHED_OPS: list[tuple[int, object, object]] = [
    (sched.SCHEDOP_yield, None, ("yield_",)),
    (sched.SCHEDOP_block, None, ("block",)),
    (sched.SCHEDOP_shutdown, sched.sched_shutdown(reason=0x103), ("shutdown", 3)),
    (sched.SCHEDOP_shutdown, None, -EFAULT),
    (sched.SCHEDOP_shutdown_code, sched.sched_shutdown(reason=2), ("shutdown_code", 2)),
    (sched.SCHEDOP_shutdown_code, None, -EFAULT),
    (sched.SCHEDOP_poll, sched.sched_poll(ports=PORTS, nr_ports=2, timeout=9), ("poll", [5, 6], 9)),
    (sched.SCHEDOP_poll, sched.sched_poll(ports=0, nr_ports=0, timeout=9), ("poll", [], 9)),
    (sched.SCHEDOP_poll, sched.sched_poll(ports=PORTS, nr_ports=129), -EINVAL),
    (sched.SCHEDOP_poll, sched.sched_poll(ports=8, nr_ports=1), -EFAULT),
    (sched.SCHEDOP_poll, None, -EFAULT),
    (sched.SCHEDOP_remote_shutdown, sched.sched_remote_shutdown(domain_id=0), -EPERM),
    (sched.SCHEDOP_remote_shutdown, sched.sched_remote_shutdown(domain_id=OWN_DOMID), -EPERM),
    (sched.SCHEDOP_remote_shutdown, sched.sched_remote_shutdown(domain_id=xen.DOMID_SELF), -ESRCH),
    (sched.SCHEDOP_remote_shutdown, None, -EFAULT),
    (sched.SCHEDOP_watchdog, sched.sched_watchdog(id=0, timeout=30), 1),
    (sched.SCHEDOP_watchdog, sched.sched_watchdog(id=3), -EINVAL),
    (sched.SCHEDOP_watchdog, None, -EFAULT),
    (sched.SCHEDOP_pin_override, None, -EPERM),
    (8, None, -ENOSYS),
]


@WIDTHS
@pytest.mark.parametrize(("cmd", "argument", "expected"), SCHED_OPS)
def test_sched_op(abi: Abi, cmd: int, argument: object, expected: object) -> None:
    context = FakeContext(abi)
    context.put(b"\5\0\0\0\6\0\0\0", PORTS)
    place = 0 if argument is None else context.put(argument)
    result = context.hypercall("sched_op", cmd, place)
    if isinstance(expected, int):
        assert result == expected
    else:
        assert (result, context.calls) == (0, [expected])


def test_sched_op_compat() -> None:
    context = FakeContext()
    for cmd, expected in ((0, 0), (1, 0), (2, 0), (3, -ENOSYS)):
        assert context.hypercall("sched_op_compat", cmd, 0x103) == expected
    assert context.calls == [("yield_",), ("block",), ("shutdown", 3)]


@WIDTHS
@pytest.mark.parametrize(
    ("cmd", "answer"),
    [
        (xv.XENVER_extraversion, b".7".ljust(16, b"\0")),
        (xv.XENVER_capabilities, b"xen-3.0-x86_64 xen-3.0-x86_32p ".ljust(1024, b"\0")),
        (xv.XENVER_changeset, b"unavailable".ljust(64, b"\0")),
        (xv.XENVER_guest_handle, HANDLE),
        (xv.XENVER_commandline, b"<denied>\0"),
    ],
)
def test_version_texts(abi: Abi, cmd: int, answer: bytes) -> None:
    context = FakeContext(abi)
    context.guest.memory[: len(answer) + 1] = b"\xcc" * (len(answer) + 1)
    assert context.hypercall("xen_version", cmd, BASE) == 0
    assert context.guest.copy_from_guest(BASE, len(answer) + 1) == answer + b"\xcc"
    assert context.hypercall("xen_version", cmd, 0) == -EFAULT


@WIDTHS
def test_version_numbers(abi: Abi) -> None:
    context = FakeContext(abi)
    assert context.hypercall("xen_version", xv.XENVER_version, 0) == 0x40011
    assert context.hypercall("xen_version", xv.XENVER_pagesize, 0) == 4096
    assert context.hypercall("xen_version", xv.XENVER_pagesize, BASE) == -EINVAL
    assert context.hypercall("xen_version", xv.XENVER_build_id, 0) == -EPERM
    assert context.hypercall("xen_version", 11, 0) == -ENOSYS
    assert context.hypercall("xen_version", xv.XENVER_platform_parameters, BASE) == 0
    start = 0xF5800000 if abi is ABI32 else 0xFFFF800000000000
    assert context.get(xv.xen_platform_parameters).virt_start == start
    context.put(xv.xen_feature_info(submap_idx=0))
    assert context.hypercall("xen_version", xv.XENVER_get_features, BASE) == 0
    assert context.get(xv.xen_feature_info).submap == 0x220E0
    context.put(xv.xen_feature_info(submap_idx=1))
    assert context.hypercall("xen_version", xv.XENVER_get_features, BASE) == -EINVAL
    assert context.hypercall("xen_version", xv.XENVER_compile_info, BASE) == 0
    assert context.get(xv.xen_compile_info).compile_by.rstrip(b"\0") == b"pvemu"


@WIDTHS
def test_vm_assist(abi: Abi) -> None:
    context = FakeContext(abi)
    assert context.hypercall("vm_assist", xen.VMASST_CMD_enable, xen.VMASST_TYPE_pae_extended_cr3) == 0
    assert context.hypercall("vm_assist", xen.VMASST_CMD_disable, xen.VMASST_TYPE_runstate_update_flag) == 0
    assert context.calls == [("vm_assist", 3, True), ("vm_assist", 5, False)]
    strict = context.hypercall("vm_assist", xen.VMASST_CMD_enable, xen.VMASST_TYPE_m2p_strict)
    assert strict == (-EINVAL if abi is ABI32 else 0)
    assert context.hypercall("vm_assist", 2, 0) == -ENOSYS
    for type_ in (6, 33, 64, 1 << 31):
        assert context.hypercall("vm_assist", 0, type_) == -EINVAL


PHYSDEV_OPS: list[tuple[int, object, object]] = [
    (pd.PHYSDEVOP_eoi, pd.physdev_eoi(irq=9), ("eoi", 9)),
    (pd.PHYSDEVOP_set_iopl, pd.physdev_set_iopl(iopl=3), ("set_iopl", 3)),
    (pd.PHYSDEVOP_set_iopl, pd.physdev_set_iopl(iopl=4), -EINVAL),
    (pd.PHYSDEVOP_set_iobitmap, pd.physdev_set_iobitmap(bitmap=BASE, nr_ports=65536), ("set_iobitmap", BASE, 65536)),
    (pd.PHYSDEVOP_set_iobitmap, pd.physdev_set_iobitmap(bitmap=BASE, nr_ports=65537), -EINVAL),
    (pd.PHYSDEVOP_pirq_eoi_gmfn_v1, pd.physdev_pirq_eoi_gmfn(gmfn=7), ("set_pirq_eoi_map", 7)),
    (pd.PHYSDEVOP_pirq_eoi_gmfn_v2, pd.physdev_pirq_eoi_gmfn(gmfn=7), ("set_pirq_eoi_map", 7)),
    (pd.PHYSDEVOP_IRQ_UNMASK_NOTIFY, None, 0),
    (pd.PHYSDEVOP_irq_status_query, pd.physdev_irq_status_query(irq=99), -EINVAL),
    (pd.PHYSDEVOP_irq_status_query, pd.physdev_irq_status_query(irq=9), 0),
    (pd.PHYSDEVOP_apic_read, pd.physdev_apic(), -EPERM),
    (pd.PHYSDEVOP_apic_write, pd.physdev_apic(), -EPERM),
    (pd.PHYSDEVOP_apic_write, None, -EFAULT),
    (pd.PHYSDEVOP_alloc_irq_vector, pd.physdev_irq(), -EPERM),
    (pd.PHYSDEVOP_map_pirq, pd.physdev_map_pirq(domid=xen.DOMID_SELF), -EPERM),
    (pd.PHYSDEVOP_map_pirq, pd.physdev_map_pirq(domid=99), -ESRCH),
    (pd.PHYSDEVOP_map_pirq, pd.physdev_map_pirq(type=pd.MAP_PIRQ_TYPE_MULTI_MSI, table_base=1), -EINVAL),
    (pd.PHYSDEVOP_unmap_pirq, pd.physdev_unmap_pirq(domid=xen.DOMID_SELF), -EPERM),
    (pd.PHYSDEVOP_setup_gsi, pd.physdev_setup_gsi(gsi=3), -EPERM),
    (pd.PHYSDEVOP_setup_gsi, pd.physdev_setup_gsi(gsi=-1), -EINVAL),
    (pd.PHYSDEVOP_manage_pci_add, pd.physdev_manage_pci(), -EPERM),
    (pd.PHYSDEVOP_restore_msi, pd.physdev_restore_msi(devfn=8), -ENODEV),
    (pd.PHYSDEVOP_get_free_pirq, pd.physdev_get_free_pirq(type=1), ("get_free_pirq", 1)),
    (pd.PHYSDEVOP_pci_mmcfg_reserved, None, -EPERM),
    (pd.PHYSDEVOP_dbgp_op, None, -EPERM),
    (pd.PHYSDEVOP_free_irq_vector, None, -ENOSYS),
    (99, None, -ENOSYS),
]


@WIDTHS
@pytest.mark.parametrize(("cmd", "argument", "expected"), PHYSDEV_OPS)
def test_physdev_op(abi: Abi, cmd: int, argument: object, expected: object) -> None:
    context = FakeContext(abi)
    place = 0 if argument is None else context.put(argument)
    result = context.hypercall("physdev_op", cmd, place)
    if isinstance(expected, int):
        assert (result, context.calls) == (expected, [])
    else:
        assert (result, context.calls) == (0, [expected])


@WIDTHS
def test_physdev_op_compat(abi: Abi) -> None:
    context = FakeContext(abi)
    op = pd.physdev_op(cmd=pd.PHYSDEVOP_set_iopl)
    op.u.set_iopl.iopl = 1
    context.put(op)
    assert context.hypercall("physdev_op_compat", BASE) == 0
    assert context.calls == [("set_iopl", 1)]
    assert context.hypercall("physdev_op_compat", 0) == -EFAULT


def test_a_pv32_port_bitmap_may_not_reach_into_xen() -> None:
    context = FakeContext(ABI32)
    context.put(pd.physdev_set_iobitmap(bitmap=0xF5800000 - 100, nr_ports=8))
    assert context.hypercall("physdev_op", pd.PHYSDEVOP_set_iobitmap, BASE) == -EINVAL


@WIDTHS
def test_a_pv_guest_may_ask_hvm_op_for_the_time(abi: Abi) -> None:
    context = FakeContext(abi)
    assert context.hypercall("hvm_op", 10, BASE) == 0
    assert int.from_bytes(context.guest.copy_from_guest(BASE, 8), "little") == 123_456_789_012
