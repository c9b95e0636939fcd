"""The monitor's commands on a micro-guest and on a GRUB: what they show, and one clear line for what makes no sense."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pvemu.errors import ConfigError
from pvemu.monitor.console_text import ConsoleText
from pvemu.monitor.shell import Shell, unescape
from tests.control.test_timeline import Run
from tests.micro_guests import COUNTING, SCRIPT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Assemble


@pytest.fixture
def shell(assemble: Assemble) -> Iterator[Shell]:
    run = Run(assemble(COUNTING, script=SCRIPT), memory=16)
    yield Shell(run.timeline)
    run.close()


@pytest.fixture
def grub(guest: Callable[[str, str], Path]) -> Iterator[Shell]:
    run = Run(guest("pvgrub", "grub-x86_64-xen.bin"), str(guest("menu", "menu.img")), memory=128)
    yield Shell(run.timeline)
    run.close()


def test_a_session(shell: Shell) -> None:
    do = shell.execute
    assert re.fullmatch(r"\[1\] store at 0x1000\w\w", do("b store"))
    assert "[1] store: 0x1000" in do("c")
    assert do("points") == "[1] store"
    assert "mov qword ptr [rip" in do("disassemble $rip 1")
    assert do("u").startswith("=> 0x1000")
    assert "rbx 0000000000000001" in do("registers")
    assert do("watch value") == "[2] watch value"
    assert "write of 8 bytes at 0x" in do("continue")
    assert re.search(r"  01 00 00 00 00 00 00 00  ", do("memory value 8"))
    assert do("place").startswith("0+")
    assert "store" in do("reverse-step")
    place = do("place").split(",")[0]
    do("delete")
    assert "[3]" in do("tbreak crash")
    assert "crash" in do("c")
    assert do("points") == "no stop point is set"
    assert "the run ended" in do("continue")
    assert "d1v0 Unhandled: vec 14, #PF[0002]" in do("crash")
    assert place in do(f"goto {place}")
    assert "the start of the run" in do("rc")
    assert do("symbol store").endswith("stage0:micro-1:store")


def test_views_of_memory_agree(shell: Shell) -> None:
    do = shell.execute
    do("break store")
    do("c")
    walk = do("walk value")
    maddr = re.search(r"machine address (0x\w+) \(mfn (0x\w+)\)", walk)
    assert maddr is not None
    mfn = maddr[2]
    pfn = do(f"m2p {mfn}").split("pfn ")[1].split(",")[0]
    assert do(f"p2m {pfn}") == f"pfn {pfn} = mfn {mfn}"
    assert do(f"pfn {pfn} 32") == do(f"mfn {mfn} 32")
    assert f"mfn {mfn}: owner GUEST, type WRITABLE" in do(f"mfn {mfn}")
    assert walk.startswith("Pagetable walk from ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "nonsense: no such command"),
        ("reverse", "that may be reverse-continue, reverse-finish, reverse-next, reverse-step"),
        ("break nowhere", "break nowhere: no such symbol"),
        ("break hypercall bogus", "no hypercall 'bogus'"),
        ("break hypercall sched_op arg9=1", "'arg9=1' is no condition"),
        ("break console (", "not a regular expression"),
        ("break xenstore", "give a path"),
        ("break disk xvda x-y", "'x-y' are no sectors"),
        ("break disk xvdz:/boot", "disk xvdz: no such disk; there is none"),
        ("break fault #XX", "no such exception"),
        ("break stage x", "is no number of a stage"),
        ("watch 0x7000000000", "0x7000000000: nothing is mapped there now"),
        ("watch value x", "not a size"),
        ("memory 0x7000000000", "nothing is mapped there"),
        ("memory $nonsense", "$nonsense: no such register"),
        ("memory", "memory: something is missing; write memory ADDRESS [SIZE]"),
        ("mfn 1", "mfn 0x1: this machine has 0x40000 to"),
        ("pfn 0xffffff", "pfn 0xffffff: the domain has"),
        ("xenstore /nowhere", "xenstore /nowhere: "),
        ("delete 7", "no such stop point"),
        ("step x", "not a number of instructions"),
        ("goto x", "goto x: not a place"),
        ("goto 100+0", "the run is at 0+0 and goes there by itself only"),
        ("set value zz", "'zz' are no bytes"),
        ("memory 'x", "no closing quotation"),
    ],
)
def test_one_line_for_what_makes_no_sense(shell: Shell, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        shell.execute(line)
    assert "\n" not in str(error.value)


def test_a_grub(grub: Shell) -> None:
    do = grub.execute
    assert do("break disk xvda:/boot/grub/grub.cfg").startswith("[1] ")
    assert "xvda operation 0, sectors " in do("continue")
    do("delete")
    do("break console GNU GRUB")
    assert "console: 'GNU GRUB'" in do("continue")
    assert "GNU GRUB" in do("screen")
    assert "ring-ref" in do("rings")
    assert re.search(r"^port \d+: interdomain ", do("events"), re.MULTILINE)
    assert re.search(r"^ref \d+: access for domain 0, frame 0x\w+", do("grants"), re.MULTILINE)
    assert '/local/domain/1/device/vbd/51712/ring-ref = "' in do("xenstore /local/domain/1/device")
    assert "#0  0x" in do("backtrace")
    assert re.search(r" event_channel_op\(.*  at stage0:kernel:", do("hypercalls"))
    assert "kernel" in do("modules")
    assert do("stages").startswith("stage 0: GRUB")
    here = do("place")
    do("finish")
    do("reverse-next")
    assert do("place") == here
    assert "stage0:kernel:" in do("reverse-finish")


def test_help_knows_all(shell: Shell) -> None:
    text = shell.execute("help")
    assert all(name in text for name in shell.names)
    assert "break fault" in shell.execute("help break")


def test_keys_as_they_are_written() -> None:
    assert unescape(r"ab\r\n\t\e[A\x41\\") == b"ab\r\n\t\x1b[AA\\"


def test_a_console_among_other_text() -> None:
    text = ConsoleText()
    shown = b"".join(text.feed(bytes([byte])) for byte in b"a\x1b[1;31mb\x1b[0m\r\nc\x1b[5;1Hd\x1b[5;2He\x1b[9;1Hf\x07")
    assert shown == b"ab\nc\nde\nf"
