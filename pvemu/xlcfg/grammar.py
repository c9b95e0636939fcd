"""xl.cfg's statements (tools/libs/util/libxlu_cfg_y.y and the store of libxlu_cfg.c), with Bison's own error messages.

A file is assignments, ``name = value`` or ``name += value``, each ended by a newline or ``;``. A value is a string, a
number or a list of values. An error skips to the end of its line, so that one run tells several of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvemu.xlcfg.errors import XlConfigError
from pvemu.xlcfg.scanner import END, IDENT, NEWLINE, NUMBER, OP_ADD, STRING, Scanner, Token

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Setting", "Settings", "Value", "parse"]

#: A string or number as its text, or a list.
Value = str | list["Value"]

_ASSIGN, _SEMICOLON, _OPEN, _CLOSE, _COMMA = "'='", "';'", "'['", "']'", "','"
_STATEMENT = (END, IDENT, NEWLINE, _SEMICOLON)
_OPERATOR = (OP_ADD, _ASSIGN)
_VALUE = (STRING, NUMBER, _OPEN)
_PYTHON = (
    "warning: Config file looks like it contains Python code.",
    "warning:  Arbitrary Python is no longer supported.",
    "warning:  See https://wiki.xen.org/wiki/PythonInXlConfig",
)
#: Deeper lists than any key takes: Bison's stack ends at 10000.
_MAX_DEPTH = 200


@dataclass(frozen=True, slots=True)
class Setting:
    """``line`` is where the value begins; ``is_addition`` tells ``+=``, whose ``value`` has the earlier one in it."""

    name: str
    value: Value
    line: int
    is_addition: bool


#: The last setting of each name, in the order of their first.
Settings = dict[str, Setting]


class _SyntaxError(Exception):
    """A token that cannot stand where it is; ``is_fatal`` where Bison has nothing to recover to."""

    def __init__(self, expected: Sequence[str], *, is_fatal: bool = False) -> None:
        super().__init__()
        self.expected = expected
        self.is_fatal = is_fatal


class _Parser:
    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self.settings: Settings = {}
        self.errors: list[str] = []
        self.first: tuple[int, str, str] | None = None  #: line, text and message of the first error
        self._error_line = -1  #: of the last error of the scanner's: later ones of that line say nothing new
        self.scanner = Scanner(text, self._lexical_error)
        self._status = 0  # Bison's: tokens to shift until errors are told again
        self._token: Token | None = None
        self._last = Token(END, "", "", 1)  # the last token taken, for the end of the file has no place
        self._depth = 0

    # -- errors ------------------------------------------------------------------------------------------------------
    def _lexical_error(self, line: int, text: str, message: str) -> None:
        self._report(line, text, message)
        self._error_line = line

    def _report(self, line: int, text: str, message: str) -> None:
        if line <= self._error_line:
            return
        shown, newline = text, ""
        if shown.endswith("\n"):
            shown = shown[:-1]
            line -= 1
            if not shown:
                newline = "<newline>"
        quoted = bool(shown := shown.rstrip(" \t"))
        near = f"`{shown}'" if quoted else newline
        self.scanner.has_failed = True
        self.errors.append(f"{self.source}:{line}: config parsing error near {near.replace(chr(0), '')}: {message}")
        if self.first is None:
            self.first = (line + (text.endswith("\n")), near.replace("\0", ""), message)

    # -- tokens ------------------------------------------------------------------------------------------------------
    def _peek(self) -> Token:
        if self._token is None:
            self._token = self.scanner.next()
            if self._token.kind == END:
                self._token = self._token._replace(line=self._last.line)
            self._last = self._token
        return self._token

    def _shift(self) -> Token:
        token = self._peek()
        self._token = None
        self._status = max(self._status - 1, 0)
        return token

    def _expect(self, kinds: Sequence[str], *, is_fatal: bool = False) -> Token:
        if self._peek().kind not in kinds:
            raise _SyntaxError(kinds, is_fatal=is_fatal)
        return self._shift()

    # -- the grammar -------------------------------------------------------------------------------------------------
    def file(self) -> None:
        while True:
            try:
                if self._peek().kind == END:
                    return
                self._statement()
            except _SyntaxError as error:
                self._syntax_error(error)
                if error.is_fatal or not self._skip_line():
                    return

    def _syntax_error(self, error: _SyntaxError) -> None:
        token = self._peek()
        if not self._status:
            expected = " or ".join(error.expected)
            self._report(token.line, token.text, f"syntax error, unexpected {token.kind}, expecting {expected}")
        self._status = 3

    def _skip_line(self) -> bool:
        """Go on behind the next newline; False if there is none."""
        while self._peek().kind != NEWLINE:
            if self._peek().kind == END:
                return False
            self._token = None
        self._shift()
        return True

    def _statement(self) -> None:
        token = self._expect(_STATEMENT)
        if token.kind != IDENT:
            return
        is_addition = self._expect(_OPERATOR).kind == OP_ADD
        line = self._peek().line
        value = self._value()
        self._store(token.value, value, line, is_addition=is_addition)
        if self._peek().kind not in (NEWLINE, _SEMICOLON, END):
            raise _SyntaxError((END,), is_fatal=True)
        if self._peek().kind != END:
            self._shift()

    def _value(self) -> Value:
        token = self._expect(_VALUE)
        return token.value if token.kind != _OPEN else self._list()

    def _list(self) -> list[Value]:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _SyntaxError(("fewer lists in one another",), is_fatal=True)
        values: list[Value] = []
        self._newlines()
        while self._peek().kind in _VALUE:
            values.append(self._value())
            self._newlines()
            if self._peek().kind != _COMMA:
                break
            self._shift()
            self._newlines()
        self._expect((_CLOSE,))
        self._depth -= 1
        return values

    def _newlines(self) -> None:
        while self._peek().kind == NEWLINE:
            self._shift()

    def _store(self, name: str, value: Value, line: int, *, is_addition: bool) -> None:
        if self.errors:
            return
        earlier = self.settings.get(name)
        if is_addition and earlier is not None:
            if isinstance(earlier.value, str) and isinstance(value, str):
                value = earlier.value + value
            elif isinstance(earlier.value, list) and isinstance(value, list):
                value = [*earlier.value, *value]
            else:
                self._lexical_error(
                    self.scanner.line, self._last.text, """can't add [list] to "string" or vice versa"""
                )
                return
        self.settings[name] = Setting(name, value, line, is_addition)


def parse(source: str, text: str) -> Settings:
    """The settings of a file whose name is ``source``. XlConfigError for one that xl would not read."""
    parser = _Parser(source, text)
    parser.file()
    if not parser.errors:
        return parser.settings
    lines = list(parser.errors)
    python = parser.scanner.looks_like_python
    if python:
        lines += _PYTHON
    lines.append("Failed to parse config: Invalid argument")
    assert parser.first is not None
    line, near, message = parser.first
    advice = _advice(near, message, python=python)
    raise XlConfigError(f"{source}:{line}: {message} at {near or 'the end'}; {advice}", tuple(lines))


def _advice(near: str, message: str, *, python: bool) -> str:
    """What to do about the first error."""
    if "escape" in message or "backlash" in message:
        return r"write a backslash as \\, and only \n, \t, \" and the like after a single one"
    if "can't add" in message:
        return "make both of them lists, or both strings"
    if near[1:2] in ("'", '"') and "lexical" in message:
        return "close the quotes on the same line"
    if near[1:2] == "#":
        return "end the comment with a newline"
    if near[1:2].isupper():
        return "keys are in lower case, and texts stand in quotes"
    if python:
        return "xl takes no Python: write plain name = value lines, texts in quotes, no negative numbers"
    return "write one name = value on each line, texts in quotes, lists as [ 'a', 'b' ]"
