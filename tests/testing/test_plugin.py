"""The pytest plugin, in test runs of its own: what a failed test shows and keeps, and that others are left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

ROOT = Path(__file__).resolve().parents[2]

FAILING = """
def test_boots(pv_guest, pv_image):
    guest = pv_guest(pv_image("guide-basic")["grub-x86_64-xen.bin"], memory=64)
    guest.send("ls\\\\r")
    guest.expect("Loading Linux", timeout=5)

def test_fine(pv_guest, pv_image):
    pv_guest(pv_image("guide-basic")["grub-x86_64-xen.bin"], memory=64).expect("grub> ")
"""


class Run(Protocol):
    """What the `run` fixture is: a test run of its own over `text`."""

    def __call__(self, text: str, *options: str) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def pytest_run(text: str, *options: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_mine.py").write_text(text, encoding="utf-8")
        (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", encoding="utf-8")
        plugin = ["-p", "pvemu.testing.plugin", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
            environment.pop(name, None)
        return subprocess.run(
            [sys.executable, "-m", "pytest", *plugin, *options, "test_mine.py"],
            cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return pytest_run


@pytest.mark.parametrize("options", [[], ["-p", "xdist.plugin", "-n", "2"]], ids=["one-process", "xdist"])
def test_a_failed_test_shows_and_keeps_its_guest(options: list[str], run: Run, tmp_path: Path) -> None:
    done = run(FAILING, "--pvemu-artifacts", "kept", *options)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    for shown in (
        "timed out after 5 guest seconds: no match for 'Loading Linux'; the guest waits for a key",
        "pvemu guest 0: console", "pvemu guest 0: screen", "pvemu guest 0: last hypercalls", "pvemu guest 0: xenstore",
        "/local/domain/1/name", "pvemu guest 0: to repeat it",
    ):  # fmt: skip
        assert shown in done.stdout
    folder = tmp_path / "kept" / "test_mine.py-test_boots" / "guest-0"
    assert sorted(file.name for file in folder.iterdir()) == [
        "console.cast", "console.raw", "console.txt", "hypercalls.txt", "repro.sh", "screen.svg", "screen.txt",
        "xenstore.txt",
    ]  # fmt: skip
    assert "grub> ls" in (folder / "screen.txt").read_text()
    assert list((tmp_path / "kept").iterdir()) == [folder.parent], "nothing of the test that passed"
    command = (folder / "repro.sh").read_text()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = f'pvemu() {{ "{sys.executable}" -m pvemu.cli "$@"; }}\n{command}'
    again = subprocess.run(
        ["bash", "-c", script], env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert again.returncode == 5
    assert again.stdout.startswith((folder / "console.raw").read_bytes())


def test_guests_are_closed(run: Run) -> None:
    done = run("""
import pytest
seen = []
def test_one(pv_guest, pv_image):
    seen.append(pv_guest(pv_image("guide-basic")["grub-x86_64-xen.bin"], memory=64))
    assert not seen[0]._is_closed
def test_two():
    assert seen[0]._is_closed
""")
    assert done.returncode == 0, done.stdout


def test_a_run_without_guests_imports_nothing_and_looks_the_same(run: Run) -> None:
    done = run("""
import sys
def test_light():
    ours = [name for name in sys.modules if name.startswith("pvemu")]
    assert ours == ["pvemu", "pvemu.testing", "pvemu.testing.plugin"]
    assert not {"unicorn", "construct", "pyte"} & set(sys.modules)
def test_fails():
    assert 0
""")
    assert "1 failed, 1 passed" in done.stdout
    assert "pvemu guest" not in done.stdout


def test_bad_input_is_one_line(run: Run) -> None:
    done = run("def test_it(pv_guest):\n    pv_guest('no-such-kernel')\n", "--tb=line")
    assert "no-such-kernel" in done.stdout
    assert done.returncode == 1
