"""The line on stderr that shows how far a run is: for people, and only where it spoils nothing."""

from __future__ import annotations

import os
import pty
import subprocess
from typing import TYPE_CHECKING

import pytest

from pvemu.cli.progress import is_wanted
from tests.cli.conftest import ROOT, command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import MakeGuest

#: Computes for a few seconds, and then says so.
COMPUTES = """
        mov     $0x14000000, %ecx
1:      dec     %ecx
        jnz     1b
        print   "computed"
        shutdown 0
"""


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: what a person looks at, and what a program writes to."""
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def shown(master: int) -> str:
    os.set_blocking(master, False)
    try:
        return os.read(master, 1 << 16).decode()
    except BlockingIOError:
        return ""


def test_it_is_drawn_and_taken_away(micro: MakeGuest, terminal: tuple[int, int]) -> None:
    master, slave = terminal
    done = subprocess.run(
        command("boot", micro(COMPUTES)), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=slave,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"computed")
    seen = shown(master)
    first, *_, last = seen.split("\r\x1b[K")[1:]
    assert first.startswith("pvemu: micro (stage 0): 0.")
    assert " guest s, 0 hypercalls, " in first
    assert "\n" not in first
    assert last.startswith("pvemu: stage 0: micro 7.5, entry 0x100000"), "the verdict, on a clean line"


def test_a_pipe_gets_none_of_it(micro: MakeGuest, terminal: tuple[int, int]) -> None:
    done = subprocess.run(
        command("boot", micro(COMPUTES)), cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"computed")
    assert [line[:14] for line in done.stderr.decode().split("\n")] == ["pvemu: stage 0", "pvemu: success", ""]


@pytest.mark.parametrize(("out", "err", "wanted"), [
    ("one", "one", False), ("other", "one", True), ("file", "one", True), ("one", "file", False),
])  # fmt: skip
def test_the_terminal_that_shows_the_console_shows_no_line(
    out: str, err: str, wanted: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pairs = {"one": pty.openpty(), "other": pty.openpty()}
    opened = [os.fdopen(fd, "w") for pair in pairs.values() for fd in pair]
    streams = {"one": opened[1], "other": opened[3], "file": (tmp_path / "file").open("w")}
    try:
        monkeypatch.setattr("sys.stdout", streams[out])
        monkeypatch.setattr("sys.stderr", streams[err])
        assert is_wanted() == wanted
    finally:
        monkeypatch.undo()
        for stream in (*opened, streams["file"]):
            stream.close()
