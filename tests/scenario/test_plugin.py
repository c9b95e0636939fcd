"""Scenarios and needs in pytest, in test runs of their own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.scenario.conftest import environment

if TYPE_CHECKING:
    from pathlib import Path

HEAD = '[[scenario]]\nname = "{}"\nkernel = "./loader:grub.bin"\nmemory = 64\nkeys = [{{ choose = "halt" }}]\n'
RIGHT, WRONG = '[scenario.expect]\nshutdown = "poweroff"\n', '[scenario.expect]\nshutdown = "reboot"\n'


def pytest_run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\naddopts = --strict-markers\n", encoding="utf-8"
    )
    plugins = ["-p", "pvemu.testing.plugin", "-p", "pvemu.scenario.plugin", "-p", "no:cacheprovider"]
    variables = environment({"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS", "PYTHONWARNINGS"):
        variables.pop(name, None)
    return subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, *options],
        cwd=folder, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("options", [[], ["-p", "xdist.plugin", "-n", "2"]], ids=["one-process", "xdist"])
def test_scenario_files_are_tests(folder: Path, options: list[str]) -> None:
    text = HEAD.format("right") + RIGHT + HEAD.format("wrong") + WRONG
    text += HEAD.format("known") + 'xfail = "theirs"\n' + WRONG + HEAD.format("out") + 'skip = "why"\n' + RIGHT
    (folder / "some.pvemu.toml").write_text(text, encoding="utf-8")
    done = pytest_run(folder, "--pvemu-artifacts", "kept", *options)
    assert "1 failed, 1 passed, 1 skipped, 1 xfailed" in done.stdout, done.stdout
    assert "expect.shutdown: wanted 'reboot', found 'poweroff'" in done.stdout
    assert "pvemu: screen.txt" in done.stdout
    assert "I halt" in done.stdout
    assert (folder / "kept" / "some.pvemu.toml-wrong" / "screen.svg").exists()
    assert "Traceback" not in done.stdout


def test_the_fixture_and_the_needs(folder: Path) -> None:
    (folder / "some.pvemu.toml").write_text(
        HEAD.format("right") + RIGHT + HEAD.format("wrong") + WRONG, encoding="utf-8"
    )
    (folder / "test_mine.py").write_text(
        """
import pytest
from pvemu.scenario.plugin import ScenarioFailedError

def test_right(pv_scenario):
    (result,) = pv_scenario("some.pvemu.toml", "right")
    assert result.outcome == "passed"

def test_wrong(pv_scenario):
    with pytest.raises(ScenarioFailedError, match="wanted 'reboot'"):
        pv_scenario("some.pvemu.toml")
    with pytest.raises(ValueError, match="no scenario 'third'"):
        pv_scenario("some.pvemu.toml", "third")

@pytest.mark.needs_package("grub-xen-bin")
@pytest.mark.needs_image("pvgrub")
def test_there():
    pass

@pytest.mark.needs_image("no-such-recipe")
def test_no_such_image():
    assert 0
""",
        encoding="utf-8",
    )
    done = pytest_run(folder, "test_mine.py", "-rs")
    assert "3 passed, 1 skipped" in done.stdout, done.stdout
    assert "no recipe 'no-such-recipe'" in done.stdout


def test_a_bad_file_is_one_line(folder: Path) -> None:
    (folder / "bad.pvemu.toml").write_text('[[scenario]]\nname = "x"\nkernl = "y"\n', encoding="utf-8")
    done = pytest_run(folder)
    assert "bad.pvemu.toml:" in done.stdout
    assert "missing required field kernel" in done.stdout or "unknown key" in done.stdout
