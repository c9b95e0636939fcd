"""GRUB's menu as it is read off a screen."""

from __future__ import annotations

from pvemu.testing.menu import Menu, read_menu

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
