"""Looking for the loop of a guest that makes no exit: what it finds, and that nothing is lost by looking."""

from __future__ import annotations

import pytest

from pvemu.cpu.exits import Exit, ExitKind
from tests.cpu.test_engine import CODE, STOP, Cpu


def test_a_loop_is_given_by_its_instructions() -> None:
    cpu = Cpu("90 90 ebfc")  # nop; nop; jmp back
    assert cpu.engine.loops.find() == [CODE, CODE + 1, CODE + 2]


def test_a_loop_that_counts_is_none() -> None:
    cpu = Cpu("48ffc0 ebfb")  # inc %rax; jmp back
    assert cpu.engine.loops.find(100) == []


def test_an_exception_met_while_looking_is_reported_next() -> None:
    cpu = Cpu("90 90 0f0b")  # nop; nop; ud2
    assert cpu.engine.loops.find() == []
    assert cpu.run() == Exit(ExitKind.EXCEPTION, 6)
    assert cpu.engine.read("rip") == CODE + 2


def test_a_hypercall_made_while_looking_counts_once() -> None:
    cpu = Cpu("90" + STOP)
    assert cpu.engine.loops.find() == []
    assert cpu.handler.syscalls == [99]
    assert cpu.run().kind == ExitKind.STOPPED
    assert cpu.handler.syscalls == [99]


def test_who_is_in_a_handler_is_not_interrupted() -> None:
    cpu = Cpu(STOP)
    cpu.engine.is_in_handler = True
    cpu.engine.interrupt()
    cpu.engine.is_in_handler = False
    assert cpu.run().kind == ExitKind.STOPPED  # the hypercall's own stop, not an interrupt
    assert cpu.handler.syscalls == [99]


@pytest.mark.parametrize("counts", [False, True])
def test_a_stop_asked_for_while_looking_comes_at_the_end_of_the_block(counts: bool) -> None:
    """As it would have come if nobody had looked."""
    cpu = Cpu("90 0f31 90 90 eb00 90" + STOP)  # nop; rdtsc, which asks; nop; nop; jmp; nop
    cpu.handler.stops_at_rdtsc = True
    cpu.engine.stepper.switch(on=counts)
    assert cpu.engine.loops.find() == []
    assert cpu.engine.read("rip") == CODE + 3
    assert cpu.engine.run().kind == ExitKind.STOPPED
    assert (cpu.engine.read("rip"), cpu.engine.exits) == (CODE + 7, 1)


def test_an_exit_watched_for_is_told_of_while_looking() -> None:
    cpu = Cpu("0f31 90 0f31 ebfe")
    told: list[int] = []
    cpu.engine.at_exit(2, lambda: told.append(cpu.engine.exits))
    assert cpu.engine.loops.find() == []
    assert (cpu.engine.exits, told) == (1, [])
    assert cpu.engine.loops.find() == []
    assert (cpu.engine.exits, told) == (2, [2])
    assert cpu.engine.loops.find() == [CODE + 5]
