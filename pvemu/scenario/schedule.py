"""Which cases run, where and together: selection, shards, and the processes that run them.

Work goes through ``concurrent.futures``: a pool of processes here, or whatever has that interface elsewhere.
"""

from __future__ import annotations

import re
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, get_context
from typing import TYPE_CHECKING, NamedTuple

from pvemu.errors import ConfigError, InputError
from pvemu.scenario.drive import blank_result, run_cases
from pvemu.scenario.start import Images, UnsetVariableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor, Future

    from pvemu.scenario.load import LoadedCase
    from pvemu.scenario.result import Result
    from pvemu.scenario.start import Start

__all__ = ["Batch", "batches", "executor", "matches", "run_all", "shard"]

#: Cases that share a start and run one after the other in one process; a report comes when they are through.
_MOST_TOGETHER = 50
_WORD = re.compile(r"\s*(?:(\()|(\))|(and|or|not)(?=[\s()]|$)|([^\s()]+))")


class Batch(NamedTuple):
    """Cases with the same start."""

    start: Start
    cases: list[LoadedCase]


def matches(expression: str, name: str) -> bool:
    """Whether pytest's -k would take ``name``: words are parts of it, joined by and, or, not and parentheses."""
    words = [found.groups() for found in _WORD.finditer(expression) if found.group().strip()]
    position = 0

    def fail() -> ConfigError:
        return ConfigError(f"-k {expression!r}: not an expression; write words, and, or, not and parentheses")

    def peek() -> tuple[str | None, ...]:
        return words[position] if position < len(words) else (None, None, None, None)

    def either() -> bool:
        nonlocal position
        value = both()
        while peek()[2] == "or":
            position += 1
            value = both() or value
        return value

    def both() -> bool:
        nonlocal position
        value = one()
        while peek()[2] == "and":
            position += 1
            value = one() and value
        return value

    def one() -> bool:
        nonlocal position
        opening, _, operator, word = peek()
        position += 1
        if operator == "not":
            return not one()
        if opening:
            value = either()
            if not peek()[1]:
                raise fail()
            position += 1
            return value
        if word is None:
            raise fail()
        return word.lower() in name.lower()

    value = either()
    if position != len(words):
        raise fail()
    return value


def shard(cases: list[LoadedCase], text: str) -> list[LoadedCase]:
    """Part ``I/N`` of the cases: every N-th, so that parts take about as long."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"--shard {text!r}: not a shard; give I/N such as 2/4, with I from 1 to N")
    return cases[int(found[1]) - 1 :: int(found[2])]


def batches(cases: list[LoadedCase], images: Images, jobs: int) -> tuple[list[Batch], list[Result]]:
    """Cases by what they start with, at most so many together that ``jobs`` processes have work; and the results of
    those that do not run. Images are built here.
    """
    by_start: dict[Start, list[LoadedCase]] = {}
    done: list[Result] = []
    for case in cases:
        if case.scenario.skip is not None:
            done.append(blank_result(case, "skipped", case.scenario.skip))
            continue
        try:
            by_start.setdefault(images.start(case), []).append(case)
        except UnsetVariableError as error:
            done.append(blank_result(case, "skipped", str(error)))
        except InputError as error:
            done.append(blank_result(case, "unusable", str(error)))
    found = []
    for start, members in by_start.items():
        size = min(_MOST_TOGETHER, -(-len(members) // jobs))
        found += [Batch(start, members[at : at + size]) for at in range(0, len(members), size)]
    found.sort(key=lambda batch: -len(batch.cases))
    return found, done


@contextmanager
def executor(jobs: int, where: str | None) -> Iterator[Executor | None]:
    """What runs batches: None for this process, else a pool; ``where`` is ``dask:ADDRESS`` for dask's workers."""
    if where is not None:
        with _dask(where) as client:
            yield client
        return
    if jobs == 1:
        yield None
        return
    context = get_context("fork" if sys.version_info < (3, 14) else "forkserver")
    try:
        pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker)
    except OSError as error:  # its locks are POSIX semaphores, which a bare chroot has no place for
        raise ConfigError(
            f"-j {jobs}: processes cannot share locks here ({error.strerror}); mount /dev/shm, or give -j 1"
        ) from None
    try:
        yield pool
    except BaseException:
        for worker in active_children():
            worker.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def run_all(
    found: list[Batch], pool: Executor | None, report: Callable[[list[Result]], None], *, may_fork: bool = True
) -> None:
    """Run every batch; ``report`` gets results as they come."""
    if pool is None:
        for batch in found:
            report(run_cases(batch.start, batch.cases, may_fork=may_fork))
        return
    futures: dict[Future[list[Result]], Batch] = {
        pool.submit(partial(run_cases, may_fork=may_fork), batch.start, batch.cases): batch for batch in found
    }
    for future in as_completed(futures):
        error = future.exception()
        if error is None:
            report(future.result())
        else:
            text = f"{type(error).__name__}: {error}"
            report([blank_result(case, "error", text) for case in futures[future].cases])


def _begin_worker() -> None:
    """Ctrl-C is the parent's to act on: it ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _dask(where: str) -> Iterator[Executor]:
    kind, _, address = where.partition(":")
    if kind != "dask" or not address:
        raise ConfigError(f"--executor {where!r}: not known; give dask:ADDRESS, such as dask:tcp://farm:8786")
    try:
        from distributed import Client
    except ImportError:
        raise ConfigError(f"--executor {where}: dask.distributed is not installed; pip install distributed") from None
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--executor {where}: no scheduler there ({error}); check the address") from None
    with client:
        yield client.get_executor(pure=False)
