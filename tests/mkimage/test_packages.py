"""Packages: fetched once by apt with directories of its own, and a clear line when that cannot be."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from pvemu.errors import ConfigError
from pvemu.mkimage.cache import cache_dir
from pvemu.mkimage.packages import PackageCache, PackageError
from pvemu.mkimage.tools import TOOL_PACKAGES, ToolError, tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Notes what it was asked, and serves .deb files from $DEBS.
FAKE_APT = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
shift 2
[ "$1" = --quiet ] && shift
case "$1" in
  update) touch "$LISTS/fake_Packages" ;;
  download) shift
    for name; do
      cp "$DEBS/$name"_*.deb . || { echo "E: Unable to locate package $name" >&2; exit 100; }
    done ;;
  depends) printf 'meta\\n  Depends: other-thing\\n  Depends: thing-6.1-amd64\\n' ;;
esac
"""


def ar(members: dict[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def deb(directory: Path, name: str, version: str, files: dict[str, bytes]) -> None:
    control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: n\nDescription: d\n".encode()
    data = ar({"debian-binary": b"2.0\n", "control.tar": tar({"./control": control}), "data.tar": tar(files)})
    (directory / f"{name}_{version.replace(':', '%3a')}_all.deb").write_bytes(data)


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake apt first on PATH; the file that it logs to. Its packages lie in tmp_path/debs."""
    tools, debs, cache = tmp_path / "bin", tmp_path / "debs", tmp_path / "cache"
    for directory in (tools, debs):
        directory.mkdir()
    for name in ("apt-get", "apt-cache"):
        (tools / name).write_text(FAKE_APT, encoding="utf-8")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("DEBS", str(debs))
    monkeypatch.setenv("LISTS", str(cache / "apt" / "lists"))
    deb(
        debs,
        "thing",
        "1:2.0-3",
        {"./usr/share/thing/a.txt": b"A", "./usr/share/thing/b.txt": b"B", "./usr/bin/run": b"R"},
    )
    deb(debs, "linux-image-6.1-amd64", "6.1-2", {
        "./boot/vmlinuz-6.1": b"K", "./lib/modules/6.1/kernel/sound/x.ko": b"M",
        "./lib/modules/6.1/kernel/fs/ext4/ext4.ko": b"E",
    })  # fmt: skip
    return tmp_path / "log"


def commands(log: Path) -> list[str]:
    words = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    return [next(word for word in line[3:] if not word.startswith("-")) for line in words]


def test_fetched_once_and_offline_afterwards(apt: Path, tmp_path: Path) -> None:
    said: list[str] = []
    package = PackageCache(tmp_path / "cache", said.append).get(["thing"])["thing"]
    assert (package.name, package.version) == ("thing", "1:2.0-3")
    assert package.root == tmp_path / "cache" / "root-thing_1%3a2.0-3"
    assert package.files == ("/usr/bin/run", "/usr/share/thing/a.txt", "/usr/share/thing/b.txt")
    assert package.path("/usr/share/thing/a.txt").read_bytes() == b"A"
    assert commands(apt) == ["update", "download"]
    assert said[0] == "fetching Debian packages: thing"
    apt.unlink()
    assert PackageCache(tmp_path / "cache").get(["thing"]) == {"thing": package}
    assert not apt.exists()
    row = json.loads((tmp_path / "cache" / "packages.json").read_text(encoding="utf-8"))["packages"]["thing"]
    assert (row["version"], row["sha256"], row["architecture"]) == ("1:2.0-3", package.sha256, "all")


def test_globs_stay_in_their_directory(apt: Path, tmp_path: Path) -> None:
    package = PackageCache(tmp_path / "cache").get(["thing"])["thing"]
    assert package.glob("/usr/share/thing/*.txt") == ["/usr/share/thing/a.txt", "/usr/share/thing/b.txt"]
    assert package.glob("/usr/*") == []
    assert package.glob("/usr/*/run") == ["/usr/bin/run"]


def test_a_damaged_unpacked_package_is_fetched_again(apt: Path, tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "cache")
    root = cache.get(["thing"])["thing"].root
    root.rename(tmp_path / "gone")
    assert PackageCache(tmp_path / "cache").get(["thing"])["thing"].root.is_dir()
    assert commands(apt).count("download") == 2


def test_of_a_kernel_only_boot_and_what_finds_a_root_are_unpacked(apt: Path, tmp_path: Path) -> None:
    package = PackageCache(tmp_path / "cache").get(["linux-image-6.1-amd64"])["linux-image-6.1-amd64"]
    assert package.files == ("/boot/vmlinuz-6.1", "/lib/modules/6.1/kernel/fs/ext4/ext4.ko")
    assert package.root.name.endswith("+modules"), "not the folder in which an earlier version kept less"


def test_apt_gets_directories_of_its_own(apt: Path, tmp_path: Path) -> None:
    PackageCache(tmp_path / "cache").get(["thing"])
    assert all(f"-c {tmp_path}/cache/apt/apt.conf" in line for line in apt.read_text(encoding="utf-8").splitlines())
    config = (tmp_path / "cache" / "apt" / "apt.conf").read_text(encoding="utf-8")
    dump = subprocess.run(
        ["apt-config", "-c", tmp_path / "cache" / "apt" / "apt.conf", "dump"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for key in ("Dir::State", "Dir::State::lists", "Dir::State::status", "Dir::Cache", "Dir::Cache::archives"):
        assert f'{key} "{tmp_path}/cache/apt' in dump, config
    assert 'APT::Sandbox::User "root"' in dump
    assert "APT::Update::Post-Invoke::" not in dump


def test_a_metapackages_dependency_is_looked_up_once(apt: Path, tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "cache")
    assert cache.dependency("meta", "thing-[0-9]*") == "thing-6.1-amd64"
    apt.unlink()
    assert PackageCache(tmp_path / "cache").dependency("meta", "thing-[0-9]*") == "thing-6.1-amd64"
    assert not apt.exists()
    with pytest.raises(
        PackageError, match=r"meta depends on nothing like zig\* \(it depends on: other-thing, thing-6\.1-amd64\)"
    ):
        cache.dependency("meta", "zig*")


def test_an_unknown_package_is_one_line(apt: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError) as caught:
        PackageCache(tmp_path / "cache").get(["nonesuch"])
    assert str(caught.value) == (
        "apt could not download nonesuch (E: Unable to locate package nonesuch); "
        "check the network and apt's sources, then run this again"
    )
    assert not list((tmp_path / "cache").glob("root-*"))


def test_no_network_is_one_line(apt: Path, tmp_path: Path) -> None:
    (tmp_path / "bin" / "apt-get").write_text(
        "#!/bin/sh\necho W: x >&2\necho 'E: Failed to fetch InRelease  Could not resolve host' >&2\nexit 100\n",
        encoding="utf-8",
    )
    with pytest.raises(
        PackageError, match=r"^apt could not download thing \(E: Failed to fetch .*\); check the network"
    ) as caught:
        PackageCache(tmp_path / "cache").get(["thing"])
    assert "\n" not in str(caught.value)


def test_no_apt_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(
        PackageError, match=r"^cannot download mke2fs-pkg: apt-get is not installed; .* run this on Debian"
    ):
        PackageCache(tmp_path / "cache").get(["mke2fs-pkg"])


def test_stale_lists_are_refreshed(apt: Path, tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "cache")
    cache.get(["thing"])
    apt.unlink()
    with pytest.raises(PackageError):
        cache.get(["nonesuch"])
    assert commands(apt) == ["download", "update", "download"]


def test_a_broken_deb_is_one_line(apt: Path, tmp_path: Path) -> None:
    deb(tmp_path / "debs", "broken", "1", {})
    path = tmp_path / "debs" / "broken_1_all.deb"
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(PackageError, match=r"cannot unpack broken_1_all\.deb"):
        PackageCache(tmp_path / "cache").get(["broken"])
    assert not list((tmp_path / "cache").glob("root-broken*"))


def test_a_damaged_record_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "packages.json").write_text("{", encoding="utf-8")
    with pytest.raises(PackageError, match=r"packages\.json is damaged .*; delete it"):
        PackageCache(tmp_path).get(["thing"])


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVEMU_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("PVEMU_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "pvemu"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "pvemu"
    (tmp_path / "file").touch()
    monkeypatch.setenv("PVEMU_CACHE", str(tmp_path / "file" / "x"))
    with pytest.raises(ConfigError, match="set PVEMU_CACHE to a directory you can write"):
        cache_dir()


_SAYS_WHAT_IT_IS = {
    **dict.fromkeys(("mke2fs", "debugfs", "e2fsck", "mkfs.xfs", "xfs_repair"), "-V"),
    **dict.fromkeys(("mkfs.fat", "fsck.fat"), "--help"),
    "lvm": "version",
}


@pytest.mark.parametrize("name", sorted(TOOL_PACKAGES))
def test_every_tool_runs(name: str, packages: PackageCache) -> None:
    option = _SAYS_WHAT_IT_IS.get(name, "--version")
    found = tool(name, packages)
    done = subprocess.run([found.path, option], env=found.env, capture_output=True, check=True)
    assert done.stdout + done.stderr
    assert found.path.is_relative_to(packages.directory)


def test_an_unknown_tool_and_a_failing_one(packages: PackageCache, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tool named 'cc'; there are as, "):
        tool("cc", packages)
    with pytest.raises(ToolError, match=r"^mke2fs: "):
        tool("mke2fs", packages).run("-q", tmp_path / "no" / "such.img")
    with pytest.raises(ToolError, match=r"^debugfs: "):
        tool("debugfs", packages).run("-R", "ls", tmp_path / "none.img")


def test_a_missing_tool_in_its_package_names_both(apt: Path, tmp_path: Path) -> None:
    deb(tmp_path / "debs", "gzip", "9.9", {"./usr/share/doc/gzip": b"no binary"})
    with pytest.raises(ToolError, match=r"gzip: package gzip 9\.9 has no /bin/gzip"):
        tool("gzip", PackageCache(tmp_path / "cache"))


def test_the_assembler_makes_static_elf(assemble: Callable[..., Path]) -> None:
    for bits, machine in ((64, 62), (32, 3)):
        data = assemble(".globl _start\n_start: hlt\n", bits=bits).read_bytes()
        assert data[4] == bits // 32
        assert int.from_bytes(data[18:20], "little") == machine
