"""What only a process can show: signals, and a reader that goes away."""

from __future__ import annotations

import signal
import subprocess
from typing import IO, TYPE_CHECKING

import pytest

from tests.cli.conftest import ECHO, SAY_AND_POWER_OFF

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import MakeGuest

    Start = Callable[..., subprocess.Popen[bytes]]

PATIENCE = 30  # wall seconds
ENDLESS = '1: print "again and again and again\\n"\njmp 1b'
#: Guest time runs, and nothing else: what a wait for ever looks like to the user.
BUSY = 'print "busy\\n"\n1: rdtsc\njmp 1b'
SPINS = 'print "busy\\n"\n1: jmp 1b'
COMPUTES = 'print "busy\\n"\n1: inc %rax\njmp 1b'


def pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("source", [BUSY, ENDLESS, COMPUTES], ids=["polling", "talking", "computing"])
def test_a_signal_ends_it_in_one_line(
    number: signal.Signals, source: str, start_pvemu: Start, micro: MakeGuest, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    process = start_pvemu("boot", micro(source), "--timeout", "1e9", "--json", report)
    assert pipe(process.stdout).readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err.decode()) == (128 + number, f"pvemu: interrupted by {number.name}\n")
    assert f'"reason": "interrupted by {number.name}"' in report.read_text()


def ignore_hangup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_a_signal_that_was_ignored_stays_so(start_pvemu: Start, micro: MakeGuest) -> None:
    """As under nohup."""
    process = start_pvemu("boot", micro(ECHO), "--send", "q", preexec_fn=ignore_hangup)
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=PATIENCE)[0] == b"key? "
    assert process.returncode == 0


def test_a_guest_that_spins_for_ever_is_found_out(start_pvemu: Start, micro: MakeGuest) -> None:
    process = start_pvemu("boot", micro(SPINS))
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (5, b"busy\n")
    assert b"pvemu: failure: the guest hangs: it repeats 1 instruction at 0x100" in err
    assert b" for ever (at stage0:micro-1:main+0x" in err


def test_a_reader_that_goes_away_is_no_error(start_pvemu: Start, micro: MakeGuest) -> None:
    """`pvemu boot ... | head -1`."""
    process = start_pvemu("boot", micro(ENDLESS))
    assert pipe(process.stdout).readline() == b"again and again and again\n"
    pipe(process.stdout).close()
    assert process.wait(timeout=PATIENCE) == 128 + signal.SIGPIPE
    assert pipe(process.stderr).read() == b""
    pipe(process.stderr).close()


def test_stdout_that_is_full_is_told(start_pvemu: Start, micro: MakeGuest) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        process = start_pvemu("boot", micro(SAY_AND_POWER_OFF), stdout=full)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert err == b"pvemu: stdout: cannot be written (No space left on device); make room or send it elsewhere\n"


def test_stdin_is_not_read(start_pvemu: Start, micro: MakeGuest) -> None:
    """Without a terminal only `--send` types: a script's own input is not eaten."""
    process = start_pvemu("boot", micro(ECHO), "--timeout", "5", stdin=subprocess.PIPE)
    out, _ = process.communicate(b"q", timeout=PATIENCE)
    assert (process.returncode, out) == (5, b"key? ")
