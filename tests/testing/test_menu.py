"""GRUB's menu as it is read off a screen."""

from __future__ import annotations

import pytest

from pvemu.testing.keys import PRESSED
from pvemu.testing.menu import EntrySearch, Menu, NoEntryError, read_menu

BORDER = " +" + "-" * 76 + "+"
BLANK = " |" + " " * 76 + "|"


def row(title: str, mark: str = " ") -> str:
    return f" |{mark}{title}".ljust(78) + "|"


def screen(*rows: str, below: tuple[str, ...] = ()) -> list[str]:
    lines = ["", "                       GNU GRUB  version 2.06", "", BORDER, *rows, BLANK, BORDER, "", *below]
    return lines + [""] * (24 - len(lines))


def test_entries_mark_and_countdown() -> None:
    countdown = ("   The highlighted entry will be executed", "   automatically in 12s.")
    shown = screen(row("first"), row("second", "*"), below=countdown)
    assert read_menu(shown) == Menu(("first", "second"), 1, 12)


def test_an_empty_title_between_others_is_kept() -> None:
    assert read_menu(screen(row("first", "*"), row(""), row("third"))) == Menu(("first", "", "third"), 0, None)


def test_no_menu() -> None:
    assert read_menu([""] * 24) is None
    assert read_menu(["grub> ls", "+---+"] + [""] * 22) is None


def test_a_menu_that_is_still_being_drawn() -> None:
    assert read_menu(screen(row("first"), row("second"))) is None, "nothing is highlighted"
    assert read_menu(screen(row("first", "*"))[:6]) is None, "the lower border is missing"
    assert read_menu(screen(row("first", "*"), "")) is None, "a row is missing"


def part(first: int, rows: int, selected: int, total: int) -> list[str]:
    """What the screen shows of a menu with entries 0 to ``total`` - 1."""
    shown = [row(f"entry {n}", "*" if n == selected else " ") for n in range(first, first + rows)]
    shown[0] += "^" if first else ""
    shown[-1] += "v" if first + rows < total else ""
    return [BORDER, *shown, BORDER]


def test_a_menu_is_looked_through_from_its_first_entry_on() -> None:
    search = EntrySearch("entry 2")
    assert search.look(part(10, 12, 15, 22)) == PRESSED["home"]
    assert search.look(part(0, 12, 0, 22)) == PRESSED["down"] * 2 + PRESSED["enter"]
    assert search.is_over


def test_a_page_at_a_time_and_no_further_than_the_last() -> None:
    search = EntrySearch("entry 30")
    assert search.look(part(0, 12, 0, 22)) == PRESSED["page-down"]
    assert search.look(part(0, 12, 10, 22)) == PRESSED["page-down"]
    with pytest.raises(NoEntryError, match=r"no entry 'entry 30', it has entries 'entry 0', .*, 'entry 21'"):
        search.look(part(9, 13, 20, 22))
    assert not search.is_over


def test_no_entry_is_passed_over_where_few_show() -> None:
    assert EntrySearch("entry 30").look(part(0, 4, 0, 22)) == PRESSED["down"] * 4


def test_a_place_counts_from_the_first_entry() -> None:
    search = EntrySearch(13)
    assert search.look(part(10, 12, 15, 22)) == PRESSED["home"]
    assert search.look(part(0, 12, 0, 22)) == PRESSED["page-down"] + PRESSED["down"] * 3 + PRESSED["enter"]
    with pytest.raises(NoEntryError, match="of number 12, it has 12 entries"):
        EntrySearch(12).look(part(0, 12, 0, 12))
