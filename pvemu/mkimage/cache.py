"""The cache directory: where it is, how two processes share it, how a finished directory appears in it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pvemu.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["cache_dir", "file_lock", "scratch", "staged"]


def cache_dir() -> Path:
    """PVEMU_CACHE, or pvemu under XDG_CACHE_HOME or ~/.cache; made when it is not there.

    Raises ConfigError when it cannot be made.
    """
    named = os.environ.get("PVEMU_CACHE")
    if named:
        directory = Path(named)
    else:
        base = os.environ.get("XDG_CACHE_HOME")
        try:
            directory = (Path(base) if base else Path.home() / ".cache") / "pvemu"
        except RuntimeError as error:
            raise ConfigError("there is no home directory for the cache; set PVEMU_CACHE to a directory") from error
    return make_dir(directory.absolute())


def make_dir(directory: Path) -> Path:
    """The directory, made with its parents when it is not there; ConfigError when that is not possible."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cache {directory}: {error.strerror}; set PVEMU_CACHE to a directory you can write"
        ) from error
    return directory


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file (made when missing); a second process waits."""
    make_dir(path.parent)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"lock {path}: {error.strerror}; set PVEMU_CACHE to a directory you can write") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A temporary directory beside what it will become (same file system, so that a rename is atomic)."""
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=make_dir(parent)) as name:
        yield Path(name)


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A directory to fill; it becomes `target` in one step when the block ends well, and vanishes otherwise."""
    with scratch(target.parent) as parent:
        stage = parent / "stage"
        stage.mkdir(mode=0o755)
        yield stage
        if target.exists():
            shutil.rmtree(target)
        stage.rename(target)
