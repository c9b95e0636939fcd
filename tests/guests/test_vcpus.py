"""A domain with several vcpus, which take turns on one CPU (do_vcpu_op, arch_set_info_guest, schedule)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from hypercalls.abi import ABI32, ABI64
from hypercalls.public import arch_x86
from hypercalls.public import errno as e

if TYPE_CHECKING:
    from tests.conftest import Assemble
    from tests.guests.conftest import MakeGuest, MicroGuest

FIELDS = {
    "flags": "flags", "cr3": "ctrlreg[3]", "kernel_sp": "kernel_sp", "kernel_ss": "kernel_ss", "cs": "user_regs.cs",
    "ss": "user_regs.ss", "ds": "user_regs.ds", "es": "user_regs.es", "fs": "user_regs.fs",
    "event": "event_callback_eip",
}  # fmt: skip
OP = """
        .macro op name, number, vcpu, arg=$0
        hypercall __HYPERVISOR_vcpu_op, $\\number, $\\vcpu, \\arg
        neg     %rax
        show    \\name, %rax
        .endm
"""


def offsets(bits: int) -> str:
    """Where a micro-guest finds the fields of its vcpu_guest_context."""
    abi, letter = (ABI64, "r") if bits == 64 else (ABI32, "e")
    fields = FIELDS | {name: f"user_regs.{letter}{name}" for name in ("ip", "sp", "di")}
    return "".join(
        f"        .set C_{name}, {abi.offsetof(arch_x86.vcpu_guest_context, path)}\n" for name, path in fields.items()
    )


def source(name: str, bits: int) -> str:
    """A micro-guest with those before it."""
    from tests.guests.conftest import HERE

    return offsets(bits) + (HERE / name).read_text()


def test_two_vcpus_work_together(micro: MakeGuest) -> None:
    guest = micro(source("vcpus.S", 64), vcpus=2).run_to("poweroff")
    values = guest.values
    assert [values[name] for name in ("up_before", "initialise", "up", "up_after")] == [0, 0, 0, 1]
    assert (values["pongs"], values["lock_seen"], values["ticks"]) == (10, 43, 1)
    assert (values["runstate"], values["state"], values["up_again"], values["returned"]) == (0, 3, 0, 1)
    assert (values["down"], values["still"]) == (0, 0)
    assert (guest.quad("second_argument"), guest.quad("second_cs")) == (0x77, 0xE033)


def test_two_vcpus_work_together_in_32_bits(micro: MakeGuest) -> None:
    values = micro(source("vcpus32.S", 32), bits=32, vcpus=2).run_to("poweroff").values
    assert [values[name] for name in ("up_before", "initialise", "up", "up_after")] == [0, 0, 0, 1]
    assert (values["pongs"], values["lock_seen"], values["state"]) == (10, 43, 3)
    assert (values["up_again"], values["returned"], values["down"]) == (0, 1, 0)
    assert (values["argument"], values["cs"], values["fs"]) == (0x77, 0xE019, 0xE033)


@pytest.mark.parametrize("bits", [64, 32])
def test_a_run_repeats(micro: MakeGuest, bits: int) -> None:
    text = source("vcpus.S" if bits == 64 else "vcpus32.S", bits)
    runs: list[MicroGuest] = [micro(text, bits=bits, vcpus=2).run_to("poweroff") for _ in range(2)]
    first, second = (
        (guest.machine.clock.now(), guest.machine.engine.exits, guest.console, guest.machine.hypercalls.counts)
        for guest in runs
    )
    assert first == second


def ending(guest: MicroGuest) -> tuple[object, ...]:
    machine = guest.machine
    return guest.ending, machine.clock.now(), machine.engine.exits, guest.console, machine.hypercalls.counts


def test_a_run_that_is_stepped_through_is_the_same(micro: MakeGuest) -> None:
    """Instruction by instruction: slices end at exits, wherever somebody looks on."""
    text = source("vcpus32.S", 32)
    plain = micro(text, bits=32, vcpus=2).run_to("poweroff")
    stepped = micro(text, bits=32, vcpus=2)
    stepper = stepped.machine.engine.stepper
    stepper.switch(on=True)
    steps, stepper.budget = 0, 1
    while stepped.run().kind == "paused":
        steps, stepper.budget = steps + 1, 1
    assert ending(stepped) == ending(plain)
    assert steps > 1000


def test_a_run_that_pauses_is_the_same(micro: MakeGuest) -> None:
    text = source("vcpus.S", 64)
    plain = micro(text, vcpus=2).run_to("poweroff")
    paused = micro(text, vcpus=2)
    engine = paused.machine.engine
    exits = 5
    engine.pause_at(exits)
    while paused.run().kind == "paused":
        engine.forget_pause()
        exits += 7
        engine.pause_at(exits)
    assert ending(paused) == ending(plain)
    assert exits > 1000


BRING_UP = """
        hypercall __HYPERVISOR_set_trap_table, $trap_table
        call    make_context
        hypercall __HYPERVISOR_vcpu_op, $0, $1, $context
        hypercall __HYPERVISOR_vcpu_op, $1, $1
"""


def variant(main: str, second: str) -> str:
    """The 64-bit guest with another first and second part."""
    text = source("vcpus.S", 64)
    head, rest = text.split("main:", 1)
    rest = rest[rest.index("poll:  ") :]
    body, tail = rest.split("second: ", 1)
    return f"{head}main:   {main}\n        ret\n{body}second: {second}\n{tail[tail.index('second_upcall:'):]}"


def test_the_second_vcpu_crashes_the_domain(micro: MakeGuest) -> None:
    """Its trap table is its own, and empty."""
    from pvemu.debug.crash_report import execution_state

    guest = micro(variant(BRING_UP + "1: pause\n jmp 1b", "mov $0x1234, %ebx\n ud2"), vcpus=2)
    guest.run()
    machine = guest.machine
    assert (guest.ending, machine.crash_lines) == ("crash", ["d1v1 Unhandled: vec 6, #UD[ffffffff]"])
    lines = execution_state(1, machine.vcpu, machine.engine, machine.walker, machine.guest)
    assert lines[0] == "Domain 1 (vcpu#1) crashed on cpu#0:"
    assert f"RIP:    e033:[<{guest.symbols['second'] + 5:016x}>]" in lines
    assert "rax: 0000000000000000   rbx: 0000000000001234   rcx: 0000000000000000" in lines


def test_the_second_vcpu_may_shut_the_domain_down(micro: MakeGuest) -> None:
    micro(variant(BRING_UP + "1: pause\n jmp 1b", "shutdown 1"), vcpus=2).run_to("reboot")


def test_the_last_vcpu_that_goes_down_powers_off(micro: MakeGuest) -> None:
    second = "hypercall __HYPERVISOR_vcpu_op, $2, $0\n hypercall __HYPERVISOR_vcpu_op, $2, $1"
    micro(variant(BRING_UP + "1: pause\n jmp 1b", second), vcpus=2).run_to("poweroff")


def test_everybody_sleeps_and_nothing_wakes_them(micro: MakeGuest) -> None:
    block = "hypercall __HYPERVISOR_sched_op, $1\n"
    guest = micro(variant(BRING_UP + block, block), vcpus=2)
    assert guest.run().kind == "stuck"


def test_each_vcpu_has_a_periodic_timer_from_its_first_run(micro: MakeGuest) -> None:
    """pv_vcpu_initialise, vcpu_periodic_timer_work: the first tick is overdue. Vcpu 0 hears of its own no more."""
    first = "call install_upcall\n hypercall __HYPERVISOR_event_channel_op, $1, $second_virq_arg" + BRING_UP + """
        hypercall __HYPERVISOR_event_channel_op, $1, $first_virq_arg
        hypercall __HYPERVISOR_sched_op, $1
        shutdown 2
        .pushsection .data
first_virq_arg: .long 0, 0, 0
        .popsection
"""
    second = """
        movb    $0, shared_page + 65
        hypercall __HYPERVISOR_xen_version, $0, $0
        mov     second_ticks, %rax
        mov     %rax, ticks
1:      pause
        cmpq    $4, second_ticks
        jb      1b
        rdtsc64
        mov     %rax, lock_seen
        shutdown 1
"""
    guest = micro(variant(first, second), vcpus=2).run_to("reboot")
    assert guest.quad("ticks") == 1
    assert 30_000_000 <= guest.quad("lock_seen") - guest.machine.clock.start < 40_000_000


def test_a_nested_loop_without_exits_ends_when_the_other_lets_go(micro: MakeGuest) -> None:
    """A lock that is waited for without PAUSE: the watchdog finds the loop, and the slice ends."""
    wait = "mov $1, %eax\n xchg %rax, lock\n test %rax, %rax\n jnz second\n shutdown 1"
    guest = micro(
        variant("movq $1, lock" + BRING_UP + "hypercall __HYPERVISOR_sched_op, $0\n movq $0, lock\n 1: pause\n jmp 1b",
                wait),
        vcpus=2,
    )  # fmt: skip
    engine = guest.machine.engine
    done = threading.Event()

    def watchdog() -> None:
        while not done.wait(0.2):
            engine.interrupt()

    thread = threading.Thread(target=watchdog)
    thread.start()
    try:
        guest.run_to("reboot")
    finally:
        done.set()
        thread.join()


def test_strict_slices_find_a_lost_update(assemble: Assemble) -> None:
    """Two vcpus count together without a lock; the usual slices are too long for that to show."""
    from pvemu.config import DomainConfig, StrictConfig
    from pvemu.machine import Machine
    from tests.guests.conftest import HERE
    from tests.micro_guests import SCRIPT

    count = """
        mov $50, %r15d
1:      mov guarded, %r14
        hypercall __HYPERVISOR_xen_version, $0, $0
        inc %r14
        mov %r14, guarded
        dec %r15d
        jnz 1b
"""
    first = BRING_UP + count + "3: pause\n cmpq $0, returned\n je 3b"
    text = variant(first, count + "movq $1, returned\n 4: pause\n jmp 4b")
    path = assemble((HERE / "pv64.S").read_text() + text + "\n", script=SCRIPT)

    def counted(strict: StrictConfig | None) -> int:
        machine = Machine.create(DomainConfig(kernel=str(path), memory_mib=16, vcpus=2, strict=strict))
        with path.open("rb") as stream:
            table = ELFFile(stream).get_section_by_name(".symtab")
            assert isinstance(table, SymbolTableSection)
            at = next(int(symbol["st_value"]) for symbol in table.iter_symbols() if symbol.name == "guarded")
        machine.start()
        assert machine.run().kind == "shutdown"
        return machine.ram.read_u64(machine.built.p2m[at >> 12] << 12 | at & 4095)

    assert counted(None) == 100
    found = [counted(StrictConfig(seed, ("scheduling",))) for seed in range(4)]
    assert min(found) < 100
    assert found == [counted(StrictConfig(seed, ("scheduling",))) for seed in range(4)]


def test_vcpus_beyond_32_have_an_info_when_they_have_registered_one(micro: MakeGuest) -> None:
    guest = micro(
        OP
        + """
main:   op      no_info, 0, 32, $context
        op      none, 3, 40
        mfn_of  info
        mov     %rax, register
        op      register_info, 10, 32, $register
        movzbl  info, %eax
        show    pending, %rax
        op      no_context, 0, 32, $0x7f000000
        ret
        .bss
        .balign 4096
info:   .skip   4096
context: .skip  8192
register: .skip 16
        .text
""",
        vcpus=40,
    ).run_to("poweroff")
    values = guest.values
    assert [values[name] for name in ("no_info", "none", "register_info", "pending", "no_context")] == [
        e.EINVAL, e.ENOENT, 0, 1, e.EFAULT
    ]  # fmt: skip


def test_what_vcpu_op_refuses(micro: MakeGuest) -> None:
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
        movq    $4, context + C_flags
        mov     %rbx, context + C_cr3
        movw    $0x8000, context + C_flags + 6
        op      initialise, 0, 1, $context
        op      again, 0, 1, $context
        op      self, 0, 0, $context
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
context: .skip  {ABI64.sizeof(arch_x86.vcpu_guest_context)}
area:   .skip   64
register: .skip 16
ipi:    .skip   8
port:   .skip   4
        .text
""".replace("main:", offsets(64) + "main:", 1),
        vcpus=2,
    ).run_to("poweroff")
    values = guest.values
    assert values["is_up_0"] == (1 << 64) - 1
    assert [values[name] for name in ("is_up_1", "is_up_2", "up_early", "no_context", "no_tables")] == [
        0, e.ENOENT, e.EINVAL, e.EFAULT, e.EINVAL
    ]  # fmt: skip
    assert [values[name] for name in ("initialise", "again", "self", "up_0", "down_1", "nmi_1")] == [
        0, e.EEXIST, e.EEXIST, 0, 0, 0
    ]  # fmt: skip
    assert (values["runstate"], values["state"]) == (0, 3)
    assert values["offline"] > 0
    assert (values["register_info"], values["register_twice"], values["pending"], values["masked"]) == (
        0, e.EINVAL, 1, 1
    )  # fmt: skip
    assert (values["ipi_bound"], values["raised"]) == (0, 1)
    assert (values["period"], values["stop"], values["singleshot"]) == (0, 0, e.EINVAL)


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


def test_grants_are_mapped_for_the_vcpu_that_asks(micro: MakeGuest) -> None:
    """Each vcpu has its own list of handles (get_maptrack_handle takes one for current)."""
    guest = micro(source("vcpus.S", 64), vcpus=2)
    machine = guest.machine
    seen: set[tuple[int, int]] = set()
    machine.hypercalls.monitor(
        lambda row, args: seen.add((machine.vcpu.vcpu_id, machine.grants.mappings.maptrack.vcpu)),
        lambda row, args, result: None,
    )
    guest.run_to("poweroff")
    assert seen == {(0, 0), (1, 1)}
