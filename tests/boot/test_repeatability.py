"""Two runs of one command give the same bytes, hypercalls and guest times, whatever the machine is doing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RECORD_RUN = Path(__file__).parent / "record_run.py"
ROOT = Path(__file__).parents[2]


class Run(NamedTuple):
    console: bytes
    hypercalls: str
    report: dict[str, object]


def run(scratch: Path, hash_seed: str, *arguments: str) -> Run:
    scratch.mkdir()
    log, report = scratch / "log", scratch / "report.json"
    done = subprocess.run(
        [sys.executable, RECORD_RUN, log, "boot", *arguments, "--json", report],
        stdin=subprocess.DEVNULL, capture_output=True, check=False,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(report.read_text())
    assert result.pop("wall_seconds") > 0
    return Run(done.stdout, log.read_text(), result)


@contextmanager
def busy_machine() -> Iterator[None]:
    """Keeps every core busy, so that wall time and guest time part."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def test_other_process_other_hash_seed_other_load(guest: Callable[[str, str], Path], tmp_path: Path) -> None:
    grub, disk = guest("pvgrub", "grub-x86_64-xen.bin"), guest("demo", "demo.img")
    # Keys are part of it.
    arguments = [str(grub), "--memory", "128", "--disk", f"xvda={disk}", "--send", r"\x1b[B", "--send", r"\r"]
    first = run(tmp_path / "first", "1", *arguments)
    with busy_machine():
        second = run(tmp_path / "second", "4294967295", *arguments)
    assert first.console == second.console
    assert first.report == second.report
    assert len(first.hypercalls.splitlines()) > 5_000
    for number, (one, other) in enumerate(
        zip(first.hypercalls.splitlines(), second.hypercalls.splitlines(), strict=True)
    ):
        assert one == other, f"hypercall log, line {number}"


def test_other_keys_are_another_run(guest: Callable[[str, str], Path], tmp_path: Path) -> None:
    """The comparison above is worth something: the log does show what a guest was given to do."""
    grub = str(guest("pvgrub", "grub-x86_64-xen.bin"))
    first, second = (
        run(tmp_path / keys, "random", grub, "--memory", "64", "--send", f"{keys}\\r", "--send", r"halt\r")
        for keys in ("ls", "ld")
    )
    assert first.console != second.console
    assert first.hypercalls != second.hypercalls
