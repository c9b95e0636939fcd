"""Writing what was found into a scenario's file, where the file wanted something else. Comments and layout stay."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from pvemu.errors import ConfigError, InputError
from pvemu.scenario.drive import run_cases
from pvemu.scenario.load import load_file
from pvemu.scenario.start import UnsetVariableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.scenario.load import LoadedCase
    from pvemu.scenario.result import Difference
    from pvemu.scenario.start import Images

__all__ = ["update"]

#: A run ends at the first difference, so a scenario is run again after each: at most so often.
_ROUNDS = 30
_STEP = re.compile(r"([A-Za-z_]+)|\[(\d+)\]")


def update(case: LoadedCase, images: Images, note: Callable[[str], None]) -> LoadedCase:
    """Run the case, write the first difference's value into its file, and so on until nothing can be written; the case
    as its file says now. ``note`` is told what was changed. Raises ConfigError for a file that cannot be written.
    """
    for _ in range(_ROUNDS):
        if case.scenario.skip is not None or case.scenario.xfail is not None:
            return case
        try:
            (result,) = run_cases(images.start(case), [case])
        except (UnsetVariableError, InputError):
            return case  # the run proper says so
        if not result.differences or not _write(case, result.differences[0]):
            return case
        note(f"updated {case.place}: {result.differences[0].field} = {result.differences[0].value!r}")
        case = next(fresh for fresh in load_file(case.file) if (fresh.index, fresh.axes) == (case.index, case.axes))
    return case


def _write(case: LoadedCase, difference: Difference) -> bool:
    """Put the value where the old one stands; False where there is none, or it stands in no scenario of its own."""
    if difference.value is None:
        return False
    try:
        document = tomlkit.parse(case.file.read_text(encoding="utf-8"))
        at: Any = document["scenario"][case.index]
        *steps, last = [name or int(number) for name, number in _STEP.findall(difference.field)]
        for step in steps:
            at = at[step]
        old = at[last]
        at[last] = _with_dimensions(case, old, difference.value)
        if at[last] == old:
            return False
        case.file.write_text(tomlkit.dumps(document), encoding="utf-8")
    except (KeyError, IndexError, TypeError, TOMLKitError):
        return False
    except OSError as error:
        raise ConfigError(f"{case.file}: cannot be written ({error.strerror}); --update writes into it") from None
    return True


def _with_dimensions(case: LoadedCase, old: object, value: object) -> object:
    """The value with a dimension's name where the old one had it: the file stands for all of its matrix."""
    if isinstance(value, str) and isinstance(old, str):
        for axis, here in case.axes:
            if f"{{{axis}}}" in old:
                value = value.replace(str(here), f"{{{axis}}}")
    return list(value) if isinstance(value, tuple) else value
