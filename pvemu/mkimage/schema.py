"""Reading a recipe's tables: every value is asked for by key and type, and what is wrong is said with file and key."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, NoReturn

from pvemu.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Table", "load"]

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class Table:
    """One TOML table. A key that nobody asked for is an error at `done()`, so no misspelt key passes in silence."""

    def __init__(self, file: Path, where: str, values: Mapping[str, object]) -> None:
        self.file = file
        self.where = where
        self._values = values
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def fail(self, key: str, expected: str) -> NoReturn:
        """Raise ConfigError: file, key, what was expected."""
        full = f"{self.where}.{key}" if self.where else key
        got = f", not {self._values[key]!r}" if key in self._values else ""
        raise ConfigError(f"{self.file}: {full}: expected {expected}{got}")

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

    def number(self, key: str, default: int, low: int, high: int) -> int:
        """An integer from low to high."""
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
            self.fail(key, f"one of {', '.join(options)}")
        return value

    def tables(self, key: str) -> list[Table]:
        """An array of tables, empty when the key is not there."""
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.fail(key, f"an array of tables ([[{key}]])")
        prefix = f"{self.where}.{key}" if self.where else key
        return [Table(self.file, f"{prefix}[{index}]", item) for index, item in enumerate(value)]

    def done(self) -> None:
        """Raise ConfigError for a key that nothing asked for."""
        for key in self._values:
            if key not in self._asked:
                known = ", ".join(sorted(self._asked))
                raise ConfigError(f"{self.file}: {self.where or 'top'}: unknown key {key!r}; expected one of {known}")

    def _take(self, key: str, default: object) -> object:
        self._asked.add(key)
        return self._values.get(key, default)


def load(file: Path) -> Table:
    """The top table of a TOML file. Raises ConfigError when it cannot be read."""
    try:
        with file.open("rb") as source:
            values = tomllib.load(source)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; expected a recipe.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    return Table(file, "", values)
