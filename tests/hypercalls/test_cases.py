"""Every hypercall and every operation of one: a success and a documented error in both widths, and none forgotten."""

from __future__ import annotations

from collections import defaultdict

import pytest

from hypercalls.abi import ABI32, ABI64, Abi
from hypercalls.errors import XenError
from hypercalls.public import xen
from hypercalls.table import TABLE
from tests.hypercalls.cases import CASES, Case
from tests.hypercalls.fake_context import BASE, FakeContext
from tests.hypercalls.operations import OPERATIONS, declared

ABIS = {64: (ABI64,), 32: (ABI32,), 0: (ABI64, ABI32)}
#: What no argument makes fail. A reservation tells how far it came.
NEVER_FAILS = {
    "stack_switch", "set_callbacks", "fpu_taskswitch", "iret", "set_timer_op", "SCHEDOP_yield", "SCHEDOP_block",
    "XENMEM_increase_reservation", "XENMEM_decrease_reservation", "XENMEM_populate_physmap", "XENVER_version",
    "XENNMI_unregister_callback", "PHYSDEVOP_IRQ_UNMASK_NOTIFY",
}  # fmt: skip
#: What an unprivileged domain never gets: an error is all there is.
NEVER_SUCCEEDS = {
    "platform_op", "sysctl", "paging_domctl_cont", "kexec_op", "mca", "hypfs_op", "xsm_op", "xenpmu_op",
    "dm_op", "console_io", "tmem_op", "argo_op", "GNTTABOP_dump_table",
    "XENMEM_add_to_physmap",
    "XENMEM_add_to_physmap_batch", "XENMEM_remove_from_physmap", "XENMEM_machine_memory_map", "XENMEM_set_pod_target",
    "XENMEM_get_pod_target", "XENMEM_acquire_resource", "XENMEM_get_vnumainfo", "SCHEDOP_remote_shutdown",
    "SCHEDOP_pin_override", "VCPUOP_get_physid", "XENVER_build_id", "MMUEXT_FLUSH_CACHE", "MMUEXT_FLUSH_CACHE_GLOBAL",
    "MMUEXT_MARK_SUPER", "MMUEXT_UNMARK_SUPER", "PHYSDEVOP_apic_read", "PHYSDEVOP_apic_write",
    "PHYSDEVOP_alloc_irq_vector", "PHYSDEVOP_free_irq_vector", "PHYSDEVOP_map_pirq", "PHYSDEVOP_unmap_pirq",
    "PHYSDEVOP_manage_pci_add", "PHYSDEVOP_manage_pci_remove", "PHYSDEVOP_manage_pci_add_ext", "PHYSDEVOP_restore_msi",
    "PHYSDEVOP_restore_msi_ext", "PHYSDEVOP_setup_gsi", "PHYSDEVOP_pci_mmcfg_reserved", "PHYSDEVOP_pci_device_add",
    "PHYSDEVOP_pci_device_remove", "PHYSDEVOP_prepare_msix", "PHYSDEVOP_release_msix", "PHYSDEVOP_dbgp_op",
}  # fmt: skip
#: Only one of the widths has it.
ONE_WIDTH = {"set_segment_base": 64, "VMASST_TYPE_m2p_strict": 64}


def operation(case: Case) -> int | None:
    """The number of the operation that a case is about."""
    match case.call:
        case "vm_assist":
            number = case.args[1]
        case "mmuext_op":
            return case.args[0].cmd if isinstance(case.args[0], xen.mmuext_op) else None
        case "mmu_update":
            return case.args[0].ptr & 7 if isinstance(case.args[0], xen.mmu_update) else None
        case "memory_op":
            assert isinstance(case.args[0], int)
            number = case.args[0] & 63  # above it is the extent to start at
        case _:
            number = case.args[0] if case.args else None
    return number if isinstance(number, int) else None


def name_of(case: Case) -> str:
    numbers = {number: name for name, number in declared(case.call).items()} if case.call in OPERATIONS else {}
    return f"{case.call}-{numbers.get(operation(case) or 0, operation(case)) if numbers else ''}"


def run(case: Case, abi: Abi) -> int:
    context = FakeContext(abi)
    if case.refusal is not None:
        method, errno = case.refusal
        context.answers[method] = XenError(errno)
    args = [
        arg if isinstance(arg, int) else context.put(arg, BASE + 0x1000 * index) for index, arg in enumerate(case.args)
    ]
    return context.hypercall(case.call, *args)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_answers(case: Case) -> None:
    for abi in ABIS[case.bits]:
        assert run(case, abi) == case.result, f"{abi.bits} bits"


def test_no_hypercall_and_no_operation_is_forgotten() -> None:
    """Each row of the table and each operation of the public headers: a case that succeeds and one that fails."""
    seen: dict[tuple[str, int], set[bool]] = defaultdict(set)
    for case in CASES:
        names = [case.call]
        if case.call in OPERATIONS:
            names += [name for name, number in declared(case.call).items() if number == operation(case)]
        for name in names:
            for abi in ABIS[case.bits]:
                seen[name, abi.bits].add(case.result < 0)
    wanted = {row.name for row in TABLE.values()}.union(*map(declared, OPERATIONS))
    missing = [
        f"{name}: no {'error' if is_error else 'success'} in {bits} bits"
        for name in sorted(wanted)
        for bits in (64, 32)
        if ONE_WIDTH.get(name, bits) == bits
        for is_error in (False, True)
        if name not in (NEVER_FAILS if is_error else NEVER_SUCCEEDS) and is_error not in seen[name, bits]
    ]
    assert missing == []
    assert set(NEVER_FAILS) | NEVER_SUCCEEDS <= wanted
