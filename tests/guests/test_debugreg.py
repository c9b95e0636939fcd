"""Debug registers at work: #DB for accesses, fetches and ports, in both widths (xen/arch/x86/traps.c do_debug)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest, MicroGuest

DB, BP = 1, 3
DR6 = 0xFFFF_0FF0
REGISTERS = {"A": "ax", "B": "bx", "C": "cx", "SP": "sp", "DI": "di"}
PRELUDE = {64: "", 32: ".set __HYPERVISOR_physdev_op, 33\n"}


class Logged(NamedTuple):
    """Of an entry of the trap log what both widths have."""

    vector: int
    rip: int
    flags: int


class Run(NamedTuple):
    """A guest that ended, and its log."""

    guest: MicroGuest
    log: list[Logged]


@pytest.fixture(params=[64, 32])
def run(request: pytest.FixtureRequest, micro: MakeGuest) -> Run:
    bits = request.param
    aliases = "".join(f".set {name}, %{'r' if bits == 64 else 'e'}{full}\n" for name, full in REGISTERS.items())
    source = (Path(__file__).parent / "debugreg.S").read_text()
    guest = micro(PRELUDE[bits] + aliases + source, bits=bits).run_to("poweroff")
    if bits == 64:
        return Run(guest, [Logged(t.vector, t.rip, t.rflags) for t in guest.traps])
    return Run(guest, [Logged(t.vector, t.eip, t.eflags) for t in guest.traps32])


def test_each_comes_once_and_behind_the_instruction(run: Run) -> None:
    guest, log = run
    at = guest.symbols
    trapping = ["at_store", "at_last", "at_across", "at_both", "at_add", "target", "at_out", "at_in", "at_ins"]
    assert [entry.vector for entry in log] == [DB] * 10 + [BP]
    assert all(0 <= entry.rip - at[label] <= 24 for entry, label in zip(log, trapping, strict=False))
    assert log[5].rip == at["target"], "an instruction breakpoint comes before"
    assert log[9].rip == at["resume_ss"], "one instruction late"
    assert all(entry.flags & 0x100 == 0 for entry in log), "nobody sees how it is done"


def test_status_says_which(run: Run) -> None:
    values = run.guest.values
    assert {name: values[name] - DR6 for name in values if name.startswith("dr6_")} == {
        "dr6_stores": 1, "dr6_both": 1, "dr6_fetch": 2, "dr6_port": 4, "dr6_ss": 8, "dr6_lost": 0,
    }  # fmt: skip


def test_the_instructions_did_their_work(run: Run) -> None:
    values = run.guest.values
    assert values["watched"] == 0x0700_0102
    assert int.from_bytes(run.guest.read("watched", 4), "little") == 9
    assert values["pushed_tf"] == 0
    assert values["version"] == 4 << 16 | 17
    assert values["left"] == 2
    assert values["dr7_io"] == 0x0200_0420
    assert run.guest.read("buffer", 2) == b"\xff\0"



def test_a_handler_goes_on_with_rf_and_steps_come_after_ss(micro: MakeGuest) -> None:
    """An instruction breakpoint comes again unless the frame has RF; a single step never comes between a load of SS and
    the next instruction, and a hypercall can be stepped over.
    """
    guest = micro(
        """
        .macro  dr number:req, value:req
        mov     \\value, %rax
        mov     %rax, %db\\number
        .endm
main:   call    install_traps
        movq    $1, trap_return
        movq    $set_rf, trap_hook
        dr      0, $target
        dr      7, $0x00000002
        xor     %ebx, %ebx
target: inc     %ebx                            # 0
        inc     %ebx
        show    ran, %rbx
        dr      7, $0
        movq    $until_enough, trap_hook
        mov     %ss, %ecx
        pushfq
        orl     $0x100, (%rsp)
        popfq
        nop
step1:  mov     %ecx, %ss                       # no step behind this one
        nop
step2:  mov     $__HYPERVISOR_xen_version, %eax
step3:  xor     %edi, %edi
step4:  syscall
step5:  nop
        show    version, %rax
        ret
set_rf: orl     $0x10000, 8 + 3*8 + 6*8(%rsp)   # rflags of the frame, past three saved registers and this return
        ret
until_enough:
        cmpq    $6, trap_count
        jb      1f
        andl    $~0x100, 8 + 3*8 + 6*8(%rsp)
1:      ret
"""
    ).run_to("poweroff")
    names = {address: name for name, address in guest.symbols.items() if name.startswith(("step", "target"))}
    assert [names.get(trap.rip) for trap in guest.traps] == ["target", "step1", "step2", "step3", "step4", "step5"]
    assert guest.values["ran"] == 2
    assert guest.values["version"] == 4 << 16 | 17
