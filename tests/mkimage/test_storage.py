"""Every table, file system and volume: right for its own tools, and readable for the real GRUB."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from pvemu.mkimage.layout import Disk, FileSystem, Mirror, PartitionTable, VolumeGroup
from pvemu.mkimage.recipe import load_recipe
from pvemu.mkimage.tools import tool
from pvemu.mkimage.volumes.lvm import volume_places
from pvemu.mkimage.volumes.md import member_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pvemu.mkimage import Built
    from pvemu.mkimage.layout import Content
    from pvemu.mkimage.packages import PackageCache
    from pvemu.testing.plugin import BuildImage, StartGuest

#: What each disk holds and where GRUB has it, when it is the only one of its kind.
PLACES = {
    "ext2": "{disk},msdos1",
    "ext3": "{disk},msdos1",
    "xfs": "{disk},msdos1",
    "btrfs": "{disk},msdos1",
    "fat12": "{disk},msdos1",
    "fat16": "{disk},msdos1",
    "fat32": "{disk},msdos1",
    "gpt": "{disk},gpt1",
    "no-table": "{disk}",
    "large-sectors": "{disk},msdos1",
    "large-sectors-gpt": "{disk},gpt1",
    "logical": "{disk},msdos6",
    "bsd": "{disk},bsd1",
    "lvm": "lvm/vg-boot",
    "raid-1.0": "md/pv10",
    "raid-1.2": "md/pv12",
    "lvm-on-raid": "lvm/onraid-boot",
}
#: Those that are searched for by label as well.
LABELS = ["ext2", "xfs", "btrfs", "FAT16", "gpt", "no-table", "lvm", "raid-1.2"]
FSCK = {
    "ext2": ("e2fsck", "-f", "-n"),
    "ext3": ("e2fsck", "-f", "-n"),
    "ext4": ("e2fsck", "-f", "-n"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check"),
    "fat12": ("fsck.fat", "-n"),
    "fat16": ("fsck.fat", "-n"),
    "fat32": ("fsck.fat", "-n"),
}


def contents(content: Content | None, offset: int, size: int) -> Iterator[tuple[Content, int, int]]:
    """Every content of a disk with where it is in the image and how much room it has."""
    if content is None:
        return
    yield content, offset, size
    match content:
        case PartitionTable(partitions=parts):
            for part in parts:
                yield from contents(part.content, offset + part.start, part.size)
        case Mirror(metadata=metadata, content=inner):
            start, length = member_data(metadata, size)
            yield from contents(inner, offset + start, length)
        case VolumeGroup():
            for volume, place in volume_places(content):
                yield from contents(volume.content, offset + place, volume.size)


def cut(image: Path, offset: int, size: int, to: Path) -> Path:
    with image.open("rb") as source:
        source.seek(offset)
        to.write_bytes(source.read(size))
    return to


@pytest.fixture
def said(packages: PackageCache) -> Callable[..., str]:
    """What a tool says of something, which it must find good."""

    def run(name: str, *arguments: str | Path) -> str:
        found = tool(name, packages)
        done = subprocess.run(
            [found.path, *arguments],
            env={**found.env, "LVM_SYSTEM_DIR": ""},  # lvm needs no folder of its own in /etc
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def disks() -> dict[str, Disk]:
    found = load_recipe("storage").artifacts
    return {name: artifact for name, artifact in found.items() if isinstance(artifact, Disk)}


@pytest.mark.parametrize("name", sorted(disks()))
def test_its_own_tools_find_it_good(
    name: str, image: Callable[[str], Built], said: Callable[..., str], tmp_path: Path
) -> None:
    path, disk = image("storage")[name], disks()[name]
    assert path.stat().st_size == disk.size
    seen = 0
    for content, offset, size in contents(disk.content, 0, disk.size):
        match content:
            case FileSystem(kind=kind):
                said(*FSCK[kind], cut(path, offset, size, tmp_path / "fs"))
            case PartitionTable(kind=kind) if offset == 0 and kind in {"mbr", "gpt"} and disk.sector_size == 512:
                assert "No errors detected" in said("sfdisk", "--verify", path)
            case Mirror(uuid=uuid, device=device):
                text = said("mdadm", "--examine", cut(path, offset, size, tmp_path / "md"))
                assert re.search(r"Checksum : \w+ - correct", text)
                assert f"Device Role : Active device {device}\n" in text
                assert uuid.replace("-", "") in text.replace(":", "")
            case VolumeGroup(name=group):
                member = cut(path, offset, size, tmp_path / "pv")
                assert f"# vgname {group} seqno 1" in said("lvm", "pvck", "--dump", "headers", member)
                assert "bad" not in said("lvm", "pvck", "--dump", "headers", member).lower()
            case _:
                continue
        seen += 1
    assert seen


def test_sfdisk_sees_the_partitions_that_the_recipe_names(
    image: Callable[[str], Built], said: Callable[..., str]
) -> None:
    built = image("storage")
    text = said("sfdisk", "--dump", built["gpt.img"])
    assert "label-id: 57057A9E-0001-4000-8000-000000000000" in text
    assert re.search(
        r'start= +2048, size= +16384, type=0FC63DAF-[0-9A-F-]+, uuid=57057A9E-0001-[0-9A-F-]+0001, name="boot"', text
    )
    text = said("sfdisk", "--dump", built["logical.img"])
    assert [line.split(" : ")[0][-1] for line in text.splitlines() if "start=" in line] == ["1", "2", "5", "6"]


@pytest.mark.parametrize("arch", ["x86_64", "i386"])
def test_grub_finds_and_reads_every_one(arch: str, pv_guest: StartGuest, pv_image: BuildImage) -> None:
    built = pv_image("storage")
    names = sorted(name.removesuffix(".img") for name in disks())
    specs, disk_of = [], {}
    for letter, name in zip("abcdefghijklmnopqrstuvwxyz", names, strict=False):
        sectors = ",sector-size=4096" if name.startswith("large-sectors") else ""
        specs.append(f"xvd{letter}={built[name + '.img']}{sectors}")
        disk_of[name] = f"xen/xvd{letter}"
    guest = pv_guest(built[f"grub-{arch}-xen.bin"], *specs)
    guest.expect("that is all")
    found = dict(re.findall(r"^(\S+) is at (\S+)\.$", guest.text, re.MULTILINE))
    read = re.findall(r"^this is (\S+)$", guest.text, re.MULTILINE)
    assert found == {name: place.format(disk=disk_of.get(name)) for name, place in PLACES.items()}
    assert read == list(PLACES)
    labels = dict(re.findall(r"^label (\S+) is at (\S+)\.$", guest.text, re.MULTILINE))
    assert labels == {label: found[label.lower()] for label in LABELS}
    uuids = re.findall(r"^UUID (\S+) is at (\S+)\.$", guest.text, re.MULTILINE)
    assert [place for _, place in uuids] == [found[name] for name in ("xfs", "btrfs", "fat16")]
    assert guest.errors() == []


@pytest.mark.parametrize(
    ("disk", "partitions"), [("slices", ["bsd4", "bsd2", "bsd1"]), ("nested", ["msdos1"])], ids=["bsd", "minix"]
)
def test_grub_lists_partitions_in_a_partition(
    disk: str, partitions: list[str], pv_guest: StartGuest, pv_image: BuildImage
) -> None:
    """It lists them; whether it opens them is GRUB's own matter (2.06 refuses their names)."""
    built = pv_image("storage")
    guest = pv_guest(built["grub-x86_64-xen.bin"], built[f"{disk}.img"])
    guest.wait_for_input()
    listed = re.findall(r"\(([^)]*)\)", guest.text.replace("\n", ""))
    inner = [f"xen/xvda,msdos1,{partition}" for partition in partitions]
    assert listed == ["memdisk", "xen/xvda", *inner, "xen/xvda,msdos1"]
