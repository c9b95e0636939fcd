"""What the console showed, as text: without colours and cursor movements, searched as it comes."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvemu.observers import subscribe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["WINDOW", "ConsoleText", "Found", "compiled", "in_words"]

#: How far back a match may begin in output that was searched before, in characters.
WINDOW = 1 << 14
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[78=>]|\r")
_OPEN_ESCAPE = re.compile(r"\x1b(\[[0-9;?]*|[()])?\Z")


@dataclass(frozen=True, slots=True)
class Found:
    """What ``expect`` found: which pattern (its index in the list), the text, and the match with its groups."""

    index: int
    text: str
    match: re.Match[str]


class ConsoleText:
    """All of it so far, in ``text``; observers are told how many characters were added."""

    def __init__(self) -> None:
        self.text = ""
        self._unread = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._observers: list[Callable[[int], None]] = []

    def observe(self, observer: Callable[[int], None]) -> Callable[[], None]:
        """Add an observer; the result takes it off again."""
        return subscribe(self._observers, observer)

    def take(self, data: bytes) -> None:
        """The console wrote ``data``: in pieces, an escape sequence or a character may be one half only."""
        raw = self._unread + self._decoder.decode(data)
        rest = _OPEN_ESCAPE.search(raw)
        whole, self._unread = (raw[: rest.start()], raw[rest.start() :]) if rest is not None else (raw, "")
        fresh = _ESCAPE.sub("", whole)
        if fresh:
            self.text += fresh
            for observer in tuple(self._observers):
                observer(len(fresh))

    def search(self, patterns: Sequence[re.Pattern[str]], start: int) -> Found | None:
        """The match that begins first, at ``start`` or later; of those that begin there, that of the first pattern."""
        best: Found | None = None
        for index, pattern in enumerate(patterns):
            match = pattern.search(self.text, start)
            if match is not None and (best is None or match.start() < best.match.start()):
                best = Found(index, match.group(), match)
        return best


def compiled(given: str | re.Pattern[str] | Sequence[str | re.Pattern[str]]) -> list[re.Pattern[str]]:
    """One pattern or several, as a list."""
    several = [given] if isinstance(given, str | re.Pattern) else given
    return [re.compile(pattern) if isinstance(pattern, str) else pattern for pattern in several]


def in_words(patterns: Sequence[re.Pattern[str]]) -> str:
    """For a message."""
    return " or ".join(repr(pattern.pattern) for pattern in patterns)
