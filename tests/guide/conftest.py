"""Disks of one partition with the files that a case needs."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.testing.plugin import BuildImage

_DISK = """description = "A case of the field's bugs"
[[artifact]]
name = "disk.img"
kind = "disk"
[[artifact.partition]]
size = "8MiB"
fs = "ext4"
uuid = "6d1de500-0000-4000-8000-000000000001"
features = ["^metadata_csum_seed", "^orphan_file"]
"""


@pytest.fixture
def make_disk(pv_image: BuildImage, tmp_path: Path) -> Callable[[dict[str, str | bytes]], Path]:
    """The path of a disk image whose first partition holds the given files."""

    def make(files: dict[str, str | bytes]) -> Path:
        folder = tmp_path / "field-bug"
        (folder / "files").mkdir(parents=True)
        recipe = _DISK
        for number, (path, content) in enumerate(files.items()):
            name = f"{number}-{PurePosixPath(path).name}"
            (folder / "files" / name).write_bytes(content.encode() if isinstance(content, str) else content)
            recipe += f'[[artifact.partition.file]]\nto = "{path}"\nfile = "{name}"\n'
        (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
        return pv_image(folder)["disk.img"]

    return make


@pytest.fixture
def host_grub(pv_image: BuildImage) -> Path:
    """The host's boot loader: Debian's image as it is."""
    return pv_image("pvgrub")["grub-x86_64-xen.bin"]


@pytest.fixture
def kernel(pv_image: BuildImage) -> bytes:
    """A PV kernel that says `I am ...` and powers off."""
    return pv_image("guide-stage2")["boot-xen-x86_64.elf"].read_bytes()
