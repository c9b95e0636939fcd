"""A tree of files: what a recipe's entries become, whatever holds them then (ext4, cpio, tar)."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pvemu.errors import ConfigError
from pvemu.mkimage.entries import (
    ChangedSource,
    Entry,
    FillSource,
    LocalSource,
    PackageSource,
    RecipeSource,
    Source,
    TextSource,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pvemu.mkimage.packages import Package

__all__ = ["Directory", "Link", "Node", "NotHereError", "Regular", "Sources", "Tree", "find_local"]

# What bytes that look random are made from.
_SEED = b"pvemu"


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory."""

    mode: int


@dataclass(frozen=True, slots=True)
class Regular:
    """A file; its content in memory or in a file of the cache."""

    mode: int
    content: bytes | Path

    def read(self) -> bytes:
        """The whole content."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    target: str


Node = Directory | Regular | Link
Tree = dict[str, Node]
"""Absolute path -> node, parents before children and names sorted within a directory; the root itself is not in it."""


class NotHereError(ConfigError):
    """A file that the recipe takes from this machine, and that this machine does not have."""


def find_local(source: LocalSource, where: str) -> Path:
    """The file of this machine. Raises NotHereError when there is none."""
    named = os.environ.get(source.variable, "") if source.variable else ""
    if named:
        if not Path(named).is_file():
            raise NotHereError(f"{where}: {source.variable}: expected the path of a file, not {named!r}")
        return Path(named)
    for pattern in source.patterns:
        found = [path for path in sorted(Path("/").glob(pattern[1:])) if path.is_file()]
        if found:
            return found[0]
    hint = f"; set {source.variable} to the path of one" if source.variable else ""
    raise NotHereError(f"{where}: this machine has none of {', '.join(source.patterns)}{hint}")


class Sources:
    """Where a recipe's files come from: packages already fetched, and other recipes built when asked for."""

    def __init__(
        self,
        packages: Mapping[str, Package],
        depends: Mapping[tuple[str, str], str],
        artifact: Callable[[RecipeSource], Path],
        strip: Callable[[bytes], bytes],
    ) -> None:
        self._packages = packages
        self._depends = depends
        self._artifact = artifact
        self._strip = strip

    def files(self, source: Source, where: str) -> dict[str, bytes | Path]:
        """The files of a source by base name. Raises ConfigError for a pattern that matches nothing."""
        match source:
            case TextSource(content=content):
                return {"": content}
            case RecipeSource(artifact=artifact):
                return {artifact: self._artifact(source)}
            case PackageSource():
                return self._package_files(source, where)
            case LocalSource():
                path = find_local(source, where)
                return {path.name: path}
            case FillSource(size=size):
                return {"": hashlib.shake_128(_SEED).digest(size)}
            case ChangedSource(origin=origin):
                return {name: self._changed(source, content) for name, content in self.files(origin, where).items()}

    def one(self, source: Source, where: str) -> bytes | Path:
        """The content of a source of one file."""
        found = self.files(source, where)
        if len(found) != 1:
            raise ConfigError(f"{where}: expected one file, and {len(found)} match: {', '.join(sorted(found)[:4])}")
        return next(iter(found.values()))

    def tree(self, entries: Iterable[Entry]) -> Tree:
        """The tree of a recipe's entries; directories that no entry names are made with mode 0755."""
        nodes: Tree = {}
        for entry in entries:
            if entry.link:
                self._add(nodes, entry, entry.to, Link(entry.link))
            elif entry.source is None:
                self._add(nodes, entry, entry.to, Directory(entry.mode))
            elif entry.to.endswith("/"):
                for name, content in self.files(entry.source, entry.where).items():
                    if not name:
                        raise ConfigError(f"{entry.where}: to: expected a file's path, since text has no name")
                    self._add(nodes, entry, entry.to + name, Regular(entry.mode, content))
            else:
                self._add(nodes, entry, entry.to, Regular(entry.mode, self.one(entry.source, entry.where)))
        for path in list(nodes):
            for parent in list(PurePosixPath(path).parents)[:-1]:
                if not isinstance(nodes.setdefault(str(parent), Directory(0o755)), Directory):
                    raise ConfigError(f"{path} needs {parent} to be a directory, and another entry makes it a file")
        return dict(sorted(nodes.items(), key=lambda item: PurePosixPath(item[0]).parts))

    def _changed(self, source: ChangedSource, content: bytes | Path) -> bytes:
        data = bytearray(content if isinstance(content, bytes) else content.read_bytes())
        if source.strip:
            data = bytearray(self._strip(bytes(data)))
        for number, patch in enumerate(source.patches):
            what = f"{source.where}: patch[{number}]"
            at = patch.at
            if patch.find:
                count = data.count(patch.find)
                if count != 1:
                    raise ConfigError(f"{what}.find: expected bytes that are there once, not {count} times")
                at = data.index(patch.find)
            if at + len(patch.replace) > len(data):
                raise ConfigError(f"{what}.at: expected a place in a file of {len(data)} bytes, not {at}")
            data[at : at + len(patch.replace)] = patch.replace
        return bytes(data)

    def _package_files(self, source: PackageSource, where: str) -> dict[str, bytes | Path]:
        package = self._packages[self._depends[source.package, source.depends] if source.depends else source.package]
        found: dict[str, bytes | Path] = {}
        for pattern in source.patterns:
            names = package.glob(pattern)
            if not names:
                raise ConfigError(f"{where}: package {package.name} {package.version} has no file {pattern}")
            for name in names:
                found[PurePosixPath(name).name] = package.path(name)
        return found

    @staticmethod
    def _add(nodes: Tree, entry: Entry, path: str, node: Node) -> None:
        clean = str(PurePosixPath(path))
        if clean in nodes or clean == "/":
            raise ConfigError(f"{entry.where}: to: {clean} is there already")
        nodes[clean] = node
