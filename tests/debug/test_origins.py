"""Which file a stage came from: found from what the loader read, whatever it prints."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pvemu.testing.guest import Guest
    from pvemu.testing.plugin import BuildImage, StartGuest

HOST = '''description = "A loader that does as the test says"
[[artifact]]
name = "grub.bin"
kind = "grub"
target = "x86_64-xen"
prefix = "/boot/grub"
modules = [
  "normal", "part_msdos", "ext2", "memdisk", "tar", "linux", "gzio", "xzio", "hashsum", "gcry_md5", "test", "halt",
]
config = """
set pager=0
{script}
boot
"""
[[artifact.memdisk]]
to = "/carried.elf"
recipe = "guide-stage2"
artifact = "xen-x86_64.elf"
[[artifact.memdisk]]
to = "/carried.cpio"
text = "carried"
'''
DISK = """description = "Kernels to choose from"
[[artifact]]
name = "disk.img"
kind = "disk"
[[artifact.partition]]
size = "1MiB"
[[artifact.partition]]
size = "8MiB"
fs = "{fs}"
uuid = "6d1de500-0000-4000-8000-000000000001"
features = ["^metadata_csum_seed", "^orphan_file"]
"""
FILE = '[[artifact.partition.file]]\nto = "{to}"\nrecipe = "guide-stage2"\nartifact = "{artifact}"\n'
TEXT = '[[artifact.partition.file]]\nto = "{to}"\ntext = "{text}"\n'
FILES = (
    FILE.format(to="/one.elf", artifact="boot-xen-x86_64.elf")
    + FILE.format(to="/other.elf", artifact="xen-x86_64.elf")
    + FILE.format(to="/again/one.elf", artifact="boot-xen-x86_64.elf")
    + TEXT.format(to="/first.cpio", text="first")
    + TEXT.format(to="/second.cpio", text="second one")
)


@pytest.fixture
def chainload(pv_guest: StartGuest, pv_image: BuildImage) -> Callable[..., Guest]:
    """A guest that stands at the first instruction of what the loader's script starts."""

    def start(script: str, fs: str = "ext2") -> Guest:
        host = pv_image("origins-host", text=HOST.format(script=script))["grub.bin"]
        disk = pv_image(f"origins-{fs}", text=DISK.format(fs=fs) + FILES)["disk.img"]
        guest = pv_guest(host, f"xvdb={disk},ro", memory=64)
        guest.wait_for_stage(1)
        return guest

    return start


@pytest.mark.parametrize("fs", ["ext2", "ext4"])
def test_the_file_that_was_started(chainload: Callable[..., Guest], fs: str) -> None:
    guest = chainload("multiboot (xen/xvdb,msdos2)/one.elf", fs)
    first, second = guest.stages
    assert first.file == guest.config.kernel
    assert second.file == "xvdb2:/one.elf"
    assert (first.ramdisk_file, second.ramdisk_file) == (None, None)


def test_not_the_file_that_was_read_last_nor_most(chainload: Callable[..., Guest]) -> None:
    script = """
md5sum (xen/xvdb,msdos2)/other.elf
multiboot (xen/xvdb,msdos2)/one.elf
md5sum (xen/xvdb,msdos2)/other.elf
md5sum (xen/xvdb,msdos2)/first.cpio
"""
    assert chainload(script).stages[1].file == "xvdb2:/one.elf"


def test_of_two_alike_one_that_was_read(chainload: Callable[..., Guest]) -> None:
    guest = chainload("multiboot (xen/xvdb,msdos2)/again/one.elf")
    assert guest.stages[1].file == "xvdb2:/again/one.elf"


def test_what_the_loader_carries(chainload: Callable[..., Guest]) -> None:
    guest = chainload("multiboot (memdisk)/carried.elf\ninitrd (memdisk)/carried.cpio")
    assert guest.stages[1].file == "(memdisk)/carried.elf"
    assert guest.stages[1].ramdisk_file == "(memdisk)/carried.cpio"


def test_a_ramdisk(chainload: Callable[..., Guest]) -> None:
    guest = chainload("multiboot (xen/xvdb,msdos2)/one.elf\ninitrd (xen/xvdb,msdos2)/first.cpio")
    (_, stage) = guest.stages
    assert stage.ramdisk is not None
    assert stage.ramdisk.sha256 == hashlib.sha256(b"first").hexdigest()
    assert stage.ramdisk_file == "xvdb2:/first.cpio"


def test_a_ramdisk_of_several_files(chainload: Callable[..., Guest]) -> None:
    place = "(xen/xvdb,msdos2)"
    guest = chainload(f"multiboot {place}/one.elf\ninitrd {place}/first.cpio {place}/second.cpio")
    (_, stage) = guest.stages
    assert stage.ramdisk is not None
    assert stage.ramdisk.sha256 == hashlib.sha256(b"first\0\0\0second one").hexdigest()
    assert stage.ramdisk_file == "xvdb2:/first.cpio + xvdb2:/second.cpio"


def test_it_can_be_asked_when_the_guest_is_gone(chainload: Callable[..., Guest]) -> None:
    guest = chainload("multiboot (xen/xvdb,msdos2)/one.elf")
    guest.wait_for_shutdown()
    guest.close()
    assert guest.stages[1].file == "xvdb2:/one.elf"


def test_a_disk_that_is_gone(pv_guest: StartGuest, pv_image: BuildImage, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(pv_image("origins-ext2", text=DISK.format(fs="ext2") + FILES)["disk.img"].read_bytes())
    host = pv_image("origins-host", text=HOST.format(script="multiboot (xen/xvda,msdos2)/one.elf"))["grub.bin"]
    guest = pv_guest(host, disk, memory=64)
    guest.wait_for_stage(1)
    disk.unlink()
    assert guest.stages[1].file is None
