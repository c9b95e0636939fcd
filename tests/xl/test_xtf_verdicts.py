"""tools/xtf-verdicts on a tree of test kernels that is laid out as XTF's; the kernels are our own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Assemble

ROOT = Path(__file__).parents[2]


def load(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


CLI = load(ROOT / "tests/cli/conftest.py", "cli_conftest_of_xtf")
TOOL = load(ROOT / "tools/xtf_verdicts.py", "xtf_verdicts")


@pytest.fixture
def tree(assemble: Assemble, tmp_path: Path) -> Callable[..., Path]:
    """Tests by name and what they print; each ends with a power-off."""

    def make(**tests: str) -> Path:
        for name, text in tests.items():
            folder = tmp_path / "xtf/tests" / name
            folder.mkdir(parents=True)
            source = f'print "{text}"\nshutdown 0' if text else "ud2"
            built = assemble(CLI.PRELUDE + source + "\n", script=CLI.SCRIPT)
            built.rename(folder / f"test-pv64-{name}")
            (folder / f"test-pv64-{name}.cfg").write_text(
                f'name="test-pv64-{name}"\nmemory=16\nkernel="/built/elsewhere/tests/{name}/test-pv64-{name}"\n'
            )
        return tmp_path / "xtf"

    return make


@pytest.fixture
def verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """The command, with a reference of its own."""

    def run(tree: Path, expected: str, *words: str) -> tuple[int, str]:
        path = tmp_path / "expected.toml"
        path.write_text(expected)
        monkeypatch.setattr(sys, "argv", ["xtf-verdicts", str(tree), "--expected", str(path), *words])
        code = TOOL.main()
        out, err = capsys.readouterr()
        return code, out + err

    return run


REFERENCE = """
["pv64-one"]
xen = "FAILURE"
qemu = "its CPU does so"
["pv64-two"]
xen = "CRASH"
note = "it is not there"
["pv64-three"]
xen = "FAILURE"
qemu = "its CPU does so"
unicorn = "and so does this one"
here = "FAILURE"
[success]
tests = ["pv64-four", "pv64-absent"]
"""


def test_rows_that_agree_and_rows_that_are_explained(tree: Any, verdicts: Any) -> None:
    path = tree(
        one="Test result: SUCCESS\\r\\n", two="", three="Test result: FAILURE\\r\\n", four="Test result: SUCCESS\\r\\n",
        five="Test result: SKIP\\r\\n",
    )  # fmt: skip
    code, out = verdicts(path, REFERENCE, "-j", "1")
    rows = [line.split(None, 4) for line in out.splitlines()[1:6]]
    assert rows == [
        ["pv64-five", "SKIP", "?", "new", "no real Xen's verdict is known"],
        ["pv64-four", "SUCCESS", "SUCCESS", "agrees"],
        ["pv64-one", "SUCCESS", "FAILURE", "agrees", "not Xen's fault there: its CPU does so"],
        ["pv64-three", "FAILURE", "FAILURE", "explained", "its CPU does so; Unicorn: and so does this one"],
        ["pv64-two", "CRASH", "CRASH", "agrees", "it is not there"],
    ]
    assert out.rstrip().endswith("3 agree, 1 explained by the CPU, 0 differ, 1 unknown, 1 not built (pv64-absent)")
    assert code == 0


def test_a_row_that_differs_without_a_reason_fails(tree: Any, verdicts: Any) -> None:
    path = tree(one="Test result: FAILURE\\r\\n", four="no result\\r\\n")
    code, out = verdicts(path, REFERENCE, "pv64-four", "test-pv64-one", "-q")
    rows = {line.split()[0]: line.split()[1:4] for line in out.splitlines()[1:3]}
    assert rows == {
        "pv64-four": ["CRASH", "SUCCESS", "DIFFERS"],
        "pv64-one": ["FAILURE", "FAILURE", "DIFFERS"],  # what qemu's CPU did is no reason here without Unicorn's own
    }
    assert code == 1


def test_no_tree_no_test(tree: Any, verdicts: Any, tmp_path: Path) -> None:
    code, out = verdicts(tmp_path, REFERENCE)
    assert (code, out.count("\n"), "no built PV tests" in out) == (2, 1, True)
    code, out = verdicts(tree(one=""), REFERENCE, "nine")
    assert (code, out) == (2, "xtf-verdicts: no test's name has nine in it\n")


def test_the_reference_is_whole() -> None:
    expected = TOOL.read_expected(TOOL.EXPECTED)
    assert len(expected) == 64
    verdicts = [row.xen for row in expected.values()]
    assert {word: verdicts.count(word) for word in set(verdicts)} == {
        "SUCCESS": 49, "SKIP": 6, "CRASH": 5, "FAILURE": 4,
    }  # fmt: skip
    for row in expected.values():
        assert row.xen == "SUCCESS" or row.qemu or row.note
        assert bool(row.unicorn) == bool(row.here)
