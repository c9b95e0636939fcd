"""A domain with two vcpus, of which one runs (do_vcpu_op, arch_set_info_guest)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hypercalls.abi import ABI64
from hypercalls.public import arch_x86
from hypercalls.public import errno as e

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest

SIZE = ABI64.sizeof(arch_x86.vcpu_guest_context)
CTRLREG = ABI64.offsetof(arch_x86.vcpu_guest_context, "ctrlreg")
FLAGS = ABI64.offsetof(arch_x86.vcpu_guest_context, "flags")
OP = """
        .macro op name, number, vcpu, arg=$0
        hypercall __HYPERVISOR_vcpu_op, $\\number, $\\vcpu, \\arg
        neg     %rax
        show    \\name, %rax
        .endm
"""


def test_the_second_vcpu_is_set_up_but_stays_down(micro: MakeGuest) -> None:
    guest = micro(
        OP
        + f"""
main:   op      is_up_0, 3, 0
        op      is_up_1, 3, 1
        op      is_up_2, 3, 2
        op      up_early, 1, 1
        op      no_context, 0, 1, $0x7f000000
        op      no_tables, 0, 1, $context
        mov     start_info, %rax
        mov     SI_pt_base(%rax), %rdi
        mov     %rdi, %rbx
        shr     $12, %rbx
        mov     SI_mfn_list(%rax), %rcx
        mov     (%rcx, %rbx, 8), %rbx
        shl     $12, %rbx
        movq    $4, context + {FLAGS}
        mov     %rbx, context + {CTRLREG + 24}
        movw    $0x8000, context + {FLAGS + 6}
        op      initialise, 0, 1, $context
        op      again, 0, 1, $context
        op      self, 0, 0, $context
        op      up, 1, 1
        op      up_0, 1, 0
        op      down_1, 2, 1
        op      nmi_1, 11, 1
        op      runstate, 4, 1, $area
        mov     area, %eax
        show    state, %rax
        mov     area + 40, %rax
        show    offline, %rax
        mfn_of  info
        mov     %rax, register
        op      register_info, 10, 1, $register
        op      register_twice, 10, 1, $register
        movzbl  info, %eax
        show    pending, %rax
        movzbl  info + 1, %eax
        show    masked, %rax
        movl    $1, ipi
        hypercall __HYPERVISOR_event_channel_op, $7, $ipi
        show    ipi_bound, %rax
        movb    $0, info
        movq    $0, info + 8
        mov     ipi + 4, %eax
        mov     %eax, port
        hypercall __HYPERVISOR_event_channel_op, $4, $port
        movzbl  info, %eax
        show    raised, %rax
        movq    $2000000, area
        op      period, 6, 1, $area
        op      stop, 7, 1
        op      singleshot, 8, 1, $area
        ret
        .bss
        .balign 4096
info:   .skip   4096
context: .skip  {SIZE}
area:   .skip   64
register: .skip 16
ipi:    .skip   8
port:   .skip   4
        .text
""",
        vcpus=2,
    ).run_to("poweroff")
    values = guest.values
    assert values["is_up_0"] == (1 << 64) - 1
    assert [values[name] for name in ("is_up_1", "is_up_2", "up_early", "no_context", "no_tables")] == [
        e.ENOENT, e.ENOENT, e.EINVAL, e.EFAULT, e.EINVAL
    ]  # fmt: skip
    assert [values[name] for name in ("initialise", "again", "self", "up", "up_0", "down_1", "nmi_1")] == [
        0, e.EEXIST, e.EEXIST, e.EOPNOTSUPP, 0, 0, 0
    ]  # fmt: skip
    assert (values["runstate"], values["state"]) == (0, 3)
    assert values["offline"] > 0
    assert (values["register_info"], values["register_twice"], values["pending"], values["masked"]) == (
        0, e.EINVAL, 1, 1
    )  # fmt: skip
    assert (values["ipi_bound"], values["raised"]) == (0, 1)
    assert (values["period"], values["stop"], values["singleshot"]) == (0, 0, e.EINVAL)
    assert guest.machine.xen_log == [
        "d1: 2 vcpus, of which pvemu runs the first",
        "d1v1: VCPUOP_up: pvemu runs one vcpu, this one stays down",
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user_regs.rip", 1 << 47), ("user_regs.rsp", 1 << 62), ("kernel_sp", 1 << 47), ("fs_base", 1 << 47),
        ("gs_base_kernel", 1 << 47), ("gs_base_user", 1 << 47), ("event_callback_eip", 1 << 47),
        ("syscall_callback_eip", 1 << 47), ("failsafe_callback_eip", 1 << 47), ("trap_ctxt[255].address", 1 << 47),
        ("ldt_base", 0xFFFF_8000_0000_0000), ("ldt_base", 1), ("ldt_ents", 8193), ("gdt_ents", 16 * 512 + 1),
        ("gdt_ents", 0xE000 // 8 + 1), ("ctrlreg[1]", 5 << 12), ("ctrlreg[3]", 0), ("flags", 0), ("gdt_frames[0]", 1),
    ],
)  # fmt: skip
def test_a_bad_context_is_refused_and_takes_nothing(field: str, value: int) -> None:
    from tests.hypervisor.test_guest_context import Second, context, set_field

    second = Second()
    before = second.world.counts()
    bad = context(second, gdt_ents=8)
    set_field(bad, field, value)
    assert second.initialise(bad) == e.EINVAL
    assert second.world.counts() == before
    assert not second.vcpu.is_initialised
