"""Symbols of one module by address and by name, and what an address is called in the end."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Location", "Module", "Symbol", "SymbolTable"]


class Symbol(NamedTuple):
    """``size`` is 0 where the source has none (an export table): it then reaches to the next symbol."""

    address: int
    size: int
    name: str
    is_function: bool


class Location(NamedTuple):
    """An address by name, as text ``stage1:normal:grub_normal_execute+0x1a``, without function ``stage1:normal+0x5f``.
    ``is_copy``: the code is a copy of this place (a relocator runs so).
    """

    stage: int
    module: str
    module_offset: int
    function: str | None
    offset: int
    is_copy: bool = False

    def __str__(self) -> str:
        where = f"stage{self.stage}:{self.module}"
        end = " (copy)" if self.is_copy else ""
        if self.function is None:
            return f"{where}+{self.module_offset:#x}{end}"
        return f"{where}:{self.function}{f'+{self.offset:#x}' if self.offset else ''}{end}"


class SymbolTable:
    """Symbols sorted by address; of several at one address, the one that says most is kept for lookups by address."""

    def __init__(self, symbols: Iterable[Symbol]) -> None:
        best: dict[int, Symbol] = {}
        self._by_name: dict[str, list[int]] = {}
        for symbol in symbols:
            addresses = self._by_name.setdefault(symbol.name, [])
            if symbol.address not in addresses:
                addresses.append(symbol.address)
            known = best.get(symbol.address)
            if known is None or _rank(symbol) > _rank(known):
                best[symbol.address] = symbol
        self._symbols = [best[address] for address in sorted(best)]
        self._starts = [symbol.address for symbol in self._symbols]

    def __len__(self) -> int:
        return len(self._symbols)

    def __iter__(self) -> Iterator[Symbol]:
        return iter(self._symbols)

    def at(self, address: int) -> Symbol | None:
        """The symbol that ``address`` lies in: the nearest before it, unless that one is known to end before."""
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        symbol = self._symbols[at]
        if symbol.size and address >= symbol.address + symbol.size:
            return None
        return symbol

    def named(self, name: str) -> list[int]:
        """Addresses of every symbol of this name (static functions may share one)."""
        return self._by_name.get(name, [])


def _rank(symbol: Symbol) -> tuple[bool, bool, bool]:
    return symbol.is_function, symbol.size > 0, not symbol.name.startswith(("_", "."))


class Module(NamedTuple):
    """Something loaded: addresses [``base``, ``end``), its symbols, ``line`` from an address to file:line where debug
    information is at hand, ``path`` of the file that the symbols are from. ``text`` is the (address, size) of its code.
    """

    name: str
    base: int
    end: int
    table: SymbolTable
    path: str | None = None
    line: Callable[[int], str | None] = lambda address: None
    text: tuple[tuple[int, int], ...] = ()
