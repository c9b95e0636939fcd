"""What an address is called now: the modules of the kernel that runs, kept up to date as it loads and unloads them."""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pvemu.debug.symbols.copies import CodeCopies
from pvemu.debug.symbols.elf_file import ElfFile
from pvemu.debug.symbols.files import SymbolFiles
from pvemu.debug.symbols.grub import GrubKernel, find_grub
from pvemu.debug.symbols.grub_module import GrubModules
from pvemu.debug.symbols.linux import find_linux
from pvemu.debug.symbols.match import is_loaded
from pvemu.debug.symbols.table import Location, Module, Symbol, SymbolTable
from pvemu.frames import PAGE_MASK, PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercalls.abi import Abi
    from pvemu.builder.kernel import KernelImage
    from pvemu.config import DomainConfig
    from pvemu.cpu.paging import PageWalker
    from pvemu.debug.stages import Stage, StageWatch
    from pvemu.hypervisor.guest_access import GuestMemory
    from pvemu.memory.ram import Ram

__all__ = ["Symbols", "Watched"]

_NAME = re.compile(
    r"(?:stage(?P<stage>\d+):)?(?:(?P<module>[^:+]+):)?(?P<function>[^:+]+)?(?:\+(?P<offset>0x[0-9a-fA-F]+|\d+))?\Z"
)


class _Registers(Protocol):
    def reader(self, *names: str) -> Callable[[], list[int]]: ...


class Watched(Protocol):
    """What :meth:`Symbols.of` reads of a machine."""

    abi: Abi
    config: DomainConfig
    guest: GuestMemory
    image: KernelImage
    ram: Ram
    stages: StageWatch
    walker: PageWalker

    @property
    def engine(self) -> _Registers:
        """The CPU: its registers."""


class _StageModules:
    """The modules of one stage: the kernel's, and those that a GRUB has loaded."""

    def __init__(self, number: int, fixed: list[Module], grub: GrubModules | None) -> None:
        self.number = number
        self.grub = grub
        self._fixed = fixed
        self._places: list[tuple[int, int, Module | int]] = []
        self._starts: list[int] = []
        self.arrange()

    def arrange(self) -> None:
        """Sort what there is by address."""
        places: list[tuple[int, int, Module | int]] = [(module.base, module.end, module) for module in self._fixed]
        if self.grub is not None:
            places += [(one.base, one.base + one.size, handle) for handle, one in self.grub.places.items()]
        self._places = sorted(places, key=lambda place: place[0])
        self._starts = [base for base, _end, _module in self._places]

    @property
    def modules(self) -> list[Module]:
        """All of them, by address."""
        return [self._module(module) for _base, _end, module in self._places]

    def at(self, address: int) -> Module | None:
        """The module that ``address`` is in."""
        found = bisect_right(self._starts, address) - 1
        if found < 0 or address >= self._places[found][1]:
            return None
        return self._module(self._places[found][2])

    def _module(self, module: Module | int) -> Module:
        if isinstance(module, Module):
            return module
        assert self.grub is not None
        return self.grub.module(module)


class Symbols:
    """Names of guest addresses in the stage that runs. Reads guest memory, changes nothing.

    ``read_stack`` gives the stack pointer: a GRUB module that is being initialised is found by the stack.
    """

    def __init__(
        self, *, bits: int, guest: GuestMemory, ram: Ram, walker: PageWalker, stages: StageWatch, image: KernelImage,
        kernel: str, read_stack: Callable[[], list[int]], files: SymbolFiles | None = None,
    ) -> None:  # fmt: skip
        self._bits = bits
        self._guest = guest
        self._stages = stages
        self._image = image
        self._kernel = kernel
        self._files = files if files is not None else SymbolFiles()
        self._read_stack = read_stack
        self._copies = CodeCopies(ram, walker, guest)
        self._built: list[_StageModules] = []
        self._known: dict[int, Location | None] = {}
        self._texts: dict[int, str | None] = {}
        self._head: int | None = None
        self._searched_pages: set[int] = set()
        self._nameless_pages: set[int] = set()  # where nothing is the copy of something
        self._grubs: dict[int, GrubKernel | None] = {}
        stages.observe(self._note_start)

    @classmethod
    def of(cls, machine: Watched, files: SymbolFiles | None = None) -> Symbols:
        """The names of a machine's guest."""
        return cls(
            bits=machine.abi.bits, guest=machine.guest, ram=machine.ram, walker=machine.walker, stages=machine.stages,
            image=machine.image, kernel=machine.config.kernel, read_stack=machine.engine.reader("rsp"), files=files,
        )  # fmt: skip

    # -- asking --------------------------------------------------------------------------------------------------------
    def name(self, vaddr: int) -> str | None:
        """``stage1:normal:grub_normal_execute+0x1a``, as much of it as is known; None for an address of nothing."""
        self.follow()
        if vaddr not in self._texts:
            found = self.locate(vaddr)
            self._texts[vaddr] = str(found) if found is not None else None
        return self._texts[vaddr]

    def locate(self, vaddr: int) -> Location | None:
        """The same, in parts."""
        self.follow()
        if vaddr in self._known:
            return self._known[vaddr]
        found = self._known[vaddr] = self._find(vaddr)
        return found

    def line(self, vaddr: int) -> str | None:
        """``file:line`` of the source, where debug information for it is at hand."""
        self.follow()
        module = self._current().at(vaddr)
        if module is not None:
            return module.line(vaddr)
        original = self._copies.find(vaddr)
        return original.module.line(original.address) if original is not None else None

    def module_of(self, vaddr: int) -> Module | None:
        """The module that an address, or the code it is a copy of, belongs to."""
        module = self._current().at(vaddr)
        if module is None:
            original = self._copies.find(vaddr)
            return original.module if original is not None else None
        return module

    def address(self, name: str) -> list[int]:
        """Addresses that a name stands for: ``grub_malloc``, ``normal:grub_normal_execute``, ``stage1:kernel:...``,
        ``normal+0x40``, each with ``+offset`` if wanted. Static functions may share a name; empty where there is none.
        """
        self.follow()
        match = _NAME.match(name)
        stage = self._current()
        if match is None or (match["stage"] is not None and int(match["stage"]) != stage.number):
            return []
        offset = int(match["offset"], 0) if match["offset"] is not None else 0
        found: set[int] = set()
        for module in stage.modules:
            if match["module"] is None or module.name == match["module"]:
                found.update(address + offset for address in module.table.named(match["function"] or ""))
            whole = match["function"] if match["module"] is None else None
            if whole == module.name and match["offset"] is not None and offset < module.end - module.base:
                found.add(module.base + offset)
        return sorted(found)

    def modules(self) -> list[Module]:
        """What the running stage consists of, by address."""
        self.follow()
        return list(self._current().modules)

    @property
    def stage(self) -> int:
        """The number of the running stage."""
        return len(self._stages.stages) - 1

    def refresh(self) -> None:
        """Look at everything again: also at what left a list, or took the place of something else."""
        self._forget()
        stage = self._current()
        if stage.grub is not None:
            self._head = stage.grub.head()
            self._take(stage, stage.grub.refresh())

    # -- following -----------------------------------------------------------------------------------------------------
    def _note_start(self, stage: Stage) -> None:
        """A kernel's start of day: what its image holds is all there now."""
        number = len(self._stages.stages) - 1
        self._grubs[number] = self._find_grub(number, stage)

    def _find_grub(self, number: int, stage: Stage) -> GrubKernel | None:
        base = self._image.v_start if number == 0 else stage.entry & ~PAGE_MASK
        return find_grub(self._guest, self._bits, base)

    def _current(self) -> _StageModules:
        stages = self._stages.stages
        while len(self._built) < len(stages):
            number = len(self._built)
            is_running = number == len(stages) - 1
            built = self._build(number, stages[number]) if is_running else _StageModules(number, [], None)
            self._built.append(built)
            self._forget()
            self._head = None
        return self._built[-1]

    def follow(self) -> None:
        """Notice a new stage, or a GRUB's new module: a look at one word of memory. Every question does so first;
        whoever asks late only should call it now and then, since a kernel's tables do not outlive it.
        """
        grub = self._current().grub
        if grub is not None:
            head = grub.head()
            if head is not None and head != self._head:
                if grub.is_listed(head):  # the newest was unloaded, and others perhaps
                    self.refresh()
                    return
                self._head = head
                self._forget()
                self._take(self._current(), grub.extend())

    def _forget(self) -> None:
        """Answers given so far may be wrong now."""
        self._known.clear()
        self._texts.clear()
        self._searched_pages.clear()
        self._nameless_pages.clear()

    def _take(self, stage: _StageModules, fresh: list[int]) -> None:
        stage.arrange()
        grub = stage.grub
        assert grub is not None
        for handle in fresh:
            place = grub.places[handle]
            self._copies.remember(stage.number, place.base, place.size, partial(grub.at, place))

    def _find(self, vaddr: int) -> Location | None:
        stage = self._current()
        module = stage.at(vaddr)
        if module is None and stage.grub is not None and vaddr >> PAGE_SHIFT not in self._searched_pages:
            self._searched_pages.add(vaddr >> PAGE_SHIFT)
            fresh = stage.grub.find_starting(vaddr, self._read_stack()[0])
            if fresh:
                self._take(stage, fresh)
                module = stage.at(vaddr)
        if module is not None:
            return _location(stage.number, module, vaddr, is_copy=False)
        if vaddr >> PAGE_SHIFT in self._nameless_pages:
            return None
        original = self._copies.find(vaddr)
        if original is None:
            self._nameless_pages.add(vaddr >> PAGE_SHIFT)
            return None
        return _location(original.stage, original.module, original.address, is_copy=True)

    def _build(self, number: int, stage: Stage) -> _StageModules:
        kernel = self._grubs[number] if number in self._grubs else self._find_grub(number, stage)
        candidates = self._files.kernels(self._bits)
        if number == 0:
            candidates = [*candidates, *self._booted_file()]
        matching = [elf for elf in candidates if is_loaded(elf, self._guest)]
        if kernel is not None:
            modules = GrubModules(kernel, self._files, self._guest, self._bits)
            return _StageModules(number, [_grub_kernel(kernel, matching, stage.entry)], modules)
        for elf in matching:
            table = SymbolTable(elf.symbols())
            if len(table):
                return _StageModules(number, [_elf_module(elf, table)], None)
        linux = find_linux(self._guest, self._bits, stage.entry, self._files)
        if linux is not None:
            return _StageModules(number, [linux], None)
        if number == 0:
            name = Path(self._kernel).stem or "kernel"
            return _StageModules(0, [Module(name, self._image.v_start, self._image.v_end, SymbolTable(()))], None)
        return _StageModules(number, [], None)

    def _booted_file(self) -> list[ElfFile]:
        try:
            return [ElfFile(Path(self._kernel).read_bytes(), self._kernel)]
        except (OSError, ValueError):
            return []


def _location(stage: int, module: Module, address: int, *, is_copy: bool) -> Location:
    symbol = module.table.at(address)
    offset = address - module.base
    if symbol is None:
        return Location(stage, module.name, offset, None, 0, is_copy)
    return Location(stage, module.name, offset, symbol.name, address - symbol.address, is_copy)


def _grub_kernel(kernel: GrubKernel, matching: list[ElfFile], entry: int) -> Module:
    """GRUB's kernel: what it exports, and all else that a file with symbols says."""
    symbols, path = [*kernel.symbols, Symbol(entry, 0, "_start", is_function=True)], None
    line: Callable[[int], str | None] = lambda address: None  # noqa: E731 - replaced by a bound method below
    for elf in matching:
        more = elf.symbols()
        if more:
            symbols, path, line = [*symbols, *more], elf.path, elf.line
            break
    else:
        symbols += kernel.static_functions()
    return Module("kernel", kernel.base, kernel.end, SymbolTable(symbols), path, line)


def _elf_module(elf: ElfFile, table: SymbolTable) -> Module:
    segments = [(vaddr, size) for vaddr, _data, size in elf.segments()]
    low, high = min(vaddr for vaddr, _ in segments), max(vaddr + size for vaddr, size in segments)
    return Module(Path(elf.path).stem, low, high, table, elf.path, elf.line)
