"""RDTSC, RDTSCP and Xen's time leaf in each tsc_mode (xen/arch/x86/time.c tsc_set_info, pv_soft_rdtsc)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pvemu.hypervisor.time import SYSTEM_TIME_AT_START

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest

GP = 13
SOURCE = (Path(__file__).parent / "tsc.S").read_text()
#: How user mode is entered: on the kernel's own tables.
USER_MODE = {
    64: """
        hypercall __HYPERVISOR_stack_switch, $0xe02b, $kernel_stack_top
        mfn_of  user_page
        mov     start_info, %rdx
        mov     SI_pt_base(%rdx), %rax
        shr     $12, %rax
        mov     start_info, %rcx
        mov     SI_mfn_list(%rcx), %rcx
        mov     (%rcx, %rax, 8), %rax
        mov     %rax, ext_op + 8
        movl    $15, ext_op                     # NEW_USER_BASEPTR
        hypercall __HYPERVISOR_mmuext_op, $ext_op, $1, $0, $DOMID_SELF
        show    baseptr, %rax
        pushq   $0xe02b
        pushq   $user_stack_top
        pushq   $0x2
        pushq   $0xe033
        pushq   $user
        pushq   $0
        pushq   $0
        pushq   $0
        pushq   $0
        mov     $__HYPERVISOR_iret, %eax
        syscall
        .pushsection .data
        .balign 8
ext_op: .quad   0, 0, 0
        .popsection
""",
    32: """
        remap   user_page, PTE_P | PTE_RW | PTE_US
        show    baseptr, %eax
        hypercall __HYPERVISOR_stack_switch, $KERNEL_DS, $kernel_stack_top
        mov     $USER_DS, %eax
        mov     %eax, %ds
        pushl   $USER_DS
        pushl   $user_stack_top
        pushl   $0x2
        pushl   $USER_CS
        pushl   $user
        pushl   $0
        mov     $__HYPERVISOR_iret, %eax
        int     $0x82
""",
}


def source(bits: int) -> str:
    text = SOURCE.replace("        USER_MODE\n", USER_MODE[bits])
    return re.sub("%([A-D])X", lambda found: ("%r" if bits == 64 else "%e") + found[1].lower() + "x", text)


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize(("mode", "number", "features"), [
    ("default", 0, 6), ("always_emulate", 1, 7), ("native", 2, 6),
])  # fmt: skip
def test_each_mode(micro: MakeGuest, bits: int, mode: str, number: int, features: int) -> None:
    guest = micro(source(bits), bits=bits, tsc_mode=mode).run_to("poweroff")
    values, is_emulated = guest.values, features & 1
    assert (values["features"], values["mode"], values["khz"], values["incarnation"]) == (features, number, 10**6, 1)
    assert values["offset"] == (0 if is_emulated else SYSTEM_TIME_AT_START)
    assert values["early"] < 10**6 if is_emulated else values["early"] >= SYSTEM_TIME_AT_START
    assert values["early_high"] == 0, "RDTSC clears the upper halves"
    assert values["steps"] > 0
    assert (values["aux"], values["aux_tsd"]) == (0x1234, 0x1234)
    assert values["msr_behind"] > 0
    assert (values["traps"], values["baseptr"]) == (0, 0), "the kernel reads it whatever CR4.TSD says"
    log = guest.traps if bits == 64 else guest.traps32
    assert [(trap.vector, trap.error) for trap in log] == [(GP, 0), (GP, 0), (0x21, -1), (0x21, -1)]
    low, high, aux, later = (guest.word("user_saw", i) for i in range(4))
    assert values["early"] < high << 32 | low < high << 32 | later
    assert aux == 0x1234
