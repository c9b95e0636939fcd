"""A tree of files in each kind of file system, made by that file system's own tools."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from pvemu.mkimage.tools import Tool, tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pvemu.mkimage.packages import PackageCache

#: Tool -> its place in the first of the packages that it runs from.
PROGRAMS = {
    "mkfs.fat": ("/sbin/mkfs.fat", ("dosfstools",)),
    "mcopy": ("/usr/bin/mcopy", ("mtools",)),
    "mkfs.xfs": ("/sbin/mkfs.xfs", ("xfsprogs", "libinih1", "libuuid1", "libblkid1", "liburcu8")),
    "mkfs.btrfs": (
        "/sbin/mkfs.btrfs",
        ("btrfs-progs", "liblzo2-2", "libzstd1", "libudev1", "zlib1g", "libblkid1", "libuuid1"),
    ),
}
MIB = 1 << 20


@pytest.fixture(scope="session")
def program(packages: PackageCache) -> Callable[[str], Tool]:
    def find(name: str) -> Tool:
        if name not in PROGRAMS:
            return tool(name, packages)
        inner, names = PROGRAMS[name]
        roots = packages.get(names)
        folders = [roots[part].root / where for part in names for where in ("lib", "usr/lib")]
        libraries = ":".join(str(folder / "x86_64-linux-gnu") for folder in folders)
        return Tool(name, roots[names[0]].path(inner), {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": libraries})

    return find


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nested folders, a folder of 150 files, a file that is empty, one that is large, one with a hole."""
    root = tmp_path_factory.mktemp("tree")
    noise = random.Random(4)
    many = root / "many"
    many.mkdir()
    for number in range(150):
        (many / f"a-rather-long-file-name-{number}").write_bytes(bytes([number]) * (number * 10))
    deep = root / "boot" / "grub" / "x86_64-xen"
    deep.mkdir(parents=True)
    (deep / "normal.mod").write_bytes(noise.randbytes(5000))
    (root / "empty").touch()
    (root / "big").write_bytes(noise.randbytes(3 * MIB))
    (root / "lower.TXT").write_bytes(b"x")
    with (root / "hole").open("wb") as sparse:
        sparse.write(b"a" * 4096)
        sparse.seek(MIB)
        sparse.write(b"b" * 4096)
    return root


MAKERS: dict[str, tuple[int, list[tuple[str, ...]]]] = {
    "ext2": (16 * MIB, [("mke2fs", "-q", "-F", "-t", "ext2", "-b", "1024", "-d", "{tree}", "{image}")]),
    "ext3": (16 * MIB, [("mke2fs", "-q", "-F", "-t", "ext3", "-I", "128", "-d", "{tree}", "{image}")]),
    "ext4": (16 * MIB, [("mke2fs", "-q", "-F", "-t", "ext4", "-d", "{tree}", "{image}")]),
    "ext4-inline": (
        16 * MIB,
        [("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "inline_data,meta_bg,^resize_inode",
          "-d", "{tree}", "{image}")],
    ),
    "fat12": (8 * MIB, [("mkfs.fat", "-F", "12", "{image}"), ("mcopy", "-i", "{image}", "-s", "{files}", "::/")]),
    "fat16": (16 * MIB, [("mkfs.fat", "-F", "16", "{image}"), ("mcopy", "-i", "{image}", "-s", "{files}", "::/")]),
    "fat32": (40 * MIB, [("mkfs.fat", "-F", "32", "{image}"), ("mcopy", "-i", "{image}", "-s", "{files}", "::/")]),
    "xfs": (300 * MIB, [("mkfs.xfs", "-q", "-p", "{proto}", "{image}")]),
    "xfs-v4": (300 * MIB, [("mkfs.xfs", "-q", "-m", "crc=0", "-p", "{proto}", "{image}")]),
    "btrfs": (112 * MIB, [("mkfs.btrfs", "-q", "-r", "{tree}", "{image}")]),
}  # fmt: skip


@pytest.fixture(scope="session", params=MAKERS)
def formatted(
    request: pytest.FixtureRequest, tree: Path, program: Callable[[str], Tool], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """The name of a kind of file system, and an image without a partition table that holds ``tree``."""
    name = str(request.param)
    folder = tmp_path_factory.mktemp(name)
    image = folder / "disk.img"
    size, commands = MAKERS[name]
    with image.open("wb") as file:
        file.truncate(size)
    proto = folder / "proto"
    proto.write_text("/\n0 0\nd--755 0 0\n" + proto_lines(tree, " ") + "$\n", encoding="utf-8")
    for command, *options in commands:
        words: list[str | Path] = []
        for option in options:
            if option == "{files}":
                words += sorted(tree.iterdir())
            else:
                words.append(option.format(tree=tree, image=image, proto=proto))
        program(command).run(*words)
    return name, image


def proto_lines(folder: Path, indent: str) -> str:
    """What mkfs.xfs -p reads."""
    lines = ""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            lines += f"{indent}{path.name} d--755 0 0\n{proto_lines(path, indent + ' ')}{indent}$\n"
        else:
            lines += f"{indent}{path.name} ---644 0 0 {path}\n"
    return lines
