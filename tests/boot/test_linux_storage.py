"""GRUB finds and starts Debian's kernel on disks of all kinds (images/linux-storage)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.boot.conftest import Boot

    Guest = Callable[[str, str], Path]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "disks"),
    [
        ("xfs", ["xvda=xfs.img,ro"]),
        ("btrfs-gpt", ["xvda=fat-boot.img,ro", "xvdb=btrfs-gpt.img"]),  # the first that has a grub.cfg is what counts
        ("fat-boot", ["xvda=fat-boot.img"]),
        ("large-sectors", ["xvda=large-sectors.img,ro,sector-size=4096"]),
        ("lvm", ["sda=lvm.img"]),
        ("raid", ["xvda=raid-a.img,ro", "xvdb=raid-b.img,ro"]),
    ],
)
def test_a_kernel_starts_from(name: str, disks: list[str], boot: Boot, grub: Path, guest: Guest) -> None:
    at = guest("linux-storage", "xfs.img").parent
    specs = [disk.replace("=", f"={at}/", 1) for disk in disks]
    done = boot(grub, *specs, until=r"Linux version [^\n]*(\n.*)*Command line: console=hvc0 booted.from=\S", timeout=60)
    assert done.verdict.verdict == "success", done.verdict.reason
    assert f"grub.cfg from {name}".encode() in done.console
    linux = done.verdict.stages[-1]
    assert (linux.guest_os, linux.cmdline) == ("linux", f"console=hvc0 booted.from={name}")
    assert linux.ramdisk is not None
    assert linux.ramdisk.size == guest("tiny", "tiny.cpio.gz").stat().st_size
    assert all(disk["reads"] for disk in done.verdict.disks.values())
