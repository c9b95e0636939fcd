"""Large ramdisks and much memory: the maps of all memory that builder, loader and kernel make of it."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.boot.conftest import Boot

    Guest = Callable[[str, str], Path]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ramdisk(guest: Guest) -> tuple[int, str]:
    """Size and sha256 of 300 MiB."""
    with guest("large-ramdisk", "large-ramdisk.img").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


@pytest.mark.parametrize("memory", [1024, 4096])
def test_grub_hands_over_all_of_it(
    memory: int, ramdisk: tuple[int, str], boot: Boot, grub: Path, guest: Guest
) -> None:
    disk = guest("large-ramdisk-menu", "large-ramdisk-menu.img")
    done = boot(grub, f"xvda={disk},ro", memory=memory, stop_at="GRUB", timeout=100)
    assert done.verdict.reason == "hand-off"
    last = done.verdict.stages[-1]
    assert (last.guest_os, last.cmdline) == ("GRUB", "with=much")
    assert last.ramdisk is not None
    assert (last.ramdisk.size, last.ramdisk.sha256) == ramdisk


def test_linux_starts_beside_it(ramdisk: tuple[int, str], boot: Boot, guest: Guest) -> None:
    memory = 4096
    done = boot(
        guest("kernels", "vmlinuz-gzip"), memory=memory, cmdline="console=hvc0",
        ramdisk=guest("large-ramdisk", "large-ramdisk.img"), until=r"Memory: \d+K/\d+K available", timeout=30,
    )  # fmt: skip
    assert done.verdict.verdict == "success", done.verdict.reason
    found = re.search(rb"Memory: \d+K/(\d+)K available", done.console)
    assert found is not None
    assert memory * 1016 < int(found[1]) <= memory * 1024, "what the kernel found is all but a little"
    stage = done.verdict.stages[0]
    assert stage.ramdisk is not None
    assert (stage.ramdisk.size, stage.ramdisk.sha256) == ramdisk
    assert b"Linux version" in done.console
