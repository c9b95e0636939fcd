"""``pvemu test``: scenarios, from their files to a report."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pvemu.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from argparse import _SubParsersAction

    from pvemu.scenario.load import LoadedCase
    from pvemu.scenario.progress import Progress
    from pvemu.scenario.result import Result
    from pvemu.scenario.start import Images

__all__ = ["add_parser", "run"]


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    text = "run scenarios: guests with what is typed and what must come of it"
    parser = subparsers.add_parser(
        "test", help=text, description=text,
        epilog="exit codes: 0 all passed, 2 bad usage or input, 4 error of pvemu, 5 expectation not met, 6 guest "
        "crashed, 130 interrupted",
    )  # fmt: skip
    parser.add_argument("paths", nargs="*", metavar="PATH", help="a scenario file (*.pvemu.toml) or a folder of them")
    parser.add_argument("-k", metavar="EXPR", dest="expression", help="only those whose name matches, as pytest's -k")
    parser.add_argument("-j", metavar="N", dest="jobs", default="1", help="run N at a time (0: one for each CPU)")
    parser.add_argument("--shard", metavar="I/N", help="only the I-th of N parts")
    parser.add_argument("--list", action="store_true", help="print the names and run nothing")
    parser.add_argument("--junit", metavar="FILE", help="write a JUnit XML report")
    parser.add_argument("--tap", action="store_true", help="print TAP version 13")
    parser.add_argument("--github", action="store_true", help="print annotations for GitHub Actions")
    parser.add_argument("--artifacts", metavar="DIR", help="keep all there is to see of each failed scenario's guest")
    parser.add_argument("--update", action="store_true", help="write what was found into the files, where it differs")
    parser.add_argument("--executor", metavar="dask:ADDRESS", help="run on the workers of a dask scheduler")
    parser.add_argument("--cold", action="store_true", help="start a guest for each scenario: share nothing")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of scenario files and run nothing")


def run(arguments: argparse.Namespace) -> int:
    """Run scenarios as the command line says; the exit code."""
    if arguments.schema:
        from pvemu.scenario.model import json_schema

        print(json.dumps(json_schema(), indent=1))
        return 0
    if not arguments.paths:
        raise ConfigError("no PATH; give a scenario file (*.pvemu.toml) or a folder of them")
    jobs = _jobs(arguments.jobs)
    cases = _selected(arguments)
    if arguments.list:
        for case in cases:
            print(case.id)
        return 0
    return _run(arguments, cases, jobs)


def _run(arguments: argparse.Namespace, cases: list[LoadedCase], jobs: int) -> int:
    from pvemu.mkimage.packages import PackageCache
    from pvemu.scenario import schedule
    from pvemu.scenario.progress import Progress
    from pvemu.scenario.report import write_github, write_junit, write_tap
    from pvemu.scenario.result import exit_code
    from pvemu.scenario.start import Images

    _check_outputs(arguments)
    progress = Progress(len(cases), sys.stderr, jobs=jobs, quiet=arguments.tap)
    images = Images(PackageCache(report=progress.note))
    if arguments.update:
        cases = _updated(cases, images, progress)
    batches, unrun = schedule.batches(cases, images, jobs)
    results = list(unrun)
    progress.results(unrun)
    with progress, schedule.executor(jobs, arguments.executor) as pool:
        may_fork = not arguments.cold and arguments.executor is None

        def take(fresh: list[Result]) -> None:
            results.extend(fresh)
            progress.results(fresh)

        schedule.run_all(batches, pool, take, may_fork=may_fork)
    order = {case.id: number for number, case in enumerate(cases)}
    results.sort(key=lambda result: order[result.id])
    if arguments.artifacts is not None:
        from pvemu.scenario.report import keep_artifacts

        keep_artifacts(results, Path(arguments.artifacts))
    if arguments.junit is not None:
        write_junit(results, Path(arguments.junit))
    if arguments.tap:
        write_tap(results, sys.stdout)
    if arguments.github:
        write_github(results, sys.stdout)
    progress.summary(results)
    return exit_code(results)


def _updated(cases: list[LoadedCase], images: Images, progress: Progress) -> list[LoadedCase]:
    """The cases as their files are after what was found was written into them."""
    from pvemu.scenario.update import update

    return [update(case, images, progress.note) for case in cases]


def _selected(arguments: argparse.Namespace) -> list[LoadedCase]:
    from pvemu.scenario import schedule
    from pvemu.scenario.load import load_paths

    cases = load_paths(arguments.paths)
    if arguments.expression is not None:
        cases = [case for case in cases if schedule.matches(arguments.expression, case.id)]
        if not cases:
            raise ConfigError(f"-k {arguments.expression!r}: no scenario has such a name; --list shows the names")
    return schedule.shard(cases, arguments.shard) if arguments.shard is not None else cases


def _jobs(text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"-j {text!r}: not a number; give how many scenarios run at a time, 0 for one on each CPU")
    return int(text) or os.cpu_count() or 1


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Before anything runs: an output that cannot be written would be found out too late."""
    if arguments.junit is not None:
        folder = Path(arguments.junit).absolute().parent
        if not os.access(folder, os.W_OK) or Path(arguments.junit).is_dir():
            raise ConfigError(f"--junit {arguments.junit}: cannot be written; give a file in a folder that can be")
    if arguments.artifacts is not None:
        try:
            Path(arguments.artifacts).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--artifacts {arguments.artifacts}: {error.strerror}; give a folder") from None
