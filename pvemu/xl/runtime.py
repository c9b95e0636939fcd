"""The runtime directory: one entry for each domain, and what outlives domains (their consoles, Xen's log).

``$PVEMU_RUN``, or ``pvemu`` under ``$XDG_RUNTIME_DIR``, or ``/tmp/pvemu-UID``; for its owner alone. In it:
``domains/N`` with the control socket and what was fixed at creation, ``ended/N`` for a while after,
``console/guest-NAME.log`` as xenconsoled keeps them, ``log/``, and a lock. An entry whose process is gone is swept away
by whoever meets it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time

TYPE_CHECKING = False  # as in pvemu.xl.options; and os.path for pathlib, which takes as long
if TYPE_CHECKING:
    from typing import Self

__all__ = ["ENDED_SECONDS", "Entry", "Lock", "Runtime", "RuntimeDirectoryError", "ShortPath", "log_name"]

#: How long the console of a domain that is gone can still be read, in seconds: who attaches may come late.
ENDED_SECONDS = 60.0
_FIRST_RESERVED = 0x7FF0  #: DOMID_FIRST_RESERVED
_MAX_LOG = 1 << 26
#: How long an entry may be without its facts: it is just being made.
_MAKING_SECONDS = 5.0


class RuntimeDirectoryError(Exception):
    """The directory cannot be used; one line."""


def log_name(name: str) -> str:
    """A domain's name as part of a file name."""
    return name.replace("/", "_")


class ShortPath:
    """A way to ``folder`` that is short enough for a socket's address, however deep it lies: for ``with``."""

    def __init__(self, folder: str) -> None:
        self._descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._descriptor}"

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)


class Lock:
    """Nobody else makes domains in ``folder`` meanwhile: for ``with``."""

    def __init__(self, folder: str) -> None:
        self._descriptor = os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> Self:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)


class Entry:
    """One domain as others see it. ``facts`` were fixed at its creation."""

    def __init__(self, path: str, facts: dict[str, str]) -> None:
        self.path = path
        self.facts = facts

    @property
    def domid(self) -> int:
        """Its number."""
        return int(os.path.basename(self.path))

    @property
    def name(self) -> str:
        """Its name."""
        return self.facts.get("name", "")

    def connect(self) -> socket.socket | None:
        """A connection to its control socket; None when its process is gone."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            with ShortPath(self.path) as folder:
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
        reply = b""
        with connection:
            try:
                connection.sendall(request.encode("utf-8", "surrogateescape") + b"\n")
                while not reply.endswith(b"\n"):
                    data = connection.recv(4096)
                    if not data:
                        return None
                    reply += data
            except OSError:
                return None
        return reply[:-1].decode("utf-8", "surrogateescape")

    def write(self) -> None:
        """Keep the facts; others see the old or the new ones, never half of them."""
        text = "".join(f"{key}={value}\n" for key, value in self.facts.items())
        with open(f"{self.path}/facts.new", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.replace(f"{self.path}/facts.new", f"{self.path}/facts")

    def remove(self) -> None:
        """Sweep it away."""
        try:
            for name in os.listdir(self.path):
                os.unlink(f"{self.path}/{name}")
            os.rmdir(self.path)
        except OSError:
            pass  # someone else was faster


class Runtime:
    """The directory, made if it is not there. RuntimeDirectoryError if it cannot be, or is not ours."""

    def __init__(self, path: str | None = None) -> None:
        base = os.environ.get("XDG_RUNTIME_DIR")
        usual = f"{base}/pvemu" if base else f"/tmp/pvemu-{os.getuid()}"  # noqa: S108 - its owner is checked below
        self.path = os.path.abspath(path or os.environ.get("PVEMU_RUN") or usual)
        try:
            if not os.path.isdir(f"{self.path}/log"):
                for part in ("domains", "ended", "console", "log"):  # log last: see above
                    os.makedirs(f"{self.path}/{part}", 0o700, exist_ok=True)
            owner = os.stat(self.path).st_uid
        except OSError as error:
            raise RuntimeDirectoryError(
                f"pvemu: {self.path}: not usable for domains ({error.strerror}); name a folder of yours in PVEMU_RUN"
            ) from None
        if owner != os.getuid():
            raise RuntimeDirectoryError(
                f"pvemu: {self.path}: belongs to someone else; name a folder of yours in PVEMU_RUN"
            )

    def entries(self) -> list[Entry]:
        """The domains, by number; entries whose process is gone are swept away."""
        return [entry for path in self._numbered("domains") if (entry := self._alive(path)) is not None]

    def _alive(self, path: str) -> Entry | None:
        entry = self._read(path)
        if entry is None:
            return None
        connection = entry.connect()
        if connection is None:
            entry.remove()
            return None
        connection.close()
        return entry

    def _numbered(self, part: str) -> list[str]:
        folder = f"{self.path}/{part}"
        try:
            names = os.listdir(folder)
        except OSError:
            return []
        return [f"{folder}/{name}" for name in sorted((name for name in names if name.isdigit()), key=int)]

    def _read(self, path: str) -> Entry | None:
        try:
            with open(f"{path}/facts", encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().splitlines()
        except OSError:
            if time.time() - _mtime(path) > _MAKING_SECONDS:
                Entry(path, {}).remove()
            return None
        return Entry(path, dict(line.split("=", 1) for line in lines if "=" in line))

    def find(self, word: str) -> Entry | None:
        """A domain by number or name; by number alone when it is all digits, as xl has it."""
        if word.isdigit():
            return self._alive(f"{self.path}/domains/{int(word)}")
        for path in self._numbered("domains"):
            entry = self._read(path)
            if entry is not None and entry.name == word:
                return self._alive(path)
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
            elif word == (os.path.basename(path) if word.isdigit() else entry.name):
                found = entry
        return found

    def create(self, facts: dict[str, str]) -> tuple[Entry, socket.socket] | None:
        """A new entry with the next domid, and its listening control socket; None when the name is taken."""
        with Lock(self.path):
            if any(entry.name == facts["name"] for entry in self.entries()):
                return None
            domid = self._next_domid()
            path = f"{self.path}/domains/{domid}"
            os.mkdir(path, 0o700)
            listener = socket.socket(socket.AF_UNIX)
            with ShortPath(path) as folder:
                listener.bind(f"{folder}/control")
            listener.listen(64)
            entry = Entry(path, {**facts, "domid": str(domid)})
            entry.write()
        return entry, listener

    def _next_domid(self) -> int:
        """Numbers rise from 1, as Xen hands them out; a taken one is passed over."""
        counter = f"{self.path}/next-domid"
        try:
            with open(counter, encoding="ascii") as file:
                domid = int(file.read())
        except (OSError, ValueError):
            domid = 1
        while not 0 < domid < _FIRST_RESERVED or os.path.exists(f"{self.path}/domains/{domid}"):
            domid = domid % (_FIRST_RESERVED - 1) + 1
        with open(counter, "w", encoding="ascii") as file:
            file.write(str(domid + 1))
        return domid

    def retire(self, entry: Entry) -> None:
        """Its domain is gone: off the list, its console still to be read for a while."""
        self.find_ended("0")  # removes what is too old
        target = f"{self.path}/ended/{os.path.basename(entry.path)}"
        Entry(target, {}).remove()
        try:
            os.rename(entry.path, target)  # first: whoever finds the entry without its socket would sweep it away
            os.unlink(f"{target}/control")
            os.utime(target)
        except FileNotFoundError:
            pass  # swept away by hand: then nobody will ask for it

    def console_log(self, name: str) -> str:
        """Where a domain's console goes, as ``xenconsoled --log=guest`` names it."""
        return f"{self.path}/console/guest-{log_name(name)}.log"

    def open_log(self, path: str) -> int:
        """A file to append to, begun anew when it has grown past all use."""
        try:
            if os.stat(path).st_size > _MAX_LOG:
                os.unlink(path)
        except OSError:
            pass  # not there yet
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _mtime(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
