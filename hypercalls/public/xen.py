"""The core of the hypercall ABI: numbers, page-table operations, shared_info, start_info (public/xen.h).

Arch-specific parts are in :mod:`hypercalls.public.arch_x86`.
"""

from __future__ import annotations

from typing import Annotated

from hypercalls.declare import (
    ONLY64,
    ZERO,
    Array,
    Bytes,
    PerWidth,
    cstruct,
    cunion,
    guest_handle,
    s8,
    u8,
    u32,
    u64,
    ulong,
    xen_pfn_t,
)
from hypercalls.public.arch_x86 import XEN_LEGACY_MAX_VCPUS, arch_shared_info, arch_vcpu_info

# -- hypercall numbers; an arch_N is a number that x86 leaves free, or gives to mca (48)
__HYPERVISOR_set_trap_table = 0
__HYPERVISOR_mmu_update = 1
__HYPERVISOR_set_gdt = 2
__HYPERVISOR_stack_switch = 3
__HYPERVISOR_set_callbacks = 4
__HYPERVISOR_fpu_taskswitch = 5
__HYPERVISOR_sched_op_compat = 6
__HYPERVISOR_platform_op = 7
__HYPERVISOR_set_debugreg = 8
__HYPERVISOR_get_debugreg = 9
__HYPERVISOR_update_descriptor = 10
__HYPERVISOR_memory_op = 12
__HYPERVISOR_multicall = 13
__HYPERVISOR_update_va_mapping = 14
__HYPERVISOR_set_timer_op = 15
__HYPERVISOR_event_channel_op_compat = 16
__HYPERVISOR_xen_version = 17
__HYPERVISOR_console_io = 18
__HYPERVISOR_physdev_op_compat = 19
__HYPERVISOR_grant_table_op = 20
__HYPERVISOR_vm_assist = 21
__HYPERVISOR_update_va_mapping_otherdomain = 22
__HYPERVISOR_iret = 23
__HYPERVISOR_vcpu_op = 24
__HYPERVISOR_set_segment_base = 25
__HYPERVISOR_mmuext_op = 26
__HYPERVISOR_xsm_op = 27
__HYPERVISOR_nmi_op = 28
__HYPERVISOR_sched_op = 29
__HYPERVISOR_callback_op = 30
__HYPERVISOR_xenoprof_op = 31
__HYPERVISOR_event_channel_op = 32
__HYPERVISOR_physdev_op = 33
__HYPERVISOR_hvm_op = 34
__HYPERVISOR_sysctl = 35
__HYPERVISOR_domctl = 36
__HYPERVISOR_kexec_op = 37
__HYPERVISOR_tmem_op = 38
__HYPERVISOR_argo_op = 39
__HYPERVISOR_xenpmu_op = 40
__HYPERVISOR_dm_op = 41
__HYPERVISOR_hypfs_op = 42
__HYPERVISOR_arch_0 = 48
__HYPERVISOR_arch_1 = 49
__HYPERVISOR_arch_2 = 50
__HYPERVISOR_arch_3 = 51
__HYPERVISOR_arch_4 = 52
__HYPERVISOR_arch_5 = 53
__HYPERVISOR_arch_6 = 54
__HYPERVISOR_arch_7 = 55

#: number -> name without ``__HYPERVISOR_``
NAMES = {
    0: "set_trap_table",
    1: "mmu_update",
    2: "set_gdt",
    3: "stack_switch",
    4: "set_callbacks",
    5: "fpu_taskswitch",
    6: "sched_op_compat",
    7: "platform_op",
    8: "set_debugreg",
    9: "get_debugreg",
    10: "update_descriptor",
    12: "memory_op",
    13: "multicall",
    14: "update_va_mapping",
    15: "set_timer_op",
    16: "event_channel_op_compat",
    17: "xen_version",
    18: "console_io",
    19: "physdev_op_compat",
    20: "grant_table_op",
    21: "vm_assist",
    22: "update_va_mapping_otherdomain",
    23: "iret",
    24: "vcpu_op",
    25: "set_segment_base",
    26: "mmuext_op",
    27: "xsm_op",
    28: "nmi_op",
    29: "sched_op",
    30: "callback_op",
    31: "xenoprof_op",
    32: "event_channel_op",
    33: "physdev_op",
    34: "hvm_op",
    35: "sysctl",
    36: "domctl",
    37: "kexec_op",
    38: "tmem_op",
    39: "argo_op",
    40: "xenpmu_op",
    41: "dm_op",
    42: "hypfs_op",
    48: "mca",
    49: "paging_domctl_cont",
    50: "arch_2",
    51: "arch_3",
    52: "arch_4",
    53: "arch_5",
    54: "arch_6",
    55: "arch_7",
}

# -- virtual interrupts
VIRQ_TIMER = 0
VIRQ_DEBUG = 1
VIRQ_CONSOLE = 2
VIRQ_DOM_EXC = 3
VIRQ_TBUF = 4
VIRQ_DEBUGGER = 6
VIRQ_XENOPROF = 7
VIRQ_CON_RING = 8
VIRQ_PCPU_STATE = 9
VIRQ_MEM_EVENT = 10
VIRQ_ARGO = 11
VIRQ_ENOMEM = 12
VIRQ_XENPMU = 13
VIRQ_ARCH_0 = 16
VIRQ_ARCH_1 = 17
VIRQ_ARCH_2 = 18
VIRQ_ARCH_3 = 19
VIRQ_ARCH_4 = 20
VIRQ_ARCH_5 = 21
VIRQ_ARCH_6 = 22
VIRQ_ARCH_7 = 23
NR_VIRQS = 24

# -- mmu_update: the low two bits of ptr
MMU_NORMAL_PT_UPDATE = 0
MMU_MACHPHYS_UPDATE = 1
MMU_PT_UPDATE_PRESERVE_AD = 2
MMU_PT_UPDATE_NO_TRANSLATE = 3

# -- mmuext_op
MMUEXT_PIN_L1_TABLE = 0
MMUEXT_PIN_L2_TABLE = 1
MMUEXT_PIN_L3_TABLE = 2
MMUEXT_PIN_L4_TABLE = 3
MMUEXT_UNPIN_TABLE = 4
MMUEXT_NEW_BASEPTR = 5
MMUEXT_TLB_FLUSH_LOCAL = 6
MMUEXT_INVLPG_LOCAL = 7
MMUEXT_TLB_FLUSH_MULTI = 8
MMUEXT_INVLPG_MULTI = 9
MMUEXT_TLB_FLUSH_ALL = 10
MMUEXT_INVLPG_ALL = 11
MMUEXT_FLUSH_CACHE = 12
MMUEXT_SET_LDT = 13
MMUEXT_NEW_USER_BASEPTR = 15
MMUEXT_CLEAR_PAGE = 16
MMUEXT_COPY_PAGE = 17
MMUEXT_FLUSH_CACHE_GLOBAL = 18
MMUEXT_MARK_SUPER = 19
MMUEXT_UNMARK_SUPER = 20


@cunion
class mmuext_op_arg1:
    mfn: xen_pfn_t = 0
    linear_addr: ulong = 0


@cunion
class mmuext_op_arg2:
    nr_ents: u32 = 0
    vcpumask: guest_handle = 0
    src_mfn: xen_pfn_t = 0


@cstruct
class mmuext_op:
    cmd: u32 = 0
    arg1: mmuext_op_arg1 = ZERO
    arg2: mmuext_op_arg2 = ZERO


# -- update_va_mapping: flush type in the low two bits, then whom
UVMF_NONE = 0
UVMF_TLB_FLUSH = 1 << 0
UVMF_INVLPG = 1 << 1
UVMF_FLUSHTYPE_MASK = 3
UVMF_MULTI = 0
UVMF_LOCAL = 0
UVMF_ALL = 1 << 2

CONSOLEIO_write = 0
CONSOLEIO_read = 1

VMASST_CMD_enable = 0
VMASST_CMD_disable = 1
VMASST_TYPE_4gb_segments = 0
VMASST_TYPE_4gb_segments_notify = 1
VMASST_TYPE_writable_pagetables = 2
VMASST_TYPE_pae_extended_cr3 = 3
VMASST_TYPE_architectural_iopl = 4
VMASST_TYPE_runstate_update_flag = 5
VMASST_TYPE_m2p_strict = 32

# -- domain ids that stand for something else
DOMID_FIRST_RESERVED = 0x7FF0
DOMID_SELF = 0x7FF0
DOMID_IO = 0x7FF1
DOMID_XEN = 0x7FF2
DOMID_COW = 0x7FF3
DOMID_INVALID = 0x7FF4
DOMID_IDLE = 0x7FFF
DOMID_MASK = 0x7FFF


@cstruct
class mmu_update:
    """``ptr``: machine address of a page-table entry (or of a frame, MMU_MACHPHYS_UPDATE), MMU_* in its low bits."""

    ptr: u64 = 0
    val: u64 = 0


@cstruct
class multicall_entry:
    op: ulong = 0
    result: ulong = 0
    args: Annotated[list[int], Array(ulong, 6)] = ZERO


XEN_PVCLOCK_TSC_STABLE_BIT = 1 << 0
XEN_PVCLOCK_GUEST_STOPPED = 1 << 1


@cstruct
class vcpu_time_info:
    """Time: system_time + ((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul >> 32; odd ``version``: in change"""

    version: u32 = 0
    pad0: u32 = 0
    tsc_timestamp: u64 = 0
    system_time: u64 = 0
    tsc_to_system_mul: u32 = 0
    tsc_shift: s8 = 0
    flags: u8 = 0
    pad1: Annotated[bytes, Bytes(2)] = b""


@cstruct
class vcpu_info:
    evtchn_upcall_pending: u8 = 0
    evtchn_upcall_mask: u8 = 0
    evtchn_pending_sel: ulong = 0
    arch: arch_vcpu_info = ZERO
    time: vcpu_time_info = ZERO


@cstruct
class shared_info:
    vcpu_info: Annotated[list[vcpu_info], Array(vcpu_info, XEN_LEGACY_MAX_VCPUS)] = ZERO
    evtchn_pending: Annotated[list[int], Array(ulong, PerWidth(64, 32))] = ZERO
    evtchn_mask: Annotated[list[int], Array(ulong, PerWidth(64, 32))] = ZERO
    wc_version: u32 = 0
    wc_sec: u32 = 0
    wc_nsec: u32 = 0
    wc_sec_hi: Annotated[u32, ONLY64] = 0  # pv32: in arch
    arch: arch_shared_info = ZERO


@cstruct
class start_info_console_domU:
    mfn: xen_pfn_t = 0
    evtchn: u32 = 0


@cstruct
class start_info_console_dom0:
    info_off: u32 = 0
    info_size: u32 = 0


@cunion
class start_info_console:
    domU: start_info_console_domU = ZERO
    dom0: start_info_console_dom0 = ZERO


MAX_GUEST_CMDLINE = 1024


@cstruct
class start_info:
    """What the first vcpu finds at rsi (esi). ``shared_info`` is a machine address, others are virtual."""

    magic: Annotated[bytes, Bytes(32)] = b""
    nr_pages: ulong = 0
    shared_info: ulong = 0
    flags: u32 = 0
    store_mfn: xen_pfn_t = 0
    store_evtchn: u32 = 0
    console: start_info_console = ZERO
    pt_base: ulong = 0
    nr_pt_frames: ulong = 0
    mfn_list: ulong = 0
    mod_start: ulong = 0
    mod_len: ulong = 0
    cmd_line: Annotated[bytes, Bytes(MAX_GUEST_CMDLINE)] = b""
    first_p2m_pfn: ulong = 0
    nr_p2m_frames: ulong = 0


# -- start_info.flags
SIF_PRIVILEGED = 1 << 0
SIF_INITDOMAIN = 1 << 1
SIF_MULTIBOOT_MOD = 1 << 2
SIF_MOD_START_PFN = 1 << 3
SIF_VIRT_P2M_4TOOLS = 1 << 4
SIF_PM_MASK = 0xFF00


@cstruct
class xen_multiboot_mod_list:
    """A module when SIF_MULTIBOOT_MOD is set: physical addresses."""

    mod_start: u32 = 0
    mod_end: u32 = 0
    cmdline: u32 = 0
    pad: u32 = 0
