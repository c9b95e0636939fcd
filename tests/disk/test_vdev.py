from __future__ import annotations

import pytest

from pvemu.disk.vdev import default_vdev, vdev_name, vdev_number
from pvemu.errors import DiskError


@pytest.mark.parametrize(
    ("vdev", "number"),
    [
        ("xvda", 51712),
        ("xvda1", 51713),
        ("xvdb", 51728),
        ("xvdp15", 51967),
        ("xvdq", 1 << 28 | 16 << 8),
        ("xvda16", 1 << 28 | 16),
        ("xvdtq37", 1 << 28 | 536 << 8 | 37),
        ("xvdbgqcv", 1 << 28 | 0xFFFFF << 8),
        ("sda", 2048),
        ("sdp15", 2303),
        ("sdb3", 2067),
        ("hda", 768),
        ("hdb63", 895),
        ("hdc", 5632),
        ("hdd1", 5697),
    ],
)
def test_names_and_numbers(vdev: str, number: int) -> None:
    assert vdev_number(vdev) == number
    assert vdev_name(number) == vdev


@pytest.mark.parametrize(
    ("vdev", "number"),
    [
        ("d0", 51712),
        ("d0p0", 51712),
        ("d1p2", 51730),
        ("d536p37", 1 << 28 | 536 << 8 | 37),
        ("d1048575p255", 1 << 28 | 0xFFFFF << 8 | 255),
        ("51712", 51712),
        ("0xca00", 51712),
        ("0145000", 51712),
        ("0", 0),
        ("2147483647", 2147483647),
    ],
)
def test_other_ways_to_say_a_number(vdev: str, number: int) -> None:
    assert vdev_number(vdev) == number


@pytest.mark.parametrize(
    "vdev",
    [
        "", "xvd", "xvd1", "xvda01", "xvda0", "xvdA", "xvda256", "xvda9999", "xvdbgqcw", "xvdzzzzzzz", "sdq", "sda16",
        "hde", "hda64", "vda", "d", "d1048576", "d0p256", "da", "09", "2147483648", "9999999999", "0xffffffff", "-1",
        "xvda\n", "xvdä",
    ],
)  # fmt: skip
def test_bad_names_are_refused_in_one_line(vdev: str) -> None:
    with pytest.raises(DiskError) as caught:
        vdev_number(vdev)
    assert "\n" not in str(caught.value)
    assert repr(vdev) in str(caught.value)


def test_names_of_disks_without_one() -> None:
    assert [default_vdev(index) for index in (0, 1, 25, 26, 27, 701, 702)] == [
        "xvda", "xvdb", "xvdz", "xvdaa", "xvdab", "xvdzz", "xvdaaa",
    ]  # fmt: skip


def test_every_number_of_a_scheme_comes_back() -> None:
    for number in [*range(51712, 51968), *range(2048, 2304), *range(768, 896), *range(5632, 5760)]:
        assert vdev_number(vdev_name(number)) == number
    assert vdev_name(5) == "5"
