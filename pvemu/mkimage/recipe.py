"""What a recipe.toml may say, as types; docs/images.md is the same for readers.

A recipe names artifacts; an artifact is made of files; a file comes from the recipe itself, from a Debian package or
from another recipe.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pvemu.errors import ConfigError
from pvemu.mkimage.bzimage import COMPRESSIONS
from pvemu.mkimage.entries import Entry, Origin, Source, origin, read_entries, read_mode, read_source
from pvemu.mkimage.layout import Disk, file_systems
from pvemu.mkimage.read_layout import read_disk
from pvemu.mkimage.schema import Table, load

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Artifact", "Bzimage", "Cpio", "GrubImage", "Plain", "Recipe", "find_recipe", "list_recipes", "load_recipe"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_DEFAULT_EPOCH = 1767225600  # 2026-01-01 00:00:00 UTC
_GRUB_TARGETS = ("x86_64-xen", "i386-xen", "i386-xen_pvh")
_KINDS = ("bzimage", "cpio", "disk", "file", "grub")


@dataclass(frozen=True, slots=True)
class Plain:
    """A file as it comes."""

    source: Source
    mode: int


@dataclass(frozen=True, slots=True)
class Cpio:
    """An initramfs: newc cpio, gzipped when its name says so."""

    gzip: bool
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class GrubImage:
    """A GRUB image by grub-mkimage, with an embedded configuration and a memdisk (a tar) when asked for.

    `own_modules` are files that stand beside those of the package, or for them.
    """

    target: str
    prefix: str
    modules: tuple[str, ...]
    config: str
    memdisk: tuple[Entry, ...]
    own_modules: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Bzimage:
    """A kernel packed as distributions pack Linux, or packed anew."""

    source: Source
    compression: str


Artifact = Plain | Cpio | GrubImage | Disk | Bzimage


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole recipe. `epoch` (seconds) is every time stamp in what it makes."""

    name: str
    file: Path
    description: str
    epoch: int
    artifacts: dict[str, Artifact]

    def origins(self) -> Iterator[Origin]:
        """Where every file of it comes from, in order."""
        return map(origin, self.sources())

    def sources(self) -> Iterator[Source]:
        """Every source in it, in order."""
        for artifact in self.artifacts.values():
            match artifact:
                case Plain(source=source) | Bzimage(source=source):
                    yield source
                case Cpio(entries=entries):
                    yield from _sources(entries)
                case GrubImage(memdisk=memdisk, own_modules=modules):
                    yield from _sources((*memdisk, *modules))
                case Disk(content=content):
                    for system in file_systems(content):
                        yield from _sources(system.entries)


def _sources(entries: Iterable[Entry]) -> Iterator[Source]:
    return (entry.source for entry in entries if entry.source is not None)


def recipes_dir() -> Path:
    """The folder of the recipes that come with pvemu: in the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "images"
    return installed if installed.is_dir() else package.parent / "images"


def list_recipes() -> list[str]:
    """The names of the recipes that come with pvemu, sorted."""
    return sorted(file.parent.name for file in recipes_dir().glob("*/recipe.toml"))


def find_recipe(name: str | Path) -> Path:
    """The recipe.toml of a recipe's name, its folder's path or its own path. Raises ConfigError."""
    text = str(name)
    if "/" in text or text.endswith(".toml"):
        path = Path(text)
        file = path / "recipe.toml" if path.is_dir() else path
    else:
        file = recipes_dir() / text / "recipe.toml"
    if not file.is_file():
        names = ", ".join(list_recipes())
        raise ConfigError(f"no recipe {text!r} ({file} is not a file); there are {names}, or give a path with a slash")
    return file


def load_recipe(name: str | Path) -> Recipe:
    """Read and check a recipe. Raises ConfigError with file, key and what was expected."""
    file = find_recipe(name).resolve()
    top = load(file)
    description = top.text("description")
    epoch = top.number("epoch", _DEFAULT_EPOCH, 0, 0xFFFFFFFF)
    artifacts: dict[str, Artifact] = {}
    for table in (variant for written in top.tables("artifact") for variant in written.variants("each")):
        artifact_name = table.text("name")
        if not _NAME.fullmatch(artifact_name) or artifact_name == "manifest.json":
            table.fail("name", "a file name of letters, digits and . _ + -")
        if artifact_name in artifacts:
            table.fail("name", "a name that no other artifact has")
        artifacts[artifact_name] = _artifact(table, artifact_name)
        table.done()
    if not artifacts:
        top.fail("artifact", "at least one [[artifact]]")
    top.done()
    return Recipe(file.parent.name, file, description, epoch, artifacts)


def _artifact(table: Table, name: str) -> Artifact:
    kind = table.choice("kind", _KINDS)
    if kind == "file":
        return Plain(read_source(table), read_mode(table, 0o644))
    if kind == "cpio":
        return Cpio(name.endswith(".gz"), read_entries(table, "file"))
    if kind == "grub":
        prefix = table.text("prefix")
        modules = table.texts("modules")
        config = table.text("config", "")
        target = table.choice("target", _GRUB_TARGETS)
        return GrubImage(target, prefix, modules, config, read_entries(table, "memdisk"), read_entries(table, "module"))
    if kind == "bzimage":
        return Bzimage(read_source(table), table.choice("compression", COMPRESSIONS))
    return read_disk(table, name)
