"""Running `pvemu` in this process or as one of its own, and guests small enough to say what they do in a line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pytest

from pvemu.cli import main
from tests.micro_guests import SCRIPT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Assemble

ROOT = Path(__file__).parents[2]
#: Notes, a console and hypercalls for the guests below: %rbx is start_info, %r12 the console ring's page.
PRELUDE = """
        .section .note.Xen, "a", @note
        .macro  note type:req, text:req
        .balign 4
        .long   4, 2f - 1f, \\type
        .asciz  "Xen"
1:      .asciz  "\\text"
2:      .balign 4
        .endm
        note 6, "micro"
        note 5, "xen-3.0"
        note 8, "generic"
        note 7, "7.5"
        .balign 4
        .long   4, 8, 3, 0x006e6558, 0, 0       # VIRT_BASE 0

        .macro  print text:req
        lea     9f(%rip), %rsi
        mov     $8f - 9f, %edx
        call    write_console
        jmp     8f
9:      .ascii  "\\text"
8:
        .endm
        .macro  sched_op command:req, argument:req
        movq    $\\argument, argument(%rip)
        mov     $\\command, %edi
        lea     argument(%rip), %rsi
        mov     $29, %eax
        syscall
        .endm
        .macro  shutdown reason:req
        sched_op 2, \\reason
        .endm

        .text
        .globl  _start
_start: mov     %rsi, %rbx
        lea     0x2000(%rsi), %r12              # start_info, xenstore, console
        jmp     main
write_console:                                  # %edx bytes at %rsi
        mov     3084(%r12), %ecx                # out_prod
1:      mov     %ecx, %eax
        and     $2047, %eax
        mov     (%rsi), %r8b
        mov     %r8b, 1024(%r12,%rax)
        inc     %ecx
        inc     %rsi
        dec     %edx
        jnz     1b
        mov     %ecx, 3084(%r12)
        mov     80(%rbx), %eax                  # console.domU.evtchn
        mov     %eax, argument(%rip)
        mov     $4, %edi                        # EVTCHNOP_send
        lea     argument(%rip), %rsi
        mov     $32, %eax
        syscall
        ret
read_console:                                   # %al
        mov     3072(%r12), %ecx                # in_cons
1:      cmp     %ecx, 3076(%r12)
        je      1b
        mov     %ecx, %edx
        and     $1023, %edx
        mov     (%r12,%rdx), %al
        inc     %ecx
        mov     %ecx, 3072(%r12)
        ret
        .balign 8
argument: .quad 0
main:
"""
#: Writes the domain's number (its handle's last byte; r13d has it then), to ``handle`` of 16 bytes and ``number`` of 1.
SAY_DOMID = """
        mov     $8, %edi                        # XENVER_guest_handle
        lea     handle(%rip), %rsi
        mov     $17, %eax
        syscall
        movzbl  handle+15(%rip), %r13d
        lea     '0'(%r13), %eax
        mov     %al, number(%rip)
        lea     number(%rip), %rsi
        mov     $1, %edx
        call    write_console
"""
SAY_AND_POWER_OFF = 'print "first line\\r\\nsecond line\\r\\n"\nshutdown 0'
#: Prints each key in brackets; powers off at `q`.
ECHO = """
1:      print "key? "
        call    read_console
        cmp     $'q', %al
        je      2f
        mov     %al, key(%rip)
        lea     key(%rip), %rsi
        mov     $1, %edx
        call    write_console
        jmp     1b
key:    .byte   0
2:      shutdown 0
"""


class Done(NamedTuple):
    """How a command ended, and its two streams."""

    code: int
    out: bytes
    err: str

    @property
    def line(self) -> str:
        """The one line of stderr, without its ending."""
        assert self.err.count("\n") == 1, self.err
        return self.err.rstrip("\n")


class Pvemu(Protocol):
    """What the `pvemu` fixture is: `pvemu("boot", path, ...)`."""

    def __call__(self, *arguments: str | Path) -> Done: ...


class MakeGuest(Protocol):
    """What the `micro` fixture is: assembler source in, a kernel's path out."""

    def __call__(self, source: str) -> Path: ...


@pytest.fixture
def pvemu(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Pvemu:
    """The command, in this process and without a terminal."""

    def run(*arguments: str | Path) -> Done:
        with Path(os.devnull).open() as nothing:
            monkeypatch.setattr(sys, "stdin", nothing)
            try:
                code = main([str(argument) for argument in arguments])
            except SystemExit as leaving:  # argparse's own errors
                code = int(leaving.code or 0)
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return Done(code, out, err.decode())

    return run


@pytest.fixture
def report(pvemu: Pvemu, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The object that `--json` writes for a command."""

    def run(*arguments: str | Path) -> dict[str, Any]:
        path = tmp_path / "report.json"
        pvemu(*arguments, "--json", path)
        result = json.loads(path.read_text())
        assert isinstance(result, dict)
        return result

    return run


@pytest.fixture
def micro(assemble: Assemble) -> MakeGuest:
    """Kernels from a few lines of assembler."""
    return lambda source: assemble(PRELUDE + source + "\n", script=SCRIPT)


def command(*arguments: str | Path) -> list[str | Path]:
    """The command as a process of its own."""
    return [sys.executable, "-m", "pvemu.cli", *arguments]


def default_signals() -> None:
    """Run in a new process before the program: no signal is ignored."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def start_pvemu() -> Callable[..., subprocess.Popen[bytes]]:
    """Starts the command as a process of its own: for what only a process can show."""

    def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        # A test run under nohup hands its ignored signals down, and pvemu honours those.
        streams.setdefault("preexec_fn", default_signals)
        return subprocess.Popen(command(*arguments), cwd=ROOT, **streams)

    return start
