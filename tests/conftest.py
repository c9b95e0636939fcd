"""Shared fixtures: guests that the project's own recipes make, and an assembler for micro-guests.

A real GRUB is as near as `guest("pvgrub", "grub-x86_64-xen.bin")`; everything is built once and kept in the cache.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol

import pytest

from pvemu.mkimage import Built, build
from pvemu.mkimage.packages import PackageCache
from pvemu.mkimage.tools import tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

if not entry_points(group="pytest11", name="pvemu"):  # a checkout that is not installed
    pytest_plugins = ["pvemu.testing.plugin", "pvemu.scenario.plugin"]


class Assemble(Protocol):
    """What the `assemble` fixture is."""

    def __call__(self, source: str, *, bits: int = 64, base: int = 0x100000, script: str | None = None) -> Path: ...


@pytest.fixture(scope="session")
def packages() -> PackageCache:
    """The Debian packages that tools/setup has fetched."""
    return PackageCache()


@pytest.fixture(scope="session")
def image(packages: PackageCache) -> Callable[[str], Built]:
    """Builds a recipe under images/, or finds it built. Its artifacts are read-only and shared: copy before writing."""
    return lambda recipe: build(recipe, packages)


@pytest.fixture(scope="session")
def guest(image: Callable[[str], Built]) -> Callable[[str, str], Path]:
    """The path of one artifact of a recipe: guest("menu", "menu.img")."""
    return lambda recipe, artifact: image(recipe)[artifact]


@pytest.fixture
def assemble(packages: PackageCache, tmp_path: Path) -> Assemble:
    """GNU as and ld from Debian's binutils: AT&T source in, a static ELF out.

    `.text` goes to `base`, with the other sections after it and `_start` as the entry; a linker `script` replaces that.
    """
    count = 0

    def run(source: str, *, bits: int = 64, base: int = 0x100000, script: str | None = None) -> Path:
        nonlocal count
        count += 1
        stem = tmp_path / f"micro-{count}"
        stem.with_suffix(".s").write_text(source, encoding="utf-8")
        tool("as", packages).run(f"--{bits}", "-o", stem.with_suffix(".o"), stem.with_suffix(".s"))
        layout: list[str | Path] = [f"-Ttext={base:#x}"]
        if script is not None:
            stem.with_suffix(".ld").write_text(script, encoding="utf-8")
            layout = ["-T", stem.with_suffix(".ld")]
        emulation = {64: "elf_x86_64", 32: "elf_i386"}[bits]
        options = ["-m", emulation, "-nostdlib", "-static", "--build-id=none", "-z", "noexecstack"]
        tool("ld", packages).run(*options, *layout, "-o", stem.with_suffix(".elf"), stem.with_suffix(".o"))
        return stem.with_suffix(".elf")

    return run
