"""Partitions counted as GRUB and Linux count them."""

from __future__ import annotations

import struct

import pytest

from pvemu.filesystems.disk_map import DiskMap, device_name
from pvemu.filesystems.partitions import Partition, read_table
from tests.filesystems.memory_disk import MemoryDisk, gpt, mbr

MIB = 1 << 20


def table(pieces: dict[int, bytes], sector_size: int = 512) -> list[Partition]:
    disk = MemoryDisk(16 * MIB, pieces, sector_size)
    return read_table(disk, 0, 16 * MIB)


@pytest.mark.parametrize("sector", [512, 4096])
def test_primary_partitions_have_their_place_as_number(sector: int) -> None:
    found = table({0: mbr((0x83, 100, 8), (0, 0, 0), (0x83, 50, 8))}, sector)
    assert found == [
        Partition(100 * sector, 8 * sector, "msdos", 1),
        Partition(50 * sector, 8 * sector, "msdos", 3),
    ]


def test_logical_partitions_count_from_five() -> None:
    pieces = {
        0: mbr((0x83, 10, 8), (0x05, 1000, 1000)),
        1000 << 9: mbr((0x83, 8, 100), (0x05, 200, 300)),
        1200 << 9: mbr((0x83, 8, 50)),
    }
    assert [(part.number, part.start >> 9) for part in table(pieces)] == [(1, 10), (5, 1008), (6, 1208)]


def test_a_chain_of_logical_partitions_that_leads_in_a_circle_ends() -> None:
    pieces = {0: mbr((0x0F, 1000, 1000)), 1000 << 9: mbr((0x83, 8, 100), (0x05, 0, 300))}
    assert [part.number for part in table(pieces)] == [5]


@pytest.mark.parametrize("sector", [512, 4096])
def test_gpt(sector: int) -> None:
    found = table({0: gpt(sector, (34, 100), (0, 0), (200, 299))}, sector)
    assert found == [Partition(34 * sector, 67 * sector, "gpt", 1), Partition(200 * sector, 100 * sector, "gpt", 3)]


@pytest.mark.parametrize(
    "pieces",
    [
        {},
        {0: mbr((0x83, 10, 8), flag=0x12)},
        {0: mbr((0x83, 0, 8))},
        {0: mbr((0x83, 1 << 30, 8))},
        {0: gpt(512, (34, 1 << 40))},
        {0: gpt(512, (34, 20))},
    ],
    ids=["nothing", "flags", "begins-at-itself", "past-the-end", "gpt-past-the-end", "gpt-backwards"],
)
def test_no_table(pieces: dict[int, bytes]) -> None:
    assert table(pieces) == []


def test_tables_in_partitions_and_their_names() -> None:
    pieces = {
        0: gpt(512, (34, 63), (2048, 10000)),
        2048 << 9: mbr((0, 0, 0), (0x83, 8, 100)),
        2056 << 9: mbr((0x83, 2064, 10)),
    }
    volumes = DiskMap(MemoryDisk(16 * MIB, pieces)).volumes
    names = [(volume.partition, volume.grub_partition, volume.volume.start >> 9) for volume in volumes]
    assert names == [("1", "gpt1", 34), ("2p2p1", "gpt2,msdos2,msdos1", 2064)]


@pytest.mark.parametrize("whole", [0, 2048])
def test_a_bsd_label_in_a_slice_or_on_the_disk(whole: int) -> None:
    """GRUB: bsd1 and bsd4; the third is the whole, and its place is where the others count from."""
    places = [(100, whole + 16), (0, 0), (4096, whole), (200, whole + 300)]
    packed = b"".join(struct.pack("<IIIBBH", size, start, 0, 0, 0, 0) for size, start in places)
    label = struct.pack("<I128xIHHII", 0x82564557, 0x82564557, 0, len(places), 0, 0) + packed
    pieces = {0: mbr((0xA5, 2048, 4096)), (2049 << 9): label}
    volumes = DiskMap(MemoryDisk(16 * MIB, pieces)).volumes
    names = [(volume.partition, volume.grub_partition, volume.volume.start >> 9) for volume in volumes]
    assert names == [("1p1", "msdos1,bsd1", 2064), ("1p4", "msdos1,bsd4", 2348)]
    assert [part.start >> 9 for part in table({512: label})] == [16, 300]


def test_device_names() -> None:
    assert [device_name(*pair) for pair in (("xvda", "1"), ("xvda1", "2"), ("xvda", ""), ("51712", "1"))] == [
        "xvda1", "xvda1p2", "xvda", "51712p1",
    ]  # fmt: skip
