# ruff: noqa: SLF001 - the names are Xen's, which start with two underscores
"""Which handler answers which hypercall number: Xen 4.17's table for PV guests (xen/include/hypercall-defs.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from hypercalls import refused
from hypercalls.callback_op import do_callback_op
from hypercalls.domctl import do_domctl
from hypercalls.event_channel_op import do_event_channel_op, do_event_channel_op_compat
from hypercalls.fpu_taskswitch import do_fpu_taskswitch
from hypercalls.get_debugreg import do_get_debugreg
from hypercalls.grant_table_op import do_grant_table_op
from hypercalls.hvm_op import do_hvm_op
from hypercalls.iret import do_iret
from hypercalls.memory_op import do_memory_op
from hypercalls.mmu_update import do_mmu_update
from hypercalls.mmuext_op import do_mmuext_op
from hypercalls.multicall import do_multicall
from hypercalls.nmi_op import do_nmi_op
from hypercalls.physdev_op import do_physdev_op, do_physdev_op_compat
from hypercalls.public import xen
from hypercalls.public.errno import ENOSYS
from hypercalls.sched_op import do_sched_op, do_sched_op_compat
from hypercalls.set_callbacks import do_set_callbacks
from hypercalls.set_debugreg import do_set_debugreg
from hypercalls.set_gdt import do_set_gdt
from hypercalls.set_segment_base import do_set_segment_base
from hypercalls.set_timer_op import do_set_timer_op
from hypercalls.set_trap_table import do_set_trap_table
from hypercalls.stack_switch import do_stack_switch
from hypercalls.update_descriptor import do_update_descriptor
from hypercalls.update_va_mapping import do_update_va_mapping, do_update_va_mapping_otherdomain
from hypercalls.vcpu_op import do_vcpu_op
from hypercalls.vm_assist import do_vm_assist
from hypercalls.xen_version import do_xen_version
from hypercalls.xenoprof_op import do_xenoprof_op

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hypercalls.context import Context

__all__ = ["TABLE", "Row", "do_ni_hypercall"]


class Row(NamedTuple):
    """One hypercall: ``handler(ctx, *args)`` takes ``nargs`` raw register values and returns a value or ``-errno``.

    Where 64-bit guests pass fewer (a 64-bit value is two arguments in 32 bits), ``nargs64`` says how many: the handler
    ignores the rest.
    """

    name: str
    handler: Callable[..., int]
    nargs: int
    nargs64: int

    def nargs_of(self, bits: int) -> int:
        """How many arguments mean something in a width."""
        return self.nargs64 if bits == 64 else self.nargs


def do_ni_hypercall(_ctx: Context) -> int:
    """A number that Xen 4.17 has no hypercall for any more, or not in its default build."""
    return -ENOSYS


def _row(name: str, handler: Callable[..., int], nargs: int, nargs64: int | None = None) -> Row:
    return Row(name, handler, nargs, nargs if nargs64 is None else nargs64)


TABLE: Final[Mapping[int, Row]] = {
    xen.__HYPERVISOR_set_trap_table: _row("set_trap_table", do_set_trap_table, 1),
    xen.__HYPERVISOR_mmu_update: _row("mmu_update", do_mmu_update, 4),
    xen.__HYPERVISOR_set_gdt: _row("set_gdt", do_set_gdt, 2),
    xen.__HYPERVISOR_stack_switch: _row("stack_switch", do_stack_switch, 2),
    xen.__HYPERVISOR_set_callbacks: _row("set_callbacks", do_set_callbacks, 4, 3),
    xen.__HYPERVISOR_fpu_taskswitch: _row("fpu_taskswitch", do_fpu_taskswitch, 1),
    xen.__HYPERVISOR_sched_op_compat: _row("sched_op_compat", do_sched_op_compat, 2),
    xen.__HYPERVISOR_platform_op: _row("platform_op", refused.do_platform_op, 1),
    xen.__HYPERVISOR_set_debugreg: _row("set_debugreg", do_set_debugreg, 2),
    xen.__HYPERVISOR_get_debugreg: _row("get_debugreg", do_get_debugreg, 1),
    xen.__HYPERVISOR_update_descriptor: _row("update_descriptor", do_update_descriptor, 4, 2),
    xen.__HYPERVISOR_memory_op: _row("memory_op", do_memory_op, 2),
    xen.__HYPERVISOR_multicall: _row("multicall", do_multicall, 2),
    xen.__HYPERVISOR_update_va_mapping: _row("update_va_mapping", do_update_va_mapping, 4, 3),
    xen.__HYPERVISOR_set_timer_op: _row("set_timer_op", do_set_timer_op, 2, 1),
    xen.__HYPERVISOR_event_channel_op_compat: _row("event_channel_op_compat", do_event_channel_op_compat, 1),
    xen.__HYPERVISOR_xen_version: _row("xen_version", do_xen_version, 2),
    xen.__HYPERVISOR_console_io: _row("console_io", refused.do_console_io, 3),
    xen.__HYPERVISOR_physdev_op_compat: _row("physdev_op_compat", do_physdev_op_compat, 1),
    xen.__HYPERVISOR_grant_table_op: _row("grant_table_op", do_grant_table_op, 3),
    xen.__HYPERVISOR_vm_assist: _row("vm_assist", do_vm_assist, 2),
    xen.__HYPERVISOR_update_va_mapping_otherdomain: _row(
        "update_va_mapping_otherdomain", do_update_va_mapping_otherdomain, 5, 4
    ),
    xen.__HYPERVISOR_iret: _row("iret", do_iret, 0),
    xen.__HYPERVISOR_vcpu_op: _row("vcpu_op", do_vcpu_op, 3),
    xen.__HYPERVISOR_set_segment_base: _row("set_segment_base", do_set_segment_base, 2),
    xen.__HYPERVISOR_mmuext_op: _row("mmuext_op", do_mmuext_op, 4),
    xen.__HYPERVISOR_xsm_op: _row("xsm_op", refused.do_xsm_op, 1),
    xen.__HYPERVISOR_nmi_op: _row("nmi_op", do_nmi_op, 2),
    xen.__HYPERVISOR_sched_op: _row("sched_op", do_sched_op, 2),
    xen.__HYPERVISOR_callback_op: _row("callback_op", do_callback_op, 2),
    xen.__HYPERVISOR_xenoprof_op: _row("xenoprof_op", do_xenoprof_op, 2),
    xen.__HYPERVISOR_event_channel_op: _row("event_channel_op", do_event_channel_op, 2),
    xen.__HYPERVISOR_physdev_op: _row("physdev_op", do_physdev_op, 2),
    xen.__HYPERVISOR_hvm_op: _row("hvm_op", do_hvm_op, 2),
    xen.__HYPERVISOR_sysctl: _row("sysctl", refused.do_sysctl, 1),
    xen.__HYPERVISOR_domctl: _row("domctl", do_domctl, 1),
    xen.__HYPERVISOR_kexec_op: _row("kexec_op", refused.do_kexec_op, 2),
    xen.__HYPERVISOR_tmem_op: _row("tmem_op", do_ni_hypercall, 0),  # removed in Xen 4.13
    xen.__HYPERVISOR_argo_op: _row("argo_op", do_ni_hypercall, 0),  # not in the default build
    xen.__HYPERVISOR_xenpmu_op: _row("xenpmu_op", refused.do_xenpmu_op, 2),
    xen.__HYPERVISOR_dm_op: _row("dm_op", refused.do_dm_op, 3),
    xen.__HYPERVISOR_hypfs_op: _row("hypfs_op", refused.do_hypfs_op, 5),
    xen.__HYPERVISOR_arch_0: _row("mca", refused.do_mca, 1),
    xen.__HYPERVISOR_arch_1: _row("paging_domctl_cont", refused.do_paging_domctl_cont, 1),
}
