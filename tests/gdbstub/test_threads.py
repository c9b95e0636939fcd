"""A guest with two vcpus is one with two threads."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from elftools.elf.elffile import ELFFile

from pvemu.config import DomainConfig
from pvemu.control.debuggee import Debuggee
from pvemu.control.keyboard import Keyboard
from pvemu.control.stop_points import StopPoint
from pvemu.control.timeline import Timeline
from pvemu.machine import Machine
from pvemu.monitor.inspect import inspect
from pvemu.testing.session import Session
from tests.guests.conftest import HERE
from tests.guests.test_vcpus import BRING_UP, source, variant
from tests.micro_guests import SCRIPT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Assemble
    from tests.gdbstub.conftest import Serve


def two_vcpus(assemble: Assemble) -> tuple[Path, dict[str, int]]:
    """The micro-guest, and its symbols."""
    path = assemble((HERE / "pv64.S").read_text() + source("vcpus.S", 64), script=SCRIPT)
    with path.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        assert table is not None
        return path, {symbol.name: int(symbol["st_value"]) for symbol in table.iter_symbols()}  # type: ignore[attr-defined] # a symbol table


def test_gdb_sees_a_thread_for_each_vcpu(serve: Serve, gdb: Callable[..., str], assemble: Assemble) -> None:
    path, symbols = two_vcpus(assemble)
    served = serve(path, "--memory", "16", "--vcpus", "2")
    said = gdb(
        f"target remote {served.address}", "info threads", f"break *{symbols['second']:#x}", "continue", "info threads",
        "print/x $rdi", "thread 1", "print/x $cs", "thread 2", "stepi", "print/x $rip", "reverse-stepi",
        "print/x $rip", "kill",
    )  # fmt: skip
    second = symbols["second"]
    assert re.search(r"\* 1 +Thread 1 \(vcpu 0, running\)", said)
    assert re.search(r"  1 +Thread 1 \(vcpu 0, runnable\)", said)
    assert re.search(r"\* 2 +Thread 2 \(vcpu 1, running\)", said)
    assert "$1 = 0x77" in said
    assert "$2 = 0xe033" in said
    assert re.findall(r"\$[34] = (\w+)", said)[1] == f"{second:#x}"
    assert re.findall(r"\$[34] = (\w+)", said)[0] != f"{second:#x}"


def test_going_back_finds_the_vcpu_that_ran(assemble: Assemble) -> None:
    """Over context switches in both directions; what the monitor says of the vcpus."""
    path, symbols = two_vcpus(assemble)
    machine = Machine.create(DomainConfig(kernel=str(path), memory_mib=16, vcpus=2))
    debuggee = Debuggee(machine, Session(machine), Keyboard(machine.clock, machine.console))
    timeline = Timeline(debuggee, inspect, lambda data: None)
    try:
        point = StopPoint(1, "code", "second_upcall", (symbols["second_upcall"],))
        stop = timeline.resume([point])
        assert stop.kind == "stop" or stop.points
        assert [vcpu.vcpu_id for vcpu in timeline.ask("vcpus") if vcpu.is_current] == [1]
        here = timeline.locate(), timeline.ask("registers"), timeline.ask("registers", 0)
        shown = timeline.ask("view", "vcpus", [])
        assert re.search(r"^  vcpu 0  \w+ ", shown, re.MULTILINE)
        assert re.search(r"^\* vcpu 1  running ", shown, re.MULTILINE)
        assert timeline.ask("view", "registers", ["0"]) != timeline.ask("view", "registers", [])
        timeline.reverse_step(400)
        assert timeline.locate() != here[0]
        timeline.resume([point])
        assert (timeline.locate(), timeline.ask("registers"), timeline.ask("registers", 0)) == here
    finally:
        timeline.close()
        machine.close()


def test_a_range_is_that_of_the_thread_that_steps(assemble: Assemble) -> None:
    """The other one runs elsewhere, and ends the guest while this one waits in a loop."""
    text = variant(BRING_UP + "1: pause\n jmp 1b\nbehind: nop", "shutdown 0")
    path = assemble((HERE / "pv64.S").read_text() + text + "\n", script=SCRIPT)
    machine = Machine.create(DomainConfig(kernel=str(path), memory_mib=16, vcpus=2))
    debuggee = Debuggee(machine, Session(machine), Keyboard(machine.clock, machine.console))
    timeline = Timeline(debuggee, inspect, lambda data: None)
    try:
        (behind,) = timeline.ask("addresses", "behind")
        timeline.resume([StopPoint(1, "code", "loop", (behind - 4,))])
        stop = timeline.step_range(behind - 4, behind, ())
        assert (stop.kind, [vcpu.vcpu_id for vcpu in timeline.ask("vcpus") if vcpu.is_current]) == ("end", [1])
    finally:
        timeline.close()
        machine.close()
