"""GRUB's own tables in guest memory: the symbols its kernel exports, and the modules it has loaded.

The lists' heads are found by the name that every GRUB exports, ``grub_dl_head``; where a module lies by its
``struct grub_dl`` (include/grub/dl.h), whose layout changed over the years and so is told from the values in it. What
a module under initialisation is called before it joins the list comes from the symbol hash (grub-core/kern/dl.c).
Everything here reads memory that may hold anything: what makes no sense is left out.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from hypercalls.errors import XenError
from pvemu.debug.symbols.table import Symbol
from pvemu.frames import PAGE_MASK, PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from pvemu.hypervisor.guest_access import GuestMemory

__all__ = ["GrubKernel", "GrubModule", "find_grub"]

_HEAD = b"grub_dl_head"
_IDENTIFIER = re.compile(rb"[A-Za-z_.][A-Za-z0-9_.$]*\Z")
_MODULE_NAME = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_.+-]*\Z")
_MAX_NAME = 96
#: How much of a kernel is searched: its code and data are some 60 KiB, the modules in the image follow.
_REACH = 1 << 20
_MAX_MODULES, _MAX_SEGMENTS = 1024, 64
_MAX_MODULE_SIZE = 64 << 20
_WORDS_OF_GRUB_DL = 18
#: GRUB_SYMTAB_SIZE of grub-core/kern/dl.c, and how many entries must agree on where the table is.
_HASH_SIZE, _ENOUGH_VOTES = 509, 8
_MAX_CHAIN = 256
#: call with a 32-bit distance, movabs of an address to a register; looked ahead for, since data may look like one.
_CALL = re.compile(rb"\xe8(?=(.{4}))", re.DOTALL)
_LOAD_ADDRESS = re.compile(rb"[\x48\x49][\xb8-\xbf](?=(.{8}))", re.DOTALL)
#: GRUB_MODULE_MAGIC and OBJ_TYPE_ELF of include/grub/kernel.h.
_MODULE_MAGIC, _TYPE_ELF = b"mimg", 0


class GrubModule(NamedTuple):
    """One loaded module: where its ``struct grub_dl`` is, the block that holds all its sections, and each of them as
    section number -> (address, size).
    """

    handle: int
    name: str
    base: int
    size: int
    segments: dict[int, tuple[int, int]]
    next: int


class GrubKernel:
    """A GRUB in guest memory, [``base``, ``end``), the end as far as it can be told. ``symbols`` is what its kernel
    exports, ``image_modules`` the ELF files of modules that came within its image (heap, once they are loaded).
    """

    def __init__(self, memory: _Memory, base: int, symbols: list[Symbol], head: int) -> None:
        self._memory = memory
        self._head = head
        self._hash_table: int | None = None
        self._vain_at: int | None = -1
        self._exports: dict[int, list[Symbol]] = {}
        self._slots = [0] * _HASH_SIZE  # the entry that was read last
        self.base = base
        self.symbols = symbols
        self.end = max(symbol.address for symbol in symbols) + 1
        self.image_modules = list(self._image_modules())

    def static_functions(self) -> list[Symbol]:
        """Functions that are not exported, as ``sub_8a5f``, told from the calls to them (64-bit GRUBs are built for the
        large code model: an address is loaded whole). Without these the exported one before would lend its name.
        """
        known = {symbol.address for symbol in self.symbols}
        end = max(symbol.address for symbol in self.symbols if symbol.is_function)
        code = self._memory.read_mapped(self.base, end - self.base + PAGE_SIZE)
        near = (
            self.base + call.end() + 4 + int.from_bytes(call[1], "little", signed=True) for call in _CALL.finditer(code)
        )
        far = (int.from_bytes(load[1], "little") for load in _LOAD_ADDRESS.finditer(code))
        found = {address for address in (*near, *far) if self.base <= address <= end} - known
        return [Symbol(address, 0, f"sub_{address:x}", is_function=True) for address in sorted(found)]

    def head(self) -> int | None:
        """The newest module's handle, None where the list cannot be read: what changes when a module is loaded."""
        return self._memory.word(self._head)

    def modules(self, known: Container[int] = ()) -> list[GrubModule]:
        """The list of modules, newest first, as far as it can be followed, or to the first that is ``known``."""
        with self._memory.held_still():
            return self._read_modules(known)

    def _read_modules(self, known: Container[int]) -> list[GrubModule]:
        found: list[GrubModule] = []
        seen = set()
        handle = self.head()
        while handle and handle not in seen and handle not in known and len(found) < _MAX_MODULES:
            seen.add(handle)
            module = self.module_at(handle)
            if module is None:
                break
            found.append(module)
            handle = module.next
        return found

    def module_at(self, handle: int) -> GrubModule | None:
        """The module whose ``struct grub_dl`` is at ``handle``; None where there is no such structure."""
        memory = self._memory
        words = memory.words(handle, _WORDS_OF_GRUB_DL)
        if not words or not words[0]:
            return None
        name = memory.string(words[0])
        if not _MODULE_NAME.match(name):
            return None
        for at in range(2, 8):
            segments = self._segments(words[at])
            if not segments:
                continue
            low = min(address for address, _size in segments.values())
            high = max(address + size for address, size in segments.values())
            for i in range(at + 1, _WORDS_OF_GRUB_DL - 2):
                if words[i] <= low and high <= words[i] + words[i + 1] and words[i + 1] <= _MAX_MODULE_SIZE:
                    return GrubModule(handle, name.decode(), words[i], words[i + 1], segments, words[i + 2])
        return None

    def _segments(self, node: int) -> dict[int, tuple[int, int]]:
        """The chain of ``struct grub_dl_segment`` that begins at ``node``: empty where it is no such chain."""
        segments: dict[int, tuple[int, int]] = {}
        for _ in range(_MAX_SEGMENTS):
            if not node:
                return segments
            words = self._memory.words(node, 4)
            if not words:
                return {}
            following, address, size, section = words[0], words[1], words[2], words[3] & 0xFFFF_FFFF
            if section >= _MAX_MODULE_SIZE >> 10 or size > _MAX_MODULE_SIZE or section in segments:
                return {}
            if size:
                if not address:
                    return {}
                segments[section] = address, size
            node = following
        return {}

    # -- the symbol hash -----------------------------------------------------------------------------------------------
    def module_symbols(self) -> dict[int, list[Symbol]]:
        """What loaded modules export, by their handles: those under initialisation too. What was read before is not
        read again, since new entries come first in their slots.
        """
        with self._memory.held_still():
            return self._read_module_symbols()

    def _read_module_symbols(self) -> dict[int, list[Symbol]]:
        table = self._find_hash_table()
        if table is None:
            return self._exports
        memory = self._memory
        heads = memory.words(table, _HASH_SIZE) or []
        for slot, head in enumerate(heads):
            node, known = head, self._slots[slot]
            if head == known:
                continue
            self._slots[slot] = head
            for _ in range(_MAX_CHAIN):
                words = memory.words(node, 5) if node and node != known else None
                if not words:
                    break
                node, name, address, is_function, module = words
                text = memory.string(name)
                if not _IDENTIFIER.match(text):
                    break
                if module:
                    symbol = Symbol(address, 0, text.decode(), bool(is_function & 0xFFFF_FFFF))
                    self._exports.setdefault(module, []).append(symbol)
        return self._exports

    def forget(self) -> None:
        """Read everything anew from now on."""
        self._exports = {}
        self._slots = [0] * _HASH_SIZE

    def _find_hash_table(self) -> int | None:
        """``grub_symtab`` is static: found by its entries, each of which says by its name which slot it is in."""
        head = self.head()
        if self._hash_table is not None or head == self._vain_at:
            return self._hash_table
        votes: dict[int, int] = {}
        memory = self._memory
        code_end = max((symbol.address for symbol in self.symbols if symbol.is_function), default=self.base)
        for address, word in memory.nonzero_words(code_end, self.end):
            if word % memory.width or word < PAGE_SIZE:
                continue
            node = memory.words(word, 5)
            if not node or node[3] & 0xFFFF_FFFF > 1 or not node[2]:
                continue
            name = memory.string(node[1])
            if not _IDENTIFIER.match(name):
                continue
            start = address - memory.width * _symbol_hash(name)
            votes[start] = votes.get(start, 0) + 1
            if votes[start] >= _ENOUGH_VOTES:
                self._hash_table = start
                return start
        self._vain_at = head  # not again before there is another module
        return None

    def _image_modules(self) -> Iterator[bytes]:
        """What follows the kernel's bss (include/grub/kernel.h, grub_module_info)."""
        memory = self._memory
        found = memory.read_mapped(self.end & ~PAGE_MASK, 2 * PAGE_SIZE).find(_MODULE_MAGIC)
        at = (self.end & ~PAGE_MASK) + found
        header = memory.words(at, 3)
        if found < 0 or not header:
            return
        offset, size = header[1], header[2]
        end = at + min(size, _MAX_MODULE_SIZE)
        at += offset
        while at + 8 <= end:
            raw = memory.read(at, 8)
            if raw is None:
                return
            kind, length = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:], "little")
            if length < 8 or at + length > end:
                return
            if kind == _TYPE_ELF:
                content = memory.read(at + 8, length - 8)
                if content is not None:
                    yield content
            at += -(-length // memory.width) * memory.width


def find_grub(guest: GuestMemory, bits: int, base: int) -> GrubKernel | None:
    """The GRUB whose image begins at ``base``, None when there is another kernel."""
    memory = _Memory(guest, bits // 8)
    image = memory.read_mapped(base, _REACH)
    at = image.find(b"\0" + _HEAD + b"\0")
    while at >= 0:
        pointer = (base + at + 1).to_bytes(memory.width, "little")
        row = image.find(pointer)
        while row >= 0:
            if row % memory.width == 0:
                kernel = _kernel(memory, image, base, row)
                if kernel is not None:
                    return kernel
            row = image.find(pointer, row + 1)
        at = image.find(b"\0" + _HEAD + b"\0", at + 1)
    return None


def _kernel(memory: _Memory, image: bytes, base: int, row: int) -> GrubKernel | None:
    """The table of exported symbols around one of its rows: name, address, whether it is a function."""
    step = 3 * memory.width
    symbols = []
    for direction in (-step, step):
        at = row + min(0, direction)
        while 0 <= at <= len(image) - step:
            symbol = _exported(memory, image, base, at)
            if symbol is None:
                break
            symbols.append(symbol)
            at += direction
    head = next((symbol.address for symbol in symbols if symbol.name == _HEAD.decode()), None)
    if head is None or len(symbols) < _ENOUGH_VOTES:
        return None
    return GrubKernel(memory, base, symbols, head)


def _exported(memory: _Memory, image: bytes, base: int, at: int) -> Symbol | None:
    name_at, address, is_function = (
        int.from_bytes(image[at + i * memory.width : at + (i + 1) * memory.width], "little") for i in range(3)
    )
    name_at -= base
    if not 0 <= name_at < len(image) or is_function & 0xFFFF_FFFF > 1:
        return None
    end = image.find(b"\0", name_at, name_at + _MAX_NAME)
    name = image[name_at:end] if end > 0 else b""
    if not _IDENTIFIER.match(name) or not base <= address < base + _MAX_MODULE_SIZE:
        return None
    return Symbol(address, 0, name.decode(), bool(is_function & 0xFFFF_FFFF))


def _symbol_hash(name: bytes) -> int:
    """grub_symbol_hash."""
    key = 0
    for byte in name:
        key = (key * 65599 + byte) & 0xFFFF_FFFF
    return (key + (key >> 5) & 0xFFFF_FFFF) % _HASH_SIZE


class _Memory:
    """Guest memory, read word by word; None where nothing is mapped."""

    def __init__(self, guest: GuestMemory, width: int) -> None:
        self._guest = guest
        self.width = width
        self._pages: dict[int, bytes | None] | None = None

    @contextmanager
    def held_still(self) -> Iterator[None]:
        """While nothing runs, each page is read once: much is read of few."""
        self._pages = {}
        try:
            yield
        finally:
            self._pages = None

    def read(self, vaddr: int, size: int) -> bytes | None:
        if self._pages is not None and (vaddr & PAGE_MASK) + size <= PAGE_SIZE:
            at, page = vaddr & PAGE_MASK, vaddr & ~PAGE_MASK
            if page not in self._pages:
                self._pages[page] = self._read(page, PAGE_SIZE)
            content = self._pages[page]
            return content[at : at + size] if content is not None else None
        return self._read(vaddr, size)

    def _read(self, vaddr: int, size: int) -> bytes | None:
        try:
            return self._guest.copy_from_guest(vaddr, size)
        except XenError:
            return None

    def word(self, vaddr: int) -> int | None:
        raw = self.read(vaddr, self.width)
        return int.from_bytes(raw, "little") if raw is not None else None

    def words(self, vaddr: int, count: int) -> list[int] | None:
        raw = self.read(vaddr, count * self.width)
        return self.numbers(raw) if raw is not None else None

    def numbers(self, raw: bytes) -> list[int]:
        """Bytes as words."""
        return memoryview(raw).cast("Q" if self.width == 8 else "I").tolist()

    def string(self, vaddr: int) -> bytes:
        if self._pages is not None and (vaddr & PAGE_MASK) + _MAX_NAME <= PAGE_SIZE:
            return (self.read(vaddr, _MAX_NAME) or b"").split(b"\0", 1)[0]
        return self._guest.read_string(vaddr, _MAX_NAME)

    def read_mapped(self, vaddr: int, size: int) -> bytes:
        """What is mapped from ``vaddr`` on, up to ``size`` bytes."""
        parts = []
        for page in range(vaddr, vaddr + size, PAGE_SIZE):
            part = self.read(page, PAGE_SIZE)
            if part is None:
                break
            parts.append(part)
        return b"".join(parts)

    def nonzero_words(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(address, word) in the pages from ``start`` to ``end``, the last page first."""
        zero = bytes(PAGE_SIZE)
        for page in reversed(range(start & ~PAGE_MASK, end, PAGE_SIZE)):
            part = self.read(page, PAGE_SIZE)
            if part is None or part == zero:
                continue
            yield from ((page + i * self.width, word) for i, word in enumerate(self.numbers(part)) if word)
