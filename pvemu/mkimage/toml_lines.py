"""Where in a TOML file a key stands: `tomllib` says it of a file that is no TOML, and of no other.

Only as much of the grammar as that takes; the file is known to be TOML when it comes here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KeyPath", "key_lines"]

KeyPath = tuple[str | int, ...]
"""Keys and indexes from the top, such as ("artifact", 0, "partition", 1, "size")."""

_KEY = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_KEYS = rf"[ \t]*{_KEY}[ \t]*(?:\.[ \t]*{_KEY}[ \t]*)*"
_HEADER = re.compile(rf"[ \t]*(\[\[?)({_KEYS})\]")
_ASSIGNMENT = re.compile(rf"({_KEYS})=")
_TOKEN = re.compile(r'"""|\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*|[\[\]{}]')
# a backslash takes the meaning off a quote in the one, not in the other
_ENDS = {'"""': re.compile(r'(?:\\.|[^\\])*?"""'), "'''": re.compile(r".*?'''")}


def key_lines(text: str) -> Mapping[KeyPath, int]:
    """The line (from 1) of every table header and key; keys inside an inline table or array are not in it."""
    lines: dict[KeyPath, int] = {}
    counts: dict[KeyPath, int] = {}
    table: KeyPath = ()
    closing, depth = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not closing and not depth:
            if header := _HEADER.match(line):
                table = _enter(_split(header[2]), header[1] == "[[", counts)
                lines.setdefault(table, number)
                continue
            if assignment := _ASSIGNMENT.match(line):
                lines[*table, *_split(assignment[1])] = number
        closing, depth = _after(line, closing, depth)
    return lines


def _split(keys: str) -> list[str]:
    return [key.strip("\"'") for key in re.findall(_KEY, keys)]


def _enter(keys: list[str], is_array: bool, counts: dict[KeyPath, int]) -> KeyPath:
    """The path of a header's table: an array that is named on the way means its last table."""
    path: KeyPath = ()
    for key in keys[:-1]:
        path = (*path, key)
        if path in counts:
            path = (*path, counts[path])
    path = (*path, keys[-1])
    if not is_array:
        return path
    counts[path] = counts.get(path, -1) + 1
    return (*path, counts[path])


def _after(line: str, closing: str, depth: int) -> tuple[str, int]:
    """The open multi-line string's quotes (or nothing) and the open brackets behind a line."""
    position = 0
    while True:
        if closing:
            end = _ENDS[closing].match(line, position)
            if end is None:
                return closing, depth
            position, closing = end.end(), ""
        token = _TOKEN.search(line, position)
        if token is None:
            return "", depth
        position = token.end()
        if token[0] in {'"""', "'''"}:
            closing = token[0]
        elif token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
