"""`pvemu boot --strict`: its score, the seed that repeats a failure, its options."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import MakeGuest, Pvemu

GOOD = 'print "good\\r\\n"\nshutdown 0'
#: Crashes unless its first two frames follow one another.
GREEDY = """
        mov     104(%rbx), %rsi
        mov     (%rsi), %rax
        inc     %rax
        cmp     %rax, 8(%rsi)
        jne     1f
        print   "good\\r\\n"
        shutdown 0
1:      ud2
"""


def test_a_guest_that_survives(pvemu: Pvemu, micro: MakeGuest) -> None:
    done = pvemu("boot", micro(GOOD), "--memory", "8", "--seeds", "4")
    assert done == (0, b"strict: 4/4\n", "")


def test_a_failure_names_its_seed_and_its_aspect(pvemu: Pvemu, micro: MakeGuest, tmp_path: Path) -> None:
    kernel, report = micro(GREEDY), tmp_path / "report.json"
    done = pvemu("boot", kernel, "--memory", "8", "--until", "good", "--seeds", "3", "--json", report)
    score = done.out.decode().strip()
    document = json.loads(report.read_text())
    assert (document["score"], done.code) == (score, 6)
    failed = [seed for seed in document["seeds"] if not seed["survived"]]
    assert len(failed) == 3 - int(score.removeprefix("strict: ")[0])
    first = failed[0]
    assert first["alone"] == ["frames"]
    lines = done.err.splitlines()
    assert lines[0].startswith(f"pvemu: strict: seed {first['seed']}: crash: d1v0 Unhandled: vec 6, #UD")
    assert lines[0].endswith(" (frames by itself suffices)")
    command = lines[1].removeprefix("pvemu: repeat it with: ")
    assert command == f"pvemu boot {kernel} --memory 8 --until good --strict-seed {first['seed']}"
    again = pvemu(*command.split()[1:])
    assert (again.code, "Unhandled: vec 6, #UD" in again.err) == (6, True)
    without = pvemu(*command.split()[1:], "--strict-aspects", "memory,registers")
    assert (without.code, without.out) == (0, b"good\r\n")


def test_a_run_that_does_not_succeed_plainly(pvemu: Pvemu, micro: MakeGuest) -> None:
    done = pvemu("boot", micro(GOOD), "--memory", "8", "--until", "never", "--strict")
    assert (done.code, done.out) == (5, b"")
    assert done.err.splitlines()[1].startswith("pvemu: strict: this run does not succeed without any strictness;")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "--seeds '0': not a number; give one such as 50"),
        (["--seeds", "many"], "--seeds 'many': not a number; give one such as 50"),
        (["--strict-seed", "-1"], "--strict-seed '-1': not a number"),
        (
            ["--strict", "--strict-seed", "1"],
            "--strict-seed: is one run, and --strict or --seeds many; drop one of them",
        ),
        (["--strict", "--strict-aspects", "luck"], "--strict-aspects 'luck': no aspect; take some of registers,"),
        (["--strict-aspects", "disk"], "--strict-aspects: nothing is strict; add --strict, or --strict-seed 1"),
    ],
)
def test_options_that_cannot_be(pvemu: Pvemu, micro: MakeGuest, words: list[str], message: str) -> None:
    done = pvemu("boot", micro(GOOD), *words)
    assert (done.code, done.line[: len(message) + 7]) == (2, f"pvemu: {message}")
