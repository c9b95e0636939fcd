"""The options that every verb has that runs a guest, and what they mean."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pvemu.config import DEFAULT_MEMORY_MIB, DomainConfig
from pvemu.disk.spec import parse_disk_specs
from pvemu.errors import ConfigError

if TYPE_CHECKING:
    import argparse

__all__ = ["DEFAULT_TIMEOUT", "add_guest_options", "guest_config", "pattern", "seconds", "unescape"]

#: Guest seconds after which a run that nobody watches ends.
DEFAULT_TIMEOUT = 600.0
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_NAMED = {b"a": 7, b"b": 8, b"t": 9, b"n": 10, b"v": 11, b"f": 12, b"r": 13, b"e": 27, b"\\": 92, b"'": 39, b'"': 34}


def add_guest_options(parser: argparse.ArgumentParser) -> None:
    """The kernel, what it is given, and when the run ends."""
    parser.add_argument("kernel", metavar="KERNEL", help="an ELF PV kernel or a Linux bzImage, as xl's kernel=")
    parser.add_argument("--ramdisk", metavar="FILE", help="a ramdisk for the kernel")
    parser.add_argument("--cmdline", metavar="TEXT", default="", help="the kernel's command line")
    parser.add_argument(
        "--memory", metavar="MIB", default=str(DEFAULT_MEMORY_MIB),
        help=f"memory in MiB (default {DEFAULT_MEMORY_MIB})",
    )  # fmt: skip
    parser.add_argument(
        "--disk", metavar="[VDEV=]PATH[,ro|rw]", action="append", default=[], help="a disk image; repeatable"
    )
    parser.add_argument(
        "--send", metavar="TEXT", action="append", default=[],
        help="type TEXT (C escapes) once the guest waits for input; repeatable",
    )  # fmt: skip
    parser.add_argument("--until", metavar="REGEX", help="end with success when the console matches")
    parser.add_argument(
        "--timeout", metavar="SECONDS",
        help=f"end after so many guest seconds (default {DEFAULT_TIMEOUT:g} when not at a terminal)",
    )  # fmt: skip
    parser.add_argument("--write", action="store_true", help="let disks given as rw be written")


def guest_config(arguments: argparse.Namespace) -> DomainConfig:
    """The domain that the options describe."""
    return DomainConfig(
        kernel=arguments.kernel, ramdisk=arguments.ramdisk, cmdline=arguments.cmdline,
        memory_mib=_memory(arguments.memory), disks=parse_disk_specs(arguments.disk), write=arguments.write,
        name=Path(arguments.kernel).name or "guest",
    )  # fmt: skip


def pattern(text: str | None) -> re.Pattern[bytes] | None:
    """``--until``."""
    if text is None:
        return None
    try:
        return re.compile(text.encode("utf-8", "surrogateescape"), re.MULTILINE)
    except re.error as error:
        raise ConfigError(
            f"--until {text!r}: not a regular expression ({error}); escape special characters with \\"
        ) from None


def _memory(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"--memory {text!r}: not a number; give MiB, such as 256") from None
    if not math.isfinite(value) or value != int(value):
        raise ConfigError(f"--memory {text}: not a whole number of MiB; give one such as 256")
    return int(value)


def seconds(text: str | None, default: float | None) -> float | None:
    """``--timeout``, in guest seconds."""
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"--timeout {text!r}: not a time; give guest seconds, such as 30 or 2.5")
    return value


def unescape(text: str) -> bytes:
    """C escapes in what is typed; an unknown one is the character itself."""

    def replace(match: re.Match[bytes]) -> bytes:
        body = match[1]
        if body[:1] == b"x" and len(body) > 1:
            return bytes([int(body[1:], 16)])
        if body[:1].isdigit() and body[0] < 56:
            return bytes([int(body, 8) & 0xFF])
        return bytes([_NAMED[body]]) if body in _NAMED else body

    return _ESCAPE.sub(replace, text.encode("utf-8", "surrogateescape"))
