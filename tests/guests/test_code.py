"""Code that changes: whichever way it is written, the new code runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest

#: `code` returns 1 in eax, twice; the change makes its byte at +1 a 2.
PROLOGUE = """
main:   call install_traps
        call map_shared_info
        mfn_of code
        mov %rax, %r12
        call code
        show before, %rax
        call code
"""
EPILOGUE = """
        call code
        show after, %rax
        call code
        show after2, %rax
        ret
        .data
        .balign 8
ext_op: .long 0, 0
        .quad 0, 0
request: .quad 0, 0
        .bss
        .balign 4096
alias:  .skip 4096
        .text
        .balign 4096
code:   mov $1, %eax
        ret
        .balign 4096
new_code: mov $2, %eax
        ret
        .balign 4096
"""
CHANGES = {
    "in_place": "movb $2, code + 1",
    "writable_alias": "map_page alias, %r12, 7\nmovb $2, alias + 1",
    "no_execute_alias": "map_page alias, %r12, 0x8000000000000007\nmovb $2, alias + 1",
    "twice_by_alias": "map_page alias, %r12, 0x8000000000000007\nmovb $3, alias + 1\ncall code\nmovb $2, alias + 1",
    "copy_to_guest": """
        movb $0xb8, version_code                # mov $imm32, %eax, written by XENVER_extraversion below
        hypercall __HYPERVISOR_xen_version, $1, $code + 1
        movl $2, code + 1
        movb $0xc3, code + 5
        .data
version_code: .quad 0
        .text""",
    "copy_page": """
        movl $17, ext_op                        # MMUEXT_COPY_PAGE
        mov %r12, ext_op + 8
        mfn_of new_code
        mov %rax, ext_op + 16
        hypercall __HYPERVISOR_mmuext_op, $ext_op, $1, $0, $DOMID_SELF""",
    "mmu_update": """
        mov %r12, %rax
        shl $12, %rax
        mov %rax, request
        mov $0x9090c300000002b8, %rax
        mov %rax, request + 8
        hypercall __HYPERVISOR_mmu_update, $request, $1, $0, $DOMID_SELF""",
    "other_frame": "mfn_of new_code\nmov %rax, %r13\nmap_page code, %r13, 5",
}


@pytest.mark.parametrize("way", CHANGES)
def test_new_code_runs(micro: MakeGuest, way: str) -> None:
    values = micro(PROLOGUE + CHANGES[way] + EPILOGUE).run_to("poweroff").values
    assert (values["before"], values["after"], values["after2"]) == (1, 2, 2)


def test_code_that_changes_itself(micro: MakeGuest) -> None:
    values = micro("""
main:   xor %ebx, %ebx
1:      movb %bl, 2f + 1
2:      mov $0x7f, %al
        cmp %al, %bl
        jne 3f
        inc %ebx
        cmp $100, %ebx
        jb 1b
3:      show rounds, %rbx
        ret
""").run_to("poweroff").values
    assert values["rounds"] == 100


def test_code_in_a_page_that_the_host_writes(micro: MakeGuest) -> None:
    """As a back end does with a granted page."""
    guest = micro(PROLOGUE + "show change, $1\n" + EPILOGUE)
    machine = guest.machine

    def on_output(data: bytes) -> None:
        guest.console += data
        if b"change" in data:
            guest.poke(guest.symbols["code"] + 1, b"\2")

    machine.on_console_output = on_output
    values = guest.run_to("poweroff").values
    assert (values["before"], values["after"]) == (1, 2)
