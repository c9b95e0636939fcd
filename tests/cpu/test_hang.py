"""Looking for the loop of a guest that makes no exit: what it finds, and that nothing is lost by looking."""

from __future__ import annotations

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
