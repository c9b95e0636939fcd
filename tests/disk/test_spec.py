from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvemu.disk.spec import DiskConfig, parse_disk_spec, parse_disk_specs
from pvemu.errors import DiskError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("spec", "config"),
    [
        ("disk.img", DiskConfig("disk.img")),
        ("xvdb=disk.img", DiskConfig("disk.img", vdev="xvdb")),
        ("disk.img,ro", DiskConfig("disk.img", read_only=True)),
        ("disk.img,rw", DiskConfig("disk.img", writable=True)),
        ("sda=/a/b.img,ro,sector-size=4096", DiskConfig("/a/b.img", vdev="sda", read_only=True, sector_size=4096)),
        ("disk.img,sector-size=512,rw", DiskConfig("disk.img", writable=True)),
        ("hdc=cd.iso,cdrom", DiskConfig("cd.iso", vdev="hdc", read_only=True, cdrom=True)),
        ("hdc=cd.iso,cdrom,ro", DiskConfig("cd.iso", vdev="hdc", read_only=True, cdrom=True)),
        ("51712=disk.img", DiskConfig("disk.img", vdev="51712")),
        ("d0p1=disk.img", DiskConfig("disk.img", vdev="d0p1")),
        ("a=b.img", DiskConfig("a=b.img")),
        ("./xvda=b.img", DiskConfig("./xvda=b.img")),
        ("xvda=xvdb=c.img", DiskConfig("xvdb=c.img", vdev="xvda")),
        ("a,b,c.img,ro", DiskConfig("a,b,c.img", read_only=True)),
        ("a,ro,b.img", DiskConfig("a,ro,b.img")),
        ("/x/a=1,b=2.img,rw", DiskConfig("/x/a=1,b=2.img", writable=True)),
        ("disk.img,rx", DiskConfig("disk.img,rx")),
        (",ro,ro.img", DiskConfig(",ro,ro.img")),
    ],
)
def test_specifications(spec: str, config: DiskConfig) -> None:
    assert parse_disk_spec(spec) == config


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ("", "no path"),
        ("xvda=", "no path"),
        ("xvda=,ro", "no path"),
        (",ro", "no path"),
        ("a.img,ro,rw", "both ro and rw"),
        ("a.img,ro,ro", "given twice"),
        ("a.img,rw,cdrom", "read-only"),
        ("a.img,sector-size=1024", "512 or 4096"),
        ("a.img,sector-size=", "512 or 4096"),
        ("a.img,sector-size=banana,ro", "512 or 4096"),
        ("a.img,sector-size=512,sector-size=4096", "512 or 4096"),
        ("a\0b.img", "NUL"),
        ("xvdzzzzzzzz=a.img", "at most"),
        ("xvd=a.img", "not a device name"),
        ("sdq=a.img", "sd has disks"),
        ("99999999999=a.img", "not a device name"),
    ],
)
def test_bad_specifications_are_refused_in_one_line(spec: str, word: str) -> None:
    with pytest.raises(DiskError) as caught:
        parse_disk_spec(spec)
    assert "\n" not in str(caught.value)
    assert word in str(caught.value)


def test_names_are_given_in_order_around_those_taken() -> None:
    disks = parse_disk_specs(["a", "xvda=b", "c", "sda=d", "d1=e", "f"])
    assert [(disk.vdev, disk.path) for disk in disks] == [
        ("xvdc", "a"), ("xvda", "b"), ("xvdd", "c"), ("sda", "d"), ("d1", "e"), ("xvde", "f"),
    ]  # fmt: skip
    assert [disk.number for disk in disks] == [51744, 51712, 51760, 2048, 51728, 51776]


def test_thirty_disks() -> None:
    disks = parse_disk_specs([f"disk{index}" for index in range(30)])
    assert (disks[25].vdev, disks[26].vdev, disks[16].number) == ("xvdz", "xvdaa", 1 << 28 | 16 << 8)


@pytest.mark.parametrize("second", ["xvdb", "d1", "51728", "0xca10"])
def test_a_name_can_be_given_once(second: str) -> None:
    with pytest.raises(DiskError, match=r"named twice, for a and b; give each its own name"):
        parse_disk_specs(["xvdb=a", f"{second}=b"])


def test_one_file_can_be_shared_for_reading_only(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(512))
    (tmp_path / "link").symlink_to(path)
    assert len(parse_disk_specs([f"{path},ro", f"{tmp_path}/link,ro", f"{path},ro"])) == 3
    for specs in ([f"{path},rw", f"{path},ro"], [f"{path}", f"{path}"], [f"{path},ro", f"{tmp_path}/link,rw"]):
        with pytest.raises(DiskError, match=r"used by both xvda and xvdb, and not read-only by both; add ,ro to each"):
            parse_disk_specs(specs)
