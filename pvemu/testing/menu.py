"""GRUB's menu, read off the screen as a person reads it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from pvemu.testing.keys import PRESSED

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["EntrySearch", "Menu", "NoEntryError", "has_more", "read_menu"]

_BORDER = re.compile(r" \+-+\+")
_COUNTDOWN = re.compile(r"automatically in (\d+)s")
#: Columns: an entry's title, before which the selected one's mark stands; and, behind the border, what says that there
#: are more.
_FIRST, _LAST, _MARK = 3, 78, 79
_CUT = ">"  # at the end of a title that is longer than its line
#: How many entries GRUB moves by for a page (GRUB_MENU_PAGE_SIZE).
_PAGE = 10


class Menu(NamedTuple):
    """The entries that are on the screen, the index of the highlighted one among them, and the seconds left (None: no
    countdown).
    """

    entries: tuple[str, ...]
    selected: int
    countdown: int | None

    def find(self, title: str) -> int | None:
        """Where an entry is on the screen, also one whose title did not fit."""
        for index, shown in enumerate(self.entries):
            if shown == title or (len(shown) == _LAST - _FIRST and shown[-1] == _CUT and title.startswith(shown[:-1])):
                return index
        return None


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


def has_more(screen: Sequence[str]) -> tuple[bool, bool]:
    """Whether a menu has more entries above those on the screen, and below."""
    first, last = (row for row, line in enumerate(screen) if _BORDER.fullmatch(line.rstrip()))
    return bool(screen[first + 1][_MARK:].strip()), bool(screen[last - 1][_MARK:].strip())


class NoEntryError(LookupError):
    """The menu, looked through, has no such entry. ``wanted`` and ``found`` say it in words."""

    def __init__(self, wanted: str, found: str) -> None:
        super().__init__(wanted, found)  # both, so that it can be pickled
        self.wanted = wanted
        self.found = found

    def __str__(self) -> str:
        return f"the menu has no entry {self.wanted}, it has {self.found}"


class EntrySearch:
    """The keys that run an entry: ``wanted`` is its title, or its place from 0. A menu longer than the screen is looked
    through from its first entry on, a page at a time.
    """

    def __init__(self, wanted: str | int) -> None:
        self._wanted = wanted
        self._seen: dict[str, None] = {}  # a set in order
        self._is_from_top = False
        self.is_over = False  #: the keys that ``look`` gave last run the entry

    def look(self, screen: Sequence[str]) -> str:
        """What to type now that ``screen`` shows the menu. Raises NoEntryError."""
        menu = read_menu(screen)
        assert menu is not None
        has_above, has_below = has_more(screen)
        self._seen.update(dict.fromkeys(menu.entries))
        wanted = self._wanted
        if isinstance(wanted, str):
            target = menu.find(wanted)
        elif has_above and not self._is_from_top:
            target = None
        else:  # counted from the menu's first entry; where not all show, GRUB stops at the last for one too many
            target = wanted if wanted < len(menu.entries) or has_below else None
        if target is not None:
            self.is_over = True
            return _moves(target - menu.selected) + PRESSED["enter"]
        if has_above and not self._is_from_top:
            self._is_from_top = True
            return PRESSED["home"]
        if not has_below:
            raise self._failure(menu)
        self._is_from_top = True
        return _moves(min(_PAGE, len(menu.entries)))

    def _failure(self, menu: Menu) -> NoEntryError:
        if isinstance(self._wanted, int):
            return NoEntryError(f"of number {self._wanted}", f"{len(menu.entries)} entries")
        listed = ", ".join(repr(entry) for entry in self._seen)
        return NoEntryError(repr(self._wanted), f"entries {listed}")


def _moves(steps: int) -> str:
    """The keys that move the highlight down, or up: pages first, as a menu is drawn anew for every key."""
    page, line = ("page-down", "down") if steps > 0 else ("page-up", "up")
    pages, lines = divmod(abs(steps), _PAGE)
    return PRESSED[page] * pages + PRESSED[line] * lines
