"""The files of a recipe as types: where each comes from, and where in a tree it goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvemu.mkimage.schema import Table

__all__ = [
    "ChangedSource",
    "Entry",
    "FillSource",
    "LocalSource",
    "Origin",
    "PackageSource",
    "Patch",
    "RecipeSource",
    "Source",
    "TextSource",
    "origin",
    "read_entries",
    "read_mode",
    "read_patches",
    "read_source",
]

_KINDS = ("text", "file", "package", "recipe", "local", "bytes")


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


@dataclass(frozen=True, slots=True)
class FillSource:
    """So many bytes that look random, always the same ones."""

    size: int


Origin = TextSource | PackageSource | RecipeSource | LocalSource | FillSource


@dataclass(frozen=True, slots=True)
class Patch:
    """Bytes that replace as many others: those at offset `at`, or where `find` is (once)."""

    at: int
    find: bytes
    replace: bytes


@dataclass(frozen=True, slots=True)
class ChangedSource:
    """The files of a source, changed: without symbols (ELF) when `strip`, then patched."""

    origin: Origin
    strip: bool
    patches: tuple[Patch, ...]
    where: str = field(repr=False)


Source = Origin | ChangedSource


def origin(source: Source) -> Origin:
    """Where a source's files come from, whatever is done to them."""
    return source.origin if isinstance(source, ChangedSource) else source


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
    """Where a file comes from, and what is changed in it."""
    found = _read_origin(table)
    strip = table.flag("strip")
    patches = read_patches(table)
    return ChangedSource(found, strip, patches, table.where) if strip or patches else found


def read_patches(table: Table) -> tuple[Patch, ...]:
    """The array under `patch`."""
    return tuple(_read_patch(item) for item in table.tables("patch"))


def _read_patch(item: Table) -> Patch:
    find, replace = _bytes(item, "find"), _bytes(item, "replace")
    at = item.number("at", None, 0, 1 << 40) if "at" in item else -1
    if (at < 0) == (not find):
        item.fail("at", "exactly one of at and find")
    if not replace or (find and len(find) != len(replace)):
        item.fail("replace", f"as many bytes as there are in find ({len(find)})" if find else "at least one byte")
    item.done()
    return Patch(at, find, replace)


def _bytes(item: Table, key: str) -> bytes:
    """Text as bytes: a letter is a byte."""
    try:
        return item.text(key, "").encode("latin-1")
    except UnicodeEncodeError:
        item.fail(key, r'letters up to "\u00ff", each of which is a byte')


def _read_origin(table: Table) -> Origin:
    given = [key for key in _KINDS if key in table]
    if len(given) != 1:
        table.fail(given[1] if given else "text", f"exactly one of {', '.join(_KINDS)}")
    if "text" in table:
        return TextSource(table.text("text").encode())
    if "file" in table:
        return TextSource(_read_file(table))
    if "package" in table:
        package, depends = table.text("package"), table.text("depends", "")
        patterns = table.texts("paths") or (table.text("path"),)
        return PackageSource(package, depends, patterns)
    if "bytes" in table:
        return FillSource(table.size("bytes"))
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
