"""What a domain is made from: frozen and checked, no file is opened here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pvemu.errors import ConfigError

if TYPE_CHECKING:
    from pvemu.disk.spec import DiskConfig

__all__ = [
    "ASPECTS", "DEFAULT_EPOCH", "DEFAULT_MEMORY_MIB", "DEFAULT_SEEDS", "MAX_CMDLINE", "MAX_MEMORY_MIB",
    "MIN_MEMORY_MIB", "TSC_MODES", "DomainConfig", "StrictConfig",
]  # fmt: skip

#: Wall clock when a guest starts: 2026-01-01 00:00:00 UTC. A host's date would make runs differ.
DEFAULT_EPOCH = 1_767_225_600
#: libxl refuses less; a smaller guest could not even hold its page tables.
MIN_MEMORY_MIB = 4
#: Past this the host mapping alone (sparse as it is) is refused by common kernels.
MAX_MEMORY_MIB = 256 * 1024
DEFAULT_MEMORY_MIB = 128
#: Far below what Xen allows (8192): all share one CPU here.
MAX_VCPUS = 128
#: MAX_GUEST_CMDLINE without its NUL: the toolstack cuts off what is longer, which nobody ever wants.
MAX_CMDLINE = 1023


#: xl's ``tsc_mode`` in the order of Xen's TSC_MODE_*: native where that is safe (here it is), emulated, native.
TSC_MODES = ("default", "always_emulate", "native")
#: How many seeds a guest must survive to be called strict.
DEFAULT_SEEDS = 50
#: What strictness takes away from a guest, or adds (:mod:`pvemu.strict`).
ASPECTS = ("registers", "memory", "frames", "events", "timers", "scheduling", "store", "console", "disk")


@dataclass(frozen=True, slots=True)
class StrictConfig:
    """``seed`` decides what happens and when, the same each time; ``aspects`` are those of ASPECTS in force."""

    seed: int
    aspects: tuple[str, ...] = ASPECTS

    def __post_init__(self) -> None:
        unknown = [aspect for aspect in self.aspects if aspect not in ASPECTS]
        if unknown:
            raise ConfigError(f"--strict-aspects {unknown[0]!r}: no aspect; take some of {', '.join(ASPECTS)}")


@dataclass(frozen=True, slots=True)
class GrantLimits:
    """How far a domain's grant table may go: ``frames`` of the table, ``maptrack_frames`` with 256 mappings in each,
    and the newest ``version``. A toolstack may ask for less than Xen's own limits, which are the defaults.
    """

    frames: int = 64
    maptrack_frames: int = 1024
    version: int = 2

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("max_grant_frames", self.frames, 1, 64),
            ("max_maptrack_frames", self.maptrack_frames, 0, 1024),
            ("max_grant_version", self.version, 1, 2),
        ):
            if not least <= value <= most:
                raise ConfigError(f"{name} {value}: Xen takes {least} to {most}; give a number in that range")


@dataclass(frozen=True, slots=True)
class DomainConfig:
    """``kernel`` and ``ramdisk`` are paths; ``memory_mib`` in MiB; ``epoch`` the wall clock at start, Unix seconds.
    ``write`` lets disks that were given ``rw`` write to their files; ``strict`` withholds what Xen does not promise.
    ``maxmem_mib`` is what its memory map and xenstore say it may have some day; 0 stands for ``memory_mib``. The domain
    has ``maxvcpus`` vcpus (0: as many as ``vcpus``), of which it is told to bring up ``vcpus``. ``tsc_mode`` is one of
    TSC_MODES; a domain that may not migrate is told that its TSC never changes its rate. ``restarts_on`` are the
    reasons of a shutdown, in xl's words, after which it boots again.
    """

    kernel: str
    ramdisk: str | None = None
    cmdline: str = ""
    memory_mib: int = DEFAULT_MEMORY_MIB
    disks: tuple[DiskConfig, ...] = ()
    write: bool = False
    name: str = "guest"
    domid: int = 1
    vcpus: int = 1
    maxvcpus: int = 0
    maxmem_mib: int = 0
    epoch: int = field(default=DEFAULT_EPOCH)
    tsc_mode: str = TSC_MODES[0]
    may_migrate: bool = True
    strict: StrictConfig | None = None
    restarts_on: tuple[str, ...] = ("reboot",)
    grants: GrantLimits = field(default_factory=GrantLimits)

    @property
    def nr_vcpus(self) -> int:
        """How many vcpus the domain has, told to come up or not."""
        return self.maxvcpus or self.vcpus

    def __post_init__(self) -> None:
        if not MIN_MEMORY_MIB <= self.memory_mib <= MAX_MEMORY_MIB:
            raise ConfigError(
                f"--memory {self.memory_mib}: a guest has {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB; give a number "
                "in that range"
            )
        for count in (self.vcpus, self.nr_vcpus):
            if not 1 <= count <= MAX_VCPUS:
                raise ConfigError(f"--vcpus {count}: a guest has 1 to {MAX_VCPUS} vcpus; give a number in that range")
        if self.maxmem_mib and not self.memory_mib <= self.maxmem_mib <= MAX_MEMORY_MIB:
            raise ConfigError(
                f"maxmem {self.maxmem_mib}: is at least the guest's memory, {self.memory_mib} MiB, and at most "
                f"{MAX_MEMORY_MIB}; give a number in that range"
            )
        if self.tsc_mode not in TSC_MODES:
            raise ConfigError(f"--tsc-mode {self.tsc_mode!r}: no mode; take one of {', '.join(TSC_MODES)}")
        if "\0" in self.cmdline:
            raise ConfigError("--cmdline: a command line cannot contain a NUL byte; leave it out")
        size = len(self.cmdline.encode("utf-8", "surrogateescape"))
        if size > MAX_CMDLINE:
            raise ConfigError(f"--cmdline: {size} bytes, and start_info has room for {MAX_CMDLINE}; make it shorter")
