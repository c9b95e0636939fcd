"""GRUB's loaded modules with symbols from the user's files, from the image's own copies, from what they export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from pvemu.debug.symbols.elf_file import ElfFile
from pvemu.debug.symbols.match import Readable, fits
from pvemu.debug.symbols.table import Module, SymbolTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.debug.symbols.files import SymbolFiles
    from pvemu.debug.symbols.grub import GrubKernel, GrubModule
    from pvemu.hypervisor.guest_access import GuestMemory

__all__ = ["GrubModules"]

#: How much of the stack is searched for the module whose initialisation runs.
_STACK_REACH = 8192


class GrubModules:
    """The modules of one GRUB by their handles (addresses of ``struct grub_dl``): where they are, and their symbols
    when somebody asks for them.
    """

    def __init__(self, kernel: GrubKernel, files: SymbolFiles, guest: GuestMemory, bits: int) -> None:
        self.places: dict[int, GrubModule] = {}
        self._modules: dict[int, Module] = {}
        self._kernel = kernel
        self._files = files
        self._guest = guest
        self._bits = bits
        self._starting: set[int] = set()
        self._image_files: dict[str, list[ElfFile]] | None = None

    def head(self) -> int | None:
        """What changes whenever a module has been loaded."""
        return self._kernel.head()

    def module(self, handle: int) -> Module:
        """A module with its symbols."""
        return self.at(self.places[handle])

    def at(self, place: GrubModule, memory: Readable | None = None) -> Module:
        """The same for a place, even of a module that was unloaded since; ``memory`` still has what was there."""
        memory = memory if memory is not None else self._guest
        if self.places.get(place.handle) != place:
            return self._describe(place, memory)
        if place.handle not in self._modules:
            self._modules[place.handle] = self._describe(place, memory)
        return self._modules[place.handle]

    def is_listed(self, handle: int) -> bool:
        """Whether a module was on the list when it was read last."""
        return handle in self.places and handle not in self._starting

    def refresh(self) -> list[int]:
        """Read the whole list again; the modules (handles) that were not there before."""
        self._kernel.forget()
        return self._update({module.handle: module for module in self._kernel.modules()})

    def extend(self) -> list[int]:
        """Read what came to the head of the list."""
        listed = set(self.places) - self._starting
        fresh = {module.handle: module for module in self._kernel.modules(listed)}
        return self._update({handle: self.places[handle] for handle in listed} | fresh)

    def _update(self, listed: dict[int, GrubModule]) -> list[int]:
        waiting, self._starting = self._starting - set(listed), set()
        for handle in waiting:
            module = self._kernel.module_at(handle)
            if module is not None and _same_place(module, self.places.get(handle)):
                listed[handle] = module
                self._starting.add(handle)
        for handle in [handle for handle, known in self.places.items() if not _same_place(listed.get(handle), known)]:
            del self.places[handle]
            self._modules.pop(handle, None)
        fresh = [handle for handle in listed if handle not in self.places]
        for handle in fresh:
            self.places[handle] = listed[handle]
        return fresh

    def find_starting(self, vaddr: int, stack: int) -> list[int]:
        """The module around ``vaddr`` that GRUB initialises just now, before it joins the list: its handle is on the
        stack, or among what loaded modules export.
        """
        for handle in self._handles_on(stack):
            module = self._kernel.module_at(handle) if handle not in self.places else None
            if module is not None and module.base <= vaddr < module.base + module.size:
                return self._start(module)
        for handle in list(self._kernel.module_symbols()):
            module = self._kernel.module_at(handle) if handle not in self.places else None
            if module is not None and module.base <= vaddr < module.base + module.size:
                return self._start(module)
        return []

    def _start(self, module: GrubModule) -> list[int]:
        self._starting.add(module.handle)
        self.places[module.handle] = module
        self._modules.pop(module.handle, None)
        return [module.handle]

    def _handles_on(self, stack: int) -> list[int]:
        words: list[int] = []
        width = self._bits // 8
        stack &= -width
        try:
            raw = self._guest.copy_from_guest(stack, _STACK_REACH)
        except XenError:
            return words
        words = memoryview(raw).cast("Q" if width == 8 else "I").tolist()
        return list(dict.fromkeys(word for word in words if word >= self._kernel.end and not word % width))

    # -- symbols -------------------------------------------------------------------------------------------------------
    def _describe(self, module: GrubModule, memory: Readable) -> Module:
        for elf in [*self._files.modules(module.name, self._bits), *self._in_image(module.name)]:
            places = fits(elf, module.segments, memory)
            if places is not None:
                return _from_file(module, elf, places)
        exported = self._kernel.module_symbols().get(module.handle, [])
        return Module(module.name, module.base, module.base + module.size, SymbolTable(exported))

    def _in_image(self, name: str) -> list[ElfFile]:
        if self._image_files is None:
            self._image_files = {}
            for content in self._kernel.image_modules:
                try:
                    elf = ElfFile(content, "(in GRUB's image)")
                except ValueError:
                    continue
                self._image_files.setdefault(elf.section_text(".modname"), []).append(elf)
        return self._image_files.get(name, [])


def _from_file(module: GrubModule, elf: ElfFile, places: dict[int, int]) -> Module:
    code = tuple((places[s.number], s.size) for s in elf.sections() if s.is_code)
    return Module(
        module.name, module.base, module.base + module.size, SymbolTable(elf.symbols(places)), elf.path,
        _lines_of(elf, code), code,
    )  # fmt: skip


def _lines_of(elf: ElfFile, code: tuple[tuple[int, int], ...]) -> Callable[[int], str | None]:
    """Lines of a relocatable file count from the start of its one code section."""

    def line(address: int) -> str | None:
        if len(code) != 1 or not code[0][0] <= address < code[0][0] + code[0][1]:
            return None
        return elf.line(address - code[0][0])

    return line


def _same_place(one: GrubModule | None, other: GrubModule | None) -> bool:
    """Whether two readings of a handle are of the same module at the same place."""
    return one is not None and other is not None and one[:5] == other[:5]
