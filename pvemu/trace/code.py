"""The code that runs, disassembled once, when it is translated: what stands at an address is text from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import capstone

from hypercalls.errors import XenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pvemu.debug.symbols import Symbols
    from pvemu.hypervisor.guest_access import GuestMemory

__all__ = ["Block", "Disassembler"]

_CALLS = frozenset(("call", "lcall"))
_RETURNS = frozenset(("ret", "retf", "retfq", "iret", "iretd", "iretq"))
_LONGEST_INSTRUCTION = 15


class Block(NamedTuple):
    """A translated block: its end, how many instructions it has, and whether the last of them is a call or a return."""

    end: int
    instructions: int
    is_call: bool
    is_return: bool


class Disassembler:
    """Reads guest code. ``bits`` is the width of the guest's kernel."""

    def __init__(self, bits: int, guest: GuestMemory, symbols: Symbols) -> None:
        mode = capstone.CS_MODE_64 if bits == 64 else capstone.CS_MODE_32
        self._engine = capstone.Cs(capstone.CS_ARCH_X86, mode)
        self._guest = guest
        self._symbols = symbols

    def instructions(self, address: int, size: int) -> Iterator[tuple[int, int, str]]:
        """(address, size, text) of the instructions of some code; one that cannot be read is ``?``."""
        code = self._read(address, size)
        at = address
        for start, length, name, operands in self._engine.disasm_lite(code, address):
            at = start + length
            yield start, length, f"{name} {operands}" if operands else name
        if at < address + size:
            yield at, address + size - at, "?"

    def one(self, address: int) -> str:
        """The instruction at an address."""
        for size in (_LONGEST_INSTRUCTION, 4096 - (address & 4095)):
            for _start, _length, name, operands in self._engine.disasm_lite(self._read(address, size), address, 1):
                return f"{name} {operands}" if operands else str(name)
        return "?"

    def block(self, address: int, size: int) -> Block:
        """What a block consists of."""
        count, last = 0, ""
        for _start, _length, name, _operands in self._engine.disasm_lite(self._read(address, size), address):
            count, last = count + 1, name
        return Block(address + size, count, last in _CALLS, last in _RETURNS)

    def lines(self, address: int, size: int) -> Iterator[tuple[int, str]]:
        """(address, line) of the instructions: address, place by name, text."""
        place = self._places(address)
        for start, _length, text in self.instructions(address, size):
            yield start, f"{start:#x} {place(start)}{text}"

    def _places(self, first: int) -> Callable[[int], str]:
        """How addresses of a block are called: a block lies in one module."""
        found = self._symbols.locate(first)
        if found is None:
            return lambda address: ""
        module = self._symbols.module_of(first) if not found.is_copy else None
        back = found.module_offset - first

        def place(address: int) -> str:
            symbol = module.table.at(address) if module is not None else None
            if symbol is not None:
                where = found._replace(function=symbol.name, offset=address - symbol.address)
            else:
                where = found._replace(module_offset=address + back, offset=found.offset + address - first)
            return f"{where}: "

        return place

    def _read(self, address: int, size: int) -> bytes:
        try:
            return self._guest.copy_from_guest(address, size)
        except XenError:
            return b""
