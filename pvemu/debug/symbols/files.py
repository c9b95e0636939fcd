"""The files that a user gives as sources of symbols: ELF kernels, GRUB's modules (.mod, .module), System.map.

Which of them belongs to what was loaded is decided by content: sizes and bytes, never by a version or a path.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from pvemu.debug.symbols.elf_file import ElfFile
from pvemu.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["SymbolFiles"]

#: Of a GRUB module's two files the one with local symbols and debug information first.
_MODULE_SUFFIXES = (".module", ".mod")
_KERNEL_PATTERNS = ("kernel.exec", "vmlinux*", "*.elf")
_MAX_FILES = 20_000


class SymbolFiles:
    """Files and folders (searched with everything below them). Raises ConfigError for a path that is not there.
    ``later`` names more folders with GRUB modules, when a module is looked for first.
    """

    def __init__(
        self, paths: Iterable[str | Path] = (), later: Callable[[], Iterable[Path]] = lambda: ()
    ) -> None:
        self._later: Callable[[], Iterable[Path]] | None = later
        self._modules: dict[str, list[str]] = {}
        self._kernels: list[Path] = []
        self.system_maps: list[Path] = []
        self._known: dict[Path, ElfFile | None] = {}
        for given in paths:
            path = Path(given)
            if path.is_dir():
                self._add_folder(path)
            elif path.is_file():
                self._add(str(path), is_given=True)
            else:
                raise ConfigError(f"--symbols {path}: no such file; give an ELF file, a System.map or a folder")

    def _add_folder(self, folder: Path) -> None:
        found: list[str] = []
        for directory, _folders, names in os.walk(folder):
            found += [f"{directory}/{name}" for name in names]
            if len(found) > _MAX_FILES:
                raise ConfigError(f"--symbols {folder}: more than {_MAX_FILES} files; give the folder with the symbols")
        for path in sorted(found, key=lambda path: path.split("/")):
            self._add(path, is_given=False)

    def _add(self, name: str, *, is_given: bool) -> None:
        """Note a file by its name alone (folders have thousands), unless it is ``is_given`` by itself."""
        base = name.rpartition("/")[2]
        stem, _dot, suffix = base.rpartition(".")
        if f".{suffix}" in _MODULE_SUFFIXES and stem:
            self._modules.setdefault(stem, []).append(name)
        elif base.startswith("System.map"):
            self._add_system_map(Path(name))
        elif is_given:
            path = Path(name)
            if self._elf(path) is not None:
                self._kernels.append(path)
            elif _is_system_map(path):
                self.system_maps.append(path)
            else:
                raise ConfigError(f"--symbols {path}: neither an ELF file nor a System.map; give one of these")
        elif any(fnmatchcase(base, pattern) for pattern in _KERNEL_PATTERNS):
            self._kernels.append(Path(name))

    def _add_system_map(self, path: Path) -> None:
        if path.is_file():  # in a folder there may be a link that leads nowhere
            self.system_maps.append(path)

    def modules(self, name: str, bits: int) -> list[ElfFile]:
        """Files that may be GRUB's module ``name``, the most telling first."""
        if self._later is not None:
            later, self._later = self._later, None
            for folder in later():
                self._add_folder(folder)
        named = map(Path, self._modules.get(name, []))
        paths = sorted(named, key=lambda path: _MODULE_SUFFIXES.index(path.suffix))
        return [elf for elf in map(self._elf, paths) if elf is not None and elf.bits == bits]

    def kernels(self, bits: int) -> list[ElfFile]:
        """Files that may be a kernel."""
        return [elf for elf in map(self._elf, self._kernels) if elf is not None and elf.bits == bits]

    def add_kernel(self, path: str) -> None:
        """A kernel that is known anyway: the one that is booted."""
        self._kernels.append(Path(path))

    def _elf(self, path: Path) -> ElfFile | None:
        if path not in self._known:
            try:
                self._known[path] = ElfFile(path.read_bytes(), str(path))
            except (OSError, ValueError):
                self._known[path] = None
        return self._known[path]


def _is_system_map(path: Path) -> bool:
    try:
        with path.open("rb") as source:
            words = source.readline(256).split()
    except OSError:
        return False
    return len(words) == 3 and len(words[1]) == 1 and all(byte in b"0123456789abcdefABCDEF" for byte in words[0])
