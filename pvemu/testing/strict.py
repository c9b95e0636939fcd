"""Whether a guest survives strictness: the same run under many seeds, each compared with the plain one.

A seed is survived when the run ends as the plain one does: same verdict, same shutdown, and the same kernels started,
with the same command lines and ramdisks to the last byte. Seeds run on all CPUs; each repeats by its number.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pvemu.config import ASPECTS, DEFAULT_SEEDS, StrictConfig
from pvemu.machine import Machine
from pvemu.testing.parallel import run_parallel
from pvemu.testing.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pvemu.config import DomainConfig
    from pvemu.testing.verdict import Verdict

__all__ = ["Run", "SeedResult", "StrictReport", "strict_runs"]


class Run(NamedTuple):
    """What is compared of a run. ``stages``: guest OS, version, entry, command line, ramdisk's size and hash."""

    verdict: str
    shutdown: str | None
    stages: tuple[tuple[str | None, str | None, int, str, tuple[int, str] | None], ...]
    reason: str  #: for people; not compared

    @classmethod
    def of(cls, verdict: Verdict) -> Run:
        """Of a verdict."""
        stages = tuple(
            (
                stage.guest_os, stage.guest_version, stage.entry, stage.cmdline,
                (stage.ramdisk.size, stage.ramdisk.sha256) if stage.ramdisk is not None else None,
            )
            for stage in verdict.stages
        )  # fmt: skip
        return cls(verdict.verdict, verdict.shutdown, stages, verdict.reason)

    def difference(self, other: Run) -> str:
        """What ``other`` did that this run did not, in words; "" when they are the same."""
        if self.verdict != other.verdict or self.shutdown not in (None, other.shutdown):  # None: a match came first
            return f"{other.verdict}: {other.reason}"
        if len(self.stages) != len(other.stages):
            return f"{len(other.stages)} kernels started, not {len(self.stages)}"
        for number, (mine, its) in enumerate(zip(self.stages, other.stages, strict=True)):
            if mine[4] != its[4]:
                return f"stage {number} got another ramdisk"
            if mine != its:
                return f"stage {number} is another kernel, or has another command line"
        return ""


@dataclass(frozen=True, slots=True)
class SeedResult:
    """``difference`` is "" for a seed that was survived; ``alone`` are the aspects that suffice for it, one by one."""

    seed: int
    difference: str
    exit_code: int
    alone: tuple[str, ...] = ()


@dataclass(slots=True)
class StrictReport:
    """``plain`` is the run without strictness; no seed was tried when that did not succeed."""

    plain: Run
    plain_exit_code: int
    results: list[SeedResult] = field(default_factory=list)

    @property
    def failures(self) -> list[SeedResult]:
        """The seeds that were not survived."""
        return [result for result in self.results if result.difference]

    @property
    def exit_code(self) -> int:
        """As of ``pvemu boot``: the worst of all seeds, 5 at least where one was not survived."""
        if not self.results:
            return self.plain_exit_code
        return max((max(result.exit_code, 5) for result in self.failures), default=0)

    @property
    def score(self) -> str:
        """``strict: 50/50``."""
        return f"strict: {len(self.results) - len(self.failures)}/{len(self.results)}"


def strict_runs(
    config: DomainConfig, seeds: Iterable[int] = range(1, DEFAULT_SEEDS + 1), *, aspects: tuple[str, ...] = ASPECTS,
    jobs: int | None = None, on_result: Callable[[SeedResult], None] = lambda result: None, **session: Any,
) -> StrictReport:  # fmt: skip
    """Run ``config`` plainly, then under each seed, ``jobs`` at a time (default: the CPUs). ``session`` are Session's
    arguments; ``on_result`` is told of each seed as its result comes. InputError as of Machine.create.
    """
    plain, code = _run(config, session)
    report = StrictReport(plain, code)
    if plain.verdict != "success":
        return report
    tasks = [(config, StrictConfig(seed, aspects), session) for seed in seeds]
    for strict, run, exit_code in run_parallel(_one, tasks, jobs):
        difference = plain.difference(run)
        alone: tuple[str, ...] = ()
        if difference and not report.failures and len(aspects) > 1:
            alone = _alone(config, strict, plain, session, jobs)
        result = SeedResult(strict.seed, difference, exit_code, alone)
        report.results.append(result)
        on_result(result)
    report.results.sort(key=lambda result: result.seed)
    return report


def _alone(
    config: DomainConfig, strict: StrictConfig, plain: Run, session: dict[str, Any], jobs: int | None
) -> tuple[str, ...]:
    """The aspects of a seed that each fail by themselves."""
    tasks = [(config, StrictConfig(strict.seed, (aspect,)), session) for aspect in strict.aspects]
    failed = {one.aspects[0] for one, run, _ in run_parallel(_one, tasks, jobs) if plain.difference(run)}
    return tuple(aspect for aspect in strict.aspects if aspect in failed)


def _one(task: tuple[DomainConfig, StrictConfig, dict[str, Any]]) -> tuple[StrictConfig, Run, int]:
    config, strict, session = task
    return strict, *_run(replace(config, strict=strict), session)


def _run(config: DomainConfig, session: dict[str, Any]) -> tuple[Run, int]:
    machine = Machine.create(config)
    running = Session(machine, **session)
    try:
        verdict = running.run()
    finally:
        running.machine.close()
    return Run.of(verdict), verdict.exit_code
