"""From settings to a domain: what xl's parse_config_data (tools/xl/xl_parse.c) makes of a file, for a PV guest.

What xl refuses is refused in its words; what pvemu cannot stand for is refused in its own; what changes nothing for a
PV guest without devices is accepted, with a warning where the user may have meant something by it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pvemu.config import MAX_CMDLINE, TSC_MODES, DomainConfig, GrantLimits
from pvemu.disk.spec import DiskConfig
from pvemu.errors import ConfigError, DiskError
from pvemu.xlcfg.disk import XlDisk, parse_disk
from pvemu.xlcfg.errors import XlConfigError
from pvemu.xlcfg.grammar import Setting, Settings, Value, parse
from pvemu.xlcfg.keys import KEYS, Fate, nearest_key
from pvemu.xlcfg.loaders import PATHS, find_loader, loader_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ACTIONS", "XlDomain", "load_domain", "read_domain"]

#: What may become of a domain that has shut down (libxl_action_on_shutdown).
ACTIONS = ("destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart", "soft-reset")
_RESTARTS = ("restart", "rename-restart", "coredump-restart")
_ON = {
    "poweroff": "destroy", "reboot": "restart", "watchdog": "destroy", "crash": "destroy", "soft_reset": "soft-reset",
}  # fmt: skip
#: libxl's own, in MiB.
_DEFAULT_MEMORY_MIB = 32
#: strtol, base 0.
_NUMBER = re.compile(r"[ \t\n\v\f\r]*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)\Z")
_LONG_MAX, _INT_MAX = (1 << 63) - 1, (1 << 31) - 1
_GRANT_LIMITS = {"max_grant_frames": "frames", "max_maptrack_frames": "maptrack_frames", "max_grant_version": "version"}


@dataclass(frozen=True, slots=True)
class XlDomain:
    """``config`` is what a machine is made from; ``actions`` by shutdown reason (``poweroff``, ``reboot``, ``crash``,
    ``watchdog``, ``soft_reset``); ``settings`` the file's own; ``warnings`` in the order of their coming up.
    """

    config: DomainConfig
    source: str
    name: str
    uuid: str | None
    vcpus: int
    maxmem_mib: int
    actions: dict[str, str]
    settings: Settings
    warnings: tuple[str, ...] = field(default=())


def load_domain(path: str, extra: Iterable[str] = (), *, write: bool = False) -> XlDomain:
    """Read a file, with ``key=value`` lines behind it, as xl takes them on its command line; ``/dev/null`` is empty."""
    try:
        text = "" if path == "/dev/null" else Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise XlConfigError(
            f"{path}: cannot be read ({reason}); give the path of an xl.cfg file",
            (f"Failed to read config file: {path}: {reason}",), xl_exit=3,
        ) from None  # fmt: skip
    if "\0" in text:
        raise XlConfigError(
            f"{path}: is no text; give the path of an xl.cfg file", ("Failed to parse config: Invalid argument",)
        )
    added = "".join(f"{line}\n" for line in extra)
    return read_domain(path, f"{text}\n{added}\n" if added else text, write=write)


def read_domain(source: str, text: str, *, write: bool = False) -> XlDomain:
    """The domain that ``text`` describes; ``source`` is its name in messages, and its folder the second place to look
    for files with relative paths. ``write`` lets disks be written. XlConfigError for what cannot be a PV domain here.
    """
    return _Reader(source, parse(source, text)).domain(write=write)


class _Reader:
    def __init__(self, source: str, settings: Settings) -> None:
        self.source = source
        self.settings = settings
        self.warnings: list[str] = []

    def domain(self, *, write: bool) -> XlDomain:
        self._look_at_keys()
        self._check_type()
        name = self._string("name")
        if name is None:
            self._fail(None, "no name", 'add name = "..."', "Domain name must be specified.")
        memory, maxmem = self._memory()
        vcpus, maxvcpus = self._vcpus()
        tsc_mode = self._tsc_mode()
        grants = self._grants()
        actions = self._actions()
        kernel, cmdline = self._kernel(), self._cmdline()
        ramdisk = self._string("ramdisk")
        if ramdisk is not None:
            ramdisk = self._file("ramdisk", ramdisk)
        disks = tuple(disk for disk in map(self._disk, self._disk_specs()) if disk is not None)
        try:
            config = DomainConfig(
                kernel=kernel, ramdisk=ramdisk, cmdline=cmdline, memory_mib=memory, disks=disks, write=write, name=name,
                vcpus=vcpus, maxvcpus=maxvcpus, maxmem_mib=maxmem, tsc_mode=tsc_mode,
                may_migrate=not self._number("nomigrate"),
                restarts_on=tuple(reason for reason, action in actions.items() if action in _RESTARTS),
                grants=grants,
            )  # fmt: skip
        except ConfigError as error:
            text = str(error).replace("--memory", "memory =").replace("--vcpus", "vcpus =")
            self._fail(None, text.replace("--cmdline", "the command line"), "")
        return XlDomain(
            config=config, source=self.source, name=name, uuid=self._uuid(), vcpus=vcpus, maxmem_mib=maxmem,
            actions=actions, settings=self.settings, warnings=tuple(self.warnings),
        )  # fmt: skip

    # -- saying what is wrong ----------------------------------------------------------------------------------------
    def _place(self, key: str | None) -> str:
        setting = self.settings.get(key) if key is not None else None
        return f"{self.source}:{setting.line}" if setting is not None else self.source

    def _fail(self, key: str | None, what: str, advice: str, *xl_lines: str, code: int = 1) -> NoReturn:
        end = f"; {advice}" if advice else ""
        raise XlConfigError(f"{self._place(key)}: {what}{end}", xl_lines, code)

    def _warn(self, key: str, text: str) -> None:
        self.warnings.append(f"{self._place(key)}: warning: {text}")

    def _look_at_keys(self) -> None:
        for key, setting in self.settings.items():
            fate = KEYS.get(key)
            match fate:
                case Fate.USED | Fate.SILENT:
                    continue
                case Fate.REFUSED if not _is_empty(setting.value):
                    self._fail(key, f"{key} {Fate.REFUSED.value.partition(';')[0]}", "leave it out")
                case Fate.NO_DEVICE | Fate.HVM_ONLY | Fate.REFUSED:
                    if not _is_empty(setting.value):
                        self._warn(key, f"{key} {fate.value}")
                case None:
                    near = nearest_key(key)
                    hint = f"; did you mean {near}?" if near else ""
                    self._warn(key, f"xl knows no {key} and does without it{hint}")

    # -- values, as libxlu_cfg.c gives them --------------------------------------------------------------------------
    def _string(self, key: str) -> str | None:
        setting = self.settings.get(key)
        if setting is None:
            return None
        if not isinstance(setting.value, str):
            self._warn(key, f"parameter `{key}' is a list but should be a single value")
            return None
        if "\0" in setting.value:
            self._fail(key, f"{key} has a NUL byte in it", "leave it out")
        return setting.value

    def _number(self, key: str) -> int | None:
        text = self._string(key)
        if text is None:
            return None
        if self.settings[key].is_addition:
            self._warn(key, f"can't use += with numbers for parameter `{key}'")
            return None
        match = _NUMBER.match(text)
        if match is None:
            self._warn(key, f"parameter `{key}' is not a valid number")
            return None
        digits = match[2]
        value = int(digits, 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" else 10)
        if value > _LONG_MAX:
            self._warn(key, f"parameter `{key}' could not be parsed as a number: Numerical result out of range")
            return None
        return -value if match[1] == "-" else value

    # -- what a domain is made of ------------------------------------------------------------------------------------
    def _check_type(self) -> None:
        """strncmp with the length of what was given: xl takes "h" for hvm, and so do we."""
        kind = None
        for key, choices in (("type", ("hvm", "pv", "pvh")), ("builder", ("hvm", "generic"))):
            text = self._string(key)
            if text is None:
                continue
            found = next((choice for choice in choices if choice.startswith(text)), None)
            if found is None:
                self._fail(key, f"{key} {text!r} is none", 'write type = "pv"', f"Invalid domain type {text}.")
            found = "pv" if found == "generic" else found
            if kind not in (None, found):
                message = 'Contradicting "builder" and "type" options specified.'
                self._fail(key, "builder and type contradict each other", "drop builder", message)
            kind = found
        if kind in ("hvm", "pvh"):
            key = "type" if "type" in self.settings else "builder"
            other = {
                "hvm": "an HVM guest starts in its firmware",
                "pvh": "a PVH guest enters its kernel without a hypervisor's paging",
            }[kind]
            self._fail(
                key, f"pvemu runs PV guests alone, and {other}", 'try type = "pv" with a kernel that has a PV entry'
            )

    def _memory(self) -> tuple[int, int]:
        target, most = self._number("memory"), self._number("maxmem")
        if most is None:
            most = target
        if most is None:
            most = _DEFAULT_MEMORY_MIB
            self.warnings.append(
                f"{self.source}: warning: no memory given, so this guest has {most} MiB as under xl; add memory = 256"
            )
        if target is None:
            target = most
        if target > most:
            self._fail("maxmem", f"maxmem {most} is less than memory {target}", "raise maxmem or drop it")
        return target, most

    def _vcpus(self) -> tuple[int, int]:
        vcpus, most = self._number("vcpus") or 0, self._number("maxvcpus") or 0
        most = most or vcpus
        if most < vcpus:
            self._fail("maxvcpus", "maxvcpus is less than vcpus", "raise it or drop it", "xl: maxvcpus < vcpus")
        return max(vcpus, 1), max(most, 1)

    def _tsc_mode(self) -> str:
        """libxl_tsc_mode by its name, in any case, or by its number, which xl calls out of date."""
        text = self._string("tsc_mode")
        if text is None:
            return TSC_MODES[0]
        modes = (*TSC_MODES, "native_paravirt")
        match = None if self.settings["tsc_mode"].is_addition else _NUMBER.match(text)
        if match is None:
            mode = text.lower()
        else:
            number = self._number("tsc_mode")
            mode = modes[number] if number is not None and 0 <= number < len(modes) else ""
            advice = f' e.g. tsc_mode="{mode}"' if mode else ""
            self.warnings.append(
                'WARNING: specifying "tsc_mode" as an integer is deprecated. Please use the named parameter variant.'
                + advice
            )
        if mode not in modes:
            value = text if match is not None else f'"{text}"'
            self._fail(
                "tsc_mode", f"tsc_mode {text!r} is no mode", f"take one of {', '.join(TSC_MODES)}",
                f'ERROR: invalid value {value} for "tsc_mode"',
            )  # fmt: skip
        if mode not in TSC_MODES:
            self._fail(
                "tsc_mode", "tsc_mode native_paravirt was removed from Xen", f"take one of {', '.join(TSC_MODES)}",
                "libxl: error: libxl_x86.c:libxl__arch_domain_create: TSC Mode native_paravirt (a.k.a PVRDTSCP) has "
                "been removed", code=3,
            )  # fmt: skip
        return mode

    def _grants(self) -> GrantLimits:
        """xlu_cfg_get_bounded_long, which says nothing, and what Xen's grant_table_init makes of the numbers."""
        limits: dict[str, int] = {}
        for key, name in _GRANT_LIMITS.items():
            if key not in self.settings:
                continue
            value = self._number(key)
            if value is None or not 0 <= value <= _INT_MAX:
                self._fail(key, f"{key} is no number from 0 on", "give one")
            try:
                GrantLimits(**{name: value})
            except ConfigError as error:
                self._fail(
                    key, str(error), "",
                    "libxl: error: libxl_create.c:libxl__domain_make: domain creation fail: Invalid argument", code=3,
                )  # fmt: skip
            limits[name] = value
        return GrantLimits(**limits)

    def _actions(self) -> dict[str, str]:
        actions = {}
        for reason, default in _ON.items():
            action = self._string(f"on_{reason}")
            actions[reason] = default if action is None else action
            if actions[reason] not in ACTIONS:
                self._fail(
                    f"on_{reason}", f"on_{reason} {action!r} is no action", f"take one of {', '.join(ACTIONS)}",
                    f'Unknown on_{reason} action "{action}" specified',
                )  # fmt: skip
            if actions[reason].startswith("coredump-"):
                key = f"on_{reason}"
                self._warn(key, f"{key}: pvemu writes no core dumps; `pvemu boot --record` keeps a run")
        return actions

    def _uuid(self) -> str | None:
        text = self._string("uuid")
        if text is None:
            return None
        digits = text.replace("-", "").lower()
        if len(digits) != 32 or any(digit not in "0123456789abcdef" for digit in digits):
            self._fail("uuid", f"uuid {text!r} is none", "write 32 hexadecimal digits", f"Failed to parse UUID: {text}")
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def _cmdline(self) -> str:
        cmdline, root, extra = self._string("cmdline"), self._string("root"), self._string("extra")
        if cmdline is None:
            cmdline = " ".join(([f"root={root}"] if root is not None else []) + ([extra] if extra is not None else []))
        elif root is not None or extra is not None:
            self.warnings.append("Warning: ignoring root= and extra= in favour of cmdline=")
        raw = cmdline.encode("utf-8", "surrogateescape")
        if len(raw) > MAX_CMDLINE:
            self.warnings.append(
                f"{self.source}: warning: the command line has {len(raw)} bytes, and the guest gets {MAX_CMDLINE} of "
                "them, as under xl; make it shorter"
            )
        return raw[:MAX_CMDLINE].decode("utf-8", "surrogateescape")

    def _kernel(self) -> str:
        kernel, firmware, bootloader = self._string("kernel"), self._string("firmware"), self._string("bootloader")
        if firmware is not None:
            if kernel is not None:
                message = "ERROR: both kernel and firmware specified"
                self._fail("firmware", "both kernel and firmware are given", "drop one of them", message)
            name = next((name for name in ("pvgrub32", "pvgrub64") if name.startswith(firmware)), None)
            if name is None:
                message = "ERROR: only pvgrub{32|64} supported as firmware options"
                self._fail("firmware", f"firmware {firmware!r} is none", "write pvgrub64 or pvgrub32", message)
            found = find_loader(name)
            if found is None:
                self._fail(
                    "firmware", f"no {name} on this machine ({PATHS[name][0]} and the like)",
                    "install grub-xen-host, or build one with `pvemu image build pvgrub` and name it as kernel",
                )  # fmt: skip
            return found
        if bootloader is not None:
            self._fail(
                "bootloader", f"bootloader {bootloader!r} would run in dom0 and look into the guest's disk, "
                "which nothing does here",
                'boot through GRUB instead: kernel = "grub-x86_64-xen.bin" or firmware = "pvgrub64", or name kernel '
                "and ramdisk themselves",
            )  # fmt: skip
        if kernel is None:
            message = "Neither kernel nor bootloader specified"
            self._fail(None, "no kernel", 'add kernel = "PATH" or firmware = "pvgrub64"', message)
        return self._file("kernel", kernel)

    def _file(self, key: str, path: str) -> str:
        """A file by its name as it is, or else beside the configuration."""
        if Path(path).exists():
            return path
        beside = Path(self.source).parent / path
        if beside.exists():
            self._warn(key, f"xl would look for {key} {path} in the current folder; {beside} is taken")
            return str(beside)
        advice = "give a path that exists"
        loader = loader_of(path)
        if loader is not None:
            other = find_loader(loader)
            advice = f"{other} is one" if other else "build one with `pvemu image build pvgrub`"
        return self._fail(
            key, f"{key} {path}: no such file", advice,
            "libxl: error: libxl_dom.c:libxl__build_pv: xc_dom_kernel_file failed: No such file or directory"
            if key == "kernel"
            else "libxl: error: libxl_dom.c:libxl__build_pv: xc_dom_module_file failed",
            f"{self._place(key)}: {key} {path}: no such file", code=3,
        )  # fmt: skip

    # -- disks -------------------------------------------------------------------------------------------------------
    def _disk_specs(self) -> list[tuple[int, str]]:
        setting: Setting | None = self.settings.get("disk")
        if setting is None:
            return []
        if isinstance(setting.value, str):
            self._warn("disk", "parameter `disk' is a single value but should be a list")
            return []
        specs = []
        for value in setting.value:
            if not isinstance(value, str):
                self._fail("disk", "a disk is a list in the list of disks", "write each disk as one text in quotes")
            specs.append((setting.line, value))
        return specs

    def _disk(self, place: tuple[int, str]) -> DiskConfig | None:
        line, spec = place
        disk = parse_disk(self.source, line, spec)
        for value, what in (
            (disk.script, f"script {disk.script}"),
            (disk.backend, f"driver domain {disk.backend}"),
            (disk.backendtype == "standalone", "back end of its own"),
            (disk.specification == "virtio", "virtio disk"),
        ):
            if value:
                self._fail("disk", f"disk {spec!r}: pvemu has no {what}", "give an image file as target")
        if disk.format not in ("raw", "empty"):
            self._fail(
                "disk", f"disk {spec!r}: pvemu reads raw images, no {disk.format}",
                f"convert it: qemu-img convert -O raw {disk.target or 'IMAGE'} disk.img",
            )  # fmt: skip
        if disk.format == "empty":
            self.warnings.append(f"{self.source}:{line}: warning: disk {spec!r}: an empty drive is left out")
            return None
        return self._disk_config(disk)

    def _disk_config(self, disk: XlDisk) -> DiskConfig:
        assert disk.vdev is not None
        path = self._file("disk", disk.target or "")
        config = DiskConfig(
            path=path, vdev=disk.vdev, read_only=not disk.is_writable, writable=disk.is_writable, cdrom=disk.is_cdrom
        )
        try:
            number = config.number
        except DiskError as error:
            self._fail("disk", str(error), "", f"libxl: error: invalid vdev {disk.vdev}", code=3)
        return replace(config, vdev=disk.vdev) if number else config


def _is_empty(value: Value) -> bool:
    return value in ([], "", "0")
