"""A command that repeats a run."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvemu.config import DomainConfig
    from pvemu.disk.spec import DiskConfig

__all__ = ["repro_command"]

#: Guest seconds that a repeated run goes on after the moment that it is to show.
_MORE_SECONDS = 5


def repro_command(config: DomainConfig, sent: Iterable[str], seconds: float) -> str:
    """For a shell: starts the same guest and types the same, up to a little after ``seconds`` (of the guest)."""
    words = ["pvemu", "boot", config.kernel, "--memory", str(config.memory_mib)]
    if config.cmdline:
        words += ["--cmdline", config.cmdline]
    if config.ramdisk is not None:
        words += ["--ramdisk", config.ramdisk]
    for disk in config.disks:
        words += ["--disk", _spec(disk)]
    if config.write:
        words.append("--write")
    for text in sent:
        words += ["--send", text.encode("unicode_escape").decode()]
    if config.strict is not None:
        words += ["--strict-seed", str(config.strict.seed)]
    return shlex.join([*words, "--timeout", f"{seconds + _MORE_SECONDS:.0f}"])


def _spec(disk: DiskConfig) -> str:
    """As ``--disk`` takes it."""
    options = ["cdrom"] if disk.cdrom else ["ro"] if disk.read_only else ["rw"] if disk.writable else []
    if disk.sector_size != 512:
        options.append(f"sector-size={disk.sector_size}")
    return ",".join([f"{disk.vdev}={disk.path}", *options])
