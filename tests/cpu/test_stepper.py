"""Counting instructions, standing exactly at one, breakpoints and watched memory: by the engine itself."""

from __future__ import annotations

import math

import pytest

from pvemu.cpu.exits import ExitKind, MemoryAccess
from tests.cpu.test_engine import CODE, FIRST, STOP, Cpu

#: xor %eax, %eax; inc %rax; cmp $100, %rax; jne back; then a hypercall that stops.
LOOP = "31c0 48ffc0 4883f864 75f7" + STOP
LOOP_INSNS = 1 + 3 * 100


def stepping(code: str) -> Cpu:
    cpu = Cpu(code)
    cpu.engine.stepper.switch(on=True)
    return cpu


def test_a_counted_run_stops_at_the_instruction() -> None:
    cpu = stepping(LOOP)
    stepper = cpu.engine.stepper
    stepper.budget = 1
    assert cpu.engine.run().kind == ExitKind.BUDGET
    assert (cpu.engine.read("rip"), stepper.insns) == (CODE + 2, 1)
    stepper.budget = 5
    assert cpu.engine.run().kind == ExitKind.BUDGET
    assert (cpu.engine.read("rip"), cpu.engine.read("rax"), stepper.insns) == (CODE + 9, 2, 6)


def test_instructions_are_counted_from_the_last_exit() -> None:
    cpu = stepping(LOOP)
    stretches: list[tuple[int, int]] = []
    cpu.engine.stepper.on_exit = lambda exits, stretch: stretches.append((exits, stretch))
    assert cpu.run().kind == ExitKind.STOPPED
    assert stretches == [(1, LOOP_INSNS + 2)]  # mov $99, %eax; syscall
    assert cpu.engine.stepper.insns == 0


def test_the_whole_is_the_same_in_pieces() -> None:
    cpu = stepping(LOOP)
    stepper = cpu.engine.stepper
    for left in range(LOOP_INSNS + 1, 0, -1):
        stepper.budget = 1
        assert cpu.engine.run().kind == ExitKind.BUDGET, left
    assert stepper.insns == LOOP_INSNS + 1
    stepper.budget = None
    assert cpu.engine.run().kind == ExitKind.STOPPED
    assert stepper.stretch == LOOP_INSNS + 2


def test_a_counted_run_can_go_on_without_counting_and_back() -> None:
    cpu = stepping(LOOP)
    cpu.engine.stepper.budget = 50
    cpu.engine.run()
    cpu.engine.stepper.switch(on=False)
    assert cpu.engine.run().kind == ExitKind.STOPPED
    assert cpu.handler.syscalls == [99]
    assert cpu.engine.read("rip") == CODE + 11 + len(bytes.fromhex(STOP.replace(" ", "")))


def test_a_store_is_done_once_when_the_run_stops_behind_it() -> None:
    cpu = stepping("bb00000200 48830301 48830301" + STOP)  # mov $DATA, %ebx; addq $1, (%rbx) twice
    stepper = cpu.engine.stepper
    for _ in range(3):
        stepper.budget = 1
        assert cpu.engine.run().kind == ExitKind.BUDGET
    assert cpu.ram.read_u64((FIRST + 2) << 12) == 2


@pytest.mark.parametrize("counts", [False, True])
def test_a_breakpoint_stands_before_the_instruction(counts: bool) -> None:
    cpu = Cpu(LOOP)
    cpu.engine.stepper.switch(on=counts)
    seen: list[int] = []

    def third(address: int) -> bool:
        seen.append(address)
        return len(seen) == 3

    cpu.engine.watch.on_code = third
    cpu.engine.watch.set_code([CODE + 5])  # cmp, in the midst of a block
    assert cpu.engine.run().kind == ExitKind.BREAKPOINT
    assert (cpu.engine.read("rip"), cpu.engine.read("rax"), len(seen)) == (CODE + 5, 3, 3)
    if counts:
        assert cpu.engine.stepper.insns == 1 + 3 * 2 + 1
    cpu.engine.watch.passes = CODE + 5  # it stands there
    assert cpu.engine.run().kind == ExitKind.STOPPED
    assert (len(seen), cpu.engine.read("rax") & 0xFF) == (102 - 2, 99)


def test_code_is_not_watched_any_more() -> None:
    cpu = Cpu(LOOP)
    cpu.engine.watch.set_code([CODE + 5])
    assert cpu.engine.run().kind == ExitKind.BREAKPOINT
    cpu.engine.watch.set_code([])
    assert cpu.engine.run().kind == ExitKind.STOPPED


def test_a_watched_store_stops_behind_the_instruction() -> None:
    cpu = stepping("bb00000200 48890b 48894308 48890b 90" + STOP)  # stores at DATA, DATA + 8, DATA
    seen: list[MemoryAccess] = []

    def note(access: MemoryAccess) -> bool:
        seen.append(access)
        return True

    cpu.engine.watch.on_memory = note
    cpu.engine.watch.set_memory([(((FIRST + 2) << 12) + 12, 1, "write")])  # in the midst of the second
    assert cpu.engine.run().kind == ExitKind.BREAKPOINT
    assert [(access.kind, access.maddr, access.size) for access in seen] == [("write", ((FIRST + 2) << 12) + 8, 8)]
    assert cpu.engine.read("rip") == CODE + 12
    assert cpu.engine.run().kind == ExitKind.STOPPED
    assert len(seen) == 1


def test_a_pause_at_an_exit_is_no_stop() -> None:
    cpu = Cpu("31c0 0f05 31c0 0f05" + STOP)  # two hypercalls 0
    cpu.engine.pause_at(2)
    assert cpu.engine.run().kind == ExitKind.PAUSED
    assert (cpu.handler.syscalls, cpu.engine.exits) == ([0, 0], 2)
    cpu.engine.forget_pause()
    cpu.engine.pause_at(math.inf)
    assert cpu.engine.run().kind == ExitKind.STOPPED


@pytest.mark.parametrize("pieces", [[], [3], [1, 1, 1, 1, 1], [4, 1]])
def test_a_stop_for_the_guests_sake_comes_where_it_would_without_counting(pieces: list[int]) -> None:
    """An RDTSC that asks for it stands in the midst of a block: guest code is left at the block's end."""
    code = "90 0f31 90 90 eb00 90" + STOP  # nop; rdtsc; nop; nop; jmp; nop
    ends = []
    for counts in (False, True):
        cpu = Cpu(code)
        cpu.handler.stops_at_rdtsc = True
        cpu.engine.stepper.switch(on=counts)
        leaving = None
        for budget in pieces if counts else []:
            cpu.engine.stepper.budget = budget
            leaving = cpu.engine.run()
            assert leaving.kind == ExitKind.BUDGET or cpu.engine.read("rip") == CODE + 7
        if leaving is None or leaving.kind == ExitKind.BUDGET:
            cpu.engine.stepper.budget = None
            leaving = cpu.engine.run()
        assert leaving.kind == ExitKind.STOPPED
        ends.append((cpu.engine.read("rip"), cpu.engine.exits))
    assert ends[0] == ends[1] == (CODE + 7, 1)
