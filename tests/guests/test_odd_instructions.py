"""Where the engine takes an instruction for another than the CPU that pvemu shows, or Xen has the last word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest, MicroGuest, Trap, Trap32

DB, UD, GP, PF = 1, 6, 13, 14
RF = 1 << 16
SOURCE = (Path(__file__).parent / "odd_instructions.S").read_text()
MAP = {
    64: """
        hypercall __HYPERVISOR_update_va_mapping, $gone, $0, $2
        mfn_of  read_only
        map_page read_only, %rax, 1
""",
    32: """
        hypercall __HYPERVISOR_update_va_mapping, $gone, $0, $0, $2
        remap   read_only, 1
""",
}
#: Far branches with REX.W: a pointer of 16:32 bits, where Intel's CPUs have 16:64.
FAR = """
main:   call    install_traps
        smsw    %rax
        show    msw, %rax
        movl    $far_target, far
        movw    $0xe030, far + 4
        mov     %rsp, %rbx
        rex.w lcall *far
returns: nop
far_target:
        pop     %rax
        show    return_rip, %rax
        pop     %rax
        show    return_cs, %rax
        sub     %rsp, %rbx
        show    balance, %rbx
        movl    $jumped, far
        mov     $far - 8, %edi
        rex.w ljmp *8(%rdi)
        ud2
jumped: mov     %cs, %eax
        show    cs, %rax
        movw    $0x3, far + 4
        try     rex.w lcall *far                # a null selector
        movw    $0xe02b, far + 4
        try     rex.w ljmp *far                 # data
        movw    $0x1007, far + 4
        try     rex.w ljmp *far                 # beyond the LDT
        try     rex.w lcall *0x7777000          # nothing is there
        mov     $1, %eax
        shl     $50, %rax
        try     rex.w lcall *(%rax)
        poweroff
        .pushsection .data
        .balign 8
far:    .quad   0xdead000000000000
        .popsection
"""


#: What only 64-bit code has, and places of Xen's.
LONG = """
main:   call    install_traps
        hypercall 33, $6, $iopl                 # PHYSDEVOP_set_iopl: 1
        mov     $operand + 8, %edi
        try     lock cmpxchg16b (%rdi)          # 0: not aligned
        mov     $0xffff820000000000, %rdi
        try     mov %eax, (%rdi)                # 1: the vcpu's GDT, where there is none yet
        mov     $0xffff82000000e000, %rdi
        try     mov %eax, (%rdi)                # 2: ... and Xen's part of it
        mov     $0xffff82d040200000, %rdi
        try     call *%rdi                      # 3: Xen's text
        mov     $0xffff830000000000, %rdi
        try     mov (%rdi), %eax                # 4: the direct map
        mov     $0xffff87fffffff000, %rdi
        try     mov (%rdi), %eax                # 5: ... behind all memory
        movq    $1, trap_return
        pushf
        orl     $0x100, (%rsp)
        popf
        cli                                     # no #DB behind it
        nop
        pushf
        andl    $~0x100, (%rsp)
        popf
        poweroff
        .pushsection .data
        .balign 16
operand: .quad  0, 0, 0, 0
iopl:   .long   1
        .popsection
"""


def source(bits: int) -> str:
    text = SOURCE.replace("        MAP ", MAP[bits] + "        # ")
    text = text.replace("GATE_ADDRESS", "8" if bits == 64 else "4")
    text = text.replace("XEN,", "$0xffff800000000000," if bits == 64 else "$0xf5900000,")
    return re.sub("%(AX|CX|DI)", lambda found: ("%r" if bits == 64 else "%e") + found[1].lower(), text)


def log(guest: MicroGuest) -> list[Trap] | list[Trap32]:
    return guest.traps if guest.machine.abi.bits == 64 else guest.traps32


@pytest.mark.parametrize("bits", [64, 32])
def test_each_is_the_exception_that_it_is_on_silicon(micro: MakeGuest, bits: int) -> None:
    guest = micro(source(bits), bits=bits).run_to("poweroff")
    xen = (GP, 0) if bits == 64 else (PF, 2)
    assert [(trap.vector, trap.error) for trap in log(guest)] == [
        (GP, 1 * 8 + 2), (GP, 0x81 * 8 + 2), (GP, 0x80 * 8 + 2), *[(UD, -1)] * 6, (PF, 2), (PF, 2), xen, (PF, 2),
        (PF, 2), (PF, 2), (PF, 0),
    ]  # fmt: skip
    flags = [(trap.rflags if bits == 64 else trap.eflags) & RF for trap in log(guest)]  # type: ignore[union-attr]
    assert flags[:4] == [RF, RF, 0, RF]
    assert guest.machine.vcpu.cr2 == guest.symbols["gone"]
    assert guest.values["rep_left"] == 6
    assert guest.values["traps"] == 16


def test_far_branches_are_amds(micro: MakeGuest) -> None:
    guest = micro(FAR).run_to("poweroff")
    values, symbols = guest.values, guest.symbols
    assert values["msw"] == 0x8005_0033
    assert (values["return_rip"], values["return_cs"], values["balance"]) == (symbols["returns"], 0xE033, 0)
    assert values["cs"] == 0xE033
    assert [(trap.vector, trap.error) for trap in guest.traps] == [
        (GP, 0), (GP, 0xE028), (GP, 0x1004), (PF, 0), (GP, 0),
    ]  # fmt: skip


def test_what_only_64_bit_code_has(micro: MakeGuest) -> None:
    guest = micro(LONG).run_to("poweroff")
    log = guest.traps
    assert [(trap.vector, trap.error) for trap in log[:6]] == [
        (GP, 0), (PF, 2), (PF, 3), (PF, 17), (PF, 1), (PF, 0),
    ]  # fmt: skip
    code = guest.read(log[6].rip - 2, 2)
    assert (log[6].vector, code) == (DB, b"\xfa\x90"), "behind the NOP, not behind CLI"
