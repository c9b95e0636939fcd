"""What ``pvemu boot`` boots: a kernel with options, or an xl.cfg file with options on top of it."""

from __future__ import annotations

import math
import sys
from argparse import SUPPRESS
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pvemu.config import DEFAULT_MEMORY_MIB, TSC_MODES, DomainConfig
from pvemu.disk.spec import parse_disk_specs
from pvemu.errors import ConfigError

if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "domain_config"]


def add_arguments(parser: argparse.ArgumentParser, *, may_write: bool = True) -> None:
    """The options that say what the guest is; `--write` is not shown where it is refused."""
    parser.add_argument(
        "kernel", metavar="KERNEL", nargs="?",
        help="an ELF PV kernel or a Linux bzImage, as xl's kernel=; or an xl configuration, CONFIG.cfg",
    )  # fmt: skip
    parser.add_argument("--config", metavar="FILE", help="an xl configuration file, whatever its name")
    parser.add_argument("--ramdisk", metavar="FILE", help="a ramdisk for the kernel")
    parser.add_argument("--cmdline", metavar="TEXT", help="the kernel's command line")
    parser.add_argument("--memory", metavar="MIB", help=f"memory in MiB (default {DEFAULT_MEMORY_MIB})")
    parser.add_argument("--vcpus", metavar="N", help="vcpus of the domain (default 1)")
    parser.add_argument(
        "--tsc-mode", metavar="MODE",
        help=f"xl's tsc_mode: {', '.join(TSC_MODES)} (default {TSC_MODES[0]}, which is native here)",
    )  # fmt: skip
    parser.add_argument(
        "--disk", metavar="[VDEV=]PATH[,ro|rw]", action="append", default=[], help="a disk image; repeatable"
    )
    write_help = "let disks given as rw be written" if may_write else SUPPRESS
    parser.add_argument("--write", action="store_true", help=write_help)


def domain_config(arguments: argparse.Namespace) -> DomainConfig:
    """The domain that the command line asks for; warnings of a configuration file go to stderr."""
    path = arguments.config
    kernel = arguments.kernel
    if path is None and kernel is not None and kernel.endswith(".cfg"):
        path, kernel = kernel, None
    if path is None and kernel is None:
        raise ConfigError("no kernel; give the path of one, or an xl configuration with --config")
    memory = None if arguments.memory is None else _memory(arguments.memory)
    vcpus = None if arguments.vcpus is None else _vcpus(arguments.vcpus)
    disks = parse_disk_specs(arguments.disk)
    if path is None:
        return DomainConfig(
            kernel=kernel, ramdisk=arguments.ramdisk, cmdline=arguments.cmdline or "",
            memory_mib=DEFAULT_MEMORY_MIB if memory is None else memory, vcpus=vcpus or 1, disks=disks,
            write=arguments.write,
            name=Path(kernel).name or "guest", tsc_mode=arguments.tsc_mode or TSC_MODES[0],
        )  # fmt: skip
    from pvemu.xlcfg.domain import load_domain

    extra = [] if kernel is None else [f"kernel='{_quoted(kernel)}'"]
    domain = load_domain(path, extra, write=arguments.write)
    for warning in domain.warnings:
        print(warning, file=sys.stderr)
    config = domain.config
    taken = {disk.number for disk in disks}
    return replace(
        config,
        ramdisk=config.ramdisk if arguments.ramdisk is None else arguments.ramdisk,
        cmdline=config.cmdline if arguments.cmdline is None else arguments.cmdline,
        memory_mib=config.memory_mib if memory is None else memory,
        maxmem_mib=config.maxmem_mib if memory is None else 0,
        vcpus=config.vcpus if vcpus is None else vcpus,
        maxvcpus=config.maxvcpus if vcpus is None else 0,
        tsc_mode=arguments.tsc_mode or config.tsc_mode,
        disks=(*(disk for disk in config.disks if disk.number not in taken), *disks),
    )


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _vcpus(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if not value:
        raise ConfigError(f"--vcpus {text!r}: not a number of vcpus; give one such as 1")
    return value


def _memory(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"--memory {text!r}: not a number; give MiB, such as 256") from None
    if not math.isfinite(value) or value != int(value):
        raise ConfigError(f"--memory {text}: not a whole number of MiB; give one such as 256")
    return int(value)
