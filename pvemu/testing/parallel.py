"""Runs of guests side by side: a forked process for each, results in the order of the tasks, nothing left behind.

A process of its own for each run, and no pool: a pool's workers share queues and locks, and an interrupted one can keep
them. Ctrl-C ends the runs as it ends their parent.
"""

from __future__ import annotations

import os
import pickle
import selectors
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, TypeVar

from pvemu.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["LostRunError", "run_parallel"]

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class LostRunError(InputError):
    """The process of a run died without a result: it was killed, for want of memory perhaps."""


class _Runs:
    """The processes under way: by the descriptor that their result comes from."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._data: dict[int, bytearray] = {}
        self._processes: dict[int, tuple[int, int]] = {}  #: descriptor -> process id, index of the task

    def __len__(self) -> int:
        return len(self._processes)

    def start(self, index: int, function: Callable[[_Task], _Result], task: _Task) -> None:
        source, sink = os.pipe()
        process = os.fork()
        if not process:
            os.close(source)
            _run_and_exit(function, task, sink)
        os.close(sink)
        self._processes[source] = process, index
        self._data[source] = bytearray()
        self._selector.register(source, selectors.EVENT_READ)

    def wait(self) -> Iterator[tuple[int, bytes]]:
        """(index, pickled result) of those that are done now; waits for something to come."""
        for key, _ in self._selector.select():
            data = os.read(key.fd, 1 << 16)
            self._data[key.fd] += data
            if not data:
                process, index = self._processes.pop(key.fd)
                self._selector.unregister(key.fd)
                os.close(key.fd)
                os.waitpid(process, 0)
                yield index, bytes(self._data.pop(key.fd))

    def close(self) -> None:
        """End what still runs."""
        for source, (process, _) in self._processes.items():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            os.close(source)
        self._processes.clear()
        self._selector.close()


def _run_and_exit(function: Callable[[_Task], _Result], task: _Task, sink: int) -> NoReturn:
    """In the forked process: the result, or the exception, goes to ``sink``."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        outcome: tuple[object, BaseException | None] = function(task), None
    except Exception as error:  # noqa: BLE001 - it is the parent's to handle, whatever it is
        outcome = None, error
    try:
        with os.fdopen(sink, "wb") as stream:
            stream.write(pickle.dumps(outcome))
    finally:
        os._exit(0)


def run_parallel(
    function: Callable[[_Task], _Result], tasks: Sequence[_Task], jobs: int | None = None
) -> Iterator[_Result]:
    """``function`` of each task, ``jobs`` at a time (default: as many as there are CPUs); by itself where that is one.
    What it raises is raised here; LostRunError where a process died.
    """
    workers = min(jobs or os.cpu_count() or 1, len(tasks))
    if workers <= 1:
        yield from map(function, tasks)
        return
    runs = _Runs()
    done: dict[int, bytes] = {}
    waiting = list(enumerate(tasks))[::-1]
    try:
        for index in range(len(tasks)):
            while index not in done:
                while waiting and len(runs) < workers:
                    number, task = waiting.pop()
                    runs.start(number, function, task)
                done.update(runs.wait())
            data = done.pop(index)
            if not data:
                raise LostRunError(
                    f"the process of run {index + 1} died; is there memory for {workers} guests at a time?"
                )
            result, error = pickle.loads(data)  # noqa: S301 - our own child wrote it
            if error is not None:
                raise error
            yield result
    finally:
        runs.close()
