r"""xl.cfg's tokens (tools/libs/util/libxlu_cfg_l.l, and the string escapes of libxlu_cfg.c), errors and quirks alike.

Xen's scanner is a flex program: the longest match wins. Its oddities are kept, since a file that xl refuses must be
refused here: a comment needs its newline, ``\x41`` is an error, ``\101`` stands for nothing at all.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["END", "IDENT", "NEWLINE", "NUMBER", "OP_ADD", "STRING", "Scanner", "Token"]

#: Names of token kinds, as Bison's messages spell them; punctuation is itself in quotes.
END, IDENT, STRING, NUMBER, NEWLINE, OP_ADD = "$end", "IDENT", "STRING", "NUMBER", "NEWLINE", "+="

_TOKEN = re.compile(
    r"""(?P<IDENT>[a-z][._0-9a-z]*)
    | (?P<NUMBER>[0-9][0-9a-fx]*)
    | (?P<STRING>'(?:[^'\\\n]|\\.)*' | "(?:[^"\\\n]|\\.)*")
    | (?P<OP_ADD>\+=)
    | (?P<NEWLINE>\n | \#[^\n]*\n)
    | (?P<MARK>[][,=;])
    | (?P<BLANK>[ \t])""",
    re.VERBOSE,
)
_WORD_END = re.compile(r"[^ \t\n]*")
_PYTHON = frozenset("+-.():")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", '"': '"', "'": "'", "\\": "\\"}
#: xl's own words, its missing blank included.
_BAD_DIGIT = "invalid digit after backslash {}numerical character escape in quoted string"
_DECIMAL = re.compile(r"[ \t\v\f\r]*[+-]?[0-9]+")


class Token(NamedTuple):
    """``kind`` as above, ``text`` as written, ``value`` without quotes; ``line`` is where it ends."""

    kind: str
    text: str
    value: str
    line: int


class Scanner:
    """Gives one token after the other. ``on_error(line, text, message)`` is told what is no token; ``line`` counts
    from 1. ``looks_like_python`` holds once a character came that only a program has outside its strings.
    """

    def __init__(self, text: str, on_error: Callable[[int, str, str], None]) -> None:
        self._text = text
        self._on_error = on_error
        self._at = 0
        self._last_word = ""
        self.line = 1  #: of the next character (flex's yylineno)
        self.looks_like_python = False
        self.has_failed = False  #: after an error of any kind strings are not looked into any more

    def next(self) -> Token:
        """The next token; END for ever once there is no more."""
        while self._at < len(self._text):
            match = _TOKEN.match(self._text, self._at)
            if match is None:
                token = self._not_a_token()
                if token is not None:
                    return token
                continue
            self._at = match.end()
            text = match.group()
            match match.lastgroup:
                case "BLANK":
                    continue
                case "NEWLINE":
                    self.line += 1
                    return Token(NEWLINE, text, "", self.line - 1)
                case "STRING":
                    return Token(STRING, text, self._dequote(text), self.line)
                case "IDENT":
                    return Token(IDENT, text, text, self.line)
                case "NUMBER":
                    return Token(NUMBER, text, text, self.line)
                case "OP_ADD":
                    return Token(OP_ADD, text, "", self.line)
                case _:
                    return Token(f"'{text}'", text, "", self.line)
        return Token(END, self._last_word or "\0", "", self.line)

    def _not_a_token(self) -> Token | None:
        """A character that begins nothing, with what clings to it; a NEWLINE where it stands at the end of a line."""
        start = self._at
        if self._text[start] in _PYTHON:
            self.looks_like_python = True
        word = _WORD_END.match(self._text, start + 1)
        end = word.end() if word is not None else start + 1
        self._at = end
        if end > start + 1:
            self._on_error(self.line, self._text[start:end], "lexical error")
        elif end == len(self._text):
            self._last_word = self._text[start:]  # the end of the file comes first, so this goes unnoticed
        elif self._text[end] == "\n":
            self._at = end + 1
            self.line += 1
            self._on_error(self.line, self._text[start : end + 1], "lexical error")
            return Token(NEWLINE, self._text[start : end + 1], "", self.line)
        else:
            self._at = end + 1
            self._on_error(self.line, self._text[start : end + 1], "lexical error")
        return None

    def _dequote(self, text: str) -> str:
        """The string between the quotes."""
        if self.has_failed:
            return ""
        out: list[str] = []
        at, end = 1, len(text) - 1
        while at < end:
            char = text[at]
            at += 1
            if char != "\\":
                out.append(char)
                continue
            code = text[at]
            at += 1
            if code in _ESCAPES:
                out.append(_ESCAPES[code])
            elif code == "x":
                self._on_error(self.line, text, _BAD_DIGIT.format("hex"))
                break
            elif "0" <= code <= "7":
                digits = _DECIMAL.match(text[at : at + 3])
                if digits is None or digits.end() < 2:
                    self._on_error(self.line, text, _BAD_DIGIT.format("octal"))
                    break
                at += digits.end()
            else:
                self._on_error(self.line, text, "invalid character after backlash in quoted string")
                break
        return "".join(out)
