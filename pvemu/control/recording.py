"""A run on paper: what it was made from, what was typed and when, and how it ended. Enough to have it again, anywhere.

Files are named by path relative to the recording and by digest, so that a recording goes with its files or finds them
elsewhere; nothing of their content is kept. JSON, a few kilobytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvemu.config import DomainConfig, GrantLimits, StrictConfig
from pvemu.disk.spec import DiskConfig
from pvemu.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["End", "RecordedFile", "Recording", "load", "packages", "save"]

FORMAT = "pvemu recording"
_VERSION = 1
_PACKAGES = ("pvemu", "unicorn")
_FILE_FIELDS = ("kernel", "ramdisk")


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """``path`` as it was given; ``sha256`` in hexadecimal; ``size`` in bytes."""

    path: str
    sha256: str
    size: int

    @classmethod
    def of(cls, path: str) -> RecordedFile:
        """What ``path`` is now. ConfigError."""
        try:
            with Path(path).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                return cls(path, digest, os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); a recording needs its digest") from None


@dataclass(frozen=True, slots=True)
class End:
    """Where the run ended: in which domain (0: the first), after how many exits, at which system time in ns, as what.
    ``is_forced`` is an end that did not come from the guest.
    """

    domain: int
    exits: int
    time: int
    kind: str
    detail: str
    is_forced: bool


@dataclass(slots=True)
class Recording:
    """``options`` are those of the run (until, timeout, send, max_reboots) as they were given; ``keys`` (domain, which
    idling, what was typed).
    """

    config: DomainConfig
    options: dict[str, Any]
    files: list[RecordedFile]
    packages: dict[str, str]
    keys: list[tuple[int, int, bytes]] = field(default_factory=list)
    end: End | None = None

    @classmethod
    def begin(cls, config: DomainConfig, options: dict[str, Any]) -> Recording:
        """Before the run. ConfigError for one that cannot be had again."""
        if config.write:
            raise ConfigError("--record with --write: the disks would not be what they were; leave --write out")
        paths = [config.kernel, *([config.ramdisk] if config.ramdisk else []), *(disk.path for disk in config.disks)]
        return cls(config, options, [RecordedFile.of(path) for path in dict.fromkeys(paths)], packages())


def packages() -> dict[str, str]:
    """What a run depends on besides its files."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree
            found[name] = "unknown"
    return found


def save(recording: Recording, path: str) -> None:
    """Write it. ConfigError."""
    folder = Path(path).absolute().parent
    files = {file.path: os.path.relpath(Path(file.path).absolute(), folder) for file in recording.files}
    config = dataclasses.asdict(recording.config)
    for name in _FILE_FIELDS:
        config[name] = files.get(config[name])
    for disk in config["disks"]:
        disk["path"] = files[disk["path"]]
    document = {
        "format": FORMAT,
        "version": _VERSION,
        "packages": recording.packages,
        "files": [{"path": files[f.path], "sha256": f.sha256, "size": f.size} for f in recording.files],
        "domain": config,
        "options": recording.options,
        "keys": [[domain, idle, keys.decode("latin-1")] for domain, idle, keys in recording.keys],
        "end": dataclasses.asdict(recording.end) if recording.end is not None else None,
    }
    try:
        Path(path).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--record {path}: cannot be written ({error.strerror}); give another path") from None


def load(path: str, search: Sequence[str] = ()) -> Recording:
    """Read a recording and find its files: where they were from there, or below ``search``. ConfigError for what is
    missing, changed, or no recording.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a file that --record wrote") from None
    except (UnicodeDecodeError, json.JSONDecodeError):
        document = None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConfigError(f"{path}: not a recording; give a file that --record wrote")
    if document.get("version") != _VERSION:
        found = document.get("version")
        raise ConfigError(f"{path}: of version {found}, and this pvemu reads {_VERSION}; replay it with the other")
    try:
        return _recording(document, Path(path).absolute().parent, search)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: damaged ({type(error).__name__}: {error}); record the run again") from None


def _recording(document: dict[str, Any], folder: Path, search: Sequence[str]) -> Recording:
    files = [RecordedFile(str(f["path"]), str(f["sha256"]), int(f["size"])) for f in document["files"]]
    found = {file.path: _find(file, folder, search) for file in files}
    domain = dict(document["domain"])
    for name in _FILE_FIELDS:
        domain[name] = found[domain[name]] if domain[name] is not None else None
    domain["disks"] = tuple(DiskConfig(**{**disk, "path": found[disk["path"]]}) for disk in domain["disks"])
    if "restarts_on" in domain:
        domain["restarts_on"] = tuple(domain["restarts_on"])
    if "grants" in domain:
        domain["grants"] = GrantLimits(**domain["grants"])
    strict = domain["strict"]
    if strict is not None:
        domain["strict"] = StrictConfig(**{**strict, "aspects": tuple(strict["aspects"])})
    keys = [(int(domain_), int(idle), str(text).encode("latin-1")) for domain_, idle, text in document["keys"]]
    end = End(**document["end"]) if document["end"] is not None else None
    options, of = dict(document["options"]), {str(k): str(v) for k, v in document["packages"].items()}
    return Recording(DomainConfig(**domain), options, [RecordedFile.of(p) for p in found.values()], of, keys, end)


def _find(file: RecordedFile, folder: Path, search: Sequence[str]) -> str:
    """The path of the file with this content. ConfigError."""
    first = folder / file.path
    candidates = [first]
    for directory in search:
        if not Path(directory).is_dir():
            raise ConfigError(f"--search {directory}: no such folder")
        candidates += sorted(path for path in Path(directory).rglob(first.name) if path.is_file())
    changed = None
    for candidate in candidates:
        if candidate.is_file():
            if candidate.stat().st_size == file.size and RecordedFile.of(str(candidate)).sha256 == file.sha256:
                return os.path.normpath(candidate)
            changed = changed or candidate
    if changed is not None:
        raise ConfigError(
            f"{os.path.normpath(changed)}: not what the recording was made with (sha256 {file.sha256[:16]}...); "
            "give the folder that has it with --search DIR"
        )
    raise ConfigError(f"{os.path.normpath(first)}: missing; give the folder that has {first.name} with --search DIR")
