"""Where the package cache has files with symbols: GRUB's modules and their debug versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.mkimage.packages import PackageCache

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DEBUG_PACKAGE", "symbol_folders"]

#: Debian's debug files of GRUB's Xen ports: modules with local symbols and line numbers. Its kernel.exec is stripped.
DEBUG_PACKAGE = "grub-xen-dbg"
_PACKAGES = (DEBUG_PACKAGE, "grub-xen-bin")


def symbol_folders(cache: PackageCache | None = None) -> list[Path]:
    """The folders of those packages that are here already; nothing is fetched."""
    cache = cache if cache is not None else PackageCache()
    found = [cache.fetched(name) for name in _PACKAGES]
    return [package.path("/usr/lib/grub") for package in found if package is not None]
