"""Runs the PV test kernels of an XTF build tree and compares each verdict with that of a real Xen 4.17.

XTF (https://xenbits.xen.org/docs/xtf) is built by its user, with its own `make`; nothing of it is here but the verdicts
that a real Xen gave (xtf-verdicts.toml). Exit codes: 0 every row agrees or says why not, 1 one does not, 2 bad usage.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

from pvemu.errors import InputError
from pvemu.machine import Machine
from pvemu.testing.parallel import run_parallel
from pvemu.testing.session import Session
from pvemu.xlcfg.domain import load_domain

EXPECTED = Path(__file__).with_name("xtf-verdicts.toml")
#: The words of XTF's report, and what its runner calls a console without one.
VERDICTS = ("SUCCESS", "SKIP", "ERROR", "FAILURE")
#: Guest seconds; the longest test takes a fraction of one.
TIMEOUT = 60.0


class Expected(NamedTuple):
    """A real Xen's verdict; ``qemu`` says why it is none, ``unicorn`` and ``here`` what the CPU here leads to."""

    xen: str
    note: str = ""
    qemu: str = ""
    unicorn: str = ""
    here: str = ""


class Row(NamedTuple):
    """One test: its verdict here, what the comparison says (``agrees``, ``explained``, ``DIFFERS``, ``new``), why."""

    name: str
    here: str
    xen: str
    agreement: str
    note: str


def read_expected(path: Path) -> dict[str, Expected]:
    """The reference, by test."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    success = data.pop("success", {}).get("tests", [])
    return {name: Expected("SUCCESS") for name in success} | {name: Expected(**row) for name, row in data.items()}


def find_tests(tree: Path) -> dict[str, Path]:
    """The configurations of its PV tests, by name."""
    return {path.stem.removeprefix("test-"): path for path in sorted(tree.glob("tests/*/test-pv*.cfg"))}


def run_test(path: Path) -> tuple[str, str]:
    """The verdict of one test, and what crashed it."""
    lines = [] if (kernel := _moved_kernel(path)) is None else [f"kernel='{kernel}'"]
    try:
        machine = Machine.create(load_domain(str(path), lines).config)
    except InputError as error:
        return "CRASH", str(error)
    try:
        session = Session(machine, timeout=TIMEOUT)
        verdict = session.run()
    finally:
        machine.close()
    console = bytes(session.console).decode("utf-8", "replace").splitlines()
    return judge(console), "" if verdict.verdict == "success" else verdict.reason


def _moved_kernel(path: Path) -> str | None:
    """A tree that was moved after its build names kernels where it was: they stand beside their configurations."""
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "kernel" and not Path(value.strip("\"' ")).exists():
            beside = path.with_name(Path(value.strip("\"' ")).name)
            return str(beside) if beside.exists() else None
    return None


def judge(console: list[str]) -> str:
    """The result that the last line names, as XTF's runner reads it."""
    last = console[-1] if console else ""
    if "Test result:" not in last:
        return "CRASH"
    return next((verdict for verdict in VERDICTS if verdict in last), "CRASH")


def compare(name: str, here: str, reason: str, expected: Expected | None) -> Row:
    """One row of the table."""
    if expected is None:
        return Row(name, here, "?", "new", "no real Xen's verdict is known")
    why = expected.qemu or expected.note
    if expected.qemu and here == "SUCCESS":
        return Row(name, here, expected.xen, "agrees", f"not Xen's fault there: {why}")
    if expected.unicorn and here == expected.here:
        return Row(name, here, expected.xen, "explained", f"{why}; Unicorn: {expected.unicorn}")
    if here == expected.xen and not expected.qemu:
        return Row(name, here, expected.xen, "agrees", why)
    return Row(name, here, expected.xen, "DIFFERS", reason or why)


def table(rows: list[Row]) -> list[str]:
    """The rows in columns."""
    width = max((len(row.name) for row in rows), default=4)
    everything = [Row("test", "here", "Xen 4.17", "", "note"), *rows]
    return [
        f"{row.name:<{width}}  {row.here:<8} {row.xen:<8} {row.agreement:<9}  {row.note}".rstrip() for row in everything
    ]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="xtf-verdicts", description="XTF's verdicts here and on a real Xen 4.17")
    parser.add_argument("tree", metavar="XTF-DIRECTORY", type=Path, help="where XTF was built")
    parser.add_argument("tests", metavar="TEST", nargs="*", help="names, or parts of them (default: all PV tests)")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="tests at a time (default: CPUs)")
    parser.add_argument("-q", "--quiet", action="store_true", help="leave out the rows that agree without a word")
    parser.add_argument("--expected", type=Path, default=EXPECTED, help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args()
    tests = find_tests(arguments.tree)
    if not tests:
        print(f"xtf-verdicts: {arguments.tree}: no built PV tests below it; give the folder in which XTF's make ran",
              file=sys.stderr)  # fmt: skip
        return 2
    wanted = [name.removeprefix("test-") for name in arguments.tests]
    chosen = {name: path for name, path in tests.items() if not wanted or any(part in name for part in wanted)}
    if not chosen:
        print(f"xtf-verdicts: no test's name has {' or '.join(wanted)} in it", file=sys.stderr)
        return 2
    expected = read_expected(arguments.expected)
    began = time.monotonic()
    # The one that takes long must not be the last to start.
    order = sorted(chosen, key=lambda name: not name.endswith("-msr"))
    runs = run_parallel(run_test, [chosen[name] for name in order], max(arguments.jobs, 1))
    found = dict(zip(order, runs, strict=True))
    rows = [compare(name, *found[name], expected.get(name)) for name in chosen]
    shown = [row for row in rows if not arguments.quiet or row.agreement != "agrees" or row.note]
    print("\n".join(table(shown)))
    counts = {kind: sum(row.agreement == kind for row in rows) for kind in ("agrees", "explained", "DIFFERS", "new")}
    missing = [] if wanted else sorted(set(expected) - set(tests))
    parts = [
        f"{counts['agrees']} agree",
        f"{counts['explained']} explained by the CPU",
        f"{counts['DIFFERS']} differ",
        *([f"{counts['new']} unknown"] if counts["new"] else []),
        *([f"{len(missing)} not built ({', '.join(missing)})"] if missing else []),
    ]
    print(f"\n{len(rows)} tests in {time.monotonic() - began:.1f} s: {', '.join(parts)}")
    return 1 if counts["DIFFERS"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
