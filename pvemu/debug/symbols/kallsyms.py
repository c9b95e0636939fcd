"""Linux' own symbol table in the memory of a running kernel (kernel/kallsyms.c, scripts/kallsyms.c).

Its parts have no names in a stripped kernel; they are found by their shape. Names are strings of tokens; the token
table holds the digits at the places of their character codes, which nothing else in a kernel does; the index that
follows it proves the find; names, markers and offsets stand before or behind it in the two orders that kernels use.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from pvemu.debug.symbols.table import Symbol, SymbolTable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KallsymsTable", "find_kallsyms"]

_DIGITS = b"".join(bytes([0x30 + i, 0]) for i in range(10))
_TOKENS = 256
_MARK_EVERY = 256
_MAX_SYMBOLS = 1 << 20
#: The names of 256 symbols are not longer than this, and all tables before the tokens together not than that.
_MAX_GROUP, _MAX_TABLES = 256 * 64, 16 << 20
_FEWEST_MARKERS = 16
#: Bytes that are searched for markers at a time.
_MARKER_STEP = 1 << 16


class KallsymsTable(SymbolTable):
    """The symbols in a kernel's own compressed form: a name is put together when it is asked for."""

    def __init__(self, names: _Names, addresses: list[tuple[int, int]]) -> None:
        super().__init__(())
        self._names = names
        self._places = sorted(addresses)  # (address, number of the name)
        self._sorted = [address for address, _number in self._places]

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Symbol]:
        return (self._symbol(i) for i in range(len(self._places)))

    def reach(self) -> tuple[int, int]:
        """The lowest and the highest address of a symbol."""
        return self._sorted[0], self._sorted[-1]

    def at(self, address: int) -> Symbol | None:
        """The symbol that ``address`` lies in: the nearest before it; of several, the first in the kernel's order."""
        at = bisect_right(self._sorted, address) - 1
        return self._symbol(bisect_left(self._sorted, self._sorted[at])) if at >= 0 else None

    def named(self, name: str) -> list[int]:
        """Addresses of every symbol of this name. Reads all names, the first time."""
        if not self._by_name:
            for symbol in self:
                self._by_name.setdefault(symbol.name, []).append(symbol.address)
        return self._by_name.get(name, [])

    def _symbol(self, i: int) -> Symbol:
        address, number = self._places[i]
        kind, name = self._names.name(number)
        return Symbol(address, 0, name, kind in "tTwW")


class _Names:
    """Where each symbol's name is, and the tokens that it is made of."""

    def __init__(self, image: bytes, starts: list[int], tokens: list[bytes]) -> None:
        self._image = image
        self._starts = starts
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._starts)

    def name(self, number: int) -> tuple[str, str]:
        """(type letter, name)."""
        image, at = self._image, self._starts[number]
        length = image[at]
        at += 1
        if length & 0x80:
            length = length & 0x7F | image[at] << 7
            at += 1
        text = b"".join([self._tokens[code] for code in image[at : at + length]])
        return chr(text[0]) if text else "?", text[1:].decode("latin-1")


def find_kallsyms(image: bytes, base: int) -> KallsymsTable | None:
    """The symbols of a 64-bit kernel whose loaded bytes from ``base`` on are ``image``; None if none are there."""
    at = image.find(_DIGITS)
    while at >= 0:
        table = _token_table(image, at)
        if table is not None:
            found = _symbols(image, base, *table)
            if found is not None:
                return found
        at = image.find(_DIGITS, at + 1)
    return None


def _token_table(image: bytes, digits: int) -> tuple[int, list[bytes], int] | None:
    """(start, tokens, end of the index behind it) of the table whose digits are at ``digits``."""
    start = digits
    for _ in range(0x30 + 1):
        start = image.rfind(b"\0", 0, start)
        if start < 0:
            return None
    start += 1
    tokens, offsets, at = [], [], start
    for _ in range(_TOKENS):
        end = image.find(b"\0", at, at + 512)
        if end < 0:
            return None
        tokens.append(image[at:end])
        offsets.append(at - start)
        at = end + 1
    if offsets[-1] > 0xFFFF:
        return None
    index = struct.pack(f"<{_TOKENS}H", *offsets)
    found = image.find(index, at, at + 64 + len(index))
    return (start, tokens, found + len(index)) if found >= 0 else None


def _symbols(image: bytes, base: int, table: int, tokens: list[bytes], behind: int) -> KallsymsTable | None:
    markers_at, count = _markers(image, table)
    if not count:
        return None
    (last,) = struct.unpack_from("<I", image, markers_at + 4 * (count - 1))
    low = max(8, markers_at - last - _MAX_GROUP)
    for names_at in range((markers_at - last) & ~7, low, -8):
        (number,) = struct.unpack_from("<I", image, names_at - 8)
        if not (count - 1) * _MARK_EVERY < number <= min(count * _MARK_EVERY, _MAX_SYMBOLS):
            continue
        names = _names(image, names_at, markers_at, number, tokens)
        if names is None:
            continue
        size = -(-4 * number // 8) * 8
        for offsets_at, relative_at in ((names_at - 16 - size, names_at - 16), (-(-behind // 8) * 8, None)):
            addresses = _addresses(image, base, offsets_at, relative_at, len(names))
            if addresses:
                return KallsymsTable(names, addresses)
    return None


def _markers(image: bytes, table: int) -> tuple[int, int]:
    """(start, count) of where every 256th name begins: ascending u32 from 0 on, the last such run before the tokens.
    Newer kernels have the names' order by spelling between the two.
    """
    end = table & ~3
    lowest = max(0, end - _MAX_TABLES)
    run, later = 0, 0
    while end > lowest:
        start = max(lowest, end - _MARKER_STEP)  # they are near: far from all bytes have to become numbers
        values = memoryview(image)[start:end].cast("I").tolist()
        for i in range(len(values) - 1, -1, -1):
            value = values[i]
            run = run + 1 if 0 < later - value <= _MAX_GROUP else 1
            if not value and run >= _FEWEST_MARKERS:
                return start + 4 * i, run
            later = value
        end = start
    return 0, 0


def _names(image: bytes, at: int, end: int, number: int, tokens: list[bytes]) -> _Names | None:
    """The names from ``at`` on; None where the bytes are no such list."""
    starts = []
    for _ in range(number):
        if at >= end:
            return None
        starts.append(at)
        length = image[at]
        if length & 0x80:
            length = (length & 0x7F | image[at + 1] << 7) + 1
        if not length:
            return None
        at += 1 + length
    return _Names(image, starts, tokens) if at <= end and end - at < 16 else None


def _addresses(
    image: bytes, base: int, offsets_at: int, relative_at: int | None, number: int
) -> list[tuple[int, int]]:
    """(address, number of the name): offsets from a base that stands behind them. A negative one counts from the base,
    a positive one is absolute (per-cpu) and left out, unless all count from the base.
    """
    if offsets_at < 0 or offsets_at + 4 * number > len(image):
        return []
    offsets = struct.unpack_from(f"<{number}i", image, offsets_at)
    if relative_at is None:
        relative_at = -(-(offsets_at + 4 * number) // 8) * 8
    if relative_at + 8 > len(image):
        return []
    (relative,) = struct.unpack_from("<Q", image, relative_at)
    if not base <= relative < base + len(image):
        return []
    if sum(offset < 0 for offset in offsets) > number // 2:
        return [(relative - 1 - offset, i) for i, offset in enumerate(offsets) if offset < 0]
    return [(relative + offset, i) for i, offset in enumerate(offsets)]
