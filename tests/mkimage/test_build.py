"""Building: the same bytes everywhere, once, and every mistake in a recipe in one line."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import struct
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pvemu.builder.bzimage import extract_payload
from pvemu.errors import ConfigError, InputError
from pvemu.mkimage import build, list_recipes
from pvemu.mkimage.bzimage import COMPRESSIONS, PACKERS, compression_of, make_bzimage, recompress
from pvemu.mkimage.packages import PackageCache
from pvemu.mkimage.recipe import load_recipe
from pvemu.mkimage.tools import ToolError, tool

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent.parent
UUID = "00000000-0000-4000-8000-00000000000a"
RECIPE = f"""
description = "two partitions, a link, a directory, odd modes"
epoch = 1000000000
[[artifact]]
name = "small.img"
kind = "disk"
id = 0x12345678
size = "6MiB"
[[artifact.partition]]
size = "2MiB"
type = 0x0b
[[artifact.partition]]
size = "2MiB"
bootable = true
fs = "ext2"
label = "small"
uuid = "{UUID}"
[[artifact.partition.file]]
to = "/z/secret file"
mode = 0o600
text = "hidden"
[[artifact.partition.file]]
to = "/a/link"
link = "../z/secret file"
[[artifact.partition.file]]
to = "/empty"
directory = true
mode = 0o1777
[[artifact.partition.file]]
to = "/a/below/"
package = "grub-xen-bin"
path = "/usr/lib/grub/x86_64-xen/e[ac]*.mod"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a recipe folder and gives its path."""

    def write(text: str, name: str = "mine") -> Path:
        folder = tmp_path / "recipes" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.toml").write_text(text, encoding="utf-8")
        return folder

    return write


@pytest.fixture
def fresh(packages: PackageCache, tmp_path: Path) -> Callable[[str], PackageCache]:
    """A cache with the packages of the real one and no images."""

    def make(name: str) -> PackageCache:
        directory = tmp_path / name
        directory.mkdir()
        packages.get(["grub-xen-bin", "e2fsprogs"])
        for entry in packages.directory.iterdir():
            if entry.name.startswith("root-"):
                (directory / entry.name).symlink_to(entry)
        (directory / "packages.json").write_bytes((packages.directory / "packages.json").read_bytes())
        return PackageCache(directory)

    return make


def partition(disk: Path, number: int, to: Path) -> Path:
    """One MBR partition as a file of its own."""
    with disk.open("rb") as image:
        image.seek(446 + 16 * (number - 1) + 8)
        start, count = struct.unpack("<II", image.read(8))
        image.seek(start * 512)
        to.write_bytes(image.read(count * 512))
    return to


def test_two_builds_are_the_same_bytes(
    recipe: Callable[[str], Path], fresh: Callable[[str], PackageCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(recipe(RECIPE), fresh("one"))
    previous = os.umask(0o077)
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    try:
        second = build(recipe(RECIPE), fresh("two"))
    finally:
        os.umask(previous)
    assert first.directory != second.directory
    assert first.key == second.key
    assert first["small.img"].read_bytes() == second["small.img"].read_bytes()


def test_the_demo_and_a_grub_image_and_an_initramfs_repeat(
    image: Callable[[str], object], fresh: Callable[[str], PackageCache], packages: PackageCache
) -> None:
    other = fresh("again")
    for name in ("demo", "pvboot", "tiny"):
        once, twice = build(name, packages), build(name, other)
        assert once.directory != twice.directory
        for artifact, path in once.artifacts.items():
            assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(twice[artifact].read_bytes()).digest()


def test_the_disk_is_what_the_recipe_says(
    recipe: Callable[[str], Path], fresh: Callable[[str], PackageCache], packages: PackageCache, tmp_path: Path
) -> None:
    disk = build(recipe(RECIPE), fresh("one"))["small.img"]
    sector = disk.read_bytes()[:512]
    assert disk.stat().st_size == 6 << 20
    assert struct.unpack_from("<I", sector, 440) == (0x12345678,)
    assert struct.unpack_from("<B3xB3xII", sector, 446) == (0, 0x0B, 2048, 4096)
    assert struct.unpack_from("<B3xB3xII", sector, 462) == (0x80, 0x83, 6144, 4096)
    assert sector[478:] == bytes(32) + b"\x55\xaa"
    inside = partition(disk, 2, tmp_path / "two.img")
    tool("e2fsck", packages).run("-f", "-n", inside)
    debugfs = tool("debugfs", packages)
    listing = debugfs.run("-R", "ls -p /z", inside).decode()
    assert re.search(r"^/\d+/100600/0/0/secret file/6/$", listing, re.MULTILINE)
    assert re.search(r"^/\d+/041777/0/0/empty//$", debugfs.run("-R", "ls -p /", inside).decode(), re.MULTILINE)
    assert debugfs.run("-R", 'cat "/z/secret file"', inside) == b"hidden"
    assert b'Fast link dest: "../z/secret file"' in debugfs.run("-R", "stat /a/link", inside)
    names = re.findall(r"/100644/0/0/([a-z]+\.mod)/", debugfs.run("-R", "ls -p /a/below", inside).decode())
    assert "echo.mod" in names
    assert names == sorted(names)
    stamps = set(re.findall(rb"[acm]time: (0x[0-9a-f]+)", debugfs.run("-R", "stat /a/below/echo.mod", inside)))
    assert stamps == {hex(1000000000).encode()}


def test_a_second_build_finds_the_first(recipe: Callable[[str], Path], fresh: Callable[[str], PackageCache]) -> None:
    cache = fresh("one")
    first = build(recipe(RECIPE), cache)["small.img"]
    before = first.stat()
    again = build(recipe(RECIPE), cache)["small.img"]
    assert (again.stat().st_ino, again.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    changed = build(recipe(RECIPE.replace("hidden", "shown!")), cache)
    assert changed["small.img"] != first
    assert not list((cache.directory / "images").glob(".tmp-*"))


def test_a_files_folder_counts_as_part_of_the_recipe(
    recipe: Callable[[str], Path], fresh: Callable[[str], PackageCache]
) -> None:
    folder = recipe('description = "d"\n[[artifact]]\nname = "f"\nkind = "file"\nfile = "data"')
    (folder / "files").mkdir()
    keys = set()
    for content in ("one", "two"):
        (folder / "files" / "data").write_text(content, encoding="utf-8")
        built = build(folder, fresh(content))
        assert built["f"].read_text(encoding="utf-8") == content
        keys.add(built.key)
    assert len(keys) == 2


def test_recipes_use_each_others_artifacts_by_name_or_relative_path(
    recipe: Callable[..., Path], fresh: Callable[[str], PackageCache]
) -> None:
    recipe('description = "d"\n[[artifact]]\nname = "f"\nkind = "file"\ntext = "inner"', "inner")
    outer = 'description = "d"\n[[artifact]]\nname = "g"\nkind = "file"\nrecipe = "../inner"\nartifact = "f"'
    assert build(recipe(outer, "outer"), fresh("one"))["g"].read_text(encoding="utf-8") == "inner"


def test_a_cpio_is_what_a_kernel_unpacks(image: Callable[[str], dict[str, Path]]) -> None:
    data = gzip.decompress(image("tiny")["tiny.cpio.gz"].read_bytes())
    members = {}
    position = 0
    while True:
        assert data[position : position + 6] == b"070701"
        fields = [int(data[position + 6 + 8 * n : position + 14 + 8 * n], 16) for n in range(13)]
        name = data[position + 110 : position + 110 + fields[11] - 1].decode()
        start = position + (110 + fields[11] + 3 & ~3)
        if name == "TRAILER!!!":
            break
        members[name] = (fields[1], fields[2], fields[3], data[start : start + fields[6]])
        position = start + (fields[6] + 3 & ~3)
    assert list(members) == [".", "bin", "bin/busybox", "dev", "init", "proc", "sys"]
    assert members["init"][:3] == (0o100755, 0, 0)
    assert members["init"][3].startswith(b"#!/bin/busybox sh\n")
    assert members["bin/busybox"][3][:4] == b"\x7fELF"
    assert members["dev"][0] == 0o040755


def test_a_grub_image_carries_its_configuration_and_memdisk(
    recipe: Callable[[str], Path], fresh: Callable[[str], PackageCache], tmp_path: Path
) -> None:
    text = """
description = "d"
[[artifact]]
name = "g.bin"
kind = "grub"
target = "x86_64-xen"
prefix = "(memdisk)/boot/grub"
modules = ["normal", "memdisk", "tar"]
config = "normal (memdisk)/grub.cfg"
[[artifact.memdisk]]
to = "/grub.cfg"
text = "echo from the memdisk"
"""
    data = build(recipe(text), fresh("one"))["g.bin"].read_bytes()
    assert data[:5] == b"\x7fELF\x02"
    assert b"normal (memdisk)/grub.cfg" in data
    start = data.index(b"ustar\x0000") - 257
    tar = tmp_path / "memdisk.tar"
    tar.write_bytes(data[start:])
    with tarfile.open(tar) as archive:
        member = archive.next()
        assert member is not None
        assert (member.name, member.uid, member.mode) == ("grub.cfg", 0, 0o644)


def test_every_recipe_loads_and_the_recorded_guests_are_there() -> None:
    names = set(list_recipes())
    assert {"menu", "timeout", "chain", "linux", "chain-linux", "tiny", "pvboot", "pvgrub", "debian-kernel"} <= names
    assert all(load_recipe(name).description for name in names)


ANOTHER = '[[artifact]]\nname = "f"\nkind = "file"\n'
FILE = 'description = "d"\n' + ANOTHER
DISK = 'description = "d"\n[[artifact]]\nname = "d.img"\nkind = "disk"\n'
PART = DISK + "[[artifact.partition]]\n"
INTO = "[[artifact.partition.file]]\n"
SLOT = '[[artifact.partition]]\nsize = "1MiB"\n'
VG = PART + 'size = "8MiB"\n[artifact.partition.volume-group]\n'
LV = VG + 'name = "a"\n[[artifact.partition.volume-group.volume]]\n'
EXT = PART + f'size = "1MiB"\nfs = "ext4"\nuuid = "{UUID}"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("description = ", "not TOML"),
        ("", "description: expected a string"),
        ('description = "d"', "artifact: expected at least one [[artifact]]"),
        ('description = "d"\nartifact = 5', "artifact: expected an array of tables ([[artifact]]), not 5"),
        ('description = "d"\nepoch = -1', "epoch: expected an integer from 0 to 4294967295, not -1"),
        ('description = "d"\n[[artifact]]\nname = "a/b"', "artifact[0].name: expected a file name"),
        ('description = "d"\n[[artifact]]\nname = "a"\nkind = "floppy"', "kind: expected one of bzimage, cpio"),
        (FILE, "artifact[0].text: expected exactly one of text, file, package, recipe, local, bytes"),
        (FILE + 'text = "a"\npackage = "b"', "artifact[0].package: expected exactly one of"),
        (FILE + 'text = "a"\ncolour = "red"', "artifact[0]: unknown key 'colour'"),
        (FILE + 'local = ["x"]', "artifact[0].local: expected a list of absolute paths"),
        (FILE + 'local = ["/none/*"]', "recipe.toml: this machine has none of /none/*"),
        (FILE + 'local = ["/none"]\nvariable = "PVEMU_X"', "has none of /none; set PVEMU_X to the path of one"),
        (FILE + "bytes = 5", "artifact[0].bytes: expected a size such as"),
        (FILE + 'text = "a"\npatch = [{ replace = "b" }]', "artifact[0].patch[0].at: expected exactly one of at and"),
        (FILE + 'text = "a"\npatch = [{ find = "a", replace = "bc" }]', "replace: expected as many bytes as"),
        (FILE + 'text = "a"\npatch = [{ find = "b", replace = "c" }]', "patch[0].find: expected bytes that are"),
        (FILE + 'text = "aa"\npatch = [{ find = "a", replace = "c" }]', "that are there once, not 2 times"),
        (FILE + 'text = "a"\npatch = [{ at = 1, replace = "c" }]', "patch[0].at: expected a place in a file"),
        (FILE + 'text = "a"\npatch = [{ at = 0, replace = "\u0100" }]', "expected letters up to"),
        (FILE + 'text = "a"\neach = { n = [] }', "recipe.toml:6: artifact[0].each.n: expected a list of values"),
        (FILE + 'text = "a"\neach = { n = ["1", "2"] }', "artifact[0].name: expected a name that no other"),
        (FILE.replace('"file"', '"bzimage"') + 'text = "a"\ncompression = "zip"', "expected one of gzip, bzip2,"),
        (FILE + 'file = "../../secret"', "artifact[0].file: expected a path below"),
        (FILE + 'file = "missing"', "artifact[0].file: expected a readable file below"),
        (FILE + 'text = "a"\nmode = "rw"', "artifact[0].mode: expected an integer"),
        (FILE + 'text = "a"\n' + ANOTHER + 'text = "b"', "artifact[1].name: expected a name that no other"),
        (DISK, "artifact[0].partition: expected one to 4 partitions"),
        (PART, 'artifact[0].partition[0].size: expected a size such as "32MiB"'),
        (PART + 'size = "0"', "partition[0].size: expected a multiple of 512 bytes, and not 0"),
        (PART + 'size = "1000"', "partition[0].size: expected a multiple of 512"),
        (PART + 'size = "1MiB"\nstart = "100"', "partition[0].start: expected a multiple of 512"),
        (PART + 'size = "2MiB"\n[[artifact.partition]]\nsize = "1MiB"\nstart = "2MiB"', "partition[1].start: expected"),
        (PART + 'size = "1MiB"\nfs = "zfs"', "partition[0].fs: expected one of"),
        (PART + 'size = "1MiB"\nfs = "ext4"', "partition[0].uuid: expected a UUID"),
        (PART + 'size = "1MiB"\nlabel = "x"', "partition[0].fs: expected one of ext2, ext3, ext4, xfs"),
        (DISK + 'size = "1MiB"\n[[artifact.partition]]\nsize = "1MiB"', "artifact[0].size: expected at least 2097152"),
        (DISK + 'size = "1000"', "artifact[0].size: expected a multiple of 512 bytes, not '1000'"),
        (DISK + "sector-size = 1024", "recipe.toml:5: artifact[0].sector-size: expected 512 or 4096, not 1024"),
        (DISK + 'size = "1KiB"\ntable = ""\npatch = [{ at = 1024, replace = "x" }]', "patch: expected places (at)"),
        (DISK + 'fs = "ext4"', "artifact[0].size: expected a size, since there is no partition"),
        (DISK + 'table = "apm"', "artifact[0].table: expected one of mbr, gpt, extended, bsd, not 'apm'"),
        (DISK + 'table = "gpt"\nid = 5\n' + SLOT, "artifact[0].id: expected a string, not 5"),
        (DISK + 'table = "gpt"\nid = "x"\n' + SLOT, "recipe.toml:6: artifact[0].id: expected a GUID in lower case"),
        (DISK + 'table = "gpt"\n' + SLOT + 'type = "hfs"', "recipe.toml:8: artifact[0].partition[0].type: "),
        (DISK + 'table = "gpt"\nsize = "2MiB"\n' + SLOT, "artifact[0].size: expected at least 2114048 bytes"),
        (PART + 'size = "1MiB"\n[[artifact.partition.partition]]\nsize = "1"', "table: expected one of mbr, gpt, ext"),
        (EXT + 'table = "mbr"', "partition[0].fs: expected nothing, since there is table: exactly one says what"),
        (PART + 'size = "1MiB"\nfs = "fat"\nuuid = "12ab-34cd"', "partition[0].uuid: expected a FAT serial number"),
        (PART + 'size = "1MiB"\nfs = "fat"\nuuid = "12AB-34CD"\nlabel = "x"', "label: expected capital letters"),
        (EXT.replace("ext4", "xfs") + 'label = "more than twelve"', "partition[0].label: expected at most 12 bytes"),
        (EXT.replace("ext4", "xfs") + 'features = ["x"]', "partition[0].features: expected nothing: only ext2, ext3"),
        (EXT + 'raid = { uuid = "u" }', "recipe.toml:9: artifact[0].partition[0].raid.uuid: expected a UUID"),
        (EXT + f'raid = {{ uuid = "{UUID}" }}', "raid.metadata: expected a larger partition or disk"),
        (EXT + f'raid = {{ uuid = "{UUID}", device = 2 }}', "raid.device: expected an integer from 0 to 1, not 2"),
        (EXT + f'raid = {{ uuid = "{UUID}", metadata = "0.9" }}', "raid.metadata: expected one of 1.0, 1.1, 1.2"),
        (VG + 'name = "a b"', "volume-group.name: expected letters, digits"),
        (VG + 'name = "a"\nid = "x"', "volume-group.id: expected 32 letters and digits in groups of 6-4-4-4-4-4-6"),
        (VG + 'name = "a"\nextent-size = "3MiB"', "volume-group.extent-size: expected a power of two, at least 1KiB"),
        (LV + 'name = "b"\nsize = "3MiB"', "volume[0].size: expected a multiple of the extents' 4194304 bytes"),
        (LV + 'name = "b"\nsize = "8MiB"', "volume-group.volume: expected volumes of 7340032 bytes in all"),
        (EXT + INTO + 'to = "boot"\ntext = ""', "file[0].to: expected an absolute path"),
        (EXT + INTO + 'to = "/../x"\ntext = ""', "file[0].to: expected an absolute path"),
        (EXT + INTO + 'to = "/x/"\ntext = ""', "file[0]: to: expected a file's path"),
        (EXT + INTO + ('to = "/x"\ntext = ""\n' + INTO) + 'to = "/x"\ntext = ""', "file[1]: to: /x is there already"),
        (EXT + INTO + 'to = "/x"\ntext = ""\n' + INTO + 'to = "/x/y"\ntext = ""', "to be a directory"),
        (EXT + INTO + 'to = "/x"\npackage = "gzip"\npath = "/no/such"', "has no file /no/such"),
        (EXT + INTO + 'to = "/x"\npackage = "e2fsprogs"\npath = "/sbin/*"', "expected one file, and"),
        (FILE + 'recipe = "no-such-recipe"\nartifact = "x"', "no recipe 'no-such-recipe'"),
        (FILE + 'recipe = "pvgrub"\nartifact = "x"', "recipe pvgrub makes no 'x'"),
        (FILE + 'recipe = "../mine"\nartifact = "f"', "recipes that need each other cannot be built: mine -> mine"),
    ],
)  # fmt: skip
def test_a_bad_recipe_is_one_line(
    recipe: Callable[[str], Path], packages: PackageCache, tmp_path: Path, text: str, expected: str
) -> None:
    folder = recipe(text)
    with pytest.raises(ConfigError) as caught:
        build(folder, packages)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((packages.directory / "images").glob("mine-*"))


@pytest.mark.parametrize(
    ("fs", "uuid", "entry", "expected"),
    [
        ("xfs", UUID, 'to = "/two words"\ntext = ""', "'/two words': expected a name without blanks"),
        ("xfs", UUID, 'to = "/x"\nlink = "two words"', "/x: expected a link's target without blanks for XFS"),
        ("xfs", UUID, 'to = "/x"\ndirectory = true\nmode = 0o1777', "/x: mode: expected no sticky bit"),
        ("fat", "1234-5678", 'to = "/x"\nlink = "y"', "/x: expected no link, since FAT has none"),
    ],
)
def test_what_a_file_system_cannot_hold_is_one_line(
    recipe: Callable[[str], Path], fresh: Callable[[str], PackageCache], fs: str, uuid: str, entry: str, expected: str
) -> None:
    folder = recipe(PART + f'size = "32MiB"\nfs = "{fs}"\nuuid = "{uuid}"\n{INTO}{entry}')
    with pytest.raises(ConfigError, match=r"recipe\.toml:5: artifact\[0\]\.partition\[0\]: ") as caught:
        build(folder, fresh("one"))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


EACH = """description = "d"
[[artifact]]
name = "@a@-@b@.bin"
each = { a = ["x", "y"], b = ["yes", "no"] }
kind = "cpio"
[[artifact.file]]
to = "/@a@"
text = "@a@ @b@ @c@"
present = "@b@"
[[artifact]]
name = "patched"
kind = "file"
text = "0123456789"
patch = [{ find = "45", replace = "\\u0000\\u00ff" }, { at = 8, replace = "AB" }]
[[artifact]]
name = "filled"
kind = "file"
bytes = "1KiB"
"""


def test_an_artifact_for_each_value_and_changed_files(
    recipe: Callable[[str], Path], fresh: Callable[[str], PackageCache]
) -> None:
    built = build(recipe(EACH), fresh("one"))
    assert list(built.artifacts) == ["x-yes.bin", "x-no.bin", "y-yes.bin", "y-no.bin", "patched", "filled"]
    assert b"x yes @c@" in built["x-yes.bin"].read_bytes()
    assert b"y yes @c@" in built["y-yes.bin"].read_bytes()
    assert b"y no" not in built["y-no.bin"].read_bytes()
    assert built["patched"].read_bytes() == b"0123\x00\xff67AB"
    assert len(set(built["filled"].read_bytes())) > 200


def test_a_module_of_the_recipes_own_and_without_symbols(
    recipe: Callable[[str], Path], fresh: Callable[[str], PackageCache]
) -> None:
    text = """description = "d"
[[artifact]]
name = "@strip@.bin"
each = { strip = ["own", "package"] }
kind = "grub"
target = "x86_64-xen"
prefix = "/"
modules = ["@strip@"]
[[artifact.module]]
to = "/own.mod"
package = "grub-xen-bin"
path = "/usr/lib/grub/x86_64-xen/echo.mod"
strip = true
[[artifact.module]]
to = "/package.mod"
package = "grub-xen-bin"
path = "/usr/lib/grub/x86_64-xen/echo.mod"
"""
    built = build(recipe(text), fresh("one"))
    assert b".symtab" in built["package.bin"].read_bytes()
    assert b".symtab" not in built["own.bin"].read_bytes()


def test_a_file_of_this_machine_counts_by_its_content(
    recipe: Callable[[str], Path], fresh: Callable[[str], PackageCache], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f'{FILE}local = ["{tmp_path}/of?this"]\nvariable = "PVEMU_A_FILE"'
    keys = set()
    for content in ("one", "two"):
        (tmp_path / "of this").write_text(content, encoding="utf-8")
        built = build(recipe(text), fresh(content))
        assert built["f"].read_text(encoding="utf-8") == content
        keys.add(built.key)
    (tmp_path / "other").write_text("three", encoding="utf-8")
    monkeypatch.setenv("PVEMU_A_FILE", str(tmp_path / "other"))
    assert build(recipe(text), fresh("three"))["f"].read_text(encoding="utf-8") == "three"
    assert len(keys) == 2


@pytest.mark.parametrize("compression", sorted(PACKERS))
def test_the_toolstack_reads_what_a_recipe_packs(compression: str) -> None:
    pytest.importorskip({"zstd": "zstandard", "lz4": "lz4"}.get(compression, "lzma"))
    kernel = bytes(range(256)) * 4096
    assert extract_payload(make_bzimage(kernel, compression), "packed") == kernel


REPEATS = f"""{DISK}table = "gpt"
[[artifact.partition]]
size = "32MiB"
fs = "xfs"
uuid = "{UUID}"
label = "small"
[[artifact.partition.file]]
to = "/a/b"
text = "x"
[[artifact.partition]]
size = "8MiB"
fs = "fat"
uuid = "1234-5678"
label = "ESP"
[[artifact.partition.file]]
to = "/EFI/a long name.txt"
text = "x"
[[artifact.partition]]
size = "128MiB"
fs = "btrfs"
uuid = "{UUID[:-1]}b"
"""


def test_xfs_fat_and_an_empty_btrfs_repeat_too(
    recipe: Callable[[str], Path], fresh: Callable[[str], PackageCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(recipe(REPEATS), fresh("one"))["d.img"]
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.sleep(1.1)  # a time stamp of the machine's own would differ now
    second = build(recipe(REPEATS), fresh("two"))["d.img"]
    assert first != second
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second)}
    assert len(digests) == 1


def test_a_file_system_that_does_not_fit_names_recipe_and_artifact(
    recipe: Callable[[str], Path], fresh: Callable[[str], PackageCache]
) -> None:
    content = "".join(f"line {number}\\n" for number in range(40000))
    folder = recipe(EXT.replace("ext4", "ext2") + f'[[artifact.partition.file]]\nto = "/x"\ntext = "{content * 4}"')
    with pytest.raises(ToolError, match=r"recipe\.toml: artifact d\.img: debugfs: ") as caught:
        build(folder, fresh("one"))
    assert isinstance(caught.value, InputError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fs", "expected"),
    [("xfs", "artifact d.img: mkfs.xfs: size .* too small"), ("btrfs", "d.img: btrfs needs .* bytes here, and")],
)
def test_a_partition_too_small_for_its_file_system(
    recipe: Callable[[str], Path], fresh: Callable[[str], PackageCache], fs: str, expected: str
) -> None:
    with pytest.raises(ToolError, match=expected):
        build(recipe(EXT.replace("ext4", fs)), fresh("one"))


def test_a_grub_module_that_is_not_there_names_it(
    recipe: Callable[[str], Path], fresh: Callable[[str], PackageCache]
) -> None:
    text = 'description = "d"\n[[artifact]]\nname = "g"\nkind = "grub"\n'
    text += 'target = "x86_64-xen"\nprefix = "/"\nmodules = ["nonesuch"]'
    with pytest.raises(ToolError, match=r"artifact g: grub-mkimage: .*nonesuch"):
        build(recipe(text), fresh("one"))


def test_two_processes_build_one_image_once(
    recipe: Callable[[str], Path], fresh: Callable[[str], PackageCache]
) -> None:
    cache = fresh("one")
    code = "import sys; from pvemu.mkimage import build; print(build(sys.argv[1])['small.img'].stat().st_ino)"
    command = [sys.executable, "-c", code, str(recipe(RECIPE))]
    environment = {**os.environ, "PVEMU_CACHE": str(cache.directory), "PYTHONPATH": str(ROOT)}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(3)]
    outputs = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(outputs) == 1


def test_a_kernel_is_compressed_anew(tmp_path: Path, packages: PackageCache) -> None:
    """Each compression out of each other, with what the setup header says of it."""
    plain = b"\x7fELF" + bytes(range(256)) * 40
    start = 0x400 + 0x40  # one setup sector, and the payload 0x40 behind it
    header = bytearray(start)
    header[0x1F1], header[0x202:0x206], header[0x248] = 1, b"HdrS", 0x40
    packed = gzip.compress(plain)
    header[0x24C:0x250] = len(packed).to_bytes(4, "little")
    kernel = bytes(header) + packed + b"what follows"
    for compression in (*COMPRESSIONS, "gzip"):
        kernel = recompress(kernel, compression, lambda name: tool(name, packages))
        assert compression_of(kernel) == compression
        assert kernel[:0x24C] == bytes(header[:0x24C])
        assert kernel.endswith(b"what follows")
        length = int.from_bytes(kernel[0x24C:0x250], "little")
        assert len(kernel) == start + length + len(b"what follows")
        size = len(plain) if compression != "gzip" else struct.unpack("<I", gzip.compress(plain)[-4:])[0]
        assert kernel[start + length - 4 : start + length] == size.to_bytes(4, "little")
    assert gzip.decompress(kernel[start : start + length]) == plain
    with pytest.raises(ToolError, match="not a bzImage"):
        recompress(plain, "gzip", lambda name: tool(name, packages))
    with pytest.raises(ToolError, match="cut short"):
        recompress(kernel[:-20], "xz", lambda name: tool(name, packages))
    with pytest.raises(ToolError, match=r"no way known \(it starts 00 00"):
        recompress(kernel[:start] + bytes(length), "xz", lambda name: tool(name, packages))
