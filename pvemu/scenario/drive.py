"""Running the cases of one start: one guest for all of them, forked where they type different things.

Cases that start the same guest see the same run until the first moment at which one types something that another does
not. There the process forks: the stopped engine, the guest's memory and every judge go on in both. A case alone runs
in the same way, so its outcome does not depend on its company.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import re
import signal
import time
import warnings
from typing import TYPE_CHECKING, NamedTuple

from pvemu.errors import InputError
from pvemu.scenario.judge import Judge, stage_sentence
from pvemu.scenario.result import Difference, Result
from pvemu.scenario.typist import IDLE_SECONDS
from pvemu.testing.exhibits import exhibits
from pvemu.testing.guest import Guest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.scenario.load import LoadedCase
    from pvemu.scenario.start import Start

__all__ = ["run_cases"]

_PR_SET_PDEATHSIG = 1


class _Watched(NamedTuple):
    """A case and what watches the guest for it."""

    case: LoadedCase
    judge: Judge


def run_cases(start: Start, cases: list[LoadedCase], *, may_fork: bool = True) -> list[Result]:
    """Run cases that share ``start``; their results, in order. Without ``may_fork`` each has a guest of its own."""
    if not may_fork and len(cases) > 1:
        return [result for case in cases for result in run_cases(start, [case], may_fork=False)]
    began = time.perf_counter()
    try:
        guest = Guest(start.config())
    except InputError as error:
        return [blank_result(case, "unusable", str(error)) for case in cases]
    with guest:
        watched = [_Watched(case, Judge(case.scenario, guest)) for case in cases]
        results = _Drive(guest, watched, began).run()
    found = {result.id: result for result in results}
    lost = "the process that ran it ended without a word"
    return [found.get(case.id, blank_result(case, "error", lost)) for case in cases]


def blank_result(case: LoadedCase, outcome: str, reason: str) -> Result:
    """The result of a case that did not run."""
    return Result(case.id, case.name, str(case.file), case.place, outcome, reason=reason)


def _die_with_parent() -> None:
    """For a forked process whose results nobody else wants (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class _Drive:
    """One guest with everyone who watches it, from now to the end of the last of them."""

    def __init__(self, guest: Guest, watched: list[_Watched], began: float) -> None:
        self._guest = guest
        self._watched = watched
        self._began = began
        self._results: list[Result] = []
        self._last_output = 0.0

    def run(self) -> list[Result]:
        """All results, those of forked processes too."""
        guest, machine = self._guest, self._guest.machine
        guest.observe_text(self._on_text)
        machine.stages.observe(lambda stage: self._tell(lambda judge: judge.on_stage(stage)))
        machine.on_console_poll = self._on_poll
        for stage in guest.stages:
            self._tell(lambda judge, stage=stage: judge.on_stage(stage))  # type: ignore[misc]  # bound at once
        self._collect()
        return self._go_on()

    def _go_on(self) -> list[Result]:
        guest = self._guest
        while self._watched:
            outcome = guest.advance(self._next_moment())
            for _, judge in self._watched:
                if outcome is not None:
                    judge.on_end(outcome)
                elif guest.seconds >= judge.deadline:
                    judge.on_deadline()
            self._type()
            self._collect()
        return self._results

    def _next_moment(self) -> float:
        """The guest second until which nothing but the guest itself can make a difference."""
        now = self._guest.seconds
        moments = [judge.deadline for _, judge in self._watched]
        typists = [judge.typist for _, judge in self._watched]
        moments += [typist.wants_time for typist in typists if typist.wants_time is not None]
        if any(typist.waits_for_input for typist in typists):  # it may sleep, and be quiet for long enough
            quiet = self._last_output + IDLE_SECONDS
            moments.append(quiet if quiet > now else now + IDLE_SECONDS)
        later = [moment for moment in moments if moment > now]
        return min(later, default=now + IDLE_SECONDS)

    # -- what the guest does -------------------------------------------------------------------------------------------
    def _on_text(self, fresh: int) -> None:
        self._last_output = self._guest.seconds
        self._tell(lambda judge: judge.on_text(fresh))

    def _on_poll(self) -> None:
        if self._guest.machine.console.is_waiting:
            self._tell(lambda judge: judge.on_poll())

    def _tell(self, event: Callable[[Judge], None]) -> None:
        """Tell every judge, and stop the guest when one is at its end or wants to type."""
        is_stop = False
        for _, judge in self._watched:
            if not judge.is_over:
                event(judge)
                is_stop |= judge.is_over or judge.is_key_due()
        if is_stop:
            self._guest.machine.stop("found")

    # -- typing --------------------------------------------------------------------------------------------------------
    def _type(self) -> None:
        """Whoever has something to type now types it; those who type otherwise, or nothing, go on elsewhere."""
        parties: dict[str | None, list[_Watched]] = {}
        for entry in self._watched:
            parties.setdefault(entry.judge.due_key(), []).append(entry)
        over = [entry for party in parties.values() for entry in party if entry.judge.is_over]
        alive = {
            text: [entry for entry in party if not entry.judge.is_over]
            for text, party in parties.items()
        }  # fmt: skip
        alive = {text: party for text, party in alive.items() if party}
        *others, last = [*alive.items()] or [(None, [])]
        for text, party in others:
            self._results += self._fork(text, party)
        self._watched = [*over, *last[1]]
        if last[0] is not None:
            self._guest.send(last[0])

    def _fork(self, text: str | None, party: list[_Watched]) -> list[Result]:
        """The results of a party that goes on in a process of its own, from here."""
        reader, writer = os.pipe()
        gc.freeze()  # the collector would touch, and so copy, every page
        with warnings.catch_warnings():  # about threads: a worker's wait for work, which the child does not do
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            try:
                _die_with_parent()
                os.close(reader)
                self._watched, self._results, self._began = party, [], time.perf_counter()
                if text is not None:
                    self._guest.send(text)
                results = self._go_on()
                with os.fdopen(writer, "wb") as pipe:
                    pickle.dump(results, pipe)
            finally:
                os._exit(0)  # nothing of the parent's is this process's to clean up
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            data = pipe.read()
        os.waitpid(child, 0)
        return list(pickle.loads(data)) if data else []  # noqa: S301 - from our own child

    # -- results -------------------------------------------------------------------------------------------------------
    def _collect(self) -> None:
        """Make a result of each case that is over."""
        for entry in self._watched:
            if entry.judge.is_over:
                self._results.append(self._result(*entry))
        self._watched = [entry for entry in self._watched if not entry.judge.is_over]

    def _result(self, case: LoadedCase, judge: Judge) -> Result:
        guest = self._guest
        if not judge.differences:
            judge.check_files()
        number = len(guest.stages) - 1
        result = Result(
            case.id, case.name, str(case.file), case.place, "passed", judge.differences,
            last_stage=stage_sentence(number, guest.stages[-1]), guest_seconds=guest.seconds,
            wall_seconds=time.perf_counter() - self._began,
        )  # fmt: skip
        xfail = case.scenario.xfail
        if judge.differences:
            result.outcome = "crashed" if judge.differences[0].field == "allow.crash" else "failed"
            wanted = case.scenario.xfail_match
            if xfail is not None and wanted is not None and not re.search(wanted, result.message):
                result.differences.insert(0, Difference("xfail_match", f"a match for {wanted!r}", result.message))
                result.exhibits = exhibits(guest)
            elif xfail is not None:
                result.outcome, result.reason = "xfailed", xfail
            else:
                result.exhibits = exhibits(guest)
        elif xfail is not None:
            result.outcome = "failed"
            result.reason = f"xfail: wanted a failure ({xfail}), found that it passes; take the xfail away"
        return result
