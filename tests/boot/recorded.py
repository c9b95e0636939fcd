"""The guests whose consoles were recorded on real Xen: how they were started there, and what in a console carries
the clock.

The only text left out of a comparison is the progress that GRUB shows of reading a file: its transfer rate, the column
that depends on how long the rate is, and all but the last message for a file, since whether one appears at all depends
on the clock too. `date` is compared like the rest: each guest starts at such a wall clock that it says the recorded
second.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

__all__ = ["GUESTS", "RECORDED_GRUB", "RECORDED_SIZES", "Recorded", "comparable", "grub_version", "recorded_console"]

_DATA = Path(__file__).parents[1] / "data" / "reference"
_COLUMNS = 80

#: Debian's version of the recorded GRUB, and sizes that GRUB printed of files made from packages.
RECORDED_GRUB = b"2.06-13+deb12u2"
RECORDED_SIZES = {b"pvboot-x86_64.elf": b"390.80KiB", b"pvboot-i386.elf": b"266.23KiB", b"tiny.cpio.gz": b"1004.29KiB"}

_PROGRESS = re.compile(
    rb"\x1b\[(?P<row>\d+);(?P<column>\d+)H"
    rb"(?P<text>      \[ (?P<file>[^ ]+)  (?P<size>[\d.]+[KM]?i?B)  (?P<percent>\d+)%  [\d.]+[KMGT]?i?B/s \])"
    rb"\x1b\[(?P<back>\d+;\d+)H"
)
_VERSION = re.compile(rb"\x1b\[2;(?P<column>\d+)HGNU GRUB  version (?P<version>\S+)\n")


class Recorded(NamedTuple):
    """One guest as it was configured: recipe and artifact of kernel and disk, MiB, `extra`, what was typed, and the
    wall clock (Unix seconds) that makes `date` repeat.
    """

    kernel: tuple[str, str]
    disk: tuple[str, str] | None
    memory: int
    epoch: int
    cmdline: str = ""
    send: str = ""


def _at(clock: str, countdown: int = 0) -> int:
    return int(datetime.fromisoformat(f"2026-11-22T{clock}").replace(tzinfo=UTC).timestamp()) - countdown


_GRUB = ("pvgrub", "grub-x86_64-xen.bin")
_GRUB32 = ("pvgrub", "grub-i386-xen.bin")
_CHAIN = ("chain", "chain.img")
#: By the name of the recording.
GUESTS = {
    "grub64-menu": Recorded(_GRUB, ("menu", "menu.img"), 128, _at("07:53:34"), send="\r"),
    "grub64-timeout": Recorded(_GRUB, ("timeout", "timeout.img"), 256, _at("07:53:44", 2), cmdline="oracle extra args"),
    "grub64-chain": Recorded(_GRUB, _CHAIN, 256, _at("08:13:06", 2)),
    "grub64-pvboot-direct": Recorded(("pvboot", "pvboot-x86_64.elf"), _CHAIN, 128, _at("08:14:12", 2)),
    "grub64-nodisk": Recorded(_GRUB, None, 64, _at("08:13:58"), send="ls\rset\rlsmmap\rhelp\rhalt\r"),
    "grub32-menu": Recorded(_GRUB32, ("menu", "menu.img"), 128, _at("07:53:27"), send="\r"),
    "grub32-timeout": Recorded(
        _GRUB32, ("timeout", "timeout.img"), 256, _at("08:12:25", 2), cmdline="oracle extra args"
    ),
    "grub32-chain": Recorded(_GRUB32, _CHAIN, 256, _at("08:11:57", 2)),
    "grub64-linux-to-hand-off": Recorded(_GRUB, ("linux", "linux.img"), 512, _at("08:00:00")),
}


def recorded_console(name: str) -> bytes:
    """What real Xen's console showed."""
    return (_DATA / f"{name}.txt").read_bytes()


def grub_version(console: bytes) -> bytes:
    """The version that GRUB's first menu or prompt shows."""
    found = _VERSION.search(console)
    assert found is not None, "GRUB shows no version"
    return found["version"]


def comparable(console: bytes, sizes: dict[bytes, bytes], version: bytes) -> bytes:
    """``console`` without what depends on the clock. Where these packages are not the recorded ones, ``sizes`` (text by
    file name) and ``version`` are written as ``<size>`` and ``<version>``, if they are what the console has.
    """

    def progress(match: re.Match[bytes]) -> bytes:
        if match["percent"] != b"100":
            return b""
        # GRUB puts the text at the right margin: the column says nothing that its length does not.
        assert int(match["column"]) + len(match["text"]) == _COLUMNS, match[0]
        size = b"<size>" if sizes.get(match["file"]) == match["size"] else match["size"]
        return b"<progress %s: %s %s, back to %s>" % (match["row"], match["file"], size, match["back"])

    def title(match: re.Match[bytes]) -> bytes:
        return b"<title of version>\n" if match["version"] == version else match[0]

    return _VERSION.sub(title, _PROGRESS.sub(progress, console))
