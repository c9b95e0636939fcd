"""From files to cases: each scenario of a file, once for each combination of its matrix.

A mistake is one line: file, line, key, what was expected.
"""

from __future__ import annotations

import re
import tomllib
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from pvemu.errors import ConfigError
from pvemu.mkimage.schema import Document
from pvemu.scenario.model import Key, Scenario, ScenarioFile
from pvemu.testing.keys import PRESSED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pvemu.mkimage.toml_lines import KeyPath
    from pvemu.scenario.model import Case, Value

__all__ = ["SUFFIX", "LoadedCase", "load_file", "load_paths"]

SUFFIX = ".pvemu.toml"
_DIMENSION = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PLACE = re.compile(r" - at `(key in )?\$(.*)`$")
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_-]*)|\[(\d+)\]|\[\.\.\.\]")
#: The array of tables that a file's scenarios stand in.
_ARRAY = "scenario"


@dataclass(frozen=True, slots=True)
class LoadedCase:
    """One scenario with one combination of its matrix: ``axes`` in the matrix' order, ``place`` the file and line."""

    file: Path
    index: int
    place: str
    scenario: Scenario
    axes: tuple[tuple[str, Value], ...]

    @property
    def name(self) -> str:
        """The scenario's name and its place in the matrix."""
        where = ",".join(f"{axis}={value}" for axis, value in self.axes)
        return f"{self.scenario.name}[{where}]" if where else self.scenario.name

    @property
    def id(self) -> str:
        """The file and the name: what a case is called in reports."""
        return f"{self.file}::{self.name}"


def load_paths(paths: Iterable[str | Path]) -> list[LoadedCase]:
    """The cases of files, and of all ``*.pvemu.toml`` below folders, in the order of names. Raises ConfigError."""
    cases: list[LoadedCase] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            files = sorted(path.rglob(f"*{SUFFIX}"))
            if not files:
                raise ConfigError(f"{path}: no file named *{SUFFIX} below it; give a scenario file or its folder")
        else:
            files = [path]
        for file in files:
            cases += load_file(file)
    seen: dict[str, LoadedCase] = {}
    for case in cases:
        other = seen.setdefault(case.id, case)
        if other is not case and other.place != case.place:
            raise ConfigError(f"{case.place}: scenario.name: another scenario is called {case.name!r} ({other.place})")
    return list(seen.values())


def load_file(file: Path) -> list[LoadedCase]:
    """The cases of one file. Raises ConfigError."""
    try:
        text = file.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; give a scenario file ({SUFFIX}) or a folder") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None
    return _Reader(Document(file, text), raw).cases()


class _Reader:
    """One file's cases."""

    def __init__(self, document: Document, raw: dict[str, Any]) -> None:
        self._document = document
        self._raw = raw

    def cases(self) -> list[LoadedCase]:
        """All of them, in the file's order."""
        shell = {key: value for key, value in self._raw.items() if key != _ARRAY}
        tables = self._raw.get(_ARRAY)
        if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
            self._fail((_ARRAY,), "expected at least one [[scenario]]")
        stand_in = {_ARRAY: [{"name": "stand-in", "kernel": "stand-in"}]}
        file: ScenarioFile = self._convert({**shell, **stand_in}, ScenarioFile, ())
        cases: list[LoadedCase] = []
        for index, table in enumerate(tables):
            cases += self._scenario(index, _merged(file.defaults, table), file.matrix)
        return cases

    def _scenario(self, index: int, raw: dict[str, Any], shared: Mapping[str, list[Value]]) -> list[LoadedCase]:
        path: KeyPath = (_ARRAY, index)
        matrix = {**shared, **self._matrix(raw.get("matrix", {}), path)}
        raw = {key: value for key, value in raw.items() if key != "matrix"}
        cases = []
        for values in product(*matrix.values()):
            axes = dict(zip(matrix, values, strict=True))
            filled = _filled(raw, axes)
            scenario: Scenario = self._convert(filled, Scenario, path)
            for number, case in enumerate(scenario.case):
                self._check_case(case, matrix, (*path, "case", number))
                if all(axes[axis] == value for axis, value in case.when.items()):
                    also = ("xfail", "xfail_match", "skip")
                    extra = {name: getattr(case, name) for name in also if getattr(case, name)}
                    filled = _merged(filled, _filled({**case.set, **extra}, axes))
            if scenario.case:
                scenario = self._convert(filled, Scenario, path)
            self._check(scenario, path)
            place = self._document.place(path)
            cases.append(LoadedCase(self._document.file, index, place, scenario, tuple(axes.items())))
        return cases

    def _matrix(self, raw: object, path: KeyPath) -> dict[str, list[Value]]:
        matrix: dict[str, list[Value]] = self._convert(raw, dict[str, list[str | int]], (*path, "matrix"))
        for axis, values in matrix.items():
            if not values:
                self._fail((*path, "matrix", axis), "expected at least one value")
        return matrix

    def _check_case(self, case: Case, matrix: Mapping[str, list[Value]], path: KeyPath) -> None:
        for axis, value in case.when.items():
            if axis not in matrix:
                known = ", ".join(matrix) or "none"
                self._fail((*path, "when", axis), f"expected a dimension of the matrix ({known})")
            if value not in matrix[axis]:
                self._fail((*path, "when", axis), f"expected one of {', '.join(map(str, matrix[axis]))}, not {value!r}")

    def _check(self, scenario: Scenario, path: KeyPath) -> None:
        """What the types cannot say."""
        expect, allow = scenario.expect, scenario.allow
        patterns: list[tuple[KeyPath, str | None]] = [
            *((("expect", "console", number), pattern) for number, pattern in enumerate(expect.console)),
            *((("expect", "never", number), pattern) for number, pattern in enumerate(expect.never)),
            *((("allow", "errors", number), pattern) for number, pattern in enumerate(allow.errors)),
            *((("keys", number, "after"), key.after) for number, key in enumerate(scenario.keys)),
            (("xfail_match",), scenario.xfail_match or ""),
            *((("expect", "files", number, "matches"), file.matches) for number, file in enumerate(expect.files)),
        ]
        for place, pattern in patterns:
            try:
                re.compile(pattern or "")
            except re.error as error:
                self._fail((*path, *place), f"expected a regular expression, and {pattern!r} is none ({error})")
        for number, key in enumerate(scenario.keys):
            self._check_key(key, (*path, "keys", number))

    def _check_key(self, key: Key, path: KeyPath) -> None:
        given = [name for name in ("send", "press", "choose") if getattr(key, name) is not None]
        if len(given) != 1:
            self._fail(path, f"expected exactly one of send, press and choose, not {' and '.join(given) or 'none'}")
        for name in key.press or []:
            if name not in PRESSED:
                self._fail((*path, "press"), f"expected names out of {', '.join(PRESSED)}, not {name!r}")
        if key.choose is not None and key.when == "input":
            self._fail((*path, "when"), 'expected "menu" (or nothing) for choose, not "input"')

    def _convert(self, raw: object, kind: Any, path: KeyPath) -> Any:
        try:
            return msgspec.convert(raw, kind)
        except msgspec.ValidationError as error:
            message = str(error)
            found = _PLACE.search(message)
            steps: KeyPath = ()
            if found is not None:
                message = message[: found.start()]
                steps = tuple(name or int(number) for name, number in _STEP.findall(found[2]) if name or number)
            unknown = re.search(r"unknown field `(.*)`", message)
            if unknown is not None:
                known = ", ".join(field.name for field in msgspec.structs.fields(_type_at(kind, steps)))
                self._fail((*path, *steps, unknown[1]), f"unknown key; expected one of {known}")
            self._fail((*path, *steps), message[:1].lower() + message[1:].replace("`", ""))

    def _fail(self, path: KeyPath, message: str) -> NoReturn:
        shown = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
        raise ConfigError(f"{self._document.place(path)}: {shown or 'top'}: {message}")


def _type_at(kind: Any, steps: KeyPath) -> type[msgspec.Struct]:
    """The struct that a path leads to."""
    info = _bare(msgspec.inspect.type_info(kind))
    for step in steps:
        if isinstance(info, msgspec.inspect.ListType):
            info = _bare(info.item_type)
        elif isinstance(info, msgspec.inspect.StructType):
            info = _bare(next(field.type for field in info.fields if field.name == step))
    assert isinstance(info, msgspec.inspect.StructType)
    return info.cls


def _bare(info: msgspec.inspect.Type) -> msgspec.inspect.Type:
    """A type without what is said of it, and without None."""
    while isinstance(info, msgspec.inspect.Metadata | msgspec.inspect.UnionType):
        if isinstance(info, msgspec.inspect.Metadata):
            info = info.type
        else:
            info = next(part for part in info.types if not isinstance(part, msgspec.inspect.NoneType))
    return info


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``, table by table; anything but a table replaces what was there."""
    merged = deepcopy(dict(below))
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _filled(value: Any, axes: Mapping[str, Value]) -> Any:
    """Braces with a dimension's name are its value; text that is nothing else takes the value's type too."""
    if isinstance(value, dict):
        return {key: _filled(inner, axes) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, axes) for inner in value]
    if not isinstance(value, str):
        return value
    whole = _DIMENSION.fullmatch(value)
    if whole is not None and whole[1] in axes:
        return axes[whole[1]]
    return _DIMENSION.sub(lambda found: str(axes.get(found[1], found[0])), value)
