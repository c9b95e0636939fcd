"""What a case's guest is started with: names of recipes and relative paths become files."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from pvemu.config import DomainConfig
from pvemu.disk.spec import parse_disk_spec, parse_disk_specs
from pvemu.errors import ConfigError
from pvemu.mkimage import NotHereError, build
from pvemu.mkimage.recipe import list_recipes

if TYPE_CHECKING:
    from pathlib import Path

    from pvemu.disk.spec import DiskConfig
    from pvemu.mkimage import Built
    from pvemu.mkimage.packages import PackageCache
    from pvemu.scenario.load import LoadedCase

__all__ = ["Images", "Start", "UnsetVariableError"]

_VARIABLE = re.compile(r"\$(\w+)")


class UnsetVariableError(Exception):
    """A file that a variable names or a recipe takes from this machine, and that is not here: the case cannot run."""


class Start(NamedTuple):
    """A guest before its first instruction. Cases with the same one may share their first part."""

    kernel: str
    ramdisk: str | None
    cmdline: str
    memory_mib: int
    disks: tuple[DiskConfig, ...]

    def config(self) -> DomainConfig:
        """What a machine is made from. Nothing is ever written to a file."""
        return DomainConfig(
            kernel=self.kernel, ramdisk=self.ramdisk, cmdline=self.cmdline, memory_mib=self.memory_mib,
            disks=self.disks,
        )  # fmt: skip


class Images:
    """Builds each recipe that cases name, once."""

    def __init__(self, packages: PackageCache | None = None) -> None:
        self._packages = packages
        self._built: dict[str, Built] = {}
        self._recipes = set(list_recipes())

    def start(self, case: LoadedCase) -> Start:
        """A case's start. Raises InputError, and UnsetVariableError for a file that this machine does not have."""
        scenario, folder = case.scenario, case.file.parent
        try:
            disks = []
            for spec in scenario.disks:
                disk = parse_disk_spec(spec)
                disks.append(replace(disk, path=self._path(disk.path, folder)))
            named = parse_disk_specs(f"{disk.vdev}=./{i}" if disk.vdev else f"./{i}" for i, disk in enumerate(disks))
            return Start(
                kernel=self._path(scenario.kernel, folder),
                ramdisk=self._path(scenario.ramdisk, folder) if scenario.ramdisk is not None else None,
                cmdline=scenario.cmdline,
                memory_mib=scenario.memory,
                disks=tuple(replace(disk, vdev=name.vdev) for disk, name in zip(disks, named, strict=True)),
            )
        except NotHereError as error:
            raise UnsetVariableError(str(error)) from None
        except ConfigError as error:
            raise ConfigError(f"{case.place}: {error}") from None

    def _path(self, text: str, folder: Path) -> str:
        """``RECIPE:ARTIFACT``, ``$VARIABLE``, or a path from ``folder``."""
        if variable := _VARIABLE.fullmatch(text):
            value = os.environ.get(variable[1])
            if not value:
                raise UnsetVariableError(f"the environment variable {variable[1]} is not set")
            return value
        recipe, colon, artifact = text.rpartition(":")
        if colon and "/" not in recipe and recipe in self._recipes:
            return str(self._build(recipe)[artifact])
        if colon and "/" in recipe and (folder / recipe).exists():
            return str(self._build(f"{(folder / recipe).resolve()}")[artifact])
        path = folder / text
        if not path.exists():
            hint = f"; there is no recipe {recipe!r} either" if colon else ""
            raise ConfigError(f"{text}: no such file (looked in {folder or '.'}){hint}; give RECIPE:ARTIFACT or a path")
        return str(path)

    def _build(self, recipe: str) -> Built:
        if recipe not in self._built:
            self._built[recipe] = build(recipe, self._packages)
        return self._built[recipe]
