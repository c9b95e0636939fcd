"""Scenario files beside a small loader, and `pvemu test` run on them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: A GRUB with a menu, and one that it chainloads, on a disk that it can write to.
RECIPE = '''description = "A loader for scenarios"
[[artifact]]
name = "grub.bin"
kind = "grub"
target = "x86_64-xen"
prefix = "/boot/grub"
modules = [
  "normal", "memdisk", "tar", "part_msdos", "ext2", "linux", "loadenv", "echo", "test", "halt", "reboot", "sleep",
  "configfile", "read",
]
config = "normal (memdisk)/grub.cfg"
[[artifact.memdisk]]
to = "/grub.cfg"
text = """
set timeout=3
echo "Reading the configuration"
menuentry "halt" { echo "I halt"; halt; }
menuentry "chainload" {
  multiboot (xen/xvda,msdos1)/second.elf an argument
  initrd (xen/xvda,msdos1)/ramdisk
  boot
}
menuentry "complain" { set root=xen/xvda,msdos1; cat /nothing; echo "after it"; sleep 1; halt; }
menuentry "save" { set root=xen/xvda,msdos1; saved=this; save_env -f (xen/xvda,msdos1)/grubenv saved; halt; }
menuentry "ask" { echo "Say something:"; read answer; echo "You said $answer."; halt; }
menuentry "wait" { echo "waiting"; sleep 30; halt; }
menuentry "reboot" { reboot; }
submenu "many" {
  for n in 0 1 2 3 4 5 6 7 8 9; do
    for m in a b c; do menuentry "number $n$m" "$n$m" { echo "I am $2"; halt; }; done
  done
  menuentry "a title that is longer than a line of the screen has room for, so that its end cannot be seen" { halt; }
}
menuentry "crash" { multiboot (xen/xvda,msdos1)/crash.elf; boot; }
"""
[[artifact]]
name = "second.elf"
kind = "grub"
target = "x86_64-xen"
prefix = "/boot/grub"
modules = ["echo", "halt"]
config = """
echo "I am the second"
halt
"""
[[artifact]]
name = "disk.img"
kind = "disk"
[[artifact.partition]]
size = "8MiB"
fs = "ext2"
uuid = "6d1de500-0000-4000-8000-000000000001"
[[artifact.partition.file]]
to = "/ramdisk"
text = "a ramdisk"
[[artifact.partition.file]]
to = "/grubenv"
file = "grubenv"
[[artifact.partition.file]]
to = "/second.elf"
recipe = "guide-stage2"
artifact = "boot-xen-x86_64.elf"
'''


class Ran(Protocol):
    """What running `pvemu test` gave."""

    returncode: int
    stdout: str
    stderr: str


class PvemuTest(Protocol):
    """`pvemu test` with these words, in the folder of scenario files."""

    def __call__(self, *words: str, env: dict[str, str] | None = None) -> Ran: ...


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **(extra or {})}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where scenario files go; `./loader` is a recipe there."""
    files = tmp_path / "loader" / "files"
    files.mkdir(parents=True)
    (files / "grubenv").write_text("# GRUB Environment Block\n".ljust(1024, "#"), encoding="utf-8")
    (tmp_path / "loader" / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


@pytest.fixture
def pvemu_test(folder: Path) -> PvemuTest:
    def run(*words: str, env: dict[str, str] | None = None) -> Ran:
        return subprocess.run(
            [sys.executable, "-m", "pvemu.cli", "test", *words],
            cwd=folder, env=environment(env), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run
