"""Debian's PV kernel to its userspace: direct, through the host's GRUB, a chainloaded one, to a real root."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pvemu.mkimage.tools import tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pvemu.mkimage.packages import PackageCache

    Guest = Callable[[str, str], Path]

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
REFERENCE = Path(__file__).parents[1] / "data" / "reference" / "linux-direct.txt"
CMDLINE = 'console=hvc0 oracle.arg=1 "quoted arg"'
PARTITION = 1 << 20

#: What of real Xen's console may be missing, and what of ours may be new: the machine and its builder, the features of
#: another CPU (FXSAVE instead of XSAVE, no RDRAND), the moment.
MAY_DIFFER = re.compile(
    r"Linux version|xN?/fpu:|random: crng init done|[Pp]oking|model name|flags\s*:|bugs\s*:|"
    r"lrwxrwxrwx|/sys/hypervisor/|\s*N:\s+N\s+xen-|cache size|microcode|"
    r"xenbus_probe_frontend: xenbus_frontend_dev_shutdown|reboot: System halted"
)
#: What a kernel says when something is wrong.
COMPLAINT = re.compile(r"warn|bug|oops|xen|error|fail|unable|cannot|invalid", re.IGNORECASE)


class Ran(NamedTuple):
    """One process: its exit code, the console, what it said, its report."""

    code: int
    console: str
    said: str
    report: dict[str, Any]


def pvemu(report: Path, *arguments: str | Path, hash_seed: str = "0") -> Ran:
    done = subprocess.run(
        [sys.executable, "-m", "pvemu.cli", "boot", *arguments, "--json", report],
        stdin=subprocess.DEVNULL, capture_output=True, check=False,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    result = json.loads(report.read_text()) if report.exists() else {}
    return Ran(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"), result)


def masked(console: str) -> list[str]:
    """Lines without time stamps, numbers, and what the oracle's early console put before them."""
    lines = []
    for line in console.replace("\r", "").split("\n"):
        bare = re.sub(r"^(\(early\) )?(\[ *[0-9]+\.[0-9]+\] |<[0-9]+>)?", "", line)
        lines.append(re.sub(r"[0-9]+", "N", re.sub(r"0x[0-9a-f]+", "H", bare)).rstrip())
    return lines


def kernel_version(console: str) -> str:
    """Debian's version of the kernel that printed this."""
    found = re.search(r"Linux version .*Debian (\S+)", console)
    assert found is not None, "the kernel printed no banner"
    return found[1]


def differing(lines: Iterable[str], others: Iterable[str]) -> list[str]:
    known = set(others)
    return [line for line in lines if line not in known and not MAY_DIFFER.match(line.removeprefix("  "))]


@pytest.fixture(scope="session")
def kernel(guest: Guest) -> Path:
    return guest("debian-kernel", "vmlinuz")


def test_the_console_is_that_of_real_xen(kernel: Path, guest: Guest, tmp_path: Path) -> None:
    ran = pvemu(
        tmp_path / "report.json", kernel, "--memory", "256", "--ramdisk", guest("tiny", "tiny.cpio.gz"),
        "--cmdline", "console=hvc0 oracle=info earlyprintk=xen", "--disk", f"xvda={guest('menu', 'menu.img')},ro",
    )  # fmt: skip
    assert (ran.code, ran.report["verdict"]) == (0, "success"), ran.said
    assert "ORACLE-MARKER-LINUX\n" in ran.console.replace("\r", "")
    assert "cmdline: console=hvc0 oracle=info earlyprintk=xen" in ran.console
    recorded = REFERENCE.read_text("utf-8", "replace")
    ours, real = masked(ran.console), masked(recorded)
    new, missing = differing(ours, real), differing(real, ours)
    if kernel_version(ran.console) != kernel_version(recorded):
        # Another kernel words its messages otherwise; what it must not do is complain of what real Xen's did not.
        new, missing = [line for line in new if COMPLAINT.search(line)], []
    assert new == []
    assert missing == []
    assert not re.search(r"WARNING|BUG:|Oops|unchecked MSR", ran.console)


def check_hand_off(ran: Ran, stages: list[str], ramdisk: Path) -> None:
    assert (ran.code, ran.report["verdict"]) == (0, "success"), ran.said
    assert [stage["guest_os"] for stage in ran.report["stages"]] == stages
    last = ran.report["stages"][-1]
    content = ramdisk.read_bytes()
    assert last["cmdline"] == CMDLINE
    assert last["ramdisk"] == {
        "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "file": "xvda1:/boot/tiny.cpio.gz",
    }  # fmt: skip
    assert last["file"] == "xvda1:/boot/vmlinuz"
    assert "Booting kernel on Xen" in ran.console
    assert f"cmdline: {CMDLINE}" in ran.console


def test_through_the_hosts_grub(grub: Path, guest: Guest, tmp_path: Path) -> None:
    disk = guest("linux", "linux.img")
    ran = pvemu(tmp_path / "report.json", grub, "--memory", "512", "--disk", f"xvda={disk}")
    check_hand_off(ran, ["GRUB", "linux"], guest("tiny", "tiny.cpio.gz"))


def test_through_a_chainloaded_grub(grub: Path, guest: Guest, tmp_path: Path) -> None:
    disk = guest("chain-linux", "chain-linux.img")
    ran = pvemu(tmp_path / "report.json", grub, "--memory", "512", "--disk", f"xvda={disk}")
    check_hand_off(ran, ["GRUB", "GRUB", "linux"], guest("tiny", "tiny.cpio.gz"))
    linux = ran.report["stages"][2]
    assert (linux["loader"], linux["guest_version"]) == ("generic", "2.6")
    assert re.search(r"ORACLE-BOOTING\n\r.{0,40}Linux version", ran.console), "the kernel's first word comes next"
    assert ran.report["guest_seconds"] < 10


def test_a_root_is_written_or_left_alone_found_after_a_reboot_and_runs_repeat(
    kernel: Path, guest: Guest, packages: PackageCache, tmp_path: Path
) -> None:
    image, ramdisk = guest("linux-root", "root.img"), guest("linux-root", "root.cpio.gz")
    disk = tmp_path / "root.img"
    disk.write_bytes(image.read_bytes())
    boot: list[str | Path] = [
        kernel, "--memory", "256", "--ramdisk", ramdisk, "--cmdline", "console=hvc0 quiet pvemu.then=reboot",
        "--disk", f"xvda={disk},rw",
    ]  # fmt: skip
    kept = pvemu(
        tmp_path / "kept.json", *boot, "--max-reboots", "5", "--until", "root: found .*", hash_seed="1"
    )  # fmt: skip
    assert (kept.code, kept.report["verdict"]) == (0, "success"), kept.said
    assert kept.report["reason"] == "the console matched 'root: found written by the guest' after 1 reboot"
    assert kept.console.count("root: nothing found") == 1
    assert [domain["shutdown"] for domain in kept.report["domains"]] == ["reboot", None]
    assert [(stage["guest_os"], stage["domid"]) for stage in kept.report["stages"]] == [("linux", 1), ("linux", 2)]
    assert re.search(r"^pvemu: domain 1 rebooted at [\d.]+ s, and is domain 2 now$", kept.said, re.MULTILINE)
    assert disk.read_bytes() == image.read_bytes()

    written = pvemu(
        tmp_path / "written.json", *boot, "--max-reboots", "0", "--write", hash_seed="4294967295"
    )  # fmt: skip
    assert (written.code, written.report["shutdown"]) == (5, "reboot"), written.said
    assert re.search(r"root: /dev/xvda1 / ext4 rw", written.console)
    assert "root: written" in written.console
    assert written.report["disks"]["xvda"]["writes"] > 0
    assert kept.console.startswith(written.console)
    assert [kept.report[key][0] for key in ("stages", "domains")] == [
        written.report[key][0] for key in ("stages", "domains")
    ]
    part = tmp_path / "part.img"
    part.write_bytes(disk.read_bytes()[PARTITION:])
    tool("e2fsck", packages).run("-fn", part)
    assert b"written by the guest\n" in part.read_bytes()


def test_a_shell_answers_and_it_ends_as_it_is_told(kernel: Path, guest: Guest) -> None:
    from pvemu.testing.failures import GuestCrashError
    from pvemu.testing.guest import Guest as RunningGuest

    ramdisk = guest("linux-root", "root.cpio.gz")
    with RunningGuest.boot(kernel, memory=128, ramdisk=ramdisk, cmdline="console=hvc0 quiet pvemu.do=shell") as linux:
        linux.expect("pvemu# ")
        at_the_prompt = linux.snapshot()
        linux.send("echo $((6*7)) of them; cat /proc/version\r")
        linux.expect(r"\n42 of them\n")
        linux.expect(r"Linux version 6\.")
        linux.send("exit\r")
        assert linux.wait_for_shutdown() == "poweroff"
        linux.restore(at_the_prompt)
        linux.send("/bin/busybox halt -f\r")
        assert linux.wait_for_shutdown() == "poweroff"
        linux.restore(at_the_prompt)
        linux.send("echo c > /proc/sysrq-trigger\r")
        with pytest.raises(GuestCrashError) as caught:
            linux.wait_for_shutdown()
        assert "Kernel panic - not syncing: sysrq triggered crash" in linux.text
        assert any("RIP:" in line for line in caught.value.report)


def test_two_vcpus_run_suspend_and_go_on(kernel: Path, guest: Guest) -> None:
    """As with xl save -c, Linux freezes its tasks, stops its second CPU, suspends; and both work again (`taskset 2`
    runs on the second).
    """
    from pvemu.config import DomainConfig
    from pvemu.testing.guest import Guest as RunningGuest

    script = (
        "/bin/busybox mkdir -p /sys; /bin/busybox mount -t sysfs sysfs /sys; "
        "while true; do read online < /sys/devices/system/cpu/online; echo TICK on $online, "
        "$(/bin/busybox taskset 2 /bin/busybox nproc --all) in all; /bin/busybox sleep 0.2; done"
    )
    config = DomainConfig(
        kernel=str(kernel), ramdisk=str(guest("tiny", "tiny.cpio.gz")), memory_mib=128, vcpus=2,
        cmdline=f'console=hvc0 rdinit=/bin/busybox -- sh -c "{script}"',
    )  # fmt: skip
    with RunningGuest(config) as linux:
        linux.expect("smp: Brought up 1 node, 2 CPUs")
        linux.expect("TICK on 0-1, 2 in all")
        linux.suspend()
        linux.expect(r"Restarting tasks \.\.\. done")
        for _ in range(3):
            linux.expect("TICK on 0-1, 2 in all", timeout=2)
        assert "Freezing user space processes" in linux.text
        assert not re.search(r"WARNING|BUG:|Oops|detected stall|lockup -", linux.text)
        assert linux.machine.xen_log == []


def test_four_vcpus_come_up_work_and_repeat(kernel: Path, guest: Guest, tmp_path: Path) -> None:
    """Secondary processors, their timers and IPIs; the second run is the first, exit for exit."""
    runs = [
        pvemu(
            tmp_path / f"report-{seed}.json", kernel, "--memory", "256", "--vcpus", "4",
            "--ramdisk", guest("linux-root", "root.cpio.gz"), "--cmdline", "console=hvc0 quiet pvemu.do=shell",
            "--send", r"dmesg | grep 'smp: B'; nproc; cat /sys/devices/system/cpu/online\r",
            "--send", r"for i in 1 2 3 4 5 6; do (echo a$i | md5sum; echo job $i) & done; wait\r", "--send", r"exit\r",
            hash_seed=seed,
        )
        for seed in ("1", "77")
    ]  # fmt: skip
    for ran in runs:
        assert (ran.code, ran.report["verdict"], ran.report["shutdown"]) == (0, "success", "poweroff"), ran.said
        assert "smp: Brought up 1 node, 4 CPUs\r\n4\r\n0-3\r\n" in ran.console
        assert all(f"job {i}\r\n" in ran.console for i in range(1, 7))
        assert not re.search(r"WARNING|BUG:|Oops|stall|lockup", ran.console)
        ran.report.pop("wall_seconds")
    assert runs[0].console == runs[1].console
    assert runs[0].report == runs[1].report
