"""The files of a recipe as types: where each comes from, and where in a tree it goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pvemu.errors import ConfigError

if TYPE_CHECKING:
    from pvemu.mkimage.schema import Table

__all__ = [
    "Entry", "PackageSource", "PatchedSource", "RecipeSource", "Source", "TextSource", "read_entries", "read_mode",
    "read_source",
]  # fmt: skip


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
class PatchedSource(PackageSource):
    """One such file with bytes replaced: (bytes that it has exactly once, as many others). How a bug is planted."""

    patches: tuple[tuple[bytes, bytes], ...]

    def patched(self, content: bytes, where: str) -> bytes:
        """The file's content as it is to be. Raises ConfigError where it is not the file that was meant."""
        for old, new in self.patches:
            if content.count(old) != 1:
                times = content.count(old)
                raise ConfigError(f"{where}: patch: the file has {old.hex()} {times} times; give bytes it has once")
            content = content.replace(old, new)
        return content


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


def read_entries(table: Table, key: str) -> tuple[Entry, ...]:
    """The array of files under `key`."""
    entries = []
    for item in table.tables(key):
        to = item.text("to")
        inner = PurePosixPath(to)
        if not inner.is_absolute() or ".." in inner.parts or '"' in to or not to.isprintable():
            item.fail("to", 'an absolute path without "..", quotes and control characters')
        is_directory = item.flag("directory")
        link = item.text("link", "")
        if is_directory or link:
            entries.append(Entry(to, None, link, read_mode(item, 0o755), item.where))
        else:
            entries.append(Entry(to, read_source(item), "", read_mode(item, 0o644), item.where))
        item.done()
    return tuple(entries)


def read_mode(table: Table, default: int) -> int:
    """The permission bits."""
    return table.number("mode", default, 0, 0o7777)


def read_source(table: Table) -> Source:
    """Where a file comes from: exactly one of text, file, package, recipe."""
    given = [key for key in ("text", "file", "package", "recipe") if key in table]
    if len(given) != 1:
        table.fail(given[1] if given else "text", "exactly one of text, file, package, recipe")
    if "text" in table:
        return TextSource(table.text("text").encode())
    if "file" in table:
        return TextSource(_read_file(table))
    if "package" in table:
        package, depends = table.text("package"), table.text("depends", "")
        patterns = table.texts("paths") or (table.text("path"),)
        patches = tuple(map(_read_patch, table.tables("patch")))
        if patches:
            return PatchedSource(package, depends, patterns, patches)
        return PackageSource(package, depends, patterns)
    return RecipeSource(table.text("recipe"), table.text("artifact"))


def _read_patch(table: Table) -> tuple[bytes, bytes]:
    found = []
    for key in ("find", "replace"):
        try:
            found.append(bytes.fromhex(table.text(key)))
        except ValueError:
            table.fail(key, "bytes in hexadecimal")
    old, new = found
    if not old or len(old) != len(new):
        table.fail("replace", "as many bytes as find, and some")
    table.done()
    return old, new


def _read_file(table: Table) -> bytes:
    name = table.text("file")
    folder = table.file.parent / "files"
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        table.fail("file", f"a path below {folder}")
    try:
        return (folder / name).read_bytes()
    except OSError:
        table.fail("file", f"a readable file below {folder}")
