"""An `xl` of our own: the command as a process, in a runtime directory that a module's tests share."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Assemble

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("cli_conftest", ROOT / "tests/cli/conftest.py")
assert _SPEC is not None
assert _SPEC.loader is not None
CLI = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(CLI)


class Done(NamedTuple):
    """How an `xl` ended, and its two streams."""

    code: int
    out: str
    err: str


class Xl:
    """`xl("list")`; guests by name, made from the assembler of tests/cli."""

    def __init__(self, folder: Path) -> None:
        self.run_directory = folder / "run"
        self.folder = folder
        self._assemble: Assemble | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PVEMU_RUN": str(self.run_directory), "PYTHONPATH": str(ROOT)}

    def start(self, *words: str | Path, **options: object) -> subprocess.Popen[str]:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        command = [sys.executable, "-m", "pvemu.xl", *map(str, words)]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, text=True, **streams)  # type: ignore[call-overload, no-any-return]  # options as they come

    def __call__(self, *words: str | Path) -> Done:
        process = self.start(*words)
        out, err = process.communicate(timeout=60)
        return Done(process.returncode, out, err)

    def names(self) -> list[str]:
        """Of the guests that `xl list` shows."""
        return [line.split()[0] for line in self("list").out.splitlines()[2:]]

    def wait_gone(self, name: str) -> None:
        """Until `xl list` does not show it any more."""
        deadline = time.monotonic() + 30
        while name in self.names():
            assert time.monotonic() < deadline, f"{name} is still there"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("xl-with-a-name-that-is-much-too-long-for-the-address-of-a-unix-socket-" + "x" * 60)


@pytest.fixture(scope="module")
def xl(folder: Path) -> Iterator[Xl]:
    """The command; whatever it left running is destroyed in the end."""
    command = Xl(folder)
    yield command
    for name in command.names():
        command("destroy", name)


@pytest.fixture
def config(assemble: Assemble, folder: Path) -> Callable[..., Path]:
    """Writes a configuration for a guest that is given as assembler, or as the path of a kernel made before."""

    def make(name: str, source: str | Path, *lines: str) -> Path:
        kernel = source if isinstance(source, Path) else assemble(CLI.PRELUDE + source + "\n", script=CLI.SCRIPT)
        path = folder / f"{name}.cfg"
        path.write_text("\n".join([f'name="{name}"', f'kernel="{kernel}"', "memory=16", *lines, ""]))
        return path

    return make
