"""Guests that die: what Xen says, and that nothing else happens. Each is a few instructions of malice or neglect."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest

BAD_STACK = "create_bounce_frame"

CRASHES = {
    "pf": ("mov $0x666666666000, %rax; mov (%rax), %rax", "Unhandled: vec 14, #PF[0000]"),
    "pf_write": ("mov $0x666666666000, %rax; movb $0, (%rax)", "Unhandled: vec 14, #PF[0002]"),
    "de": ("xor %ebx, %ebx; div %ebx", "Unhandled: vec 0, #DE[ffffffff]"),
    "ud": ("ud2", "Unhandled: vec 6, #UD[ffffffff]"),
    "gp": ("hlt", "Unhandled: vec 13, #GP[0000]"),
    "int3": ("int3", "Unhandled: vec 3, #BP[ffffffff]"),
    "int_n": ("int $0x30", "Unhandled: vec 13, #GP[0182]"),
    "int_80": ("int $0x80", "Unhandled: vec 13, #GP[0402]"),
    "io": ("outb %al, $0xe9", "Unhandled: vec 13, #GP[0000]"),
    "garbage": ("mov $0x200000, %eax; movq $-1, (%rax); jmp *%rax", "Unhandled: vec 6, #UD[ffffffff]"),
    "fetch_hole": ("jmp 0x7000000", "Unhandled: vec 14, #PF[0010]"),
    "fetch_noncanonical": ("mov $0x1234567890abcdef, %rax; jmp *%rax", "Unhandled: vec 13, #GP[0000]"),
    "rsp_unmapped": ("call install_traps; mov $0x666666666000, %rsp; ud2", BAD_STACK),
    "rsp_xen": ("call install_traps; mov $0xffff828000000000, %rsp; ud2", BAD_STACK),
    "rsp_noncanonical": ("call install_traps; mov $0x1234567890abcdef, %rsp; ud2", BAD_STACK),
    "rsp_readonly": ("call install_traps; mov start_info, %rax; mov 88(%rax), %rsp; add $4096, %rsp; ud2", BAD_STACK),
    "rsp_zero": ("call install_traps; xor %esp, %esp; ud2", BAD_STACK),
    "iret_bad_stack": ("mov $0x666666666000, %rsp; mov $23, %eax; syscall",
                       "d1v0 Fault while reading IRET context from guest stack"),
    "iret_to_user_without_tables": (("pushq $0; pushq $0; pushq $0x202; pushq $0xe033; pushq $0; pushq $0; pushq $0;"
                                    " pushq $0; pushq $0; mov $23, %eax; syscall"),
                                    "d1v0 Guest switching to user mode with no user page tables"),
    "no_event_callback": ("call map_shared_info; show x, $1; movb $0, shared_page + 1; show x, $1", BAD_STACK),
}  # fmt: skip


@pytest.mark.parametrize("name", CRASHES)
def test_crash(micro: MakeGuest, name: str) -> None:
    source, line = CRASHES[name]
    guest = micro("main:\n" + source.replace("; ", "\n"))
    guest.run()
    assert guest.ending == "crash"
    if line is not None:
        assert line in guest.machine.crash_lines[0]


def test_handler_that_faults_nests_until_its_stack_ends(micro: MakeGuest) -> None:
    guest = micro("""
main:   movq $handler, trap_table + 4*16 + 8
        call install_traps
        ud2
handler:
        incq depth
        ud2
        .data
        .balign 8
depth:  .quad 0
        .text
""")
    guest.run()
    assert guest.ending == "crash"
    assert guest.quad("depth") > 50


def test_a_loop_that_leaves_nothing_to_wait_for_ends_when_interrupted(micro: MakeGuest) -> None:
    guest = micro("main: jmp main")
    for _ in range(5):
        is_over = threading.Event()

        def watch(is_over: threading.Event = is_over) -> None:
            while not is_over.wait(0.002):
                guest.machine.engine.interrupt()

        watchdog = threading.Thread(target=watch)
        watchdog.start()
        outcome = guest.run()
        is_over.set()
        watchdog.join()
        assert (outcome.kind, guest.ending) == ("hang", "hang")


def test_page_table_loop(micro: MakeGuest) -> None:
    """A linear page table, and accesses through it: the walk ends after four levels whatever the tables say."""
    guest = micro("""
main:   call install_traps
        mov start_info, %rbx
        mov SI_pt_base(%rbx), %rax
        shr $12, %rax
        mov SI_mfn_list(%rbx), %rcx
        mov (%rcx, %rax, 8), %rdx               # mfn of the L4
        shl $12, %rdx
        lea 300*8(%rdx), %rax
        mov %rax, request
        or $5, %rdx                             # present, user, read-only
        mov %rdx, request + 8
        hypercall __HYPERVISOR_mmu_update, $request, $1, $0, $DOMID_SELF
        show linear, %rax
        mov $0xffff960000000000, %rax           # slot 300
        mov $0x00004b2592c96000 - 0x00004b2592c96000, %rcx
        try mov (%rax), %rdx
        mov $0xffff964b25800000, %rax
        try mov (%rax), %rdx
        try mov %rdx, (%rax)
        poweroff
        .data
        .balign 8
request: .quad 0, 0
        .text
""").run_to("poweroff")
    assert guest.values["linear"] == 0
    assert [t.vector for t in guest.traps] == [14] * len(guest.traps)
