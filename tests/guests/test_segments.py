"""Segment selectors and bases that a guest asks for (do_set_segment_base, descriptor tables)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest


def test_user_gs_selector(micro: MakeGuest) -> None:
    """A selector that cannot be loaded becomes 0, whatever it is, null ones stay, and so does the kernel's GS base."""
    values = micro("""
        .macro select selector
        hypercall __HYPERVISOR_set_segment_base, $3, $\\selector
        show result, %rax
        mov %gs, %eax
        show gs_\\selector, %rax
        mov %gs:0, %rax
        show base, %rax
        .endm
main:   hypercall __HYPERVISOR_set_segment_base, $2, $here
        select 0x0003
        select 0x0008
        select 0x0007
        select 0xe008
        select 0xe010
        select 0xe033
        select 0xe02b
        select 0xffff
        select 0xe028
        ret
        .data
        .balign 8
here:   .quad 0x4711
        .text
""").run_to("poweroff").values
    selectors = {name: value for name, value in values.items() if name.startswith("gs_")}
    good = {"gs_0x0003": 3, "gs_0xe02b": 0xE02B, "gs_0xe033": 0xE033, "gs_0xe028": 0xE02B}
    assert selectors == dict.fromkeys(selectors, 0) | good
    assert (values["result"], values["base"]) == (0, 0x4711)


def test_a_hypercall_forgets_the_selectors(micro: MakeGuest) -> None:
    """SYSCALL does not keep CS and SS: Xen returns to the flat ones, whatever the kernel ran with."""
    values = micro("""
main:   mfn_of  gdt
        mov     %rax, gdt_frame
        mov     start_info, %rcx
        mov     $gdt, %edi
        mov     $PTE_P | PTE_US, %esi
        mov     gdt_frame, %rax
        shl     $12, %rax
        or      %rax, %rsi
        hypercall __HYPERVISOR_update_va_mapping, , , $2
        hypercall __HYPERVISOR_set_gdt, $gdt_frame, $512
        show    set_gdt, %rax
        pushq   $0x0b
        push    $1f
        lretq
1:      mov     $0x13, %eax
        mov     %eax, %ss
        mov     %cs, %ebx
        mov     %ss, %r12d
        hypercall __HYPERVISOR_xen_version, $0
        mov     %cs, %r13d
        mov     %ss, %r14d
        mov     %rax, %r15
        show    cs_before, %rbx
        show    ss_before, %r12
        show    cs_after, %r13
        show    ss_after, %r14
        show    version, %r15
        ret
        .data
        .balign 4096
gdt:    .quad   0, 0x00affb000000ffff, 0x00cff3000000ffff
        .skip   4096 - 24
gdt_frame: .quad 0
        .text
""").run_to("poweroff").values
    assert values["set_gdt"] == 0
    assert (values["cs_before"], values["ss_before"]) == (0x0B, 0x13)
    assert (values["cs_after"], values["ss_after"]) == (0xE033, 0xE02B)
    assert values["version"] == 4 << 16 | 17
