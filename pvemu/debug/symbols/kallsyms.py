"""Linux' own symbol table in the memory of a running kernel (kernel/kallsyms.c, scripts/kallsyms.c).

Its parts have no names in a stripped kernel; they are found by their shape. Names are strings of tokens; the token
table holds the digits at the places of their character codes, which nothing else in a kernel does; the index that
follows it proves the find; names, markers and offsets stand before or behind it in the two orders that kernels use.
"""

from __future__ import annotations

import struct

from pvemu.debug.symbols.table import Symbol

__all__ = ["find_kallsyms"]

_DIGITS = b"".join(bytes([0x30 + i, 0]) for i in range(10))
_TOKENS = 256
_MARK_EVERY = 256
_MAX_SYMBOLS = 1 << 20
#: The names of 256 symbols are not longer than this, and all tables before the tokens together not than that.
_MAX_GROUP, _MAX_TABLES = 256 * 64, 16 << 20
_FEWEST_MARKERS = 16


def find_kallsyms(image: bytes, base: int) -> list[Symbol]:
    """The symbols of a 64-bit kernel whose loaded bytes from ``base`` on are ``image``; empty if none are there."""
    at = image.find(_DIGITS)
    while at >= 0:
        table = _token_table(image, at)
        if table is not None:
            found = _symbols(image, base, *table)
            if found:
                return found
        at = image.find(_DIGITS, at + 1)
    return []


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


def _symbols(image: bytes, base: int, table: int, tokens: list[bytes], behind: int) -> list[Symbol]:
    markers_at, count = _markers(image, table)
    if not count:
        return []
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
            found = _addresses(image, base, offsets_at, relative_at, names)
            if found:
                return found
    return []


def _markers(image: bytes, table: int) -> tuple[int, int]:
    """(start, count) of where every 256th name begins: ascending u32 from 0 on, the last such run before the tokens.
    Newer kernels have the names' order by spelling between the two.
    """
    end = table & ~3
    start = max(0, end - _MAX_TABLES)
    values = memoryview(image)[start:end].cast("I").tolist()
    run, later = 0, 0
    for i in range(len(values) - 1, -1, -1):
        value = values[i]
        run = run + 1 if 0 < later - value <= _MAX_GROUP else 1
        if not value and run >= _FEWEST_MARKERS:
            return start + 4 * i, run
        later = value
    return 0, 0


def _names(image: bytes, at: int, end: int, number: int, tokens: list[bytes]) -> list[tuple[str, str]] | None:
    """(type letter, name) of each symbol; None where the bytes are no such list."""
    found = []
    for _ in range(number):
        if at >= end:
            return None
        length = image[at]
        at += 1
        if length & 0x80:
            length = length & 0x7F | image[at] << 7
            at += 1
        if not length:
            return None
        text = b"".join([tokens[code] for code in image[at : at + length]])
        at += length
        found.append((chr(text[0]), text[1:].decode("latin-1")))
    return found if at <= end and end - at < 16 else None


def _addresses(
    image: bytes, base: int, offsets_at: int, relative_at: int | None, names: list[tuple[str, str]]
) -> list[Symbol]:
    """Names with addresses: offsets from a base that stands behind them. A negative one counts from the base, a
    positive one is absolute (per-cpu), unless all count from the base.
    """
    if offsets_at < 0 or offsets_at + 4 * len(names) > len(image):
        return []
    offsets = struct.unpack_from(f"<{len(names)}i", image, offsets_at)
    if relative_at is None:
        relative_at = -(-(offsets_at + 4 * len(names)) // 8) * 8
    if relative_at + 8 > len(image):
        return []
    (relative,) = struct.unpack_from("<Q", image, relative_at)
    if not base <= relative < base + len(image):
        return []
    has_absolute = sum(offset < 0 for offset in offsets) > len(offsets) // 2
    found = []
    for offset, (kind, name) in zip(offsets, names, strict=True):
        address = relative - 1 - offset if has_absolute and offset < 0 else relative + offset
        if not has_absolute or offset < 0:
            found.append(Symbol(address, 0, name, kind in "tTwW"))
    return found
