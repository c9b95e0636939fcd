"""Runs side by side: their order, what they raise, and that nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pvemu.testing.parallel import LostRunError, run_parallel

ROOT = Path(__file__).parents[2]


def late_double(number: int) -> int:
    time.sleep(0.05 * (3 - number % 4))
    return 2 * number


def test_results_come_in_the_order_of_the_tasks() -> None:
    assert list(run_parallel(late_double, list(range(8)), jobs=4)) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert list(run_parallel(late_double, [3], jobs=4)) == [6]


def test_a_large_result_comes_whole() -> None:
    assert [len(text) for text in run_parallel(lambda size: b"x" * size, [1 << 20, 3 << 20], jobs=2)] == [
        1 << 20,
        3 << 20,
    ]


def test_what_a_run_raises_is_raised() -> None:
    def run(number: int) -> int:
        if number == 1:
            raise ValueError("one")
        return number

    with pytest.raises(ValueError, match="one"):
        list(run_parallel(run, [0, 1, 2], jobs=2))


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(LostRunError, match="the process of run 2 died"):
        list(run_parallel(lambda n: os.kill(os.getpid(), signal.SIGKILL) if n else 0, [0, 1], jobs=2))


def test_an_interrupt_ends_all_of_it() -> None:
    program = (
        "import time, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pvemu.testing.parallel import run_parallel\n"
        "print('ready', flush=True)\n"
        "list(run_parallel(time.sleep, [60, 60, 60], jobs=2))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)  # the pipes close only when every child is gone
    assert "KeyboardInterrupt" in err
