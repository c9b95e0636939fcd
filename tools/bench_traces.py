"""What traces cost: hypercalls and blocks as a multiple of the plain run, instructions by the second.

CPU time of a whole process (its own and the system's for it) is what counts: on a machine that does other things too,
ratios of it hold still. `tools/bench --traces` runs this; an argument says how often.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

COMMAND = [sys.executable, "-c", "import sys; from pvemu.cli import main; sys.exit(main())"]
INSTRUCTIONS = 3_000_000


class Result(NamedTuple):
    """``value`` is a ratio to the plain run, or instructions a second, with what it may be at the most or least."""

    name: str
    value: float
    limit: float
    is_rate: bool

    @property
    def holds(self) -> bool:
        """Whether it is within its limit."""
        return self.value >= self.limit if self.is_rate else self.value <= self.limit

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "DOES NOT HOLD"
        if self.is_rate:
            return f"{self.name:46} {self.value / 1000:8.0f}k a second, at least {self.limit / 1000:.0f}k: {verdict}"
        return f"{self.name:46} {self.value:8.2f} times the plain run, at most {self.limit}: {verdict}"


def cpu_seconds(arguments: list[str]) -> float:
    """User and system time of pvemu with some arguments."""
    unset = {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}  # a user has neither, and so has bytecode files
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    null = subprocess.DEVNULL
    with subprocess.Popen([*COMMAND, *arguments], stdout=null, stderr=null, env=environment) as process:
        _pid, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"bench: exit code {process.returncode} from {arguments}")
    return usage.ru_utime + usage.ru_stime


def instruction_rate(grub: str, *, with_memory: bool) -> float:
    """Instructions a second of CPU time, as text with names and registers in a file."""
    from pvemu.config import DomainConfig
    from pvemu.debug.symbols import SymbolFiles, Symbols
    from pvemu.machine import Machine
    from pvemu.mkimage.symbol_folders import symbol_folders
    from pvemu.testing.session import Session
    from pvemu.trace.instructions import InstructionTrace

    machine = Machine.create(DomainConfig(kernel=grub))
    symbols = Symbols.of(machine, SymbolFiles(symbol_folders()))
    with tempfile.TemporaryFile("w") as out:
        trace = InstructionTrace(machine, symbols, out.write, with_memory=with_memory)
        trace.announce(INSTRUCTIONS, lambda: machine.stop("enough"))
        session = Session(machine, until=re.compile(b"never"))
        began = time.process_time()
        session.run()
        trace.close()
        out.flush()
        seconds = time.process_time() - began
    machine.close()
    return INSTRUCTIONS / seconds


def measure(runs: int) -> list[Result]:
    """``runs`` of each, in turn; the fastest counts."""
    from pvemu.mkimage import build

    grub = str(build("pvgrub")["grub-x86_64-xen.bin"])
    demo, linux = build("demo")["demo.img"], str(build("debian-kernel")["vmlinuz"])
    chain = [grub, "--memory", "256", "--disk", f"xvda={demo}"]
    boot = [linux, "--memory", "512", "--cmdline", "console=hvc0", "--until", "Mount-cache"]
    with tempfile.TemporaryDirectory() as folder:
        out = ["-o", str(Path(folder) / "trace")]
        jobs = {
            "chain": ["boot", *chain],
            "chain, hypercalls": ["trace", *chain, "--hypercalls", *out],
            "chain, drcov": ["trace", *chain, "--format", "drcov", *out],
            "linux": ["boot", *boot],
            "linux, hypercalls": ["trace", *boot, "--hypercalls", *out],
        }
        for name in ("chain", "chain, hypercalls", "chain, drcov"):
            cpu_seconds(jobs[name])  # bytecode files, the page cache
        seconds = {name: min(cpu_seconds(arguments) for _ in range(runs)) for name, arguments in jobs.items()}
    results = [
        Result(name, seconds[name] / seconds[name.partition(",")[0]], 12.0 if "drcov" in name else 1.3, is_rate=False)
        for name in jobs
        if "," in name
    ]
    for with_memory in (False, True):
        name = f"instructions as text{', with accesses to memory' if with_memory else ''}"
        rate = max(instruction_rate(grub, with_memory=with_memory) for _ in range(runs))
        results.append(Result(name, rate, 400_000, is_rate=True))
    return results


def main() -> int:
    """Print it all; 1 if a limit does not hold."""
    results = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    for result in results:
        print(result)
    return int(not all(result.holds for result in results))


if __name__ == "__main__":
    sys.exit(main())
