"""Reading a TOML file's tables: every value is asked for by key and type; a mistake is said with file, line and key."""

from __future__ import annotations

import re
import tomllib
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, NoReturn

from pvemu.errors import ConfigError
from pvemu.mkimage.toml_lines import key_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pvemu.mkimage.toml_lines import KeyPath

__all__ = ["Document", "Table", "load"]

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class Document:
    """A TOML file as it was read."""

    def __init__(self, file: Path, text: str) -> None:
        self.file = file
        self._text = text

    def place(self, path: KeyPath) -> str:
        """`file:line` of a key or table; of the nearest table around one that is not there."""
        while path and path not in self._lines:
            path = path[:-1]
        return f"{self.file}:{self._lines.get(path, 1)}"

    @cached_property
    def _lines(self) -> Mapping[KeyPath, int]:
        return key_lines(self._text)


class Table:
    """One TOML table. A key that nobody asked for is an error at `done()`, so no misspelt key passes in silence."""

    def __init__(self, document: Document, path: KeyPath, values: Mapping[str, object]) -> None:
        self.document = document
        self.file = document.file
        self._path = path
        self._values = values
        self._asked: set[str] = set()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    @property
    def where(self) -> str:
        """Where it stands, for messages: `file:line: artifact[0].partition[1]`."""
        name = _shown(self._path)
        return f"{self.document.place(self._path)}: {name}" if name else str(self.file)

    def fail(self, key: str, expected: str) -> NoReturn:
        """Raise ConfigError: file, line, key, what was expected."""
        path = (*self._path, key)
        got = f", not {self._values[key]!r}" if key in self._values else ""
        raise ConfigError(f"{self.document.place(path)}: {_shown(path)}: expected {expected}{got}")

    def text(self, key: str, default: str | None = None) -> str:
        """A string; without a default it must be there."""
        value = self._take(key, default)
        if not isinstance(value, str):
            self.fail(key, "a string")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings, empty when the key is not there."""
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.fail(key, "a list of strings")
        return tuple(value)

    def number(self, key: str, default: int | None, low: int, high: int) -> int:
        """An integer from low to high; without a default it must be there."""
        value = self._take(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.fail(key, f"an integer from {low} to {high}")
        return value

    def flag(self, key: str) -> bool:
        """A truth value, false when the key is not there."""
        value = self._take(key, default=False)
        if not isinstance(value, bool):
            self.fail(key, "true or false")
        return value

    def size(self, key: str, default: str | None = None) -> int:
        """A size such as "32MiB", in bytes."""
        value = self._take(key, default)
        match = re.fullmatch(r"([0-9]+)(KiB|MiB|GiB)?", value) if isinstance(value, str) else None
        if match is None:
            self.fail(key, 'a size such as "32MiB"')
        return int(match[1]) * _UNITS[match[2] or ""]

    def choice(self, key: str, options: Sequence[str], default: str | None = None) -> str:
        """One of the options."""
        value = self._take(key, default)
        if not isinstance(value, str) or value not in options:
            self.fail(key, f"one of {', '.join(option for option in options if option)}")
        return value

    def tables(self, key: str) -> list[Table]:
        """An array of tables, empty when the key is not there."""
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.fail(key, f"an array of tables ([[{key}]])")
        return [Table(self.document, (*self._path, key, index), item) for index, item in enumerate(value)]

    def variants(self, key: str) -> list[Table]:
        """The table once for each choice from the lists in table `key`, with every `@name@` in it replaced.

        Just itself when the key is not there.
        """
        choices = self.table(key)
        if choices is None:
            return [self]
        names = list(choices)
        lists = [choices.texts(name) for name in names]
        for name, values in zip(names, lists, strict=True):
            if not values or not re.fullmatch(r"[a-z0-9-]+", name):
                choices.fail(name, "a list of values, for a name of small letters, digits and -")
        rest = {name: value for name, value in self._values.items() if name != key}
        made = []
        for values in product(*lists):
            known = {f"@{name}@": value for name, value in zip(names, values, strict=True)}
            filled = _filled(rest, known)
            assert isinstance(filled, dict)
            made.append(Table(self.document, self._path, filled))
        return made

    def table(self, key: str) -> Table | None:
        """A table of its own, None when the key is not there."""
        value = self._take(key, None)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.fail(key, f"a table ([{key}])")
        return Table(self.document, (*self._path, key), value)

    def done(self) -> None:
        """Raise ConfigError for a key that nothing asked for."""
        for key in self._values:
            if key not in self._asked:
                known = ", ".join(sorted(self._asked))
                place = self.document.place((*self._path, key))
                raise ConfigError(
                    f"{place}: {_shown(self._path) or 'top'}: unknown key {key!r}; expected one of {known}"
                )

    def _take(self, key: str, default: object) -> object:
        self._asked.add(key)
        return self._values.get(key, default)


def load(file: Path) -> Table:
    """The top table of a TOML file. Raises ConfigError when it cannot be read."""
    try:
        text = file.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; expected a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    return Table(Document(file, text), (), values)


def _filled(value: object, known: Mapping[str, str]) -> object:
    """A value with the known words replaced in every string inside it."""
    if isinstance(value, str):
        for word, text in known.items():
            value = value.replace(word, text)
        return value
    if isinstance(value, list):
        return [_filled(item, known) for item in value]
    if isinstance(value, dict):
        return {key: _filled(item, known) for key, item in value.items()}
    return value


def _shown(path: KeyPath) -> str:
    """A path as a recipe's author would write it: artifact[0].partition[1].size."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
