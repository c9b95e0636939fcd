"""tools/bench.py runs: a job, timed and with its stopwatch inside, comes to a table without a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_job_is_timed_and_taken_apart(tmp_path: Path) -> None:
    report = tmp_path / "bench.json"
    done = subprocess.run(
        [sys.executable, ROOT / "tools/bench.py", "--runs", "1", "--job", "prompt", "--json", report],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "polls" in done.stdout
    assert "prompt" in report.read_text()
