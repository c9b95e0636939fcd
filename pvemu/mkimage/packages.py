"""Debian packages without root and without touching the system: downloaded and checked by apt, unpacked in the cache.

apt runs with lists, archives and status of its own under the cache; only the system's sources and keyrings are used.
What has been fetched is recorded in `packages.json` and used from there, so a second run needs no network.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypedDict

from pvemu.errors import InputError
from pvemu.mkimage.cache import cache_dir, file_lock, make_dir, scratch, staged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = ["Package", "PackageCache", "PackageError"]

# Of a kernel package an image needs /boot and what finds a root file system; its modules are 400 MB.
_ONLY = (
    (
        "linux-image-*",
        ("./boot", "./lib/modules/*/kernel/drivers/block/xen-blkfront.ko", "./lib/modules/*/kernel/fs/ext4",
         "./lib/modules/*/kernel/fs/jbd2", "./lib/modules/*/kernel/fs/mbcache.ko",
         "./lib/modules/*/kernel/lib/crc16.ko",
         "./lib/modules/*/kernel/crypto/crc32c_generic.ko"),
    ),
)  # fmt: skip
#: Part of the names of such packages' folders: change it when more of them is unpacked.
_ONLY_MARK = "+modules"


class PackageError(InputError):
    """A Debian package that cannot be had: apt is missing, the network is, or the package is unknown."""


class _Row(TypedDict):
    version: str
    architecture: str
    sha256: str
    files: list[str]


class _Record(TypedDict):
    packages: dict[str, _Row]
    dependencies: dict[str, str]


@dataclass(frozen=True, slots=True)
class Package:
    """One unpacked package: `root` holds its files as the system would have them; `sha256` is the .deb's."""

    name: str
    version: str
    sha256: str
    root: Path
    files: tuple[str, ...]

    def glob(self, pattern: str) -> list[str]:
        """Absolute paths (as installed) of the files that match a shell pattern, sorted; `*` does not cross a slash."""
        want = pattern.strip("/").split("/")
        found = []
        for name in self.files:
            parts = name.strip("/").split("/")
            if len(parts) == len(want) and all(map(fnmatchcase, parts, want)):
                found.append(name)
        return found

    def path(self, name: str) -> Path:
        """Where a file, named as installed, lies in the cache."""
        return self.root / name.lstrip("/")


class PackageCache:
    """The packages below one cache directory. `report` gets a line before anything slow."""

    def __init__(self, directory: Path | None = None, report: Callable[[str], None] | None = None) -> None:
        self.directory = directory if directory is not None else cache_dir()
        self._report = report if report is not None else _silent
        self._known: _Record | None = None

    def get(self, names: Iterable[str]) -> dict[str, Package]:
        """The named packages, fetched in one go where they are not here yet. Raises PackageError."""
        wanted = sorted(set(names))
        if any(self._find(name) is None for name in wanted):
            with file_lock(self.directory / "packages.lock"):
                self._known = None
                missing = [name for name in wanted if self._find(name) is None]
                if missing:
                    self._fetch(missing)
        found = {name: self._find(name) for name in wanted}
        return {name: package for name, package in found.items() if package is not None}

    def fetched(self, name: str) -> Package | None:
        """A package that is here already; None where it would have to be fetched."""
        return self._find(name)

    def dependency(self, name: str, pattern: str) -> str:
        """The first package that `name` depends on and whose name matches the pattern: a metapackage's real package."""
        key = f"{name} {pattern}"
        if key not in self._record()["dependencies"]:
            with file_lock(self.directory / "packages.lock"):
                self._known = None
                if key not in self._record()["dependencies"]:
                    record = self._record()
                    record["dependencies"][key] = self._resolve(name, pattern)
                    self._write(record)
        return self._record()["dependencies"][key]

    # The record

    def _record(self) -> _Record:
        if self._known is None:
            try:
                text = (self.directory / "packages.json").read_text(encoding="utf-8")
            except FileNotFoundError:
                return {"packages": {}, "dependencies": {}}
            try:
                known: _Record = json.loads(text)
            except ValueError as error:
                raise PackageError(f"{self.directory}/packages.json is damaged ({error}); delete it") from error
            self._known = known
        return self._known

    def _write(self, record: _Record) -> None:
        with scratch(self.directory) as stage:
            new = stage / "packages.json"
            new.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            new.replace(self.directory / "packages.json")
        self._known = None

    def _find(self, name: str) -> Package | None:
        row = self._record()["packages"].get(name)
        if row is None:
            return None
        root = self._root(name, row["version"])
        return Package(name, row["version"], row["sha256"], root, tuple(row["files"])) if root.is_dir() else None

    def _root(self, name: str, version: str) -> Path:
        mark = _ONLY_MARK if _wanted(name) is not None else ""
        return self.directory / f"root-{name}_{version.replace(':', '%3a')}{mark}"

    # apt and dpkg

    def _fetch(self, names: list[str]) -> None:
        self._report(f"fetching Debian packages: {' '.join(names)}")
        with scratch(self.directory) as stage:
            self._updated(["apt-get", "--quiet", "download", *names], stage, f"download {' '.join(names)}")
            self._report("unpacking")
            record = self._record()
            for deb in sorted(stage.glob("*.deb")):
                name, row = self._unpack(deb)
                record["packages"][name] = row
            self._write(record)
        lost = [name for name in names if self._find(name) is None]
        if lost:
            raise PackageError(f"apt-get downloaded no package named {' '.join(lost)}; check the package's name")

    def _unpack(self, deb: Path) -> tuple[str, _Row]:
        fields = _run(["dpkg-deb", "--show", "--showformat=${Package}\\n${Version}\\n${Architecture}", str(deb)])
        name, version, architecture = fields.split("\n")
        try:
            with staged(self._root(name, version)) as root:
                files = self._extract(deb, name, root)
        except subprocess.CalledProcessError as error:
            raise PackageError(f"cannot unpack {deb.name} ({_complaint(error)}); is the disk full?") from error
        with deb.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
        return name, {"version": version, "architecture": architecture, "sha256": digest, "files": files}

    @staticmethod
    def _extract(deb: Path, name: str, root: Path) -> list[str]:
        only = _wanted(name)
        if only is None:
            _run(["dpkg-deb", "--extract", str(deb), str(root)])
        else:
            archive = deb.with_suffix(".tar")
            with archive.open("wb") as sink:
                _run(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=sink.fileno())
            names = [name.rstrip("/") for name in _run(["tar", "--list", f"--file={archive}"]).splitlines()]
            there = [part for part in only if any(fnmatchcase(f"{name}/", f"{part}/*") for name in names)]
            into = [f"--file={archive}", f"--directory={root}"]
            _run(["tar", "--extract", *into, "--no-same-owner", "--wildcards", *there])
            archive.unlink()
        unpacked = (path for path in root.rglob("*") if path.is_file() or path.is_symlink())
        return sorted(f"/{path.relative_to(root)}" for path in unpacked)

    def _resolve(self, name: str, pattern: str) -> str:
        text = self._updated(["apt-cache", "depends", name], self.directory, f"look up {name}")
        found = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.strip().startswith("Depends:")]
        match = next((candidate for candidate in found if fnmatchcase(candidate, pattern)), None)
        if match is None:
            listed = ", ".join(found) or "nothing"
            raise PackageError(f"package {name} depends on nothing like {pattern} (it depends on: {listed})")
        return match

    def _updated(self, command: list[str], where: Path, purpose: str) -> str:
        """Run an apt command; when it fails, or apt's lists were never fetched, fetch them and try once more."""
        if shutil.which("apt-get") is None:
            raise PackageError(
                f"cannot {purpose}: apt-get is not installed; pvemu takes GRUB, e2fsprogs and kernels from Debian's "
                f"packages, so run this on Debian or copy {self.directory} from a machine where it ran"
            )
        config = self._apt_config()
        lists = self.directory / "apt" / "lists"
        complaint = ""
        if any(lists.glob("*_Packages*")):
            try:
                return _run([command[0], "-c", str(config), *command[1:]], where)
            except subprocess.CalledProcessError:
                self._report("apt's lists are out of date")
        self._report("fetching apt's package lists")
        try:
            _run(["apt-get", "-c", str(config), "--quiet", "update"], where)
        except subprocess.CalledProcessError as error:
            complaint = _complaint(error)  # one dead source among several is no reason to stop
        try:
            return _run([command[0], "-c", str(config), *command[1:]], where)
        except subprocess.CalledProcessError as error:
            raise PackageError(
                f"apt could not {purpose} ({complaint or _complaint(error)}); "
                "check the network and apt's sources, then run this again"
            ) from error

    def _apt_config(self) -> Path:
        apt = self.directory / "apt"
        for part in ("lists/partial", "archives/partial"):
            make_dir(apt / part)
        (apt / "status").touch()
        config = apt / "apt.conf"
        config.write_text(
            # The system's hooks tidy up the system's own cache; they are not for this one.
            "".join(f"#clear APT::Update::{hook};\n" for hook in ("Pre-Invoke", "Post-Invoke", "Post-Invoke-Success"))
            + f'Dir::State "{apt}";\nDir::State::lists "{apt}/lists";\nDir::State::status "{apt}/status";\n'
            f'Dir::Cache "{apt}";\nDir::Cache::archives "{apt}/archives";\n'
            # As root apt would download as _apt, who need not be able to write here.
            'APT::Sandbox::User "root";\nAcquire::Languages "none";\nAcquire::Retries "2";\n',
            encoding="utf-8",
        )
        return config


def _wanted(name: str) -> tuple[str, ...] | None:
    """What of a package is unpacked, as patterns of tar; None for all of it."""
    return next((parts for pattern, parts in _ONLY if fnmatchcase(name, pattern)), None)


def _silent(_text: str) -> None:
    """The default of `report`."""


def _run(command: list[str], where: Path | None = None, stdout: int = subprocess.PIPE) -> str:
    """A command's standard output; CalledProcessError carries what it said when it failed."""
    environment = {**os.environ, "LC_ALL": "C"}
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    try:
        done = subprocess.run(command, cwd=where, env=environment, check=True, stdin=null, stdout=stdout, stderr=pipe)
    except FileNotFoundError as error:
        raise PackageError(f"{command[0]} is not installed; it is part of every Debian system") from error
    return (done.stdout or b"").decode("utf-8", "replace")


def _complaint(error: subprocess.CalledProcessError) -> str:
    """apt's own first error line, or its exit code when it gave none."""
    text = bytes(error.stderr or b"").decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines()]
    last = lines[-1] if lines else f"exit code {error.returncode}"
    return next((line for line in lines if line.startswith("E:")), last)
