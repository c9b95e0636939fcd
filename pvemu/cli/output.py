"""Where a run's bytes go, and how a signal ends a run."""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pvemu.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from pvemu.config import DomainConfig
    from pvemu.testing.session import Session

__all__ = [
    "OutputFile", "closing", "console_sink", "open_output", "refuse_overwriting", "stopping_on_signals", "write_all",
]  # fmt: skip

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@contextmanager
def closing(session: Session) -> Iterator[None]:
    """Give the disks back, of whichever domain has them in the end."""
    try:
        yield
    finally:
        session.machine.close()


@contextmanager
def stopping_on_signals(session: Session) -> Iterator[list[int]]:
    """Ctrl-C and the like end the run cleanly: nothing can be raised inside the CPU's own code. Gives the signals that
    came, in order; those that our caller had ignored (nohup, a script's background jobs) stay so.
    """
    received: list[int] = []

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        session.stop("interrupted", f"interrupted by {signal.Signals(number).name}")

    watched = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, stop) for number in watched}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def console_sink(transcript: IO[bytes] | None) -> Callable[[bytes], None]:
    """Console bytes to stdout as they come, past Python's buffers, and to the transcript."""
    out = sys.stdout.buffer.raw if isinstance(sys.stdout.buffer, io.BufferedWriter) else sys.stdout.buffer

    def write(data: bytes) -> None:
        write_all(out, data, "stdout")
        if transcript is not None:
            write_all(transcript, data, f"--transcript {transcript.name}")

    return write


class OutputFile:
    """A file that an option names, or standard output, written in large pieces; at a terminal, line by line. A full
    disk is the user's to hear of (ConfigError), a reader that went away is BrokenPipeError.
    """

    def __init__(self, raw: IO[bytes] | io.RawIOBase, name: str, *, is_terminal: bool = False) -> None:
        self._raw = raw
        self._name = name
        self._limit = 1 if is_terminal else 1 << 16
        self._pending = bytearray()

    @classmethod
    def open(cls, path: str | None, option: str) -> OutputFile | None:
        """The file at ``path``; None without one."""
        raw = open_output(path, option)
        return cls(raw, f"{option} {path}") if raw is not None else None

    @classmethod
    def stdout(cls) -> OutputFile:
        """Standard output, past Python's own buffers."""
        buffer = sys.stdout.buffer
        raw = buffer.raw if isinstance(buffer, io.BufferedWriter) else buffer
        return cls(raw, "stdout", is_terminal=sys.stdout.isatty())

    def write(self, text: str) -> None:
        """Text, as UTF-8."""
        self.write_bytes(text.encode("utf-8", "replace"))

    def write_bytes(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes."""
        self._pending += data
        if len(self._pending) >= self._limit:
            self.flush()

    def flush(self) -> None:
        """Hand on what waits."""
        data, self._pending = bytes(self._pending), bytearray()
        write_all(self._raw, data, self._name)

    def close(self) -> None:
        """Hand on what waits; standard output stays open."""
        self.flush()
        if self._name != "stdout":
            self._raw.close()


def write_all(out: IO[bytes] | io.RawIOBase, data: bytes, name: str) -> None:
    """All of ``data``, also where the system takes it in pieces."""
    view = memoryview(data)
    try:
        while view:
            view = view[out.write(view) or 0 :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(f"{name}: cannot be written ({error.strerror}); make room or send it elsewhere") from None


def refuse_overwriting(
    arguments: argparse.Namespace, config: DomainConfig, *outputs: tuple[str, str | None]
) -> None:
    """An output that names an input is a slip that would cost the user a disk image."""
    given = (config.kernel, config.ramdisk, arguments.kernel, arguments.config)
    inputs = [*filter(None, given), *(disk.path for disk in config.disks)]
    used = {os.path.realpath(path): path for path in inputs}
    for option, path in outputs:
        if path is None or (Path(path).exists() and not Path(path).is_file()):
            continue  # /dev/null or a FIFO may serve for anything
        other = used.setdefault(os.path.realpath(path), option)
        if other != option:
            raise ConfigError(f"{option} {path}: would overwrite {other}; give another path")


def open_output(path: str | None, option: str) -> IO[bytes] | None:
    """The file that an option names, for writing; None without one."""
    if path is None:
        return None
    try:
        return open(path, "wb", buffering=0)  # noqa: PTH123 - closed by the caller; "-" has no meaning here
    except OSError as error:
        raise ConfigError(
            f"{option} {path}: cannot be written ({error.strerror}); give a path that can be created"
        ) from None
