"""`pvemu image`: what it prints, so that scripts can use it."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pvemu.cli import image
from pvemu.errors import ConfigError
from pvemu.mkimage import build, list_recipes


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    image.add_parser(parser.add_subparsers(required=True))
    return image.run(parser.parse_args(["image", *arguments]))


def test_list_names_every_recipe_with_its_description(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list_recipes()
    assert all(len(line.split()) > 3 for line in lines)


def test_build_prints_one_path_a_line_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("build", "pvgrub", "demo") == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in paths] == ["grub-x86_64-xen.bin", "grub-i386-xen.bin", "demo.img"]
    assert all(path.is_file() for path in paths)


def test_show_tells_size_and_hash(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "demo") == 0
    out = capsys.readouterr().out
    assert f"demo.img  {33 << 20} bytes  sha256 " in out
    assert "      1: 32 MiB at 1 MiB, type 0x83 bootable\n        ext4 label 'demo' UUID 70766d75-" in out
    assert build("demo").key in out


@pytest.mark.parametrize(
    ("recipe", "lines"),
    [
        ("pvboot", ["x86_64-xen, prefix /boot/grub", "6 modules: part_msdos ext2"]),
        ("storage", ["sectors of 4096 bytes", "memdisk: /grub.cfg", "MD RAID1 1.0 'pv10'", "1 of 2", "LVM onraid "]),
        ("tiny", ["tiny.cpio.gz", "entries"]),
    ],
)
def test_show_tells_what_is_in_it(recipe: str, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", recipe) == 0
    out = capsys.readouterr().out
    assert [line for line in lines if line not in out] == []


def test_an_unknown_recipe_goes_to_the_caller() -> None:
    with pytest.raises(ConfigError, match="no recipe 'nonesuch'"):
        run("build", "nonesuch")
    with pytest.raises(SystemExit):
        run("paint", "demo")
