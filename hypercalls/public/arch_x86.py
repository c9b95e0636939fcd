"""Trap tables, registers, vcpu contexts and address-space constants of x86 PV guests (public/arch-x86/xen*.h).

Where the two widths give one name two values, the name here ends in ``_X86_64`` or ``_X86_32``. Padding fields
start with an underscore.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from hypercalls.declare import (
    ONLY32,
    ONLY64,
    ZERO,
    Array,
    Bytes,
    PerWidth,
    Scalar,
    cstruct,
    u8,
    u16,
    u32,
    u64,
    ulong,
    xen_pfn_t,
)

# -- flat segments of 64-bit guests
FLAT_RING3_CS32 = 0xE023
FLAT_RING3_CS64 = 0xE033
FLAT_RING3_DS32 = 0xE02B
FLAT_RING3_DS64 = 0x0
FLAT_RING3_SS32 = 0xE02B
FLAT_RING3_SS64 = 0xE02B
FLAT_KERNEL_DS64 = 0
FLAT_KERNEL_DS32 = 0xE02B
FLAT_KERNEL_DS_X86_64 = 0
FLAT_KERNEL_CS64 = 0xE033
FLAT_KERNEL_CS32 = 0xE023
FLAT_KERNEL_CS_X86_64 = 0xE033
FLAT_KERNEL_SS64 = 0xE02B
FLAT_KERNEL_SS32 = 0xE02B
FLAT_KERNEL_SS_X86_64 = 0xE02B
FLAT_USER_DS64 = 0
FLAT_USER_DS32 = 0xE02B
FLAT_USER_DS_X86_64 = 0
FLAT_USER_CS64 = 0xE033
FLAT_USER_CS32 = 0xE023
FLAT_USER_CS_X86_64 = 0xE033
FLAT_USER_SS64 = 0xE02B
FLAT_USER_SS32 = 0xE02B
FLAT_USER_SS_X86_64 = 0xE02B

# -- flat segments of 32-bit guests
FLAT_RING1_CS = 0xE019
FLAT_RING1_DS = 0xE021
FLAT_RING1_SS = 0xE021
FLAT_RING3_CS = 0xE02B
FLAT_RING3_DS = 0xE033
FLAT_RING3_SS = 0xE033
FLAT_KERNEL_CS_X86_32 = 0xE019
FLAT_KERNEL_DS_X86_32 = 0xE021
FLAT_KERNEL_SS_X86_32 = 0xE021
FLAT_USER_CS_X86_32 = 0xE02B
FLAT_USER_DS_X86_32 = 0xE033
FLAT_USER_SS_X86_32 = 0xE033

# -- Xen's part of the address space, and the machine-to-physical table in it
HYPERVISOR_VIRT_START_X86_64 = 0xFFFF800000000000
HYPERVISOR_VIRT_END_X86_64 = 0xFFFF880000000000
MACH2PHYS_VIRT_START_X86_64 = 0xFFFF800000000000
MACH2PHYS_VIRT_END_X86_64 = 0xFFFF804000000000
HYPERVISOR_VIRT_START_X86_32 = 0xF5800000  #: PAE
MACH2PHYS_VIRT_START_X86_32 = 0xF5800000
MACH2PHYS_VIRT_END_X86_32 = 0xF6800000

# -- set_segment_base
SEGBASE_FS = 0
SEGBASE_GS_USER = 1
SEGBASE_GS_KERNEL = 2
SEGBASE_GS_USER_SEL = 3

FIRST_RESERVED_GDT_PAGE = 14
FIRST_RESERVED_GDT_BYTE = FIRST_RESERVED_GDT_PAGE * 4096
FIRST_RESERVED_GDT_ENTRY = FIRST_RESERVED_GDT_BYTE // 8

XEN_LEGACY_MAX_VCPUS = 32

#: cpu_user_regs.error_code and entry_vector are narrower in 32 bits
trap_word: TypeAlias = Annotated[int, Scalar("u32", "I", "H")]


@cstruct
class trap_info:
    """A row of set_trap_table. ``flags``: bits 0-1 the privilege level, bit 2 set to mask events on entry."""

    vector: u8 = 0
    flags: u8 = 0
    cs: u16 = 0
    address: ulong = 0


def TI_GET_DPL(ti: trap_info) -> int:
    """The privilege level below which a software interrupt may not use the trap."""
    return ti.flags & 3


def TI_GET_IF(ti: trap_info) -> int:
    """Non-zero when taking the trap masks event delivery."""
    return ti.flags & 4


@cstruct
class iret_context:
    """The frame that HYPERVISOR_iret takes from the stack, lowest address first; 64 bits only."""

    rax: Annotated[u64, ONLY64] = 0
    r11: Annotated[u64, ONLY64] = 0
    rcx: Annotated[u64, ONLY64] = 0
    flags: Annotated[u64, ONLY64] = 0
    rip: Annotated[u64, ONLY64] = 0
    cs: Annotated[u64, ONLY64] = 0
    rflags: Annotated[u64, ONLY64] = 0
    rsp: Annotated[u64, ONLY64] = 0
    ss: Annotated[u64, ONLY64] = 0


@cstruct
class cpu_user_regs:
    """General registers: r15..rdi, rip, rflags, rsp in 64 bits; ebx..eax, eip, eflags, esp in 32."""

    r15: Annotated[u64, ONLY64] = 0
    r14: Annotated[u64, ONLY64] = 0
    r13: Annotated[u64, ONLY64] = 0
    r12: Annotated[u64, ONLY64] = 0
    rbp: Annotated[u64, ONLY64] = 0
    rbx: Annotated[u64, ONLY64] = 0
    r11: Annotated[u64, ONLY64] = 0
    r10: Annotated[u64, ONLY64] = 0
    r9: Annotated[u64, ONLY64] = 0
    r8: Annotated[u64, ONLY64] = 0
    rax: Annotated[u64, ONLY64] = 0
    rcx: Annotated[u64, ONLY64] = 0
    rdx: Annotated[u64, ONLY64] = 0
    rsi: Annotated[u64, ONLY64] = 0
    rdi: Annotated[u64, ONLY64] = 0
    ebx: Annotated[u32, ONLY32] = 0
    ecx: Annotated[u32, ONLY32] = 0
    edx: Annotated[u32, ONLY32] = 0
    esi: Annotated[u32, ONLY32] = 0
    edi: Annotated[u32, ONLY32] = 0
    ebp: Annotated[u32, ONLY32] = 0
    eax: Annotated[u32, ONLY32] = 0
    error_code: trap_word = 0
    entry_vector: trap_word = 0
    rip: Annotated[u64, ONLY64] = 0
    eip: Annotated[u32, ONLY32] = 0
    cs: u16 = 0
    _pad_cs: Annotated[u16, ONLY64] = 0
    saved_upcall_mask: u8 = 0
    rflags: Annotated[u64, ONLY64] = 0
    eflags: Annotated[u32, ONLY32] = 0
    rsp: Annotated[u64, ONLY64] = 0
    esp: Annotated[u32, ONLY32] = 0
    ss: u16 = 0
    _pad_ss: Annotated[bytes, Bytes(PerWidth(6, 2))] = b""
    es: u16 = 0
    _pad_es: Annotated[bytes, Bytes(PerWidth(6, 2))] = b""
    ds: u16 = 0
    _pad_ds: Annotated[bytes, Bytes(PerWidth(6, 2))] = b""
    fs: u16 = 0
    _pad_fs: Annotated[bytes, Bytes(PerWidth(6, 2))] = b""
    gs: u16 = 0
    _pad_gs: Annotated[bytes, Bytes(PerWidth(6, 2))] = b""


# -- vcpu_guest_context.flags
VGCF_i387_valid = 1 << 0
VGCF_in_kernel = 1 << 2
VGCF_failsafe_disables_events = 1 << 3
VGCF_syscall_disables_events = 1 << 4
VGCF_online = 1 << 5
_VGCF_in_syscall = 8
VGCF_in_syscall = 1 << _VGCF_in_syscall


@cstruct
class vcpu_guest_context:
    """What VCPUOP_initialise takes and what a new vcpu starts with."""

    fpu_ctxt: Annotated[bytes, Bytes(512)] = b""
    flags: ulong = 0
    user_regs: cpu_user_regs = ZERO
    trap_ctxt: Annotated[list[trap_info], Array(trap_info, 256)] = ZERO
    ldt_base: ulong = 0
    ldt_ents: ulong = 0
    gdt_frames: Annotated[list[int], Array(ulong, 16)] = ZERO
    gdt_ents: ulong = 0
    kernel_ss: ulong = 0
    kernel_sp: ulong = 0
    ctrlreg: Annotated[list[int], Array(ulong, 8)] = ZERO
    debugreg: Annotated[list[int], Array(ulong, 8)] = ZERO
    event_callback_cs: Annotated[ulong, ONLY32] = 0
    event_callback_eip: ulong = 0
    failsafe_callback_cs: Annotated[ulong, ONLY32] = 0
    failsafe_callback_eip: ulong = 0
    syscall_callback_eip: Annotated[ulong, ONLY64] = 0
    vm_assist: ulong = 0
    fs_base: Annotated[u64, ONLY64] = 0
    gs_base_kernel: Annotated[u64, ONLY64] = 0
    gs_base_user: Annotated[u64, ONLY64] = 0


@cstruct
class arch_shared_info:
    """``p2m_cr3``, ``p2m_vaddr`` and ``p2m_generation`` are the guest's: its linear p2m list."""

    max_pfn: ulong = 0
    pfn_to_mfn_frame_list_list: xen_pfn_t = 0
    nmi_reason: ulong = 0
    p2m_cr3: ulong = 0
    p2m_vaddr: ulong = 0
    p2m_generation: ulong = 0
    wc_sec_hi: Annotated[u32, ONLY32] = 0


@cstruct
class arch_vcpu_info:
    cr2: ulong = 0
    pad: Annotated[list[int], Array(ulong, PerWidth(1, 5))] = ZERO


@cstruct
class xen_callback:
    """xen_callback_t: an address (64 bits, where C has a plain long) or a selector and an address (32)."""

    cs: Annotated[ulong, ONLY32] = 0
    eip: ulong = 0
