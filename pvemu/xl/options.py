"""Options as xl's ``def_getopt`` reads them (tools/xl/xl_utils.c): getopt_long, operands anywhere, ``-h`` for help."""

from __future__ import annotations

import sys

from pvemu.xl.usage import print_usage

TYPE_CHECKING = False  # typing itself is left out: each xl is a process of its own, and starts in milliseconds
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

__all__ = ["Leave", "Options", "parse_options"]


class Leave(Exception):  # noqa: N818 - not an error: how a command ends early
    """The command is over, with this exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Options:
    """``flags`` by letter: how often each was given; ``values`` by letter: the last argument; ``operands``."""

    def __init__(self) -> None:
        self.flags: dict[str, int] = {}
        self.values: dict[str, str] = {}
        self.operands: list[str] = []

    def __contains__(self, letter: str) -> bool:
        return letter in self.flags

    def add(self, letter: str, value: str | None) -> None:
        """One more of an option."""
        self.flags[letter] = self.flags.get(letter, 0) + 1
        if value is not None:
            self.values[letter] = value


def _refuse(letter: str, err: list[str]) -> NoReturn:
    err.append(f"option `{letter}' not supported.")
    raise Leave(2)


def parse_options(
    verb: str, words: Sequence[str], letters: str, required: int = 0, long: Mapping[str, str] | None = None
) -> Options:
    """``letters`` as for getopt (``n:`` takes an argument), ``long`` names by letter. Prints and raises Leave as xl
    does: 2 for an unknown option or too few operands, 0 after help.
    """
    names = {"help": "h", **(long or {})}
    options = Options()
    err: list[str] = []
    try:
        _read(list(words), letters + "h", names, options, err)
        if "h" in options:
            print_usage(verb)
            raise Leave(0)
    finally:
        for line in err:
            print(line, file=sys.stderr)
    if len(options.operands) < required:
        plural = "s" if required > 1 else ""
        print(f"'xl {verb}' requires at least {required} argument{plural}.\n", file=sys.stderr)
        print_usage(verb)
        raise Leave(2)
    return options


def _read(words: list[str], letters: str, names: Mapping[str, str], options: Options, err: list[str]) -> None:
    while words:
        word = words.pop(0)
        if word == "--":
            options.operands += words
            return
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found = [letter for long, letter in names.items() if long == name]
            found = found or sorted({letter for long, letter in names.items() if long.startswith(name)})
            if len(found) != 1:
                _refuse("\0" if not name else name[0], err)
            letter = found[0]
            if f"{letter}:" in letters:
                if not equals and not words:
                    _refuse(letter, err)
                options.add(letter, value if equals else words.pop(0))
            elif equals:
                _refuse(letter, err)
            else:
                options.add(letter, None)
        elif word.startswith("-") and word != "-":
            _letters(word[1:], words, letters, options, err)
        else:
            options.operands.append(word)


def _letters(text: str, words: list[str], letters: str, options: Options, err: list[str]) -> None:
    """The letters behind one dash; an argument is the rest of the word or the next one."""
    while text:
        letter, text = text[0], text[1:]
        if letter not in letters or letter == ":":
            _refuse(letter, err)
        if f"{letter}:" in letters:
            if not text and not words:
                _refuse(letter, err)
            options.add(letter, text or words.pop(0))
            return
        options.add(letter, None)
