"""`pvemu gdb` as a process of its own, real gdb from Debian's package, and a guest whose every instruction is known."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING, Protocol

import pytest

from pvemu.mkimage.tools import tool
from tests.cli.conftest import ROOT, command, default_signals
from tests.micro_guests import COUNTING, SCRIPT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pvemu.mkimage.packages import PackageCache
    from tests.conftest import Assemble

PATIENCE = 60  # wall seconds


class Served:
    """A running `pvemu gdb`. ``address`` is what gdb is told."""

    def __init__(self, address: str, *arguments: str | Path) -> None:
        self.address = address
        self.process = subprocess.Popen(
            command("gdb", "--listen", address, *arguments), cwd=ROOT, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=default_signals,  # noqa: PLW1509 - the tests have no other thread
        )  # fmt: skip
        assert self.process.stderr is not None
        self.greeting = self.process.stderr.readline().decode()
        assert self.greeting.startswith("pvemu: waiting for gdb at "), self.greeting

    def end(self) -> tuple[int, str, str]:
        """Its end: exit code, the guest's console, what it said."""
        out, error = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out.decode("utf-8", "replace"), error.decode()


class Serve(Protocol):
    def __call__(self, *arguments: str | Path) -> Served: ...


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts `pvemu gdb` with such arguments, at a socket."""
    running: list[Served] = []

    def start(*arguments: str | Path) -> Served:
        running.append(Served(str(tmp_path / f"gdb-{len(running)}.sock"), *arguments))
        return running[-1]

    yield start
    for served in running:
        served.process.kill()
        served.process.communicate()


@pytest.fixture
def kernel(assemble: Assemble) -> Path:
    """Stores 1 to 20, a hypercall after each, then a page fault."""
    return assemble(COUNTING, script=SCRIPT)


@pytest.fixture
def gdb(packages: PackageCache, tmp_path: Path) -> Callable[..., str]:
    """Real gdb, in batch mode: ``gdb(*commands)``, or with ``script`` first; all that it says."""
    debugger = tool("gdb", packages)

    def run(*commands: str, script: Path | None = None) -> str:
        options = [] if script is None else ["-x", str(script)]
        for line in commands:
            options += ["-ex", line]
        began = time.monotonic()
        done = subprocess.run(
            [str(debugger.path), "-nx", "-batch", *options], env={**debugger.env, "HOME": str(tmp_path)}, cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert time.monotonic() - began < PATIENCE
        return done.stdout.decode("utf-8", "replace")

    return run
