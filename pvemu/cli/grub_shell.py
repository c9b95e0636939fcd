"""``pvemu grub-shell``: runs a GRUB script on a Xen port and prints what it prints, as GRUB's grub-shell does."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pvemu.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from argparse import _SubParsersAction

__all__ = ["add_parser", "run"]

_KILLED = 137  #: what `timeout -s KILL` makes of a run that takes too long
_FAILED = 1


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb. Options of machines that are not here are taken and mean nothing."""
    text = "run a GRUB script on GRUB's Xen port and print its output, as GRUB's own grub-shell"
    parser = subparsers.add_parser("grub-shell", help=text, description=text, allow_abbrev=False)
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="the script; standard input when there is none")
    parser.add_argument("--modules", action="append", default=[], metavar="M,M", help="load these modules first")
    parser.add_argument("--files", action="append", default=[], metavar="PLACE=FILE", help="add files to the image")
    parser.add_argument("--disk", action="append", default=[], metavar="FILE", help="attach a disk image, read-only")
    parser.add_argument("--timeout", metavar="SECONDS", help="guest seconds (60; GRUB_SHELL_DEFAULT_TIMEOUT)")
    parser.add_argument("--trim", nargs="?", const="", metavar="HEAD", help="print what follows HEAD (default)")
    parser.add_argument("--no-trim", action="store_true", help="print what GRUB says before the script, too")
    parser.add_argument("--target", metavar="TARGET", help="x86_64-xen or i386-xen (GRUB_SHELL_TARGET)")
    parser.add_argument("--directory", metavar="DIR", help="a built GRUB's modules (GRUB_SHELL_DIRECTORY)")
    parser.add_argument("--memory", metavar="MIB", default="256", help="memory of the guest (256)")
    for name in ("--boot", "--qemu", "--qemu-opts", "--mkrescue-arg", "--serial", "--grub-mkimage-extra"):
        parser.add_argument(name, action="append", metavar="X", help="taken, and without a meaning here")
    parser.add_argument("--debug", nargs="?", const="1", metavar="N", help="taken, and without a meaning here")
    parser.add_argument("--pseries", action="store_true", help="taken, and without a meaning here")


def run(arguments: argparse.Namespace) -> int:
    """Run the script; 0 when GRUB powered off, as after every script that came to its end."""
    from pvemu.testing.grub_shell import TARGETS, GrubShell

    for option in ("trim", "debug"):  # only what follows an equals sign is theirs
        value = getattr(arguments, option)
        if arguments.source is None and value and Path(value).is_file():
            arguments.source = value
            setattr(arguments, option, "")
    target = arguments.target or os.environ.get("GRUB_SHELL_TARGET") or TARGETS[0]
    if target not in TARGETS:
        raise ConfigError(f"--target {target!r}: not a Xen port; give {' or '.join(TARGETS)}")
    directory = arguments.directory or os.environ.get("GRUB_SHELL_DIRECTORY")
    shell = GrubShell(
        target=target,
        modules=_listed(arguments.modules),
        files=[_file(text) for text in _listed(arguments.files)],
        disks=[f"{path},ro" for path in arguments.disk],
        directory=Path(directory) if directory else None,
        timeout=_number(arguments.timeout or os.environ.get("GRUB_SHELL_DEFAULT_TIMEOUT") or "60", "--timeout"),
        memory=int(_number(arguments.memory, "--memory")),
        trim=not arguments.no_trim,
    )
    if arguments.trim:
        shell.head = arguments.trim.replace(",", " ")
    output = shell.run(_script(arguments.source))
    sys.stdout.write(output.text)
    sys.stdout.flush()
    if output.failure:
        print(f"pvemu grub-shell: {output.failure}", file=sys.stderr)
        return _KILLED if output.shutdown is None else _FAILED
    return 0


def _script(source: str | None) -> bytes:
    if source is None:
        return sys.stdin.buffer.read()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror}; give a GRUB script, or it on standard input") from None


def _listed(given: list[str]) -> list[str]:
    """Options may be repeated, and hold several things with commas or blanks between."""
    return [word for text in given for word in text.replace(",", " ").split()]


def _file(text: str) -> tuple[str, Path]:
    place, equals, source = text.partition("=")
    return place, Path(source if equals and source else place)


def _number(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if value <= 0:
        raise ConfigError(f"{option} {text!r}: not a number above 0")
    return value
