"""What a recipe.toml may say, as types; docs/images.md is the same for readers.

A recipe names artifacts; an artifact is made of files; a file comes from the recipe itself, from a Debian package or
from another recipe.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pvemu.errors import ConfigError
from pvemu.mkimage.schema import Table, load

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Artifact",
    "Cpio",
    "Disk",
    "Entry",
    "GrubImage",
    "PackageSource",
    "Partition",
    "Plain",
    "Recipe",
    "RecipeSource",
    "Source",
    "TextSource",
    "find_recipe",
    "list_recipes",
    "load_recipe",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DEFAULT_EPOCH = 1767225600  # 2026-01-01 00:00:00 UTC
_FILE_SYSTEMS = ("ext2", "ext3", "ext4")
_GRUB_TARGETS = ("x86_64-xen", "i386-xen", "i386-xen_pvh")
_KINDS = ("cpio", "disk", "file", "grub")


@dataclass(frozen=True, slots=True)
class TextSource:
    """Content that the recipe holds itself: inline text, or a file of its files/ folder, read when the recipe is."""

    content: bytes


@dataclass(frozen=True, slots=True)
class PackageSource:
    """Files of a Debian package, by shell patterns. With `depends`, of the package that this metapackage depends on."""

    package: str
    depends: str
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecipeSource:
    """An artifact of another recipe."""

    recipe: str
    artifact: str


Source = TextSource | PackageSource | RecipeSource


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a tree: `to` is absolute. A source of several files goes below `to`, which then ends in a slash.

    Without a source it is a symbolic link (`link` is its target) or an empty directory.
    """

    to: str
    source: Source | None
    link: str
    mode: int
    where: str = field(repr=False)  # for messages; the repr is what a build's hash is made of


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
    """A GRUB image by grub-mkimage, with an embedded configuration and a memdisk (a tar) when asked for."""

    target: str
    prefix: str
    modules: tuple[str, ...]
    config: str
    memdisk: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Partition:
    """One MBR partition: `start` and `size` in bytes; `file_system` empty leaves it zero."""

    start: int
    size: int
    type: int
    is_bootable: bool
    file_system: str
    label: str
    uuid: str
    features: tuple[str, ...]
    entries: tuple[Entry, ...]
    where: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk with an MBR; `size` in bytes."""

    size: int
    identifier: int
    partitions: tuple[Partition, ...]


Artifact = Plain | Cpio | GrubImage | Disk


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole recipe. `epoch` (seconds) is every time stamp in what it makes."""

    name: str
    file: Path
    description: str
    epoch: int
    artifacts: dict[str, Artifact]

    def sources(self) -> Iterator[Source]:
        """Every source in it, in order."""
        for artifact in self.artifacts.values():
            match artifact:
                case Plain(source=source):
                    yield source
                case Cpio(entries=entries) | GrubImage(memdisk=entries):
                    yield from (entry.source for entry in entries if entry.source is not None)
                case Disk(partitions=partitions):
                    everything = (entry for part in partitions for entry in part.entries)
                    yield from (entry.source for entry in everything if entry.source is not None)


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
    for table in top.tables("artifact"):
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
        return Plain(_source(table), _mode(table, 0o644))
    if kind == "cpio":
        return Cpio(name.endswith(".gz"), _entries(table, "file"))
    if kind == "grub":
        prefix = table.text("prefix")
        modules = table.texts("modules")
        config = table.text("config", "")
        return GrubImage(table.choice("target", _GRUB_TARGETS), prefix, modules, config, _entries(table, "memdisk"))
    return _disk(table)


def _disk(table: Table) -> Disk:
    identifier = table.number("id", 0, 0, 0xFFFFFFFF)
    partitions: list[Partition] = []
    end = 0
    for part in table.tables("partition"):
        start = part.size("start", str(max(end, 1 << 20)))
        size = part.size("size")
        if start < 512 or start < end or start % 512:
            part.fail("start", f"a multiple of 512, at least {max(end, 512)} bytes (where the one before it ends)")
        if size == 0 or size % 512:
            part.fail("size", "a multiple of 512 bytes, and not 0")
        end = start + size
        partitions.append(_partition(part, start, size))
        part.done()
    if not 0 < len(partitions) <= 4:
        table.fail("partition", "one to four partitions, which is what an MBR holds")
    size = table.size("size", str(end))
    if size < end or size % 512:
        table.fail("size", f"a multiple of 512, at least {end} bytes")
    return Disk(size, identifier, tuple(partitions))


def _partition(part: Table, start: int, size: int) -> Partition:
    file_system = part.choice("fs", ("", *_FILE_SYSTEMS), "")
    uuid = part.text("uuid", "")
    label = part.text("label", "")
    entries = _entries(part, "file")
    if file_system:
        if not _UUID.fullmatch(uuid):
            part.fail("uuid", "a UUID in lower case (without a fixed one every build would differ)")
    elif uuid or label or entries:
        part.fail("fs", f"one of {', '.join(_FILE_SYSTEMS)}, since there is a label, UUID or file to put into it")
    if len(label.encode()) > 16:
        part.fail("label", "at most 16 bytes")
    kind = part.number("type", 0x83, 1, 0xFF)
    features = part.texts("features")
    where = f"{part.file}: {part.where}"
    return Partition(start, size, kind, part.flag("bootable"), file_system, label, uuid, features, entries, where)


def _entries(table: Table, key: str) -> tuple[Entry, ...]:
    entries = []
    for item in table.tables(key):
        to = item.text("to")
        inner = PurePosixPath(to)
        if not inner.is_absolute() or ".." in inner.parts or '"' in to or not to.isprintable():
            item.fail("to", 'an absolute path without "..", quotes and control characters')
        is_directory = item.flag("directory")
        link = item.text("link", "")
        where = f"{item.file}: {item.where}"
        if is_directory or link:
            entries.append(Entry(to, None, link, _mode(item, 0o755), where))
        else:
            entries.append(Entry(to, _source(item), "", _mode(item, 0o644), where))
        item.done()
    return tuple(entries)


def _mode(table: Table, default: int) -> int:
    return table.number("mode", default, 0, 0o7777)


def _source(table: Table) -> Source:
    given = [key for key in ("text", "file", "package", "recipe") if key in table]
    if len(given) != 1:
        table.fail(given[1] if given else "text", "exactly one of text, file, package, recipe")
    if "text" in table:
        return TextSource(table.text("text").encode())
    if "file" in table:
        return TextSource(_read(table))
    if "package" in table:
        package, depends = table.text("package"), table.text("depends", "")
        patterns = table.texts("paths") or (table.text("path"),)
        return PackageSource(package, depends, patterns)
    return RecipeSource(table.text("recipe"), table.text("artifact"))


def _read(table: Table) -> bytes:
    name = table.text("file")
    folder = table.file.parent / "files"
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        table.fail("file", f"a path below {folder}")
    try:
        return (folder / name).read_bytes()
    except OSError:
        table.fail("file", f"a readable file below {folder}")
