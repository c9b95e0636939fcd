"""A disk as xl.cfg writes it (tools/libs/util/libxlu_disk_l.l, libxlu_disk.c, xl-disk-configuration(5)).

Parameters are separated by commas. What has no ``=`` is taken in the order target, format, vdev, access; ``target=``
takes all the rest, commas included; old prefixes (``phy:``, ``tap:aio:``, ``qcow2:`` ...) come first. Xen's scanner is
a flex program, so the longest match wins, and among equals the first rule.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvemu.xlcfg.errors import XlConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["XlDisk", "parse_disk"]

_FORMATS = {"": "raw", "raw": "raw", "qcow": "qcow", "qcow2": "qcow2", "vhd": "vhd", "empty": "empty", "qed": "qed"}
_BACKENDS = ("phy", "tap", "qdisk", "standalone")
_SPECIFICATIONS = ("xen", "virtio")


@dataclass(slots=True)
class XlDisk:
    """``target`` and ``vdev`` are None where nothing was said; ``format`` and ``backendtype`` likewise "" ."""

    spec: str
    target: str | None = None
    vdev: str | None = None
    format: str = ""
    is_writable: bool = True
    is_cdrom: bool = False
    backendtype: str = ""
    specification: str = ""
    backend: str | None = None
    script: str | None = None


class _BadDiskError(Exception):
    """The first error of a specification: what xl says of it, and what it stands near."""

    def __init__(self, message: str, near: str | None) -> None:
        super().__init__(message)
        self.message = message
        self.near = near


class _Scan:
    """One specification on its way to an XlDisk; a method for each kind of parameter, given its text."""

    def __init__(self, spec: str) -> None:
        self.disk = XlDisk(spec)
        self.errors: list[_BadDiskError] = []
        self.has_old_prefix = False
        self.is_over = False
        self._has_access = False

    def fail(self, near: str | None, message: str) -> None:
        self.errors.append(_BadDiskError(message, near))

    def _choose(self, field: str, text: str, value: str) -> None:
        if getattr(self.disk, field) not in ("", value):
            self.fail(text, f"{field.replace('backendtype', 'backend')} respecified")
        else:
            setattr(self.disk, field, value)

    def _save(self, field: str, name: str, value: str) -> None:
        if getattr(self.disk, field):
            self.fail(value, f"{name} respecified")
        else:
            setattr(self.disk, field, value)

    # -- named parameters --------------------------------------------------------------------------------------------
    def format(self, text: str) -> None:
        if text in _FORMATS:
            self._choose("format", text, _FORMATS[text])
        else:
            self.fail(text, "unknown value for format")

    def named_format(self, text: str) -> None:
        self.format(_value(text))

    def cdrom(self, text: str) -> None:
        self.disk.is_cdrom = True

    def disk_type(self, text: str) -> None:
        self.disk.is_cdrom = False

    def other_type(self, text: str) -> None:
        self.fail(text, "unknown value for type")

    def set_access(self, text: str) -> None:
        if text in ("r", "ro"):
            self.disk.is_writable = False
        elif text in ("rw", "w", ""):
            self.disk.is_writable = True
        else:
            self.fail(text, "unknown value for access")

    def access(self, text: str) -> None:
        self.set_access(_value(text))

    def backend(self, text: str) -> None:
        self._save("backend", "backend", _value(text))

    def backendtype(self, text: str) -> None:
        value = _value(text)
        if value in _BACKENDS:
            self._choose("backendtype", value, value)
        else:
            self.fail(value, "unknown value for backendtype")

    def specification(self, text: str) -> None:
        value = _value(text)
        if value in _SPECIFICATIONS:
            self._choose("specification", value, value)
        else:
            self.fail(value, "unknown value for specification")

    def vdev(self, text: str) -> None:
        self._save("vdev", "vdev", _value(text))

    def script(self, text: str) -> None:
        self._save("script", "script", _value(text))

    def target(self, text: str) -> None:
        self._save("target", "target", _value(text))

    def no_effect(self, text: str) -> None:
        """What only a real back end, or COLO, has a use for."""

    def unknown(self, text: str) -> None:
        self.fail(text, "unknown parameter")

    # -- old prefixes ------------------------------------------------------------------------------------------------
    def format_prefix(self, text: str) -> None:
        self.has_old_prefix = True
        self.format(text.removesuffix(":"))

    def script_prefix(self, text: str) -> None:
        self.has_old_prefix = True
        self._save("script", "script", f"block-{text.removesuffix(':')}")

    def old_prefix(self, text: str) -> None:
        self.has_old_prefix = True

    def unknown_prefix(self, text: str) -> None:
        self.fail(text, "unknown deprecated disk prefix")
        self.is_over = True

    # -- by position -------------------------------------------------------------------------------------------------
    def positional(self, text: str) -> None:
        text = text.removesuffix(",")
        disk = self.disk
        if self.errors:
            return
        if disk.target is None:
            disk.target = text
        elif not self.has_old_prefix and not disk.format:
            if not disk.target and self._vdev_and_type(text):
                disk.format = "empty"
            else:
                self.format(text)
        elif disk.vdev is None:
            if not self._vdev_and_type(text):
                disk.vdev = text
        elif not self._has_access:
            self._has_access = True
            self.set_access(text)
        else:
            self.fail(text, "too many positional parameters")
            self.is_over = True

    def _vdev_and_type(self, text: str) -> bool:
        vdev, colon, kind = text.rpartition(":")
        if not colon:
            return False
        self._save("vdev", "vdev", vdev)
        if kind in ("cdrom", "disk"):
            self.disk.is_cdrom = kind == "cdrom"
        else:
            self.fail(kind, "unknown deprecated type")
        return True

    def bad(self, text: str) -> None:
        self.fail(text, "bad disk syntax")
        self.is_over = True


def _value(text: str) -> str:
    return text.removesuffix(",").partition("=")[2]


#: Pattern, whether it counts as if it had matched the whole rest (flex's trailing context), what to do.
_RULES: tuple[tuple[re.Pattern[str], bool, Callable[[_Scan, str], None]], ...] = tuple(
    (re.compile(pattern), to_end, action)
    for pattern, to_end, action in (
        (r"format=[^,]*,?", False, _Scan.named_format),
        (r"(?:devtype=)?cdrom,?", False, _Scan.cdrom),
        (r"devtype=disk,?", False, _Scan.disk_type),
        (r"devtype=[^,]*,?", False, _Scan.other_type),
        (r"access=[^,]*,?", False, _Scan.access),
        (r"backend=[^,]*,?", False, _Scan.backend),
        (r"backendtype=[^,]*,?", False, _Scan.backendtype),
        (r"specification=[^,]*,?", False, _Scan.specification),
        (r"vdev=[^,]*,?", False, _Scan.vdev),
        (r"script=[^,]*,?", False, _Scan.script),
        (r"(?:direct-io-safe|(?:no-)?discard|(?:no-)?colo|(?:un)?trusted),?", False, _Scan.no_effect),
        (r"(?:colo-(?:host|port|export)|active-disk|hidden-disk)=[^,]*,?", False, _Scan.no_effect),
        (r"target=.*", False, _Scan.target),
        (r"[a-z][-a-z0-9]*=[^,],?", False, _Scan.unknown),
        (r"(?:raw|qcow2?|vhd):", True, _Scan.format_prefix),
        (r"(?:iscsi|e?nbd|drbd):", True, _Scan.script_prefix),
        (r"(?:tapdisk|tap2?|aio|ioemu|file|phy):", True, _Scan.old_prefix),
        (r"[a-z][a-z0-9]*:(?=[^a-z0-9])", True, _Scan.unknown_prefix),
        (r"[a-z][a-z0-9]*:", False, _Scan.unknown_prefix),
        (r"[^=,]*,|[^=,]+", False, _Scan.positional),
    )
)


def _scan(spec: str) -> _Scan:
    scan = _Scan(spec)
    at = 0
    while at < len(spec) and not scan.is_over:
        blank = re.compile(r"[ \t\n]+").match(spec, at)
        if blank is not None:
            at = blank.end()
            continue
        best, best_length = "", 0
        best_action: Callable[[_Scan, str], None] = _Scan.bad
        for pattern, to_end, action in _RULES:
            match = pattern.match(spec, at)
            if match is None:
                continue
            length = len(spec) - at if to_end else len(match.group())
            if length > best_length:
                best, best_length, best_action = match.group(), length, action
        if not best_length:
            best = spec[at:]
            if len(best) == 1:
                break  # flex finds the end before it finds the error
        at += len(best)
        best_action(scan, best)
    return scan


def parse_disk(source: str, line: int, spec: str) -> XlDisk:
    """Read one specification out of ``source``, where it stands in ``line``. XlConfigError with xl's own lines."""
    scan = _scan(spec)
    disk = scan.disk
    if not scan.errors:
        disk.format = disk.format or "raw"
        if disk.is_cdrom:
            disk.is_writable = False
            if not disk.target:
                disk.format = "empty"
        if disk.vdev is None:
            scan.fail(None, "no vdev specified")
        elif disk.target is None and not disk.is_cdrom:
            scan.fail(None, "no target specified (and device not removable)")
    if scan.errors:
        xl_lines = tuple(
            f"{source}: config parsing error in disk specification: {error.message}"
            + (f": near `{error.near}'" if error.near is not None else "")
            + f" in `{spec}'"
            for error in scan.errors
        )
        first = scan.errors[0]
        near = f" at {first.near!r}" if first.near else ""
        raise XlConfigError(
            f"{source}:{line}: disk {spec!r}: {first.message}{near}; write it as "
            "'format=raw, vdev=xvda, access=rw, target=PATH'",
            xl_lines,
        )
    return disk
