"""tools/setup on machines that lack something: one line that says what, and what to do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Protocol

import pytest

ROOT = Path(__file__).resolve().parent.parent


class Setup(Protocol):
    """Runs tools/setup of a copy of the checkout with a stand-in for Python: a shell script."""

    def __call__(self, python: str, *arguments: str) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/setup", tmp_path / "tools/setup")
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")

    def run(python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        fake = tmp_path / "python"
        fake.write_text(f"#!/bin/sh\n{python}\n", encoding="utf-8")
        fake.chmod(0o755)
        command = [str(tmp_path / "tools/setup"), *arguments]
        environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(fake)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


# Makes a .venv whose python notes its arguments, as the real one would be made.
WORKS = """echo "$*" >> calls
[ "$1" = --version ] && echo "Python 3.11.2"
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p .venv/bin && printf '#!/bin/sh\\necho "venv $*" >> calls\\n' > .venv/bin/python && chmod +x .venv/bin/python
fi
exit 0"""


def test_what_is_missing_is_one_line(setup: Setup) -> None:
    old = setup('[ "$1" = --version ] && echo "Python 3.9.2" && exit; case "$2" in *version_info*) exit 1 ;; esac')
    assert (old.returncode, old.stderr.count("\n")) == (1, 1)
    assert "Python 3.9.2 is too old: pvemu needs Python 3.11 or later" in old.stderr
    bare = setup('case "$2" in *ensurepip*) exit 1 ;; esac')
    assert (bare.returncode, bare.stderr.count("\n")) == (1, 1)
    assert "apt install python3-venv" in bare.stderr
    wrong = setup("exit 0", "--everything")
    assert (wrong.returncode, wrong.stderr) == (1, "setup: unknown option --everything (expected --all or nothing)\n")


def test_a_failing_pip_leaves_no_finished_venv(setup: Setup, tmp_path: Path) -> None:
    done = setup(WORKS.replace("calls\\n'", "calls\\nexit 1\\n'"))
    assert done.returncode == 1
    assert "pip could not install pvemu's dependencies" in done.stderr
    assert not (tmp_path / ".venv/.pvemu-setup").exists()


def test_set_up_once_and_again_when_pyproject_changes(setup: Setup, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    assert setup(WORKS).returncode == 0
    assert calls.read_text(encoding="utf-8").splitlines()[-3:] == [
        "-m venv --clear .venv",
        "venv -m pip install --quiet --disable-pip-version-check --editable .[test]",
        "venv -m pvemu.mkimage demo pvgrub",
    ]
    calls.unlink()
    assert setup(WORKS, "--all").returncode == 0
    assert "venv --clear" not in calls.read_text(encoding="utf-8")
    assert calls.read_text(encoding="utf-8").splitlines()[-1] == "venv -m pvemu.mkimage all"
    with (tmp_path / "pyproject.toml").open("a", encoding="utf-8") as project:
        project.write("# changed\n")
    calls.unlink()
    assert setup(WORKS).returncode == 0
    assert "venv --clear" in calls.read_text(encoding="utf-8")
