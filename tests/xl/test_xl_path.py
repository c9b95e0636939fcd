"""tools/xl-path: an `xl` on the PATH for what knows nothing of pvemu."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools/xl-path"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ, "PVEMU_PYTHON": sys.executable, "PVEMU_RUN": str(tmp_path / "run"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": "",
    }  # fmt: skip


def run(words: list[str | Path], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=environment, cwd="/", capture_output=True, text=True, check=False)


def test_a_command_finds_it(environment: dict[str, str]) -> None:
    done = run([TOOL, "sh", "-c", "xl domname 0 && xl info xen_caps"], environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Domain-0\nxen-3.0-x86_64 xen-3.0-x86_32p \n", "")


def test_a_shell_takes_it_on(environment: dict[str, str]) -> None:
    done = run(["bash", "-c", f'eval "$({TOOL})" && xl domid Domain-0'], environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_a_python_without_what_it_takes_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    done = run([TOOL, "true"], {**environment, "PVEMU_PYTHON": str(python)})
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"xl-path: {python} has not what pvemu needs; run tools/setup, or name another in PVEMU_PYTHON\n"
    )
