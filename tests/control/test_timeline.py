"""Stopping, stepping and going back: a guest that GRUB is, and micro-guests whose every instruction is known."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pvemu.config import DomainConfig
from pvemu.control.debuggee import Debuggee
from pvemu.control.keyboard import Keyboard
from pvemu.control.place import Place, Stop
from pvemu.control.stop_points import StopPoint, parse_event
from pvemu.control.timeline import Timeline
from pvemu.disk.spec import parse_disk_specs
from pvemu.machine import Machine
from pvemu.monitor.inspect import inspect
from pvemu.testing.session import Session
from tests.micro_guests import COUNTING, NOTES, SCRIPT, SPINNING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Assemble

MENU = parse_event(1, "console GNU GRUB")
SCHED = parse_event(2, "hypercall sched_op")


class Run:
    """A timeline and what its guest wrote while it ran forward."""

    def __init__(self, kernel: Path, *disks: str, send: list[bytes] | None = None, memory: int = 64) -> None:
        config = DomainConfig(kernel=str(kernel), memory_mib=memory, disks=parse_disk_specs(disks))
        self.machine = machine = Machine.create(config)
        self.console = bytearray()
        session = Session(machine, send=send or [])
        debuggee = Debuggee(machine, session, Keyboard(machine.clock, machine.console))
        self.timeline = Timeline(debuggee, inspect, self.console.extend)

    def close(self) -> None:
        self.timeline.close()
        self.machine.close()

    def registers(self) -> bytes:
        return bytes(self.timeline.ask("registers"))

    def state(self) -> tuple[str, int, int, bytes]:
        place = self.timeline.locate()
        return str(place), self.timeline.stop.rip, self.timeline.stop.time, self.registers()


@pytest.fixture
def start() -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def make(kernel: Path, *disks: str, **options: object) -> Run:
        runs.append(Run(kernel, *disks, **options))  # type: ignore[arg-type]  # as Run takes them
        return runs[-1]

    yield make
    for run in runs:
        run.close()


@pytest.fixture
def counting(assemble: Assemble, start: Callable[..., Run]) -> Run:
    return start(assemble(COUNTING, script=SCRIPT))


def address(run: Run, name: str) -> int:
    found: list[int] = run.timeline.ask("addresses", name)
    assert len(found) == 1, name
    return found[0]


def watch(run: Run, kind: str, name: str, size: int = 8) -> StopPoint:
    linear = address(run, name)
    return StopPoint(9, kind, name, ranges=tuple(run.timeline.ask("machine_ranges", linear, size)), linear=linear)


def value(run: Run) -> int:
    return int.from_bytes(run.timeline.ask("read", address(run, "value"), 8), "little")


def code(run: Run, name: str, number: int = 5) -> StopPoint:
    return StopPoint(number, "code", name, (address(run, name),))


# -- forward and back --------------------------------------------------------------------------------------------------
def test_every_step_can_be_taken_back(counting: Run) -> None:
    there = [counting.state()]
    for _ in range(40):
        counting.timeline.step()
        there.append(counting.state())
    for expected in reversed(there[:-1]):
        counting.timeline.reverse_step()
        assert counting.state() == expected
    stop = counting.timeline.reverse_step()
    assert (stop.kind, stop.place) == ("start", Place(0, 0))


def test_a_range_is_stepped_through_to_its_end_or_a_breakpoint(counting: Run) -> None:
    line = counting.timeline
    first, crash, store = (address(counting, name) for name in ("_start", "crash", "store"))
    stop = line.step_range(first, crash, [code(counting, "store")])
    assert (stop.rip, value(counting)) == (store, 0)
    stop = line.step_range(first, crash, [code(counting, "store")])
    assert (stop.rip, value(counting)) == (store, 1), "each time it comes there"
    stop = line.step_range(first, crash, [watch(counting, "write", "value")])
    assert (stop.kind, value(counting)) == ("watch", 2)
    stop = line.step_range(first, crash, ())
    assert (stop.kind, stop.rip, value(counting)) == ("step", crash, 20)
    there = counting.state()
    line.reverse_step()
    before = line.stop.rip
    stop = line.step_range(0, 1, ())
    assert (stop.rip, counting.state()) == (crash, there), "one instruction at least, and no more outside"
    assert before != crash
    assert line.step_range(first, crash + 1, ()).kind == "end"


def test_a_range_that_is_never_left_can_be_interrupted(assemble: Assemble, start: Callable[..., Run]) -> None:
    run = start(assemble(SPINNING, script=SCRIPT))
    reader, writer = os.pipe()
    run.timeline.listen, run.timeline.interrupts = reader, lambda: bool(os.read(reader, 1))
    os.write(writer, b".")
    stop = run.timeline.step_range(0, 1 << 47, ())
    assert stop.kind == "interrupt"
    before = run.state()
    run.timeline.step()
    run.timeline.reverse_step()
    assert run.state() == before
    os.close(writer)
    os.close(reader)


def test_a_breakpoint_is_met_each_time_in_both_directions(counting: Run) -> None:
    line = counting.timeline
    point = code(counting, "store")
    seen = []
    for _ in range(5):
        assert line.resume([point]).kind == "breakpoint"
        seen.append(counting.state())
        assert value(counting) == len(seen) - 1
    for expected in reversed(seen[:-1]):
        stop = line.reverse_resume([point])
        assert (stop.kind, stop.points) == ("breakpoint", (5,))
        assert counting.state() == expected
    assert line.reverse_resume([point]).kind == "start"
    line.resume([point])
    assert counting.state() == seen[0]


def test_a_crash_is_gone_back_from_to_who_stored_last(counting: Run) -> None:
    line = counting.timeline
    stop = line.resume([])
    assert (stop.kind, stop.rip) == ("end", address(counting, "crash"))
    crash = line.ask("end")
    assert crash == ["d1v0 Unhandled: vec 14, #PF[0002]", "the guest shut down (crash)"]
    stop = line.reverse_resume([watch(counting, "write", "value")])
    assert (stop.kind, stop.rip, value(counting)) == ("watch", address(counting, "store"), 19)
    assert line.reverse_step().rip == address(counting, "store") - 3
    assert line.resume([]).rip == address(counting, "crash")
    assert line.ask("end") == crash
    stop = line.reverse_step()
    assert stop.rip < address(counting, "crash"), "before what led to the crash"


def test_a_watched_value_stops_behind_its_store(counting: Run) -> None:
    line = counting.timeline
    point = watch(counting, "write", "value")
    for expected in (1, 2, 3):
        stop = line.resume([point])
        assert (stop.kind, value(counting)) == ("watch", expected)
        assert stop.address == address(counting, "value")
    assert line.reverse_resume([point]).rip == address(counting, "store")
    assert value(counting) == 2


def test_a_hypercall_stops_with_its_arguments(counting: Run) -> None:
    line = counting.timeline
    stop = line.resume([SCHED])
    assert (stop.kind, stop.text) == ("event", "sched_op(0x0, 0x0) = 0")
    place = line.locate()
    line.resume([SCHED])
    assert line.reverse_resume([SCHED]).place == place
    assert line.resume([parse_event(3, "hypercall sched_op arg0=1")]).kind == "end"


def test_a_fault_is_seen_before_xen_sees_it(counting: Run) -> None:
    line = counting.timeline
    stop = line.resume([parse_event(3, "fault #PF")])
    assert (stop.kind, stop.rip) == ("fault", address(counting, "crash"))
    assert stop.text == "#PF at 0x7000001234, error code 0x6"
    assert line.resume([]).kind == "end"


def test_going_back_further_than_the_start_is_the_start(counting: Run) -> None:
    line = counting.timeline
    line.step(3)
    assert line.reverse_step(3).place == Place(0, 0)
    line.step(3)
    assert line.reverse_step(4).kind == "start"
    assert line.goto(Place(0, 2)).place == Place(0, 2)


def test_who_changes_the_guest_gives_its_past_up(counting: Run) -> None:
    line = counting.timeline
    point = code(counting, "store")
    line.resume([point])
    line.resume([point])
    line.change("write", address(counting, "value"), b"\x07")
    assert value(counting) == 7
    line.step(2)
    stop = line.reverse_resume([point])
    assert value(counting) == 7
    assert (stop.kind, stop.text) == ("start", "you changed the guest here: its past is gone")


def test_a_guest_that_makes_no_exit_can_be_interrupted(assemble: Assemble, start: Callable[..., Run]) -> None:
    run = start(assemble(SPINNING, script=SCRIPT))
    line = run.timeline
    calls = iter([True])
    read, write = os.pipe()
    os.write(write, b".")
    line.listen = read
    line.interrupts = lambda: next(calls)
    stop = line.resume([])
    assert stop.kind == "interrupt"
    assert stop.place.insns is not None
    before = run.state()
    line.reverse_step(7)
    line.listen = None
    os.close(read)
    os.close(write)
    line.step(7)
    assert run.state() == before


HANGING = NOTES + """
    .text
    .globl _start
_start:
    mov $29, %eax
    xor %edi, %edi
    syscall
    mov $7, %ecx
wait:
    dec %ecx
    jnz wait
hang:
    jmp hang
"""


def test_a_hang_is_gone_back_from(assemble: Assemble, start: Callable[..., Run]) -> None:
    run = start(assemble(HANGING, script=SCRIPT))
    line = run.timeline
    stop = line.resume([])
    assert (stop.kind, stop.rip) == ("end", address(run, "hang"))
    assert "the guest hangs" in stop.text
    assert line.reverse_step().rip == address(run, "wait") + 2
    assert line.reverse_step(14).place == Place(1, 0)


# -- a real GRUB -------------------------------------------------------------------------------------------------------
@pytest.fixture
def grub(guest: Callable[[str, str], Path], start: Callable[..., Run]) -> Run:
    return start(guest("pvgrub", "grub-x86_64-xen.bin"), str(guest("menu", "menu.img")), memory=128)


def outcome(run: Run, stop: Stop) -> tuple[str, int, int, bytes]:
    return stop.kind, stop.time, stop.place.exits, bytes(run.console)


def test_stopping_and_stepping_leave_the_run_what_it_is(
    guest: Callable[[str, str], Path], start: Callable[..., Run], grub: Run
) -> None:
    plain = start(guest("pvgrub", "grub-x86_64-xen.bin"), str(guest("menu", "menu.img")), memory=128)
    expected = outcome(plain, plain.timeline.resume([]))
    line = grub.timeline
    points = [SCHED, parse_event(3, "xenstore device/vbd/*"), parse_event(4, "disk"), MENU]
    kinds: set[int] = set()
    for number in range(200):
        stop = line.resume(points)
        kinds.update(stop.points)
        if stop.kind == "end":
            break
        if number % 20 == 0:
            line.step(1000)
        if number % 50 == 49:
            console = len(grub.console)
            line.reverse_step(500)
            line.step(500)
            del grub.console[console:]
    else:
        stop = line.resume([])
    assert outcome(grub, stop) == expected
    assert {3, 4} <= kinds


def test_back_from_the_menu(grub: Run) -> None:
    line = grub.timeline
    assert line.resume([MENU]).kind == "event"
    menu = grub.state()
    line.step(100)
    line.reverse_step(100)
    assert grub.state() == menu
    assert line.reverse_resume([MENU]).place == line.locate(), "it came with the exit that is behind"
    assert line.reverse_resume([MENU]).kind == "start"
    line.resume([MENU])
    assert grub.state() == menu


def test_keys_come_at_the_same_moment_again(grub: Run) -> None:
    line = grub.timeline
    line.resume([MENU])
    line.type(b"c")
    prompt = parse_event(3, "console grub> ")
    line.resume([prompt])
    there = grub.state()
    line.reverse_resume([MENU])
    line.resume([prompt])
    assert grub.state() == there
