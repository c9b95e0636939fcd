"""The tools that make images, from Debian packages in the cache, so that no image's bytes depend on the machine."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pvemu.errors import ConfigError, InputError
from pvemu.mkimage.packages import PackageCache

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["TOOL_PACKAGES", "Tool", "ToolError", "tool"]

_E2FS = ("e2fsprogs", "libext2fs2", "libss2", "libcom-err2", "libblkid1", "libuuid1")
_GRUB = ("grub-common", "libdevmapper1.02.1", "libselinux1", "libpcre2-8-0", "libudev1", "liblzma5")
_XFS = (
    "xfsprogs",
    "libinih1",
    "libblkid1",
    "libuuid1",
    "liburcu8",
    "libedit2",
    "libbsd0",
    "libmd0",
    "libtinfo6",
    "libfaketime",
)
_BTRFS = ("btrfs-progs", "libblkid1", "libuuid1", "libudev1", "liblzo2-2", "libzstd1", "zlib1g", "libfaketime")
_LVM = (
    "lvm2",
    "libaio1",
    "libblkid1",
    "libdevmapper1.02.1",
    "libdevmapper-event1.02.1",
    "libedit2",
    "libbsd0",
    "libmd0",
    "libtinfo6",
    "libselinux1",
    "libpcre2-8-0",
    "libsystemd0",
    "libudev1",
    "libcap2",
    "libgcrypt20",
    "libgpg-error0",
    "liblz4-1",
    "liblzma5",
    "libzstd1",
)
_BINUTILS = (
    "binutils-x86-64-linux-gnu",
    "binutils-common",
    "libbinutils",
    "libctf0",
    "libctf-nobfd0",
    "libgprofng0",
    "libjansson4",
    "libzstd1",
    "zlib1g",
)
_GDB = (  # the smallest of Debian's, without Python; most of its libraries come with libdebuginfod
    "gdb-minimal", "libbrotli1", "libcom-err2", "libcurl3-gnutls", "libdebuginfod1", "libelf1", "libexpat1", "libffi8",
    "libgmp10", "libgnutls30", "libgssapi-krb5-2", "libhogweed6", "libidn2-0", "libipt2", "libk5crypto3",
    "libkeyutils1", "libkrb5-3", "libkrb5support0", "libldap-2.5-0", "liblzma5", "libnettle8", "libnghttp2-14",
    "libp11-kit0", "libpsl5", "libreadline8", "librtmp1", "libsasl2-2", "libssh2-1", "libssl3", "libstdc++6",
    "libtasn1-6", "libtinfo6", "libunistring2", "libxxhash0", "libzstd1", "zlib1g",
)  # fmt: skip

# tool -> path inside the first of its packages, then that package and the libraries it needs beyond libc
_TOOLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mke2fs": ("/sbin/mke2fs", _E2FS),
    "debugfs": ("/sbin/debugfs", _E2FS),
    "e2fsck": ("/sbin/e2fsck", _E2FS),
    "mkfs.xfs": ("/sbin/mkfs.xfs", _XFS),
    "xfs_repair": ("/sbin/xfs_repair", _XFS),
    "mkfs.btrfs": ("/sbin/mkfs.btrfs", _BTRFS),
    "btrfs": ("/bin/btrfs", _BTRFS),
    "mkfs.fat": ("/sbin/mkfs.fat", ("dosfstools",)),
    "fsck.fat": ("/sbin/fsck.fat", ("dosfstools",)),
    "mtools": ("/usr/bin/mtools", ("mtools", "libfaketime")),
    "sfdisk": ("/sbin/sfdisk", ("fdisk", "libfdisk1", "libsmartcols1", "libblkid1", "libuuid1", "libtinfo6")),
    "mdadm": ("/sbin/mdadm", ("mdadm", "libudev1")),
    "lvm": ("/sbin/lvm", _LVM),
    "grub-mkimage": ("/usr/bin/grub-mkimage", _GRUB),
    "gzip": ("/bin/gzip", ("gzip",)),
    "bzip2": ("/bin/bzip2", ("bzip2", "libbz2-1.0")),
    "xz": ("/usr/bin/xz", ("xz-utils", "liblzma5")),
    "lzop": ("/usr/bin/lzop", ("lzop", "liblzo2-2")),
    "lz4": ("/usr/bin/lz4", ("lz4", "liblz4-1")),
    "zstd": ("/usr/bin/zstd", ("zstd", "liblz4-1", "liblzma5", "zlib1g")),
    "as": ("/usr/bin/x86_64-linux-gnu-as", _BINUTILS),
    "ld": ("/usr/bin/x86_64-linux-gnu-ld.bfd", _BINUTILS),
    "objcopy": ("/usr/bin/x86_64-linux-gnu-objcopy", _BINUTILS),
    "objdump": ("/usr/bin/x86_64-linux-gnu-objdump", _BINUTILS),
    "gdb": ("/usr/bin/gdb", _GDB),
    "readelf": ("/usr/bin/x86_64-linux-gnu-readelf", _BINUTILS),
}

TOOL_PACKAGES: Mapping[str, tuple[str, ...]] = {name: packages for name, (_, packages) in _TOOLS.items()}
"""For each tool the packages it runs from."""

_FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
_LIBRARY_DIRS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")


class ToolError(InputError):
    """A tool refused its work: the recipe asks for something that it cannot make."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A runnable tool: `path`, and the whole environment it runs in. `clock` is the library that fakes its time."""

    name: str
    path: Path
    env: dict[str, str]
    clock: Path | None = None

    def run(
        self, *arguments: str | Path, fake_time: int | None = None, stdin: bytes | None = None,
        cwd: Path | None = None, extra: Mapping[str, str] | None = None,
    ) -> bytes:  # fmt: skip
        """Run it to its end; its standard output. `fake_time` (seconds) is its now. Raises ToolError."""
        env = {**self.env, **(extra or {}), **(self._time(fake_time) if fake_time is not None else {})}
        command = [str(self.path), *map(str, arguments)]
        done = subprocess.run(command, env=env, input=stdin or b"", capture_output=True, check=False, cwd=cwd)
        complaint = done.stderr.decode("utf-8", "replace").strip()
        # debugfs ends with 0 whatever happened, and greets on stderr
        failed = self.name == "debugfs" and any(not line.startswith("debugfs 1.") for line in complaint.splitlines())
        if done.returncode or failed:
            lines = complaint.splitlines() or [f"exit code {done.returncode}"]
            last = lines[0 if self.name == "mkfs.xfs" else -1]  # it explains how it is used, after what is wrong
            raise ToolError(f"{self.name}: {last.removeprefix(f'{self.name}: ')}")
        return done.stdout

    def _time(self, now: int) -> dict[str, str]:
        if self.clock is None:
            return {"E2FSPROGS_FAKE_TIME": str(now)}
        moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S")
        return {"LD_PRELOAD": str(self.clock), "FAKETIME": moment}


def tool(name: str, cache: PackageCache | None = None) -> Tool:
    """The tool of that name (see TOOL_PACKAGES), its packages fetched when needed. Raises PackageError, ConfigError."""
    if name not in _TOOLS:
        raise ConfigError(f"no tool named {name!r}; there are {', '.join(sorted(_TOOLS))}")
    inner, names = _TOOLS[name]
    packages = (cache if cache is not None else PackageCache()).get(names)
    first = packages[names[0]]
    libraries = [str(packages[part].root / directory) for part in names for directory in _LIBRARY_DIRS]
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC0", "LD_LIBRARY_PATH": ":".join(libraries)}
    if names is _E2FS:
        env["MKE2FS_CONFIG"] = str(first.path("/etc/mke2fs.conf"))
    # Debian 12 packages still install to /sbin and /bin; later ones to /usr/sbin and /usr/bin.
    path = next((path for path in (first.path(inner), first.path("/usr" + inner)) if path.exists()), None)
    if path is None:
        raise ToolError(f"{name}: package {first.name} {first.version} has no {inner}")
    clock = packages["libfaketime"].path(_FAKETIME) if "libfaketime" in packages else None
    return Tool(name, path, env, clock)
