"""The runtime directory: one entry for each domain, and what outlives domains (their consoles, Xen's log).

``$PVEMU_RUN``, or ``pvemu`` under ``$XDG_RUNTIME_DIR``, or ``/tmp/pvemu-UID``; for its owner alone. In it: ``domains/N``
with the control socket and what was fixed at creation, ``ended/N`` for a while after, ``console/guest-NAME.log`` as
xenconsoled keeps them, ``log/``, and a lock. An entry whose process is gone is swept away by whoever meets it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Entry", "Runtime", "RuntimeDirectoryError", "log_name"]

#: How long the console of a domain that is gone can still be read, in seconds: who attaches may come late.
ENDED_SECONDS = 60.0
_FIRST_RESERVED = 0x7FF0  #: DOMID_FIRST_RESERVED
_MAX_LOG = 1 << 26


class RuntimeDirectoryError(Exception):
    """The directory cannot be used; one line."""


def log_name(name: str) -> str:
    """A domain's name as part of a file name."""
    return name.replace("/", "_")


class Entry:
    """One domain as others see it. ``facts`` were fixed at its creation."""

    def __init__(self, path: Path, facts: dict[str, str]) -> None:
        self.path = path
        self.facts = facts

    @property
    def domid(self) -> int:
        """Its number."""
        return int(self.path.name)

    @property
    def name(self) -> str:
        """Its name."""
        return self.facts.get("name", "")

    def connect(self) -> socket.socket | None:
        """A connection to its control socket; None when its process is gone."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            with _short_path(self.path) as folder:
                connection.connect(f"{folder}/control")
        except OSError:
            connection.close()
            return None
        return connection

    def ask(self, request: str) -> str | None:
        """One request, one line in reply; None when its process is gone."""
        connection = self.connect()
        if connection is None:
            return None
        with connection, suppress(OSError):
            connection.sendall(request.encode("utf-8", "surrogateescape") + b"\n")
            reply = b""
            while not reply.endswith(b"\n"):
                data = connection.recv(4096)
                if not data:
                    break
                reply += data
            if reply.endswith(b"\n"):
                return reply[:-1].decode("utf-8", "surrogateescape")
        return None

    def write(self) -> None:
        """Keep the facts."""
        text = "".join(f"{key}={value}\n" for key, value in self.facts.items())
        (self.path / "facts").write_text(text, encoding="utf-8", errors="surrogateescape")

    def remove(self) -> None:
        """Sweep it away."""
        with suppress(OSError):
            for file in self.path.iterdir():
                file.unlink(missing_ok=True)
            self.path.rmdir()


@contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """A way to ``folder`` that is short enough for a socket's address, however deep it lies."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


class Runtime:
    """The directory, made if it is not there. RuntimeDirectoryError if it cannot be, or is not ours."""

    def __init__(self, path: str | None = None) -> None:
        given = path or os.environ.get("PVEMU_RUN")
        if given:
            self.path = Path(given).absolute()
        else:
            base = os.environ.get("XDG_RUNTIME_DIR")
            self.path = Path(base) / "pvemu" if base else Path(f"/tmp/pvemu-{os.getuid()}")  # noqa: S108 - checked below
        try:
            for part in ("", "domains", "ended", "console", "log"):
                (self.path / part).mkdir(0o700, parents=True, exist_ok=True)
            owner = self.path.stat().st_uid
        except OSError as error:
            raise RuntimeDirectoryError(
                f"pvemu: {self.path}: not usable for domains ({error.strerror}); name a folder of yours in PVEMU_RUN"
            ) from None
        if owner != os.getuid():
            raise RuntimeDirectoryError(
                f"pvemu: {self.path}: belongs to someone else; name a folder of yours in PVEMU_RUN"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Nobody else makes or removes domains meanwhile."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def entries(self) -> list[Entry]:
        """The domains, by number; entries whose process is gone are swept away."""
        found = []
        for path in self._numbered("domains"):
            entry = self._read(path)
            if entry is None:
                continue
            connection = entry.connect()
            if connection is None:
                entry.remove()
                continue
            connection.close()
            found.append(entry)
        return found

    def _numbered(self, part: str) -> list[Path]:
        folder = self.path / part
        try:
            names = os.listdir(folder)
        except OSError:
            return []
        return [folder / name for name in sorted((name for name in names if name.isdigit()), key=int)]

    def _read(self, path: Path) -> Entry | None:
        try:
            text = (path / "facts").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            if time.time() - _mtime(path) > 1:  # not just being made
                Entry(path, {}).remove()
            return None
        return Entry(path, dict(line.split("=", 1) for line in text.splitlines() if "=" in line))

    def find(self, word: str) -> Entry | None:
        """A domain by number or name; by number alone when it is all digits, as xl has it."""
        if word.isdigit():
            path = self.path / "domains" / str(int(word))
            entry = self._read(path) if path.is_dir() else None
            if entry is not None and (connection := entry.connect()) is not None:
                connection.close()
                return entry
            return None
        for path in self._numbered("domains"):
            entry = self._read(path)
            if entry is not None and entry.name == word:
                if (connection := entry.connect()) is not None:
                    connection.close()
                    return entry
                entry.remove()
        return None

    def find_ended(self, word: str) -> Entry | None:
        """A domain that is gone since less than a minute, the last of that name or number; older ones are removed."""
        found = None
        for path in self._numbered("ended"):
            entry = self._read(path)
            if entry is None:
                continue
            if time.time() - _mtime(path) > ENDED_SECONDS:
                entry.remove()
            elif word == (path.name if word.isdigit() else entry.name):
                found = entry
        return found

    def create(self, facts: dict[str, str]) -> tuple[Entry, socket.socket] | None:
        """A new entry with the next domid, and its listening control socket; None when the name is taken."""
        with self.lock():
            if any(entry.name == facts["name"] for entry in self.entries()):
                return None
            domid = self._next_domid()
            path = self.path / "domains" / str(domid)
            path.mkdir(0o700)
            listener = socket.socket(socket.AF_UNIX)
            with _short_path(path) as folder:
                listener.bind(f"{folder}/control")
            listener.listen(64)
            entry = Entry(path, {**facts, "domid": str(domid)})
            entry.write()
        return entry, listener

    def _next_domid(self) -> int:
        """Numbers rise from 1, as Xen hands them out; a taken one is passed over."""
        counter = self.path / "next-domid"
        try:
            domid = int(counter.read_text(encoding="ascii"))
        except (OSError, ValueError):
            domid = 1
        while (self.path / "domains" / str(domid)).exists() or not 0 < domid < _FIRST_RESERVED:
            domid = domid % (_FIRST_RESERVED - 1) + 1
        counter.write_text(str(domid + 1), encoding="ascii")
        return domid

    def retire(self, entry: Entry) -> None:
        """Its domain is gone: off the list, its console still to be read for a while."""
        self.find_ended("0")  # removes what is too old
        target = self.path / "ended" / entry.path.name
        Entry(target, {}).remove()
        try:
            (entry.path / "control").unlink(missing_ok=True)
            entry.path.rename(target)
            os.utime(target)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def console_log(self, name: str) -> Path:
        """Where a domain's console goes, as ``xenconsoled --log=guest`` names it."""
        return self.path / "console" / f"guest-{log_name(name)}.log"

    def open_log(self, path: Path) -> int:
        """A file to append to, begun anew when it has grown past all use."""
        with suppress(OSError):
            if path.stat().st_size > _MAX_LOG:
                path.unlink()
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
