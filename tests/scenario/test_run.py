"""`pvemu test` as a user runs it: outcomes, exit codes, selections, reports, and what it leaves alone."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.scenario.conftest import environment

if TYPE_CHECKING:
    from tests.scenario.conftest import PvemuTest

HEAD = '[[scenario]]\nname = "{}"\nkernel = "./loader:grub.bin"\nmemory = 64\n'
HALT = 'keys = [{ choose = "halt" }]\n[scenario.expect]\nshutdown = "poweroff"\n'
WRONG = 'keys = [{ choose = "halt" }]\n[scenario.expect]\nshutdown = "reboot"\n'
CRASH = '[[scenario]]\nname = "{}"\nkernel = "crash.elf"\nmemory = 16\n'


@pytest.fixture
def crash_kernel(folder: Path) -> None:
    from tests.builder.make_elf import make_kernel

    (folder / "crash.elf").write_bytes(make_kernel(code=b"\x0f\x0b"))


def write(folder: Path, text: str, name: str = "a.pvemu.toml") -> None:
    (folder / name).write_text(text, encoding="utf-8")


def verdicts(text: str) -> dict[str, str]:
    """Name -> the word before it."""
    found = {}
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if "::" in rest:
            found[rest.split("::")[1].split(" (")[0].split(": ")[0]] = word
    return found


def test_outcomes_and_the_exit_code_of_the_worst(folder: Path, pvemu_test: PvemuTest, crash_kernel: None) -> None:
    write(
        folder,
        HEAD.format("passes")
        + HALT
        + HEAD.format("fails")
        + WRONG
        + HEAD.format("known to fail")
        + 'xfail = "a bug of theirs"\n'
        + WRONG
        + HEAD.format("fixed")
        + 'xfail = "a bug of theirs"\n'
        + HALT
        + HEAD.format("left out")
        + 'skip = "no reason"\n'
        + HALT
        + HEAD.format("not here").replace("./loader:grub.bin", "$PVEMU_NO_SUCH")
        + HALT
        + HEAD.format("no kernel").replace("./loader:grub.bin", "nothing.elf")
        + HALT
        + CRASH.format("crashes")
        + CRASH.format("may crash")
        + "[scenario.allow]\ncrash = true\n"
        + HEAD.format("fails so")
        + 'xfail = "a bug of theirs"\nxfail_match = "shutdown: wanted .reboot."\n'
        + WRONG
        + HEAD.format("fails otherwise")
        + 'xfail = "a bug of theirs"\nxfail_match = "menu"\n'
        + WRONG,
    )
    done = pvemu_test(".")
    assert verdicts(done.stderr) == {
        "passes": "ok",
        "fails": "FAILED",
        "known to fail": "xfail",
        "fixed": "FAILED",
        "left out": "skip",
        "not here": "skip",
        "no kernel": "UNUSABLE",
        "crashes": "CRASHED",
        "may crash": "ok",
        "fails so": "xfail",
        "fails otherwise": "FAILED",
    }
    for said in (
        "known to fail (0.00 guest seconds): a bug of theirs",
        "left out: no reason",
        "xfail: wanted a failure (a bug of theirs), found that it passes; take the xfail away",
        "the environment variable PVEMU_NO_SUCH is not set",
        "xfail_match: wanted a match for 'menu', found expect.shutdown: wanted 'reboot', found 'poweroff'",
        "a.pvemu.toml:46: nothing.elf: no such file",
        "allow.crash: wanted no crash, found '",
        "last stage reached: 0, ",
    ):
        assert said in done.stderr
    assert done.returncode == 2, "bad input before a crash, a crash before a failure"
    assert pvemu_test(".", "-k", "not kernel").returncode == 6
    assert pvemu_test(".", "-k", "fails").returncode == 5
    assert pvemu_test(".", "-k", "passes or left or known").returncode == 0


def test_the_schema_is_printed(pvemu_test: PvemuTest) -> None:
    assert "Scenario" in json.loads(pvemu_test("--schema").stdout)["$defs"]


def test_selections_and_lists(folder: Path, pvemu_test: PvemuTest) -> None:
    write(folder, HEAD.format("one") + "[scenario.matrix]\nn = [1, 2, 3]\n" + HEAD.format("two"))
    assert pvemu_test(".", "--list").stdout.splitlines() == [
        "a.pvemu.toml::one[n=1]",
        "a.pvemu.toml::one[n=2]",
        "a.pvemu.toml::one[n=3]",
        "a.pvemu.toml::two",
    ]
    assert pvemu_test(".", "--list", "-k", "n=2 or two", "--shard", "1/2").stdout.split() == ["a.pvemu.toml::one[n=2]"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no PATH"),
        (["nowhere"], "nowhere: No such file or directory"),
        ([".", "-k", "zzz"], "no scenario has such a name"),
        ([".", "-j", "many"], "-j 'many': not a number"),
        ([".", "--shard", "3/2"], "not a shard"),
        ([".", "--executor", "slurm:x"], "give dask:ADDRESS"),
        ([".", "--junit", "no/such/folder.xml"], "--junit no/such/folder.xml: cannot be written"),
        ([".", "--artifacts", "a.pvemu.toml"], "--artifacts a.pvemu.toml: File exists"),
    ],
)
def test_bad_usage_is_one_line(folder: Path, pvemu_test: PvemuTest, words: list[str], said: str) -> None:
    write(folder, HEAD.format("one") + HALT)
    done = pvemu_test(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


class TestReports:
    """One run; each report is read by a reader that is not ours."""

    @pytest.fixture
    def run(self, folder: Path, pvemu_test: PvemuTest) -> str:
        write(
            folder,
            HEAD.format("passes")
            + HALT
            + HEAD.format("fails & <falls> # 1")
            + WRONG
            + HEAD.format("xfails")
            + 'xfail = "why"\n'
            + WRONG
            + HEAD.format("skips")
            + 'skip = "why"\n'
            + HALT
            + HEAD.format("unusable").replace("grub.bin", "no.bin")
            + HALT,
        )
        done = pvemu_test(".", "--junit", "j.xml", "--tap", "--artifacts", "kept")
        assert done.returncode == 2
        return done.stdout

    def test_junit(self, run: str, folder: Path) -> None:
        root = ET.parse(folder / "j.xml").getroot()
        (suite,) = root
        counted = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
        assert counted == {"tests": "5", "failures": "1", "errors": "1", "skipped": "2"}
        cases = {case.get("name"): case for case in suite}
        assert list(cases) == ["passes", "fails & <falls> # 1", "xfails", "skips", "unusable"]
        failure = cases["fails & <falls> # 1"].find("failure")
        assert failure is not None
        assert failure.get("message") == "expect.shutdown: wanted 'reboot', found 'poweroff'"
        assert "I halt" in (cases["fails & <falls> # 1"].findtext("system-out") or "")
        junitparser = pytest.importorskip("junitparser")
        read = junitparser.JUnitXml.fromfile(str(folder / "j.xml"))
        assert (read.tests, read.failures, read.errors, read.skipped) == (5, 1, 1, 2)

    def test_tap(self, run: str) -> None:
        lines = run.splitlines()
        assert lines[:2] == ["TAP version 13", "1..5"]
        pytest.importorskip("tap")
        from tap.parser import Parser

        tests = [line for line in Parser().parse_text(run) if line.category == "test"]
        assert [(test.ok, bool(test.skip), bool(test.todo)) for test in tests] == [
            (True, False, False),
            (False, False, False),
            (False, False, True),
            (True, True, False),
            (False, False, False),
        ]

    def test_artifacts(self, run: str, folder: Path) -> None:
        (kept,) = (folder / "kept").iterdir()
        assert kept.name == "a.pvemu.toml-fails-falls-1"
        assert {file.name for file in kept.iterdir()} >= {
            "console.raw",
            "screen.svg",
            "screen.txt",
            "xenstore.txt",
            "hypercalls.txt",
            "repro.sh",
            "console.cast",
            "verdict.txt",
        }
        ET.parse(kept / "screen.svg")
        assert "expect.shutdown: wanted 'reboot'" in (kept / "verdict.txt").read_text()
        script = f'pvemu() {{ "{sys.executable}" -m pvemu.cli "$@"; }}\n{(kept / "repro.sh").read_text()}'
        again = subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert again.stdout.startswith((kept / "console.raw").read_bytes())

    def test_github(self, folder: Path, pvemu_test: PvemuTest) -> None:
        write(folder, HEAD.format("passes") + HALT + HEAD.format("a: b, c") + WRONG)
        (line,) = pvemu_test(".", "--github").stdout.splitlines()
        assert line.startswith(
            "::error file=a.pvemu.toml,line=8,title=a%3A b%2C c::expect.shutdown: wanted 'reboot', found"
        )
        assert "%0Alast stage reached: 0" in line


def test_shared_or_cold_alone_or_together_the_outcome_is_the_same(folder: Path, pvemu_test: PvemuTest) -> None:
    expected = [
        'shutdown = "poweroff"', "stages = [{}, {}]", "console = ['after']", 'shutdown = "reboot"', "within = 0.5",
        "menu = { countdown = 3 }", 'never = ["Reading"]', 'console = ["I halt"]',
    ]  # fmt: skip
    text = "".join(
        HEAD.format(f"{number}") + f"keys = [{{ choose = {number % 3} }}]\n[scenario.expect]\n{expect}\n"
        for number, expect in enumerate(expected)
    )
    write(folder, text.replace("memory = 64", 'memory = 64\ndisks = ["./loader:disk.img"]'))

    def lines(*words: str) -> list[str]:
        done = pvemu_test(".", *words)
        assert done.returncode in (0, 5), done.stderr
        return sorted(line for line in done.stderr.splitlines() if not line.startswith("pvemu:"))

    cold = lines("--cold")
    assert len(cold) > 7
    assert any(line.startswith("FAILED") for line in cold)
    assert any(line.startswith("ok") for line in cold)
    assert lines("-j", "2") == cold, "guest seconds too"
    halves = [lines("--shard", shard) for shard in ("1/2", "2/2")]
    assert sorted(halves[0] + halves[1]) == cold


def test_a_second_run_builds_nothing(folder: Path, pvemu_test: PvemuTest, tmp_path: Path) -> None:
    write(folder, HEAD.format("one") + HALT)
    assert pvemu_test(".").returncode == 0
    # without apt, dpkg and every other program, nothing could be fetched or built
    done = pvemu_test(".", env={"PATH": str(tmp_path / "no-tools")})
    assert done.returncode == 0, done.stderr
    assert "fetching" not in done.stderr


def test_update_writes_what_was_found_and_leaves_the_rest(folder: Path, pvemu_test: PvemuTest) -> None:
    text = (
        "# what must boot\n"
        + HEAD.format("one").replace("memory = 64", 'memory = 64\ndisks = ["./loader:disk.img"]')
        + 'keys = [{ choose = "{entry}" }]  # the second\n[scenario.matrix]\nentry = ["chainload"]\n'
        + '[scenario.expect]  # here\nstages = [{ os = "linux" }, { os = "GRUB", file = "xvda9:/x", cmdline = "" }]\n'
        + 'menu = { entries = ["{entry}"], countdown = 1 }\n'
    )
    write(folder, text)
    assert pvemu_test(".").returncode == 5
    done = pvemu_test(".", "--update")
    assert done.returncode == 0, done.stderr
    assert "updated a.pvemu.toml:2: expect.stages[1].file = 'xvda1:/second.elf'" in done.stderr
    now = (folder / "a.pvemu.toml").read_text()
    assert 'file = "xvda1:/second.elf", cmdline = "an argument" }]' in now
    assert '{ os = "GRUB" }' in now
    assert "countdown = 3" in now
    for kept in ("# what must boot", "# the second", "[scenario.expect]  # here", 'choose = "{entry}"'):
        assert kept in now
    assert pvemu_test(".").returncode == 0


def test_ctrl_c_ends_it_and_its_workers(folder: Path) -> None:
    forever = '[scenario.expect]\nnever = ["no such thing"]\nwithin = 1e6\n[scenario.matrix]\nn = [1, 2, 3, 4]\n'
    write(folder, HEAD.format("long") + 'keys = [{ choose = "ask" }]\n' + forever)
    # a shell that runs this in its background has signals ignored
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from pvemu.cli import main; "
    process = subprocess.Popen(
        [sys.executable, "-c", start + "sys.exit(main())", "test", ".", "-j", "2", "--cold"],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        workers = children.read_text().split()
        if len(workers) == 2:
            break
        time.sleep(0.05)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error.splitlines()[-1]) == (130, "pvemu: interrupted")
    assert "Traceback" not in error
    assert not [worker for worker in workers if _is_running(worker)]


def _is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_on_a_terminal_a_line_says_how_far_it_is(folder: Path) -> None:
    write(folder, HEAD.format("one") + HALT + "[scenario.matrix]\nn = [1, 2]\n")
    parent, child = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "pvemu.cli", "test", ".", "--cold"],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=child,
        check=False,
    )
    os.close(child)
    shown = os.read(parent, 1 << 16).decode()
    os.close(parent)
    assert done.returncode == 0
    assert "0 of 2 done, 0 failed, 1 running" in shown
    assert shown.rstrip().splitlines()[-1].startswith("pvemu: 2 passed in ") or "pvemu: 2 passed in " in shown
