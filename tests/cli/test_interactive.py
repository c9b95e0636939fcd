"""`pvemu boot` at a terminal: a real pseudo-terminal, looked at through a screen as a person does."""

from __future__ import annotations

import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from fcntl import ioctl
from typing import TYPE_CHECKING

import pyte
import pytest

from pvemu.cli import main
from tests.cli.conftest import ECHO, ROOT, command, default_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cli.conftest import MakeGuest

    Guest = Callable[[str, str], Path]

PATIENCE = 30  # wall seconds
LEAVE, DOWN = b"\x1d", b"\x1b[B"


class AtTerminal:
    """A command with a terminal of 24 lines and 80 columns: what it shows, and what is typed."""

    def __init__(self, *arguments: str | Path) -> None:
        self.master, self.slave = pty.openpty()
        ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.screen = pyte.Screen(80, 24)
        self.stream = pyte.ByteStream(self.screen)
        self.output = b""
        self.process = subprocess.Popen(
            command("boot", *arguments), cwd=ROOT, stdin=self.slave, stdout=self.slave, stderr=subprocess.PIPE,
            preexec_fn=default_signals,  # noqa: PLW1509 - the tests have no other thread
        )  # fmt: skip

    def _read(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], max(seconds, 0))[0]:
            return False
        data = os.read(self.master, 4096)
        self.output += data
        self.stream.feed(data)
        return True

    def wait_for(self, seen: Callable[[list[str]], object], patience: float = PATIENCE) -> list[str]:
        """The screen, once ``seen`` likes it."""
        end = time.monotonic() + patience
        while not seen(self.screen.display):
            assert self._read(end - time.monotonic()), "\n".join(self.screen.display)
        return list(self.screen.display)

    def wait_for_text(self, text: str, patience: float = PATIENCE) -> None:
        """Until the screen shows ``text``."""
        self.wait_for(lambda lines: any(text in line for line in lines), patience)

    def type(self, keys: bytes) -> None:
        """As a person would."""
        os.write(self.master, keys)

    def leave(self) -> tuple[int, str]:
        """Wait for its end: exit code and stderr. The terminal must be as it was."""
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            self._read(0.05)
            assert time.monotonic() < end, "it does not end"
        while self._read(0):
            pass
        assert termios.tcgetattr(self.slave) == self.before
        assert self.process.stderr is not None
        return self.process.returncode, self.process.stderr.read().decode()

    def close(self) -> None:
        """Leave nothing behind."""
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def at_terminal() -> Iterator[Callable[..., AtTerminal]]:
    """Starts `pvemu boot` at a terminal."""
    started: list[AtTerminal] = []

    def start(*arguments: str | Path) -> AtTerminal:
        started.append(AtTerminal(*arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()


def highlighted(lines: list[str]) -> str:
    """The menu's entry under the bar, which GRUB marks with a star."""
    return next((line.strip("| ") for line in lines if line.startswith(" |*")), "")


def test_the_menu_moves_with_the_arrow_keys(at_terminal: Callable[..., AtTerminal], guest: Guest) -> None:
    one = at_terminal(guest("pvgrub", "grub-x86_64-xen.bin"), "--disk", f"xvda={guest('menu', 'menu.img')}")
    one.wait_for(lambda lines: highlighted(lines) == "*oracle-marker-entry")
    one.type(DOWN)
    one.wait_for(lambda lines: highlighted(lines) == "*second entry")
    one.type(LEAVE)
    code, err = one.leave()
    assert code == 0
    assert "pvemu: Ctrl-] leaves\n" in err
    assert "pvemu: success: left with Ctrl-]" in err
    assert one.output.endswith(b"\x1b[0m\x1b[?25h\x1b[24;1H\r\r\n"), "colours and cursor are the shell's again"


def test_a_countdown_runs_as_the_clock_on_the_wall(at_terminal: Callable[..., AtTerminal], guest: Guest) -> None:
    started = time.monotonic()
    one = at_terminal(guest("pvgrub", "grub-x86_64-xen.bin"), "--disk", f"xvda={guest('timeout', 'timeout.img')}")
    one.wait_for_text("executed automatically in 1s")
    code, err = one.leave()
    assert (code, "powered itself off" in err) == (0, True)
    assert time.monotonic() - started > 2.5, "two seconds of countdown and one of sleep"


def test_what_a_person_typed_is_typed_again(
    at_terminal: Callable[..., AtTerminal], guest: Guest, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    recording = tmp_path / "keys.rec"
    one = at_terminal(guest("pvgrub", "grub-x86_64-xen.bin"), "--memory", "64", "--record", recording)
    one.wait_for_text("grub> ")
    one.type(b"set x=world\r")
    one.type(b"echo hello $x\r")
    one.wait_for_text("hello world")
    one.type(LEAVE)
    assert one.leave()[0] == 0
    assert main(["replay", str(recording)]) == 0
    again = capfdbinary.readouterr()
    assert b"hello world" in again.out
    assert again.out.rstrip() in one.output, "byte for byte"
    assert b"left with Ctrl-]" in again.err


def test_keys_go_to_the_guest(at_terminal: Callable[..., AtTerminal], micro: MakeGuest) -> None:
    one = at_terminal(micro(ECHO))
    for key in "ab\x03\x1a":  # Ctrl-C and Ctrl-Z are the guest's too
        one.wait_for_text("key? ")
        seen = len(one.output)
        one.type(key.encode())
        one.wait_for(lambda _, key=key, seen=seen: key.encode() in one.output[seen:])  # type: ignore[misc]
    one.type(b"q")
    assert one.leave()[0] == 0
    assert b"key? akey? bkey? \x03key? \x1akey? " in one.output


def test_leaving_before_the_match_is_5(at_terminal: Callable[..., AtTerminal], micro: MakeGuest) -> None:
    one = at_terminal(micro(ECHO), "--until", "never")
    one.wait_for_text("key?")
    one.type(LEAVE)
    assert one.leave()[0] == 5


def test_a_match_ends_it(at_terminal: Callable[..., AtTerminal], micro: MakeGuest, tmp_path: Path) -> None:
    transcript = tmp_path / "transcript"
    one = at_terminal(micro(ECHO), "--until", "x", "--transcript", transcript)
    one.wait_for_text("key?")
    one.type(b"x")
    assert one.leave()[0] == 0
    assert transcript.read_bytes() == b"key? x"


@pytest.mark.parametrize(
    "busy", ["2: rdtsc\njmp 2b", "2: sched_op 0, 0\njmp 2b", "2: jmp 2b", "movl $1000000000, %ecx\n2: loop 2b\njmp 2b"]
)
def test_a_busy_guest_can_be_left(busy: str, at_terminal: Callable[..., AtTerminal], micro: MakeGuest) -> None:
    one = at_terminal(micro(f'print "busy"\n{busy}'))
    one.wait_for_text("busy")
    one.type(LEAVE)
    code, err = one.leave()
    # A loop that can never end is found out sooner or later, whichever comes first.
    assert code == 0 or (code == 5 and "the guest hangs" in err), err


def test_after_a_crash_the_terminal_is_as_it_was(at_terminal: Callable[..., AtTerminal], micro: MakeGuest) -> None:
    one = at_terminal(micro('print "soon"\nud2'))
    code, err = one.leave()
    assert code == 6
    assert "(XEN) d1v0 Unhandled: vec 6, #UD" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_after_a_signal_too(
    number: signal.Signals, at_terminal: Callable[..., AtTerminal], micro: MakeGuest
) -> None:
    one = at_terminal(micro(ECHO))
    one.wait_for_text("key?")
    one.process.send_signal(number)
    code, err = one.leave()
    assert (code, err) == (128 + number, f"pvemu: Ctrl-] leaves\npvemu: interrupted by {number.name}\n")


def test_bad_input_leaves_the_terminal_alone(at_terminal: Callable[..., AtTerminal], tmp_path: Path) -> None:
    code, err = at_terminal(tmp_path / "none").leave()
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.slow
def test_a_linux_shell_answers(at_terminal: Callable[..., AtTerminal], guest: Guest) -> None:
    one = at_terminal(
        guest("debian-kernel", "vmlinuz"), "--memory", "128", "--ramdisk", guest("linux-root", "root.cpio.gz"),
        "--cmdline", "console=hvc0 quiet pvemu.do=shell",
    )  # fmt: skip
    one.wait_for_text("pvemu# ", patience=180)
    one.type(b"echo $((6*7)) of the\x7fm; tty\r")
    one.wait_for_text("42 of thm")
    one.wait_for_text("/dev/hvc0")
    one.type(b"echo sleeps; sleep 1000\r")
    one.wait_for(lambda lines: "sleeps" in [line.strip() for line in lines])
    one.type(b"\x03")
    one.type(b"echo $? after Ctrl-C\r")
    one.wait_for_text("130 after Ctrl-C")
    one.type(b"exit\r")
    code, err = one.leave()
    assert (code, "powered itself off" in err) == (0, True)
