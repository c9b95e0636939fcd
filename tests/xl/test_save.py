"""`xl save`, which writes nothing: a guest suspends, is looked at as libxc does, and goes on or is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from tests.xl.conftest import Xl

    Config = Callable[..., Path]

#: Suspends at once, with its start_info's frame, and tells what its hypercall returned.
SUSPEND = """
        mov     104(%rbx), %rax                 # start_info.mfn_list
        mov     %rbx, %rcx
        shr     $12, %rcx
        mov     (%rax, %rcx, 8), %rdx
        movq    $2, argument(%rip)
        mov     $2, %edi
        lea     argument(%rip), %rsi
        mov     $29, %eax
        syscall
        add     $'0', %al
        mov     %al, result(%rip)
        lea     result(%rip), %rsi
        mov     $1, %edx
        call    write_console
        shutdown 0
result: .byte   0
"""


def save(xl: Xl, config: Config, name: str, *words: str) -> tuple[int, str, subprocess.Popen[str]]:
    """Have a guest saved that suspends when it is unpaused: exit code, what followed on stderr, a console of it."""
    assert xl("create", "-q", "-p", config(name, SUSPEND)).code == 0
    console = xl.start("console", name)
    saving = xl.start("save", *words, name, "/dev/null")
    assert saving.stderr is not None
    first = saving.stderr.readline()
    assert first == "Saving to /dev/null new xl format (info 0x3/0x0/0)\n"
    assert xl("unpause", name).code == 0
    _, err = saving.communicate(timeout=60)
    return saving.returncode, err, console


def test_a_guest_that_names_no_p2m(xl: Xl, config: Config) -> None:
    code, err, console = save(xl, config, "unsaved", "-c")
    assert code == 1
    lines = err.splitlines()
    assert lines[0].startswith("libxl: error: Domain ")
    assert lines[0].endswith(": max_pfn 0xffffffffffffffff too large for p2m tree")
    assert lines[1:] == ["Failed to save domain, resuming domain"]
    assert console.communicate(timeout=60)[0] == "1"  # resumed, and told so
    xl.wait_gone("unsaved")


def test_a_file_that_would_be_written(xl: Xl, config: Config) -> None:
    assert xl("create", "-q", "-p", config("file", SUSPEND)).code == 0
    done = xl("save", "-c", "file", "checkpoint")
    assert (done.code, done.err) == (
        1, "pvemu writes no save files, and restores none; give /dev/null to hear whether the domain could be saved\n",
    )  # fmt: skip
    assert xl("save", "-c", "nobody", "/dev/null").err == "nobody is an invalid domain identifier (rc=-6)\n"
    assert xl("destroy", "file").code == 0
