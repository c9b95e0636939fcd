"""`pvemu trace` and `pvemu diff` as a user meets them: filters, places, formats, and what bad input is told."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.conftest import SAY_AND_POWER_OFF

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.cli.conftest import MakeGuest, Pvemu

    Start = Callable[..., subprocess.Popen[bytes]]

PATIENCE = 30  # wall seconds
REFERENCE = Path(__file__).parents[1] / "data" / "reference"
#: Something of every kind but for xenstore and disks.
BUSY = """
        print   "hello\\r\\n"
        mov     %cr0, %rax                      # emulated
        xor     %edi, %edi                      # update_va_mapping: page 0 goes away
        xor     %esi, %esi
        xor     %edx, %edx
        mov     $14, %eax
        syscall
        shutdown 0
"""
ENDLESS = """
1:      print   "again and again\\n"
        jmp     1b
"""


def events(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("option", "kind"),
    [("hypercalls", "hypercall"), ("events", "event"), ("faults", "fault"), ("pages", "page"), ("console", "console"),
     ("stages", "stage")],
)  # fmt: skip
def test_an_option_shows_its_kind_and_no_other(option: str, kind: str, pvemu: Pvemu, micro: MakeGuest) -> None:
    done = pvemu("trace", micro(BUSY), f"--{option}", "--format", "json")
    assert done.code == 0
    assert {event["kind"] for event in events(done.out)} == {kind}


@pytest.mark.parametrize(("option", "kind"), [("xenstore", "xenstore"), ("blocks", "block")])
def test_an_option_of_a_guest_with_a_disk(
    option: str, kind: str, pvemu: Pvemu, guest: Callable[[str, str], Path]
) -> None:
    kernel, disk = guest("pvgrub", "grub-x86_64-xen.bin"), guest("chain", "chain.img")
    arguments = ("--disk", f"xvda={disk}", "--until", "oracle-marker-entry", f"--{option}", "--format", "json")
    done = pvemu("trace", kernel, *arguments)
    assert done.code == 0
    assert {event["kind"] for event in events(done.out)} == {kind}


def test_hypercalls_are_what_is_shown_without_an_option(pvemu: Pvemu, micro: MakeGuest) -> None:
    kernel = micro(BUSY)
    plain, asked = pvemu("trace", kernel), pvemu("trace", kernel, "--hypercalls")
    assert plain.out == asked.out
    assert b"update_va_mapping(va=0, " in plain.out


def test_a_fault_says_what_was_emulated(pvemu: Pvemu, micro: MakeGuest) -> None:
    """`mov %cr0, %rax` is a #GP to the hypervisor, which does it for the guest."""
    lines = pvemu("trace", micro(BUSY), "--faults").out.decode().splitlines()
    assert [line.partition(": ")[2].partition("(")[0] for line in lines] == ["#GP", "emulated"]
    assert "opcode=0x" in lines[1]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("mov 0x7000000, %eax", "#PF(error_code=0x4, address=0x7000000, access=read)"),
        ("movb $1, 0x7000000", "#PF(error_code=0x6, address=0x7000000, access=write)"),
        ("mov $0x7000000, %eax\njmp *%rax", "#PF(error_code=0x14, address=0x7000000, access=fetch)"),
        ("ud2", "#UD()"),
    ],
    ids=["read", "write", "fetch", "undefined"],
)
def test_the_fault_that_ends_a_guest(source: str, shown: str, pvemu: Pvemu, micro: MakeGuest) -> None:
    done = pvemu("trace", micro(source), "--faults", "--memory", "16")
    assert done.code == 6
    lines = done.out.decode().splitlines()
    assert [line.partition(": ")[2] for line in lines] == [shown]


def test_only(pvemu: Pvemu, micro: MakeGuest) -> None:
    kernel = micro(BUSY)
    found = events(pvemu("trace", kernel, "--format", "json", "--only", "sched_op").out)
    assert [event["name"] for event in found] == ["sched_op"]
    rest = events(pvemu("trace", kernel, "--format", "json", "--only", "!sched_op").out)
    assert [event["name"] for event in rest] == ["event_channel_op", "update_va_mapping"]


def test_from_and_to(pvemu: Pvemu, micro: MakeGuest) -> None:
    """The last call has been made by then, so it is the first that is shown."""
    kernel = micro(BUSY)
    everything = events(pvemu("trace", kernel, "--format", "json").out)
    names = [event["name"] for event in everything]
    assert names == ["event_channel_op", "update_va_mapping", "sched_op"]
    late = events(pvemu("trace", kernel, "--format", "json", "--from", "hypercall:2").out)
    early = events(pvemu("trace", kernel, "--format", "json", "--to", "hypercall:2").out)
    assert 0 < len(late) < 3
    assert late == everything[3 - len(late) :]
    assert 0 < len(early) < 3
    assert early == everything[: len(early)]


def test_a_place_that_the_guest_never_comes_to(pvemu: Pvemu, micro: MakeGuest) -> None:
    done = pvemu("trace", micro(BUSY), "--from", "no_such_symbol")
    assert (done.code, done.out) == (0, b"")
    assert done.err.splitlines()[-1] == "pvemu: --from no_such_symbol: the guest never came there; nothing was traced"
    done = pvemu("trace", micro(BUSY), "--from", "hypercall:1", "--to", "stage:7")
    assert b"update_va_mapping" in done.out
    last = done.err.splitlines()[-1]
    assert last == "pvemu: --to stage:7: the guest never came there; the trace goes on to the end"
    assert "never came" not in pvemu("trace", micro(BUSY), "--from", "hypercall:1", "--to", "hypercall:2").err


def test_last(pvemu: Pvemu, micro: MakeGuest) -> None:
    kernel = micro(BUSY)
    whole = pvemu("trace", kernel, "--insns").out.splitlines()
    assert pvemu("trace", kernel, "--insns", "--last", "5").out.splitlines() == whole[-5:]
    assert b"syscall" in whole[-1]


def test_a_file_gets_what_standard_output_would(pvemu: Pvemu, micro: MakeGuest, tmp_path: Path) -> None:
    kernel, path = micro(BUSY), tmp_path / "trace"
    shown = pvemu("trace", kernel)
    done = pvemu("trace", kernel, "-o", path)
    assert (done.code, done.out, done.err.partition(" in ")[0]) == (0, b"", shown.err.partition(" in ")[0])
    assert path.read_bytes() == shown.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--format", "yaml"), "--format: invalid choice: 'yaml'"),
        (("--from", "stage:x"), "--from stage:x: "),
        (("--to", "time:soon"), "--to time:soon: "),
        (("--insns", "--last", "few"), "--last few: "),
        (("--last", "5"), "--last: "),
        (("--symbols", "/nowhere"), "--symbols /nowhere: "),
        (("-o", "/nowhere/trace"), "--output /nowhere/trace: "),
    ],
)
def test_bad_input_is_told_in_a_line(
    arguments: tuple[str, ...], said: str, pvemu: Pvemu, micro: MakeGuest
) -> None:
    done = pvemu("trace", micro(BUSY), *arguments)
    assert (done.code, done.out) == (2, b"")
    last = done.err.splitlines()[-1]
    assert said in last
    assert "Traceback" not in done.err


def test_a_reader_that_goes_away(start_pvemu: Start, micro: MakeGuest) -> None:
    process = start_pvemu("trace", micro(ENDLESS), "--timeout", "1e9")
    assert process.stdout is not None
    assert b"event_channel_op" in process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read().decode()
    process.stderr.close()
    process.wait(timeout=PATIENCE)
    assert "Traceback" not in err
    assert err.count("\n") <= 1


def test_ctrl_c(start_pvemu: Start, micro: MakeGuest) -> None:
    process = start_pvemu("trace", micro(ENDLESS), "--timeout", "1e9")
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err.decode()) == (128 + signal.SIGINT, "pvemu: interrupted by SIGINT\n")
    assert out.endswith(b"\n")  # what was seen until then is all there


# -- diff --------------------------------------------------------------------------------------------------------------
def test_a_run_and_itself(pvemu: Pvemu, micro: MakeGuest) -> None:
    kernel = micro(SAY_AND_POWER_OFF)
    done = pvemu("diff", kernel, kernel)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(b"no difference in ")


def test_two_saved_traces(pvemu: Pvemu, micro: MakeGuest, tmp_path: Path) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    for path, source in ((one, BUSY), (other, SAY_AND_POWER_OFF)):
        assert pvemu("trace", micro(source), "--format", "json", "-o", path).code == 0
    assert pvemu("diff", one, one).out == b"no difference in 3 events\n"
    done = pvemu("diff", one, other)
    assert (done.code, done.err) == (1, "")
    first, *rest = done.out.decode().splitlines()
    assert first == "the same for 1 events, the last of them:"
    assert f"--- {one}" in rest
    assert f"+++ {other}" in rest
    assert [line[0] for line in rest if "update_va_mapping" in line] == ["-"]


def test_a_run_and_the_console_of_a_real_xen(pvemu: Pvemu, guest: Callable[[str, str], Path], tmp_path: Path) -> None:
    """The same but for how fast a file was read, which is the host's; a word changed in it is found."""
    kernel, real = guest("pvgrub", "grub-x86_64-xen.bin"), tmp_path / "real"
    recorded = b"".join((REFERENCE / "grub64-nodisk.txt").read_bytes().partition(b"grub> ")[:2])
    assert b"5.94KiB/s" in recorded
    real.write_bytes(recorded.replace(b"5.94KiB/s", b"0.00B/s"))
    done = pvemu("diff", kernel, real, "--until", "grub> ")
    assert (done.code, done.err) == (0, ""), done.out.decode()
    assert b"lines of console" in done.out
    changed = tmp_path / "console"
    changed.write_bytes(real.read_bytes().replace(b"line editing", b"lime editing"))
    done = pvemu("diff", kernel, changed, "--until", "grub> ")
    assert done.code == 1
    assert b"lime editing" in done.out.partition(b"+++ ")[2]


def test_two_loaders(pvemu: Pvemu, guest: Callable[[str, str], Path]) -> None:
    kernels = [guest("pvgrub", f"grub-{target}-xen.bin") for target in ("x86_64", "i386")]
    done = pvemu("diff", *kernels, "--until", "grub> ", "--hypercalls")
    assert (done.code, done.err) == (1, "")
    marks = [line[:3] for line in done.out.decode().splitlines()]
    assert marks.count("---") == marks.count("+++") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("/nowhere", "/nowhere"), "/nowhere: cannot be read"),
        ((REFERENCE / "grub64-nodisk.txt", REFERENCE / "grub32-menu.txt", "--a", "--memory 8"), "is no kernel"),
        ((REFERENCE / "grub64-nodisk.txt", REFERENCE / "grub32-menu.txt", "--lines", "no"), "--lines no: "),
    ],
)
def test_bad_input_to_a_comparison(arguments: tuple[str | Path, ...], said: str, pvemu: Pvemu) -> None:
    done = pvemu("diff", *arguments)
    assert (done.code, done.out) == (2, b"")
    assert said in done.line
