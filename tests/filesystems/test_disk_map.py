"""Which file a sector belongs to, on images that the file systems' own tools made."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from pvemu.disk.image import open_disk
from pvemu.filesystems.disk_map import DiskMap, Location
from tests.filesystems.memory_disk import MemoryDisk, gpt, mbr

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pvemu.disk.image import Disk

MIB = 1 << 20


@pytest.fixture
def disk(formatted: tuple[str, Path]) -> Iterator[Disk]:
    opened = open_disk(str(formatted[1]), writable=False)
    yield opened
    opened.close()


def linux_name(kind: str) -> str:
    return "vfat" if kind.startswith("fat") else kind.split("-", maxsplit=1)[0]


def contents(tree: Path) -> dict[str, bytes]:
    return {f"/{path.relative_to(tree)}": path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def test_every_file_is_found_and_holds_what_was_put_there(
    formatted: tuple[str, Path], disk: Disk, tree: Path
) -> None:
    disk_map = DiskMap(disk)
    (mapped,) = disk_map.volumes
    assert mapped.file_system is not None
    assert (mapped.file_system.name, mapped.partition) == (linux_name(formatted[0]), "")
    found = {node.path: mapped.read(node) for node in mapped.nodes if node.kind == "file"}
    assert found == contents(tree)
    folders = {node.path for node in mapped.nodes if node.kind == "directory"} - {"/lost+found/"}
    assert folders == {"/", "/many/", "/boot/", "/boot/grub/", "/boot/grub/x86_64-xen/"}
    assert disk_map.read_file("", "/empty") == b""
    assert disk_map.read_file("1", "/empty") is None


def test_sectors_lead_to_their_files(formatted: tuple[str, Path], disk: Disk, tree: Path) -> None:
    """What a sector holds is what stands at that place of the file that it is said to belong to."""
    disk_map = DiskMap(disk)
    expected = contents(tree)
    checked = set()
    for _, node in disk_map.files():
        for extent in node.extents if node.kind == "file" else []:
            if extent.offset & 511:
                continue  # in an inode, beside other things
            for sector in range(extent.offset >> 9, extent.offset + extent.size >> 9, 97):
                found = disk_map.locate(sector)
                assert found is not None
                assert found[:3] == ("", "", linux_name(formatted[0]))
                assert disk.read(sector, 1) == expected[found.path][found.offset : found.offset + 512]
                checked.add(found.path)
    assert checked >= {"/big", "/hole", "/boot/grub/x86_64-xen/normal.mod"}
    assert disk_map.locate(disk.sectors + 10) is None


def test_a_sector_of_no_file(disk: Disk) -> None:
    assert DiskMap(disk).locate(disk.sectors - 1) is None


def test_nothing_is_read_before_it_is_asked_for(formatted: tuple[str, Path]) -> None:
    disk = MemoryDisk(16 * MIB, {})
    disk_map = DiskMap(disk)
    assert disk.reads == 0
    assert disk_map.locate(3) is None
    assert disk.reads > 0


class TestPartitioned:
    """One file system, in many places."""

    CONTENT = b"a file of its own".ljust(700, b".")

    @pytest.fixture
    def fat(self) -> bytes:
        """A FAT12 of 64 KiB made by hand: one file, in clusters 2 and 3."""
        boot = bytearray(512)
        boot[11:28] = b"\0\2\1\1\0\1\x10\0\x80\0\xf8\1\0\0\0\0\0"
        boot[510:] = b"\x55\xaa"
        fat = b"\xf8\xff\xff\x03\xf0\xff".ljust(512, b"\0")
        entry = b"HELLO   CFG\x20" + bytes(14) + b"\2\0" + len(self.CONTENT).to_bytes(4, "little")
        return (bytes(boot) + fat + entry.ljust(512, b"\0") + self.CONTENT).ljust(64 << 10, b"\0")

    @pytest.mark.parametrize(
        ("front", "at", "sector_size", "linux", "grub"),
        [
            ({}, 0, 512, "", ""),
            ({0: mbr((0, 0, 0), (0xC, 2048, 128))}, 2048 << 9, 512, "2", "msdos2"),
            ({0: mbr((0xC, 256, 16))}, 256 << 12, 4096, "1", "msdos1"),
            ({0: gpt(512, (40, 50), (2048, 2175))}, 2048 << 9, 512, "2", "gpt2"),
            ({0: mbr((0x83, 2048, 4096)), MIB: mbr((0xC, 2112, 128))}, MIB + (64 << 9), 512, "1p1", "msdos1,msdos1"),
        ],
        ids=["no-table", "mbr", "mbr-4096", "gpt", "nested"],
    )
    def test_where_it_is(
        self, front: dict[int, bytes], at: int, sector_size: int, linux: str, grub: str, fat: bytes
    ) -> None:
        disk_map = DiskMap(MemoryDisk(16 * MIB, {**front, at: fat}, sector_size))
        sector = (at >> 9) + 4
        found = disk_map.locate(sector)
        assert found == Location(linux, grub, "vfat", "/HELLO.CFG", 512)
        assert found.on("xvdb") == f"xvdb{linux}:/HELLO.CFG"
        assert disk_map.read_file(linux, "/HELLO.CFG") == self.CONTENT

    def test_a_disk_that_ends_too_early(self, fat: bytes) -> None:
        disk = MemoryDisk(2 * MIB, {0: mbr((0xC, 4090, 128)), 4090 << 9: fat[: 6 << 9]})
        disk_map = DiskMap(disk)
        found = disk_map.locate(4094)
        assert found is not None
        assert found.path == "/HELLO.CFG"
        assert disk_map.locate(5000) is None

    def test_a_disk_that_cannot_be_read(self) -> None:
        class Failing(MemoryDisk):
            def read(self, sector: int, count: int) -> bytes:
                raise OSError(5, "Input/output error")

        assert DiskMap(Failing(MIB, {})).locate(0) is None


def test_broken_images_are_read_as_far_as_they_go(formatted: tuple[str, Path], disk: Disk) -> None:
    """Whatever a structure says, there is no traceback and an end."""
    recorder = Recorder(disk)
    for _ in DiskMap(recorder).files():
        pass
    noise = random.Random(7)
    for _ in range(12):
        patches = {}
        for _ in range(noise.choice([1, 20, 200])):
            place = (noise.choice(recorder.places) << 9) + noise.randrange(512)
            patches[place] = bytes([noise.choice([0, 1, 255, noise.randrange(256)])])
        disk_map = DiskMap(Recorder(disk, patches))
        for mapped, node in disk_map.files():
            if node.size < MIB:
                mapped.read(node)
        for sector in (0, 2, 100, 5000):
            disk_map.locate(sector)


class Recorder:
    """A disk that remembers which sectors hold something and were read, and puts other bytes in some places."""

    def __init__(self, disk: Disk, patches: dict[int, bytes] | None = None) -> None:
        self._disk = disk
        self._patches = patches or {}
        self.sectors, self.sector_size = disk.sectors, disk.sector_size
        self.places: list[int] = []

    def read(self, sector: int, count: int) -> bytes:
        data = bytearray(self._disk.read(sector, count))
        for number in range(count):
            if any(data[number << 9 : number + 1 << 9][:64]):
                self.places.append(sector + number)
        for place, value in self._patches.items():
            if sector << 9 <= place < sector + count << 9:
                data[place - (sector << 9)] = value[0]
        return bytes(data)


def test_a_journal_that_is_to_be_written_back_is_told(formatted: tuple[str, Path], disk: Disk) -> None:
    (whole,) = DiskMap(disk).volumes
    assert whole.file_system is not None
    assert not whole.file_system.has_pending_journal
    if formatted[0].startswith("ext"):
        data = bytearray(disk.read(0, 8))
        data[1024 + 96] |= 4  # INCOMPAT_RECOVER: it was mounted, and not unmounted
        (whole,) = DiskMap(MemoryDisk(len(data), {0: bytes(data)})).volumes
        assert whole.file_system is not None
        assert whole.file_system.has_pending_journal
