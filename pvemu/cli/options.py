"""The options of every verb that runs a guest to some end, and what they mean."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from pvemu.errors import ConfigError

if TYPE_CHECKING:
    import argparse

__all__ = [
    "DEFAULT_MAX_REBOOTS", "DEFAULT_TIMEOUT", "add_run_arguments", "count", "pattern", "seconds", "unescape",
]  # fmt: skip

#: Guest seconds after which a run that nobody watches ends.
DEFAULT_TIMEOUT = 600.0
#: How often a guest that nobody watches may reboot.
DEFAULT_MAX_REBOOTS = 1
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_NAMED = {b"a": 7, b"b": 8, b"t": 9, b"n": 10, b"v": 11, b"f": 12, b"r": 13, b"e": 27, b"\\": 92, b"'": 39, b'"': 34}



def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """What is typed, and when the run ends."""
    parser.add_argument(
        "--send", metavar="TEXT", action="append", default=[],
        help="type TEXT (C escapes) once the guest waits for input; repeatable",
    )  # fmt: skip
    parser.add_argument("--until", metavar="REGEX", help="end with success when the console matches")
    parser.add_argument(
        "--timeout", metavar="SECONDS",
        help=f"end after so many guest seconds (default {DEFAULT_TIMEOUT:g} when not at a terminal)",
    )  # fmt: skip
    parser.add_argument(
        "--max-reboots", metavar="N",
        help=f"a guest that reboots boots again, N times at most (default {DEFAULT_MAX_REBOOTS}; at a terminal always)",
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


def count(text: str | None, default: int | None) -> int | None:
    """``--max-reboots``."""
    if text is None:
        return default
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f"--max-reboots {text!r}: not a number of times; give 0, 1, 2 or more")
    return int(text)


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
