"""The files of a recipe as types: where each comes from, and where in a tree it goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvemu.mkimage.schema import Table

__all__ = [
    "Entry",
    "LocalSource",
    "PackageSource",
    "RecipeSource",
    "Source",
    "TextSource",
    "read_entries",
    "read_mode",
    "read_source",
]


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


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A file of this machine that no package has: what environment `variable` names, else the first of the patterns."""

    patterns: tuple[str, ...]
    variable: str


Source = TextSource | PackageSource | RecipeSource | LocalSource


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
        is_there = item.choice("present", ("yes", "no"), "yes") == "yes"
        if is_directory or link:
            entry = Entry(to, None, link, read_mode(item, 0o755), item.where)
        else:
            entry = Entry(to, read_source(item), "", read_mode(item, 0o644), item.where)
        item.done()
        if is_there:
            entries.append(entry)
    return tuple(entries)


def read_mode(table: Table, default: int) -> int:
    """The permission bits."""
    return table.number("mode", default, 0, 0o7777)


def read_source(table: Table) -> Source:
    """Where a file comes from: exactly one of text, file, package, recipe, local."""
    given = [key for key in ("text", "file", "package", "recipe", "local") if key in table]
    if len(given) != 1:
        table.fail(given[1] if given else "text", "exactly one of text, file, package, recipe, local")
    if "text" in table:
        return TextSource(table.text("text").encode())
    if "file" in table:
        return TextSource(_read_file(table))
    if "package" in table:
        package, depends = table.text("package"), table.text("depends", "")
        patterns = table.texts("paths") or (table.text("path"),)
        return PackageSource(package, depends, patterns)
    if "local" in table:
        patterns = table.texts("local")
        if not patterns or not all(pattern.startswith("/") for pattern in patterns):
            table.fail("local", "a list of absolute paths, which may be shell patterns")
        return LocalSource(patterns, table.text("variable", ""))
    return RecipeSource(table.text("recipe"), table.text("artifact"))


def _read_file(table: Table) -> bytes:
    name = table.text("file")
    folder = table.file.parent / "files"
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        table.fail("file", f"a path below {folder}")
    try:
        return (folder / name).read_bytes()
    except OSError:
        table.fail("file", f"a readable file below {folder}")
