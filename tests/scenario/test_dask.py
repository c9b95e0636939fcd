"""Scenarios on a dask cluster of this machine."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.scenario.conftest import environment

if TYPE_CHECKING:
    from pathlib import Path

#: A process of its own for the cluster: it brings threads and signal handlers that are no business of a test run.
CLUSTER = """
import subprocess, sys
if __name__ == "__main__":
    from distributed import LocalCluster
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        where = f"dask:{cluster.scheduler_address}"
        done = subprocess.run([sys.executable, "-m", "pvemu.cli", "test", ".", "--executor", where])
    sys.exit(done.returncode)
"""


def test_on_a_local_cluster(folder: Path) -> None:
    pytest.importorskip("distributed")
    head = '[[scenario]]\nname = "{}"\nkernel = "./loader:grub.bin"\nmemory = 64\nkeys = [{{ choose = "halt" }}]\n'
    (folder / "a.pvemu.toml").write_text(
        head.format("right") + '[scenario.expect]\nshutdown = "poweroff"\n'
        + head.format("wrong") + '[scenario.expect]\nshutdown = "reboot"\n',
        encoding="utf-8",
    )  # fmt: skip
    (folder / "cluster.py").write_text(CLUSTER, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "cluster.py"],
        cwd=folder, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert "ok       a.pvemu.toml::right" in done.stderr
    assert "FAILED   a.pvemu.toml::wrong" in done.stderr
    assert "expect.shutdown: wanted 'reboot', found 'poweroff'" in done.stderr
    assert "Traceback" not in done.stderr
