"""`pvemu boot` in a script: exit codes, the two streams, expectations, typing, and what is kept of a run."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import pytest

from pvemu.hypervisor.domain import Domain
from pvemu.mkimage import build
from tests.cli.conftest import ECHO, SAY_AND_POWER_OFF, SAY_DOMID

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import MakeGuest, Pvemu

    Guest = Callable[[str, str], Path]

TEXT = b"first line\r\nsecond line\r\n"
POLLS_THE_CLOCK = "1: rdtsc\njmp 1b"
KEYS: dict[str, type | tuple[type, ...]] = {
    "verdict": str, "reason": str, "shutdown": (str, type(None)), "stages": list, "guest_seconds": float,
    "wall_seconds": float, "hypercalls": dict, "unknown_hypercalls": dict, "absent_hypercalls": dict, "disks": dict,
    "domains": list, "refusal": (dict, type(None)), "xen_log": list,
}  # fmt: skip
STAGE_KEYS: dict[str, type | tuple[type, ...]] = {
    "guest_os": (str, type(None)), "loader": (str, type(None)), "guest_version": (str, type(None)), "entry": str,
    "cmdline": str, "file": (str, type(None)), "ramdisk": (dict, type(None)), "start": float, "domid": int,
}  # fmt: skip


class TestExitCodes:
    def test_0_when_it_powers_off_by_itself(self, pvemu: Pvemu, micro: MakeGuest) -> None:
        done = pvemu("boot", micro(SAY_AND_POWER_OFF))
        assert (done.code, done.out) == (0, TEXT)
        assert "pvemu: success: the guest powered itself off" in done.err

    def test_0_when_the_console_matches(self, pvemu: Pvemu, micro: MakeGuest) -> None:
        done = pvemu("boot", micro(f"{SAY_AND_POWER_OFF}"), "--until", "second l.ne")
        assert (done.code, done.out) == (0, TEXT)
        assert "pvemu: success: the console matched 'second line'" in done.err

    @pytest.mark.parametrize(
        ("source", "arguments", "says"),
        [
            (SAY_AND_POWER_OFF, ["--until", "third"], "shut down (poweroff) before the console matched 'third'"),
            ("shutdown 1", [], "the guest rebooted again, and 1 reboot is allowed (--max-reboots)"),
            ("shutdown 1", ["--max-reboots", "0"], "the guest shut down (reboot)"),
            ("shutdown 1", ["--max-reboots", "3"], "the guest rebooted again, and 3 reboots are allowed"),
            ("shutdown 2", [], "the guest shut down (suspend)"),
            (POLLS_THE_CLOCK, ["--timeout", "2.5"], "timed out after 2.5 guest seconds"),
            (ECHO, ["--timeout", "3", "--until", "never"], "no match for 'never'; the guest waits for input"),
            (POLLS_THE_CLOCK, [], "timed out after 600 guest seconds"),
            ("1: jmp 1b", [], "the guest hangs"),
        ],
    )
    def test_5_when_what_was_expected_did_not_happen(
        self, source: str, arguments: list[str], says: str, pvemu: Pvemu, micro: MakeGuest
    ) -> None:
        done = pvemu("boot", micro(source), *arguments)
        assert done.code == 5, done.err
        last = done.err.splitlines()[-1]
        assert last.startswith("pvemu: failure: ")
        assert says in last

    def test_6_when_it_crashes(self, pvemu: Pvemu, micro: MakeGuest) -> None:
        done = pvemu("boot", micro('print "on the screen"\nmov 0x7f123456, %rax'))
        assert (done.code, done.out) == (6, b"on the screen")
        lines = done.err.splitlines()
        assert lines[0] == "(XEN) d1v0 Unhandled: vec 14, #PF[0000]"
        assert "(XEN) Pagetable walk from 000000007f123456:" in lines
        assert any(re.fullmatch(r"\(XEN\)  L4\[0x000\] = [0-9a-f]{16} [0-9a-f]{16}", line) for line in lines)
        assert "(XEN) Domain 1 (vcpu#0) crashed on cpu#0:" in lines
        assert any(re.fullmatch(r"\(XEN\) RIP:    e033:\[<0000000000100[0-9a-f]{3}>\]", line) for line in lines)
        assert any(line.startswith("(XEN) rax: ") for line in lines)
        assert any(re.fullmatch(r"\(XEN\) cr3: [0-9a-f]{16}   cr2: 000000007f123456", line) for line in lines)
        assert any(line.startswith("(XEN) Guest stack trace from rsp=") for line in lines)
        made_at = re.compile(r"0x100\w{3}  event_channel_op\(0x4, 0x100\w{3}\) = 0  at stage0:\S+$")
        assert any(made_at.search(line) for line in lines)
        assert "| on the screen" in lines
        assert lines[-1].startswith("pvemu: crash: d1v0 Unhandled: vec 14, #PF[0000]")

    def test_6_when_it_says_that_it_crashed(self, pvemu: Pvemu, micro: MakeGuest) -> None:
        done = pvemu("boot", micro("shutdown 3"))
        assert done.code == 6
        assert "sched_op(0x2, " in done.err
        assert done.err.splitlines()[-1].startswith("pvemu: crash: the guest shut down with reason crash")

    def test_6_before_0_when_it_crashes_after_the_match_is_not_seen(self, pvemu: Pvemu, micro: MakeGuest) -> None:
        """What the guest does after the match is not run."""
        assert pvemu("boot", micro('print "done"\nud2'), "--until", "done").code == 0

    def test_4_for_an_error_of_pvemu(self, pvemu: Pvemu, micro: MakeGuest, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> int:
            raise RuntimeError("something we never thought of")

        monkeypatch.setattr(Domain, "shutdown", fail)
        path = micro(SAY_AND_POWER_OFF)
        done = pvemu("boot", path, "--cmdline", "two words")
        assert (done.code, done.out) == (4, TEXT)
        assert done.err.startswith("pvemu: an error of pvemu itself. Please file it with this report:\n")
        for needed in (f"boot {path} --cmdline 'two words'", "unicorn 2", "Python 3", "something we never thought of"):
            assert needed in done.err


class TestExpecting:
    """`--until` sees raw bytes, and text without escape sequences."""

    SCREEN = r'print "\033[2J\033[1;1Hbo\033[7mld\033[0m text\r\nnext"' + "\nshutdown 0"

    @pytest.mark.parametrize(
        "regex",
        ["bold text", r"\x1b\[7mld", "^bo", "text$", "text\nnext", "text\r\nnext", "(?s)bold.*next", "(?i)NEXT"],
    )
    def test_a_match(self, regex: str, pvemu: Pvemu, micro: MakeGuest) -> None:
        assert pvemu("boot", micro(self.SCREEN), "--until", regex).code == 0

    @pytest.mark.parametrize("regex", ["bold  text", "^next.", "bo$"])
    def test_none(self, regex: str, pvemu: Pvemu, micro: MakeGuest) -> None:
        assert pvemu("boot", micro(self.SCREEN), "--until", regex).code == 5

    def test_a_match_across_pieces_of_output(self, pvemu: Pvemu, micro: MakeGuest) -> None:
        source = 'print "on"\nprint "ce upon"\nprint " a time"\n1: jmp 1b'
        assert pvemu("boot", micro(source), "--until", "once upon a time").code == 0

    def test_bytes_that_are_no_text(self, pvemu: Pvemu, micro: MakeGuest) -> None:
        source = r'print "\377\200\303\244"' + "\nshutdown 0"
        done = pvemu("boot", micro(source), "--until", r"\xff\x80")
        assert (done.code, done.out) == (0, b"\xff\x80\xc3\xa4")
        assert pvemu("boot", micro(source), "--until", "ä").code == 0


class TestTyping:
    def test_pieces_are_typed_as_the_guest_asks(self, pvemu: Pvemu, micro: MakeGuest) -> None:
        done = pvemu("boot", micro(ECHO), "--send", "ab", "--send", "c", "--send", "q")
        assert (done.code, done.out) == (0, b"key? akey? bkey? ckey? ")

    def test_c_escapes(self, pvemu: Pvemu, micro: MakeGuest) -> None:
        done = pvemu("boot", micro(ECHO), "--send", r"\r\n\t\x1b[B\\\101\0\e\"\x7Fz\ä", "--send", "q")
        assert done.out.replace(b"key? ", b"") == b'\r\n\t\x1b[B\\A\0\x1b"\x7fz\xc3\xa4'

    def test_more_than_the_ring_holds(self, pvemu: Pvemu, micro: MakeGuest) -> None:
        done = pvemu("boot", micro(ECHO), "--send", "x" * 3000 + "q")
        assert (done.code, done.out.count(b"key? x")) == (0, 3000)

    def test_a_guest_that_never_asks_is_not_typed_to(self, pvemu: Pvemu, micro: MakeGuest) -> None:
        assert pvemu("boot", micro(SAY_AND_POWER_OFF), "--send", "x").code == 0


class TestStreams:
    def test_the_transcript_is_what_stdout_got(self, pvemu: Pvemu, micro: MakeGuest, tmp_path: Path) -> None:
        path = tmp_path / "transcript"
        path.write_bytes(b"of an earlier run, and longer than this one's will be" * 10)
        done = pvemu("boot", micro(SAY_AND_POWER_OFF), "--transcript", path)
        assert (done.code, path.read_bytes()) == (0, done.out)
        assert done.out == TEXT

    def test_a_real_grub_fills_both_the_same(self, pvemu: Pvemu, guest: Guest, tmp_path: Path) -> None:
        path = tmp_path / "transcript"
        grub = guest("pvgrub", "grub-x86_64-xen.bin")
        done = pvemu("boot", grub, "--memory", "64", "--send", r"halt\r", "--transcript", path)
        assert (done.code, path.read_bytes()) == (0, done.out)
        assert done.out.startswith(b"\x1b[30m\x1b[47mWelcome to GRUB!")

    def test_what_pvemu_has_to_say_goes_to_stderr(self, pvemu: Pvemu, micro: MakeGuest) -> None:
        done = pvemu("boot", micro("shutdown 0"), "--cmdline", "some words")
        assert done.out == b""
        stage, verdict = done.err.splitlines()
        assert stage.startswith("pvemu: stage 0: micro 7.5, entry 0x100000, at 0.000 s, command line 'some words'")
        assert re.fullmatch(
            r"pvemu: success: the guest powered itself off \([\d.]+ guest seconds in [\d.]+ s\)", verdict
        )

    def test_a_hypercall_that_is_not_there_is_named(self, pvemu: Pvemu, micro: MakeGuest) -> None:
        unknown = "mov $61, %eax\nsyscall\ncmp $-38, %rax\njne 1f\n"
        done = pvemu("boot", micro(unknown * 2 + "shutdown 0\n1: ud2"))
        assert done.code == 0
        assert re.search(r"^pvemu: .*61.* -ENOSYS, called 2 times$", done.err, re.MULTILINE)

    def test_an_operation_that_public_headers_name_is_only_reported(
        self, pvemu: Pvemu, report: Callable[..., dict[str, Any]], micro: MakeGuest
    ) -> None:
        """GNTTABOP_dump_table, which GRUB asks for at its end: ordinary. Operation 99 nobody has ever heard of."""
        ask = "mov $20, %eax\nxor %esi, %esi\nmov $1, %edx\nmov ${}, %edi\nsyscall\ncmp $-38, %rax\njne 1f\n"
        guest = micro(ask.format(3) + ask.format(99) + "shutdown 0\n1: ud2")
        done = pvemu("boot", guest)
        assert done.code == 0
        asked = [line for line in done.err.splitlines() if "ENOSYS" in line]
        assert asked == ["pvemu: Xen 4.17 has no grant_table_op(0x63): answered -ENOSYS, called 1 times"]
        result = report("boot", guest)
        assert result["absent_hypercalls"] == {"GNTTABOP_dump_table": 1}
        assert result["unknown_hypercalls"] == {"grant_table_op(0x63)": 1}


class TestReport:
    """`--json`, key by key."""

    def check(self, result: dict[str, Any]) -> None:
        assert list(result) == list(KEYS)
        for key, kind in KEYS.items():
            assert isinstance(result[key], kind), key
        for stage in result["stages"]:
            assert list(stage) == list(STAGE_KEYS)
            for key, kind in STAGE_KEYS.items():
                assert isinstance(stage[key], kind), key
            if stage["ramdisk"] is not None:
                assert list(stage["ramdisk"]) == ["size", "sha256", "file"]
            int(stage["entry"], 16)
        assert all(isinstance(name, str) and isinstance(count, int) for name, count in result["hypercalls"].items())
        for disk in result["disks"].values():
            assert list(disk) == ["reads", "writes", "sectors"]
            assert all(isinstance(count, int) for count in disk.values())

    def test_of_success(self, report: Callable[..., dict[str, Any]], micro: MakeGuest, tmp_path: Path) -> None:
        ramdisk = tmp_path / "ramdisk"
        ramdisk.write_bytes(b"ram" * 5000)
        kernel = micro(SAY_AND_POWER_OFF)
        result = report("boot", kernel, "--cmdline", "a 'b' ü", "--ramdisk", ramdisk)
        self.check(result)
        assert (result["verdict"], result["shutdown"]) == ("success", "poweroff")
        assert result["reason"] == "the guest powered itself off"
        assert result["stages"] == [{
            "guest_os": "micro", "loader": "generic", "guest_version": "7.5", "entry": "0x100000", "cmdline": "a 'b' ü",
            "file": str(kernel),
            "ramdisk": {"size": 15000, "sha256": hashlib.sha256(b"ram" * 5000).hexdigest(), "file": str(ramdisk)},
            "start": 0.0,
            "domid": 1,
        }]  # fmt: skip
        assert result["hypercalls"] == {"event_channel_op": 1, "sched_op": 1}
        assert result["disks"] == {}
        assert 0 < result["guest_seconds"] < result["wall_seconds"] < 5
        end = result["guest_seconds"]
        assert result["domains"] == [{"domid": 1, "start": 0.0, "end": end, "shutdown": "poweroff"}]

    @pytest.mark.parametrize(
        ("source", "arguments", "verdict", "shutdown"),
        [
            ("shutdown 1", [], "failure", "reboot"), ("shutdown 2", [], "failure", "suspend"),
            ("shutdown 3", [], "crash", "crash"), ("ud2", [], "crash", "crash"),
            (POLLS_THE_CLOCK, ["--timeout", "1"], "failure", None),
            (SAY_AND_POWER_OFF, ["--until", "first"], "success", None),
        ],
    )  # fmt: skip
    def test_of_other_endings(
        self, source: str, arguments: list[str], verdict: str, shutdown: str | None,
        report: Callable[..., dict[str, Any]], micro: MakeGuest,
    ) -> None:  # fmt: skip
        result = report("boot", micro(source), *arguments)
        self.check(result)
        assert (result["verdict"], result["shutdown"]) == (verdict, shutdown)
        assert result["reason"]

    def test_counts_of_disks(self, report: Callable[..., dict[str, Any]], guest: Guest, tmp_path: Path) -> None:
        blank = tmp_path / "blank.img"
        blank.write_bytes(bytes(1 << 20))
        grub, menu = guest("pvgrub", "grub-x86_64-xen.bin"), guest("menu", "menu.img")
        result = report("boot", grub, "--disk", f"xvdb={menu}", "--disk", f"sda={blank},ro", "--send", r"\r")
        self.check(result)
        assert list(result["disks"]) == ["xvdb", "sda"]
        for disk in result["disks"].values():
            assert disk["reads"] > 0
            assert disk["sectors"] >= disk["reads"]
            assert disk["writes"] == 0


#: Prints its domain's number, and reboots until that is 3 (its handle's last byte).
REBOOTS_TWICE = SAY_DOMID + """
        cmp     $3, %r13d
        je      1f
        shutdown 1
1:      shutdown 0
number: .byte   0
handle: .skip   16
"""


GRUBENV = "# GRUB Environment Block\n" + "#" * (1024 - 25)
ENV_RECIPE = f"""
description = "A disk that GRUB's save_env can write to"
[[artifact]]
name = "env.img"
kind = "disk"
[[artifact.partition]]
size = "8MiB"
fs = "ext2"
uuid = "70766d75-0002-4000-8000-000000000001"
[[artifact.partition.file]]
to = "/grubenv"
text = '''{GRUBENV}'''
"""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A copy of a disk that GRUB can save a variable to."""
    recipe = tmp_path / "env"
    recipe.mkdir()
    (recipe / "recipe.toml").write_text(ENV_RECIPE)
    disk = tmp_path / "env.img"
    disk.write_bytes(build(str(recipe))["env.img"].read_bytes())
    return disk


class TestReboot:
    """As xl: a new domain of the same configuration, with the next number."""

    def test_a_guest_that_reboots_boots_again(
        self, report: Callable[..., dict[str, Any]], micro: MakeGuest
    ) -> None:
        result = report("boot", micro(REBOOTS_TWICE), "--max-reboots", "2", "--cmdline", "again")
        assert (result["verdict"], result["reason"]) == ("success", "the guest powered itself off after 2 reboots")
        assert [(stage["domid"], stage["cmdline"]) for stage in result["stages"]] == [(n, "again") for n in (1, 2, 3)]
        domains = result["domains"]
        assert [domain["domid"] for domain in domains] == [1, 2, 3]
        assert [domain["shutdown"] for domain in domains] == ["reboot", "reboot", "poweroff"]
        ends = [domain["end"] for domain in domains]
        assert [domain["start"] for domain in domains] == [0.0, *ends[:-1]]
        assert [stage["start"] for stage in result["stages"]] == [0.0, *ends[:-1]]
        assert sorted(ends) == ends
        assert result["guest_seconds"] == ends[-1]
        assert result["hypercalls"] == {"event_channel_op": 3, "sched_op": 3, "xen_version": 3}

    def test_the_boots_share_console_expectation_and_time(self, pvemu: Pvemu, micro: MakeGuest) -> None:
        kernel = micro(REBOOTS_TWICE)
        done = pvemu("boot", kernel, "--max-reboots", "5", "--until", "12")
        assert (done.code, done.out) == (0, b"12")
        assert "pvemu: domain 1 rebooted at " in done.err
        assert done.err.splitlines()[-1].startswith("pvemu: success: the console matched '12' after 1 reboot ")
        done = pvemu("boot", kernel, "--max-reboots", "1")
        assert (done.code, done.out) == (5, b"12")
        done = pvemu("boot", micro("shutdown 1"), "--max-reboots", "100000", "--timeout", "0.00001")
        assert done.code == 5
        assert re.search(r"timed out after 1e-05 guest seconds after \d+ reboots", done.err)

    def test_what_was_written_to_a_disk_is_there_after_a_reboot(
        self, pvemu: Pvemu, guest: Guest, disk: Path
    ) -> None:
        done = pvemu(
            "boot", guest("pvgrub", "grub-x86_64-xen.bin"), "--disk", f"xvda={disk}", "--memory", "64",
            "--send", r"set x=kept; save_env -f (xen/xvda,msdos1)/grubenv x; reboot\r",
            "--send", r"load_env -f (xen/xvda,msdos1)/grubenv; echo it=$x; halt\r", "--until", "it=kept",
        )  # fmt: skip
        assert done.code == 0, done.err

    @pytest.mark.parametrize("count", ["-1", "two", "1.5", ""])
    def test_a_count_that_is_none(self, count: str, pvemu: Pvemu, micro: MakeGuest) -> None:
        done = pvemu("boot", micro("shutdown 0"), f"--max-reboots={count}")
        says = f"pvemu: --max-reboots {count!r}: not a number of times; give 0, 1, 2 or more"
        assert (done.code, done.line) == (2, says)


class TestWriting:
    """A disk image is written only where `rw` and `--write` are both given."""

    SAVE = ("--send", r"set saved=yes\rsave_env -f (xen/xvda,msdos1)/grubenv saved\r",
            "--send", r"list_env -f (xen/xvda,msdos1)/grubenv\rhalt\r")  # fmt: skip

    @pytest.mark.parametrize(
        ("options", "write", "mode"),
        [("", [], 0o644), (",rw", [], 0o444), ("", ["--write"], 0o444)],
        ids=["neither", "rw", "--write"],
    )
    def test_without_both_the_guest_writes_to_memory(
        self, options: str, write: list[str], mode: int, pvemu: Pvemu, guest: Guest, disk: Path
    ) -> None:
        before, stamp = disk.read_bytes(), disk.stat().st_mtime_ns
        disk.chmod(mode)
        done = pvemu(
            "boot", guest("pvgrub", "grub-x86_64-xen.bin"), "--memory", "64", "--disk", f"xvda={disk}{options}", *write,
            *self.SAVE,
        )  # fmt: skip
        assert done.code == 0, done.err
        assert b"saved=yes\n\rgrub> " in done.out, "it reads back what it wrote"
        assert (disk.read_bytes(), disk.stat().st_mtime_ns) == (before, stamp)

    def test_with_both_it_writes_to_the_file(
        self, report: Callable[..., dict[str, Any]], guest: Guest, disk: Path
    ) -> None:
        before = disk.read_bytes()
        result = report(
            "boot", guest("pvgrub", "grub-x86_64-xen.bin"), "--memory", "64", "--disk", f"xvda={disk},rw", "--write",
            *self.SAVE,
        )  # fmt: skip
        after = disk.read_bytes()
        assert result["verdict"] == "success"
        assert result["disks"]["xvda"]["writes"] > 0
        assert b"# GRUB Environment Block\nsaved=yes\n###" in after
        at = before.index(GRUBENV.encode())
        assert (before[:at], before[at + 1024 :]) == (after[:at], after[at + 1024 :]), "and nowhere else"

    def test_a_read_only_disk_refuses(self, pvemu: Pvemu, guest: Guest, disk: Path) -> None:
        before = disk.read_bytes()
        done = pvemu(
            "boot", guest("pvgrub", "grub-x86_64-xen.bin"), "--memory", "64", "--disk", f"xvda={disk},ro", "--write",
            *self.SAVE,
        )  # fmt: skip
        assert done.code == 0
        assert b"saved=yes\n\rgrub> " not in done.out
        assert disk.read_bytes() == before


def test_help_says_the_exit_codes(pvemu: Pvemu) -> None:
    done = pvemu("boot", "--help")
    assert done.code == 0
    text = " ".join(done.out.decode().split())
    assert "0 success, 2 bad usage or input, 4 error of pvemu, 5 expectation not met, 6 guest crashed" in text
