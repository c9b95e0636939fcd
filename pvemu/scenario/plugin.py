"""Scenarios in pytest: ``*.pvemu.toml`` files are collected, a test for each case, and ``pv_scenario`` runs one from a
test. Nothing else of pvemu is imported before there is one to run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

    from pvemu.scenario.load import LoadedCase
    from pvemu.scenario.result import Result

__all__ = ["RunScenario", "ScenarioFailedError", "pv_scenario"]

_SUFFIX = ".pvemu.toml"
#: Of what there is to see of a guest, what a report shows.
_SHOWN = ("console.txt", "screen.txt", "hypercalls.txt", "xenstore.txt", "repro.sh")


class ScenarioFailedError(AssertionError):
    """A scenario did not come out as it says; ``result`` has all there is to know."""

    def __init__(self, result: Result) -> None:
        self.result = result
        super().__init__("\n".join([result.id, *result.lines()]))


class RunScenario(Protocol):
    """What the ``pv_scenario`` fixture is."""

    def __call__(self, file: str | PathLike[str], name: str | None = None) -> list[Result]:
        """Run the cases of a file (those of the scenario ``name``); ScenarioFailedError for the first that fails."""
        ...


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Each scenario file is a module of tests."""
    if file_path.name.endswith(_SUFFIX):
        collector: pytest.Collector = _File.from_parent(parent, path=file_path)
        return collector
    return None


@pytest.fixture
def pv_scenario(request: pytest.FixtureRequest) -> RunScenario:
    """Runs scenarios from a file: a path from the test's own folder."""

    def run_scenario(file: str | PathLike[str], name: str | None = None) -> list[Result]:
        from pvemu.scenario.load import load_file

        cases = [case for case in load_file(request.path.parent / file) if name in (None, case.scenario.name)]
        if not cases:
            raise ValueError(f"{file}: no scenario {name!r}; --list of pvemu test shows the names")
        results = [_run(case) for case in cases]
        for result in results:
            if result.is_bad:
                _show(request.node, result)
                raise ScenarioFailedError(result)
        return results

    return run_scenario


class _File(pytest.File):
    """A scenario file."""

    def collect(self) -> Iterable[pytest.Item]:
        from pvemu.scenario.load import load_file

        for case in load_file(self.path):
            item: _Item = _Item.from_parent(self, name=case.name, case=case)
            yield item


class _Item(pytest.Item):
    """A case."""

    def __init__(self, *, case: LoadedCase, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]  # what from_parent hands on
        self._case = case

    def runtest(self) -> None:
        """Run it."""
        result = _run(self._case)
        if result.outcome == "skipped":
            pytest.skip(result.reason)
        if result.outcome == "xfailed":
            pytest.xfail(result.reason)
        if result.is_bad:
            _show(self, result)
            raise ScenarioFailedError(result)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        """What differed; of an error of ours, all of it."""
        if isinstance(excinfo.value, ScenarioFailedError):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the scenario stands."""
        return self.path, int(self._case.place.rpartition(":")[2]) - 1, self._case.name


def _run(case: LoadedCase) -> Result:
    from pvemu.errors import InputError
    from pvemu.scenario.drive import blank_result, run_cases
    from pvemu.scenario.start import Images, UnsetVariableError

    if case.scenario.skip is not None:
        return blank_result(case, "skipped", case.scenario.skip)
    try:
        (result,) = run_cases(Images().start(case), [case], may_fork=False)
    except UnsetVariableError as error:
        return blank_result(case, "skipped", str(error))
    except InputError as error:
        return blank_result(case, "unusable", str(error))
    return result


def _show(item: pytest.Item, result: Result) -> None:
    """Into the report, and into --pvemu-artifacts."""
    for name in _SHOWN:
        if name in result.exhibits:
            item.add_report_section("call", f"pvemu: {name}", result.exhibits[name].decode("utf-8", "replace"))
    folder = item.config.getoption("--pvemu-artifacts", None)
    if folder is not None:
        from pvemu.scenario.report import keep_artifacts

        keep_artifacts([result], Path(folder))
