"""A stock gdb, forwards and backwards."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.micro_guests import NOTES32, SCRIPT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.gdbstub.conftest import Serve


def _values(text: str) -> list[int]:
    """What `print/x` showed, in order."""
    return [int(found, 16) for found in re.findall(r"^\$\d+ = (0x[0-9a-f]+)", text, re.MULTILINE)]


def test_from_a_crash_back_to_who_stored_last(serve: Serve, kernel: Path, gdb: Callable[..., str]) -> None:
    served = serve(kernel, "--memory", "16")
    said = gdb(
        f"symbol-file {kernel}", f"target remote {served.address}", "continue", "print/x $pc == &crash",
        "watch *(long *)&value", "reverse-continue", "print/x $pc == &store", "print/x *(long *)&value",
        "delete", "break store", "reverse-continue", "print/x $rbx", "reverse-stepi", "print/x $pc == (long)&store - 3",
        "delete", "reverse-continue", "print/x $pc == &_start", "kill",
    )  # fmt: skip
    assert "Program received signal SIGSEGV" in said
    assert "Unhandled: vec 14, #PF[0002]" in said, "Xen's crash text"
    assert "No more reverse-execution history" in said
    assert _values(said) == [1, 1, 19, 19, 1, 1], said
    assert served.end()[0] == 0


def test_forwards(serve: Serve, kernel: Path, gdb: Callable[..., str]) -> None:
    served = serve(kernel, "--memory", "16")
    said = gdb(
        f"symbol-file {kernel}", f"target remote {served.address}", "hbreak store", "continue", "continue",
        "print/x $rbx", "stepi", "print/x *(long *)&value", "info registers cr3 fs_base cs eflags", "print $xmm3",
        "delete", "awatch *(long *)&value", "continue", "print/x $rbx", "print/x $cs & 0xffff", "set var $rbx = 0x55",
        "print/x $rbx", "print/x *(char *)0x7fff00000000", "kill",
    )  # fmt: skip
    assert _values(said) == [2, 2, 3, 0xE033, 0x55], said
    assert "Hardware assisted breakpoint 1" in said
    assert "Hardware access (read/write) watchpoint 2" in said
    assert re.search(r"^cr3 +0x[0-9a-f]+000", said, re.MULTILINE)
    assert re.search(r"^eflags +0x2[0-9a-f]+ +\[.*IF.*\]", said, re.MULTILINE)
    assert "uint128 = 0" in said
    assert "Cannot access memory at address 0x7fff00000000" in said


def test_monitor_commands_and_events(serve: Serve, kernel: Path, gdb: Callable[..., str]) -> None:
    served = serve(kernel, "--memory", "16")
    said = gdb(
        f"target remote {served.address}", "monitor break hypercall sched_op", "continue", "monitor hypercalls",
        "monitor xenstore /local/domain/1/name", "monitor nonsense", "monitor place", "monitor quit", "kill",
    )  # fmt: skip
    assert "[1] sched_op(0x0, 0x0) = 0: " in said
    assert re.search(r"sched_op\(0x0, 0x0\) = 0  at stage0:\S+$", said, re.MULTILINE), "the list of hypercalls"
    assert "nonsense: no such command; `help` lists them" in said
    assert "1+0, 0.000" in said
    assert "quit is gdb's own" in said


def test_32_bits(serve: Serve, assemble: Callable[..., Path], gdb: Callable[..., str]) -> None:
    source = """
    .text
    .globl _start
_start:
    mov $7, %ebx
    inc %ebx
    push %ebx
stored:
    mov $29, %eax
    int $0x82
    jmp stored
    """
    elf = assemble(NOTES32 + source, bits=32, script=SCRIPT)
    served = serve(elf, "--memory", "16")
    said = gdb(
        f"symbol-file {elf}", f"target remote {served.address}", "break stored", "continue", "print/x $ebx",
        "print/x *(int *)$esp", "x/2i $pc", "reverse-stepi", "reverse-stepi", "print/x $ebx", "info registers eip",
        "kill",
    )  # fmt: skip
    assert _values(said) == [8, 8, 7], said
    assert "int    $0x82" in said
    assert "<_start+5>" in said


def test_symbols_of_a_grub_and_the_stage_after_it(
    serve: Serve, guest: Callable[[str, str], Path], gdb: Callable[..., str], tmp_path: Path
) -> None:
    """The script that is written: connects, loads symbols, and loads them anew when another stage runs."""
    script = tmp_path / "guest.gdb"
    served = serve(
        guest("pvgrub", "grub-x86_64-xen.bin"), "--disk", guest("chain", "chain.img"), "--memory", "128",
        "--script", script,
    )  # fmt: skip
    assert f"gdb -x {script}" in served.greeting
    said = gdb(
        "monitor break stage 1", "continue", "monitor stages", "info registers rip", "symbols", "reverse-stepi",
        "monitor symbol $rip", "kill", script=script,
    )  # fmt: skip
    assert "stage 1 starts: " in said
    assert re.search(r"^stage 1: ", said, re.MULTILINE)
    assert f"wrote {script}.symbols" in said
    assert (tmp_path / "guest.gdb.symbols").read_text().startswith("set confirm off\nsymbol-file\n")
