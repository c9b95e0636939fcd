"""Xen's part of the address space as a 64-bit guest finds it (xen/arch/x86/traps.c, mm.c, pv/ro-page-fault.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hypercalls.public.arch_x86 import FIRST_RESERVED_GDT_PAGE
from pvemu.frames import PAGE_SIZE
from pvemu.hypervisor.descriptor_tables import GDT_VADDR

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.guests.conftest import MakeGuest

def test_descriptors_are_for_the_cpu_alone(micro: MakeGuest) -> None:
    """A load of a selector works and marks its descriptor, which Xen had left as it was; nobody reads the table."""
    guest = micro("""
main:   call    install_traps
        mfn_of  gdt
        mov     %rax, gdt_frame
        map_page gdt, %rax, PTE_P | PTE_US
        hypercall __HYPERVISOR_set_gdt, $gdt_frame, $512
        show    set_gdt, %rax
        show    before, gdt + 8
        mov     $0x0b, %eax
        mov     %eax, %es
        mov     %es, %eax
        show    es, %rax
        show    after, gdt + 8
        mov     $0xffff820000000000, %rbx
        try     mov (%rbx), %rax                # trap 0
        try     movb $0, 8(%rbx)                # trap 1
        mov     $0xffff82000000e000, %rbx
        try     mov (%rbx), %rax                # trap 2
        mov     $0xffff82000000f000, %rbx
        try     mov (%rbx), %rax                # trap 3: nothing there
        mov     $0x0b, %eax
        mov     %eax, %es
        mov     %es, %eax
        show    es_again, %rax
        ret
        .bss
        .balign 8
gdt_frame: .quad 0
        .data
        .balign 4096
gdt:    .quad 0, 0x00cff2000000ffff
        .balign 4096
        .text
""").run_to("poweroff")
    values = guest.values
    assert (values["set_gdt"], values["es"], values["es_again"]) == (0, 0x0B, 0x0B)
    assert (values["before"], values["after"]) == (0x00CFF2000000FFFF, 0x00CFF3000000FFFF)
    assert [(t.vector, t.error) for t in guest.traps] == [(14, 1), (14, 3), (14, 1), (14, 0)]


def test_stores_to_tables_are_aligned_integers(micro: MakeGuest) -> None:
    """What Xen emulates: an aligned part of an entry, by an instruction without FPU; else the fault is the guest's."""
    guest = micro("""
main:   call    install_traps
        hypercall __HYPERVISOR_vm_assist, $0, $2        # enable writable_pagetables
        mov     start_info, %rdx
        mov     SI_pt_base(%rdx), %rbx
        mov     SI_nr_pt_frames(%rdx), %rax
        sub     $2, %rax                                # two L1 tables map 4 MiB
        shl     $12, %rax
        add     %rax, %rbx
        mov     $target, %eax
        shr     $9, %eax
        add     %rax, %rbx
        mov     (%rbx), %r12
        try     orb $2, (%rbx)
        try     orw $0x200, (%rbx)
        show    changed, (%rbx)
        try     orw $0, 1(%rbx)                         # changes nothing
        try     orl $0, 2(%rbx)
        try     orw $0x4040, 1(%rbx)                    # trap 0
        try     movl $0, 2(%rbx)                        # trap 1
        try     movq $0, 4(%rbx)                        # trap 2
        movq    (%rbx), %xmm0
        try     movq %xmm0, (%rbx)                      # trap 3
        try     movups %xmm0, (%rbx)                    # trap 4
        try     mov %ds, (%rbx)                         # trap 5
        try     mov %r12, (%rbx)
        show    back, (%rbx)
        ret
        .bss
        .balign 4096
target: .skip   4096
        .text
""").run_to("poweroff")
    values = guest.values
    assert values["changed"] == values["back"] | 0x200
    assert [(t.vector, t.error) for t in guest.traps] == [(14, 3)] * 6


def test_an_instruction_that_reads_and_writes_faults_for_the_write(micro: MakeGuest) -> None:
    guest = micro("""
main:   call    install_traps
        mov     $0x40000000, %rbx
        try     mov (%rbx), %al
        try     mov %al, (%rbx)
        try     lock orb $1, (%rbx)
        try     incl (%rbx)
        try     xchg %rax, (%rbx)
        try     cmpb $1, (%rbx)
        try     lock cmpxchg %rcx, (%rbx)
        ret
""").run_to("poweroff")
    assert [(t.vector, t.error) for t in guest.traps] == [(14, error) for error in (0, 2, 2, 2, 2, 0, 2)]


def test_error_codes_tell_what_xen_has_mapped(micro: MakeGuest) -> None:
    """Tables in the linear page table, the direct map of memory; the machine-to-physical table may be read."""
    guest = micro("""
        .macro  look address
        mov     $\\address, %rbx
        try     mov (%rbx), %rax
        try     mov %rax, (%rbx)
        .endm
main:   call    install_traps
        look    0xffff800000000000              # M2P of somebody else's memory: only the write faults
        look    0xffff807000000000              # behind its end
        look    0xffff810000000000              # the L1 table of address 0
        look    0xffff810000400000              # of 2 GiB: there is none
        look    0xffff830000000000              # direct map
        look    0xffff87fffffff000              # behind its end
        ret
""").run_to("poweroff")
    assert [(t.vector, t.error) for t in guest.traps] == [
        (14, error) for error in (3, 0, 2, 1, 3, 0, 2, 1, 3, 0, 2)
    ]  # fmt: skip


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_nobody_notices_when_the_cpu_has_to_look_for_a_descriptor_again(micro: MakeGuest, steps: int) -> None:
    """What the engine's TLB keeps depends on the host: neither time nor exits may, nor where an event comes."""
    text = """
main:   mov     $200, %ebp
2:      rdtsc
        nop
        mov     $0xe02b, %eax
        mov     %eax, %es
        mov     %cr0, %rbx
        mov     $0xe02b, %eax
        mov     %eax, %ds
        dec     %ebp
        jnz     2b
        mov     %ds, %eax
        show    ds, %rax
        ret
"""
    ends = []
    for drops in (False, True):
        guest = micro(text)
        machine = guest.machine
        engine, dropped = machine.engine, 0

        def drop(*_args: object, flush: Callable[[int], None] = engine.flush_page) -> None:
            nonlocal dropped
            dropped += 1
            flush(GDT_VADDR + FIRST_RESERVED_GDT_PAGE * PAGE_SIZE)

        if drops:
            machine.privileged.observe(drop)
        if steps and drops:
            engine.stepper.switch(on=True)
            engine.stepper.budget = steps
            while guest.run().kind == "paused":
                engine.stepper.budget = steps
        else:
            guest.run_to("poweroff")
        ends.append((guest.ending, guest.values, machine.clock.now(), engine.exits))
        assert dropped >= 200 * drops
    assert ends[0] == ends[1]
    assert ends[0][1]["ds"] == 0xE02B
