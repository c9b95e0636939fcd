"""The main job: Debian's pvgrub chainloads the disk's own GRUB, on all kinds of machines and disks."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pvemu.devices.xenstore.trace import without_clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.boot.conftest import Boot, Booted

    Guest = Callable[[str, str], Path]

TRACE = Path(__file__).parents[1] / "data" / "xenstore" / "xenstored-trace-first-grub.txt"
HELLO = "hello from the guest's own GRUB .x86_64-xen."
NO_PVBOOT = b"error: no such device: /boot/xen/pvboot-x86_64.elf.\n"
PARTITION = 1 << 20  # where the recipes' one partition begins


@pytest.fixture(scope="session")
def demo(guest: Guest) -> Path:
    """A disk with a GRUB of its own, read-only."""
    return guest("demo", "demo.img")


def copy_of(image: Path, to: Path) -> Path:
    to.write_bytes(image.read_bytes())
    return to


def test_json_shows_both_grubs_with_their_notes(grub: Path, demo: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pvemu.cli", "boot", str(grub), "--memory", "256", "--disk", f"xvda={demo}"]
    done = subprocess.run(
        [*command, "--cmdline", "(none) of it", "--json", str(report)], capture_output=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, report.exists()) == (0, True), done.stderr
    result = json.loads(report.read_text())
    first, second = result["stages"]
    notes = {"guest_os": "GRUB", "loader": "generic", "guest_version": None, "ramdisk": None, "domid": 1}
    assert first == {**notes, "entry": "0x0", "cmdline": "(none) of it", "file": str(grub), "start": 0.0}
    assert 0 < second["start"] < 1
    file = "xvda1:/boot/xen/pvboot-x86_64.elf"
    assert {**second, "start": 0} == {**notes, "entry": "0x0", "cmdline": second["cmdline"], "file": file, "start": 0}
    assert (result["verdict"], result["shutdown"]) == ("success", "poweroff")
    assert 6 <= result["guest_seconds"] < 7, "five of the countdown, one of the entry's sleep"
    assert b"hello from the guest's own GRUB" in done.stdout


def once(lines: list[str]) -> list[tuple[str, str]]:
    """Requests with their replies; a repeated one (polling) only once."""
    pairs: list[tuple[str, str]] = []
    for pair in zip(lines[::2], lines[1::2], strict=True):
        if not pairs or pairs[-1] != pair:
            pairs.append(pair)
    return pairs


@pytest.mark.parametrize(("name", "protocol"), [("grub64-chain", "x86_64-abi"), ("grub32-chain", "x86_32-abi")])
def test_the_xenstore_requests_are_those_that_real_xen_got(
    name: str, protocol: str, chain_boot: Callable[[str], Booted]
) -> None:
    recorded = once([
        # Recorded with the 32-bit GRUB: its ABI is all that differs with the 64-bit one.
        without_clock(line).replace("x86_32-abi", protocol) for line in TRACE.read_text().splitlines()
    ])  # fmt: skip
    ours = once(chain_boot(name).store_trace)
    assert ours[: len(recorded)] == recorded
    # The record was cut after 400 lines; the guest's GRUB goes on opening its disk for one module after the other.
    assert set(ours[len(recorded) :]) == set(recorded[-2:])


@pytest.mark.parametrize("memory", [64, 128, 512, 1024, 2048, 3072, 4096])
def test_any_memory_will_do(memory: int, boot: Boot, grub: Path, demo: Path) -> None:
    done = boot(grub, f"xvda={demo},ro", memory=memory, until=HELLO, send="\r")
    assert done.verdict.verdict == "success"
    assert [stage.guest_os for stage in done.verdict.stages] == ["GRUB", "GRUB"]


@pytest.mark.parametrize(("mine", "other"), [("x86_64", "i386"), ("i386", "x86_64")])
def test_a_kernel_of_the_other_width_is_refused_as_on_xen(
    mine: str, other: str, boot: Boot, guest: Guest
) -> None:
    kernel, disk = guest("pvgrub", f"grub-{mine}-xen.bin"), guest("chain", "chain.img")
    done = boot(
        kernel, f"xvda={disk},ro", timeout=10,
        send=["\x1b", "c", f"linux (xen/xvda,msdos1)/boot/xen/pvboot-{other}.elf\r"],
    )  # fmt: skip
    machine = {"x86_64": 2, "i386": 4}[mine]  # GRUB's number, as recorded of both directions on Xen
    assert b"error: incompatible architecture: %d.\n\r" % machine in done.console
    assert done.verdict.verdict == "failure"
    assert len(done.verdict.stages) == 2
    refusal = done.verdict.refusal
    assert refusal is not None
    bits = {"x86_64": 64, "i386": 32}
    assert refusal.error.startswith("error: incompatible architecture")
    assert (refusal.kernel.kind, refusal.kernel.bits, refusal.kernel.vdev) == ("ELF", bits[other], "xvda")
    assert f"this domain is {bits[mine]}-bit" in refusal.advice
    assert str(refusal) in done.verdict.reason


class TestDisks:
    def test_the_one_that_can_boot_need_not_be_the_first(
        self, boot: Boot, grub: Path, demo: Path, guest: Guest, tmp_path: Path
    ) -> None:
        blank = tmp_path / "blank.img"
        blank.write_bytes(bytes(PARTITION))
        done = boot(grub, f"xvda={blank},ro", f"xvdb={demo}", f"xvdd={guest('menu', 'menu.img')}", send="\x1b[B\r")
        assert b"Chainloading (xen/xvdb,msdos1)/boot/xen/pvboot-x86_64.elf" in done.console
        for shown in (
            b"Device xen/xvda: No known filesystem", b"Partition xen/xvdb,msdos1: Filesystem type ext* - Label `demo'",
            b"Partition xen/xvdd,msdos1: Filesystem type ext* - Label `oracle'",
        ):  # fmt: skip
            assert shown in done.console
        assert list(done.verdict.disks) == ["xvda", "xvdb", "xvdd"]
        assert all(disk["reads"] and not disk["writes"] for disk in done.verdict.disks.values())

    def test_sectors_of_4096_bytes(self, boot: Boot, grub: Path, demo: Path, tmp_path: Path) -> None:
        image = copy_of(demo, tmp_path / "demo.img")
        with image.open("r+b") as file:  # the MBR counts in sectors
            file.seek(446 + 8)
            start, count = (int.from_bytes(file.read(4), "little") for _ in range(2))
            file.seek(446 + 8)
            file.write((start // 8).to_bytes(4, "little") + (count // 8).to_bytes(4, "little"))
        done = boot(grub, f"xvda={image},ro,sector-size=4096", send="\x1b[B\r")
        assert b"Device xen/xvda: No known filesystem detected - Sector size 4096B - Total size" in done.console
        assert done.verdict.verdict == "success"
        assert len(done.verdict.stages) == 2

    def test_a_partition_as_a_disk(self, boot: Boot, grub: Path, demo: Path, tmp_path: Path) -> None:
        image = tmp_path / "partition.img"
        image.write_bytes(demo.read_bytes()[PARTITION:])
        done = boot(grub, f"xvda1={image}", until=HELLO)
        assert b"Chainloading (xen/xvda1)/boot/xen/pvboot-x86_64.elf" in done.console
        assert done.verdict.verdict == "success"
        assert list(done.verdict.disks) == ["xvda1"]

    @pytest.mark.parametrize("vdev", ["xvdp", "sda", "hda", "xvdaa"])
    def test_by_another_name(self, vdev: str, boot: Boot, grub: Path, demo: Path) -> None:
        done = boot(grub, f"{vdev}={demo},ro", until=HELLO, send="\r")
        assert f"Chainloading (xen/{vdev},msdos1)".encode() in done.console
        assert done.verdict.verdict == "success"

    def test_without_the_partition_grub_says_so(self, boot: Boot, grub: Path, demo: Path, tmp_path: Path) -> None:
        image = copy_of(demo, tmp_path / "wiped.img")
        with image.open("r+b") as file:
            file.write(bytes(512))
        done = boot(grub, f"xvda={image}", until="grub> ")
        assert NO_PVBOOT in done.console
        assert done.verdict.verdict == "success"
        assert len(done.verdict.stages) == 1

    def test_cut_off_in_the_middle_grub_says_so(self, boot: Boot, grub: Path, demo: Path, tmp_path: Path) -> None:
        image = tmp_path / "short.img"
        image.write_bytes(demo.read_bytes()[: 3 << 20])
        done = boot(grub, f"xvda={image}", send="cat (xen/xvda,msdos1)/boot/xen/pvboot-x86_64.elf\rhalt\r")
        assert b"error: " in done.console
        assert (done.verdict.verdict, len(done.verdict.stages)) == ("success", 1)

    def test_two_runs_on_a_disk_find_it_the_same(self, boot: Boot, grub: Path, demo: Path, tmp_path: Path) -> None:
        image = copy_of(demo, tmp_path / "demo.img")
        image.chmod(0o444)
        before = hashlib.sha256(image.read_bytes()).digest()
        first, second = (boot(grub, f"xvda={image},rw", until=HELLO) for _ in range(2))
        assert first.console == second.console
        assert hashlib.sha256(image.read_bytes()).digest() == before
