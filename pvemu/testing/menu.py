"""GRUB's menu, read off the screen as a person reads it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Menu", "menu_rows", "read_menu"]

_BORDER = re.compile(r" \+-+\+")
_COUNTDOWN = re.compile(r"automatically in (\d+)s")
_FIRST, _LAST = 3, 78  # columns of an entry's title; the mark of the selected one stands before it


class Menu(NamedTuple):
    """The entries that are on the screen, the index of the highlighted one among them, and the seconds left (None: no
    countdown).
    """

    entries: tuple[str, ...]
    selected: int
    countdown: int | None


def menu_rows(screen: Sequence[str]) -> int:
    """How many entries there is room for between the menu's borders; 0 where there is no menu. A menu whose entries
    fill it may have more.
    """
    borders = [row for row, line in enumerate(screen) if _BORDER.fullmatch(line.rstrip())]
    return borders[1] - borders[0] - 1 if len(borders) == 2 else 0


def read_menu(screen: Sequence[str]) -> Menu | None:
    """The menu on an 80x24 screen; None when none is there or not all of it is drawn."""
    borders = [row for row, line in enumerate(screen) if _BORDER.fullmatch(line.rstrip())]
    if len(borders) != 2:
        return None
    rows = [line.ljust(_LAST + 1) for line in screen[borders[0] + 1 : borders[1]]]
    if any(row[1] != "|" for row in rows):
        return None
    marked = [index for index, row in enumerate(rows) if row[2] == "*"]
    if len(marked) != 1:
        return None
    titles = [row[_FIRST:_LAST].rstrip() for row in rows]
    while titles and not titles[-1]:
        titles.pop()
    countdown = _COUNTDOWN.search(" ".join(line.strip() for line in screen[borders[1] + 1 :]))
    return Menu(tuple(titles), marked[0], int(countdown[1]) if countdown else None)
