"""From a recipe to its artifacts: gather packages, make each artifact, keep them under the hash of what went in."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvemu.errors import ConfigError
from pvemu.mkimage.archives import cpio_newc, tar_ustar
from pvemu.mkimage.bzimage import PACKERS, PAYLOAD_TOOLS, compression_of, is_bzimage, make_bzimage, recompress
from pvemu.mkimage.cache import file_lock, scratch, staged
from pvemu.mkimage.disk_image import DiskWriter
from pvemu.mkimage.entries import ChangedSource, LocalSource, PackageSource, RecipeSource
from pvemu.mkimage.filesystems import FILE_SYSTEMS
from pvemu.mkimage.layout import Disk, file_systems
from pvemu.mkimage.packages import PackageCache
from pvemu.mkimage.recipe import Artifact, Bzimage, Cpio, GrubImage, Plain, Recipe, load_recipe
from pvemu.mkimage.tools import TOOL_PACKAGES, Tool, ToolError, tool
from pvemu.mkimage.tree import Regular, Sources, find_local

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pvemu.mkimage.entries import Entry

__all__ = ["Built", "build", "fetch"]

# Part of every hash: raise it when the same recipe comes to mean other bytes.
_FORMAT = 2
_GRUB_MODULES = "grub-xen-bin"


@dataclass(frozen=True, slots=True)
class Built:
    """A built recipe: its artifacts by name. They are shared by everyone who uses the cache: copy before writing."""

    name: str
    key: str
    directory: Path
    artifacts: dict[str, Path]

    def __getitem__(self, artifact: str) -> Path:
        """An artifact's path. Raises ConfigError for a name the recipe does not make."""
        if artifact not in self.artifacts:
            raise ConfigError(f"recipe {self.name} makes no {artifact!r}; it makes {', '.join(self.artifacts)}")
        return self.artifacts[artifact]


def build(name: str | Path, cache: PackageCache | None = None) -> Built:
    """Build a recipe (a name of list_recipes(), or a path with a slash), or find it built.

    The same recipe and the same packages give the same bytes. Raises InputError: ConfigError for the recipe,
    PackageError for packages, ToolError when a tool cannot do what the recipe says.
    """
    return _Builder(cache if cache is not None else PackageCache()).build(name)


def fetch(names: Iterable[str | Path], cache: PackageCache) -> None:
    """Fetch every package that the named recipes and the tests' assembler need, in as few downloads as possible."""
    wanted = set(TOOL_PACKAGES["as"])
    for name in names:
        wanted |= _Builder(cache).needs(name, ())
    cache.get(wanted)


class _Builder:
    """One build: recipes that others take files from are built by the way."""

    def __init__(self, cache: PackageCache) -> None:
        self._cache = cache
        self._built: dict[Path, Built] = {}

    def needs(self, name: str | Path, users: tuple[Path, ...]) -> set[str]:
        """Every package a recipe needs, those of its tools and of the recipes it uses included."""
        recipe = _load(name, users)
        needed = {package for used in _tools(recipe) for package in TOOL_PACKAGES[used]}
        if any(isinstance(artifact, GrubImage) for artifact in recipe.artifacts.values()):
            needed.add(_GRUB_MODULES)
        for source in recipe.origins():
            match source:
                case PackageSource(package=package, depends=pattern):
                    needed.add(self._cache.dependency(package, pattern) if pattern else package)
                case RecipeSource():
                    needed |= self.needs(_beside(recipe, source), (*users, recipe.file))
        return needed

    def build(self, name: str | Path, users: tuple[Path, ...] = ()) -> Built:
        """A recipe's artifacts; `users` are the recipes that are waiting for it."""
        recipe = _load(name, users)
        if recipe.file not in self._built:
            used = {
                source.recipe: self.build(_beside(recipe, source), (*users, recipe.file))
                for source in recipe.origins()
                if isinstance(source, RecipeSource)
            }
            self._built[recipe.file] = self._build(recipe, used)
        return self._built[recipe.file]

    def _build(self, recipe: Recipe, used: dict[str, Built]) -> Built:
        depends = {
            (source.package, source.depends): self._cache.dependency(source.package, source.depends)
            for source in recipe.origins()
            if isinstance(source, PackageSource) and source.depends
        }
        plain = [source for source in recipe.origins() if isinstance(source, PackageSource) and not source.depends]
        own = {source.package for source in plain}
        tools = {name: tool(name, self._cache) for name in _tools(recipe)}
        own |= {package for name in tools for package in TOOL_PACKAGES[name]}
        if "grub-mkimage" in tools:
            own.add(_GRUB_MODULES)
        packages = self._cache.get(own | set(depends.values()))
        inputs = {
            "format": _FORMAT,
            "recipe": repr((recipe.epoch, recipe.artifacts)),
            "packages": {name: [package.version, package.sha256] for name, package in sorted(packages.items())},
            "depends": sorted(depends.items()),
            "local": _local_digests(recipe),
            "recipes": {name: built.key for name, built in sorted(used.items())},
        }
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        images = self._cache.directory / "images"
        directory = images / f"{recipe.name}-{key[:16]}"
        if not directory.is_dir():
            with file_lock(images / f"{recipe.name}.lock"):
                sources = Sources(packages, depends, lambda source: used[source.recipe][source.artifact], self._strip)
                self._make(recipe, directory, key, sources)
        return Built(recipe.name, key, directory, {name: directory / name for name in recipe.artifacts})

    def _strip(self, content: bytes) -> bytes:
        """An ELF file without its symbols."""
        with scratch(self._cache.directory / "images") as place:
            whole, bare = place / "whole", place / "bare"
            whole.write_bytes(content)
            tool("objcopy", self._cache).run("--strip-all", whole, bare)
            return bare.read_bytes()

    def _make(self, recipe: Recipe, directory: Path, key: str, sources: Sources) -> None:
        if directory.is_dir():  # whoever held the lock before made it
            return
        with staged(directory) as stage:
            _Workshop(recipe, sources, self._cache, stage).make_all(key)


class _Workshop:
    """Makes one recipe's artifacts in one directory."""

    def __init__(self, recipe: Recipe, sources: Sources, cache: PackageCache, stage: Path) -> None:
        self._recipe = recipe
        self._sources = sources
        self._cache = cache
        self._stage = stage
        self._scratch = stage.parent / "scratch"
        self._scratch.mkdir()

    def make_all(self, key: str) -> None:
        """Every artifact, and a manifest of them."""
        made = {}
        for name, artifact in self._recipe.artifacts.items():
            path = self._stage / name
            try:
                self._make(artifact, path)
            except ToolError as error:
                raise ToolError(f"{self._recipe.file}: artifact {name}: {error}") from error
            path.chmod(0o555 if isinstance(artifact, Plain) and artifact.mode & 0o111 else 0o444)
            with path.open("rb") as content:
                made[name] = {"size": path.stat().st_size, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}
        manifest = {"recipe": self._recipe.name, "description": self._recipe.description, "key": key, "artifacts": made}
        (self._stage / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")

    def _make(self, artifact: Artifact, path: Path) -> None:
        match artifact:
            case Plain(source=source):
                content = self._sources.one(source, f"{self._recipe.file}: artifact {path.name}")
                path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
            case Cpio(gzip=is_gzipped, entries=entries):
                archive = cpio_newc(self._sources.tree(entries), self._recipe.epoch)
                path.write_bytes(self._tool("gzip").run("-9", "-n", "-c", stdin=archive) if is_gzipped else archive)
            case GrubImage():
                self._grub(artifact, path)
            case Bzimage(source=source, compression=compression):
                kernel = self._sources.one(source, f"{self._recipe.file}: artifact {path.name}")
                content = kernel if isinstance(kernel, bytes) else kernel.read_bytes()
                if not is_bzimage(content):
                    content = make_bzimage(content, compression if compression in PACKERS else next(iter(PACKERS)))
                if compression_of(content) != compression:
                    content = recompress(content, compression, self._tool)
                path.write_bytes(content)
            case Disk():
                DiskWriter(self._sources, self._tool, self._scratch, self._recipe.epoch).write(artifact, path)

    def _tool(self, name: str) -> Tool:
        return tool(name, self._cache)

    def _grub(self, image: GrubImage, path: Path) -> None:
        modules = self._cache.get([_GRUB_MODULES])[_GRUB_MODULES].path(f"/usr/lib/grub/{image.target}")
        if image.own_modules:
            modules = self._with_own(modules, image.own_modules, self._scratch / f"{path.name}.modules")
        options: list[str | Path] = ["-d", modules, "-O", image.target, "-o", path, "-p", image.prefix]
        if image.config:
            config = self._scratch / f"{path.name}.cfg"
            config.write_text(image.config, encoding="utf-8")
            options += ["-c", config]
        if image.memdisk:
            memdisk = self._scratch / f"{path.name}.tar"
            memdisk.write_bytes(tar_ustar(self._sources.tree(image.memdisk), self._recipe.epoch))
            options += ["-m", memdisk]
        self._tool("grub-mkimage").run(*options, *image.modules)

    def _with_own(self, modules: Path, own: Iterable[Entry], place: Path) -> Path:
        """A folder of the package's modules and the recipe's own."""
        place.mkdir()
        for module in modules.iterdir():
            (place / module.name).symlink_to(module)
        for name, node in self._sources.tree(own).items():
            if isinstance(node, Regular):
                (place / name[1:]).unlink(missing_ok=True)
                (place / name[1:]).write_bytes(node.read())
        return place


def _load(name: str | Path, users: tuple[Path, ...]) -> Recipe:
    recipe = load_recipe(name)
    if recipe.file in users:
        chain = " -> ".join(file.parent.name for file in (*users, recipe.file))
        raise ConfigError(f"{recipe.file}: recipes that need each other cannot be built: {chain}")
    return recipe


def _local_digests(recipe: Recipe) -> list[str]:
    """What the files of this machine are, for the hash. Raises NotHereError."""
    found = [find_local(source, str(recipe.file)) for source in recipe.origins() if isinstance(source, LocalSource)]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in found]


def _beside(user: Recipe, source: RecipeSource) -> str | Path:
    """What a recipe calls another: a name, or a path that is relative to its own folder."""
    return user.file.parent / source.recipe if "/" in source.recipe else source.recipe


def _tools(recipe: Recipe) -> list[str]:
    used = {"objcopy" for source in recipe.sources() if isinstance(source, ChangedSource) and source.strip}
    for artifact in recipe.artifacts.values():
        match artifact:
            case Bzimage():
                used |= PAYLOAD_TOOLS
            case Cpio(gzip=True):
                used.add("gzip")
            case GrubImage():
                used.add("grub-mkimage")
            case Disk(content=content):
                used |= {name for system in file_systems(content) for name in FILE_SYSTEMS[system.kind].tools}
    return sorted(used)
