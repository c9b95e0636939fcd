"""What a person sees while scenarios run: failures as they come, and on a terminal a line of how far it is."""

from __future__ import annotations

import time
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pvemu.scenario.result import Result

__all__ = ["Progress"]

_MARKS = {
    "passed": "ok", "failed": "FAILED", "crashed": "CRASHED", "xfailed": "xfail", "skipped": "skip",
    "unusable": "UNUSABLE", "error": "ERROR",
}  # fmt: skip


class Progress:
    """``total`` cases are to run, ``jobs`` at a time; ``out`` is where to say so (not the report's own stream)."""

    def __init__(self, total: int, out: IO[str], *, jobs: int = 1, quiet: bool = False) -> None:
        self._total = total
        self._jobs = jobs
        self._out = out
        self._quiet = quiet
        self._is_terminal = out.isatty()
        self._began = time.monotonic()
        self._done = 0
        self._bad = 0

    def __enter__(self) -> Self:
        self._draw()
        return self

    def __exit__(self, *error: object) -> None:
        self._clear()

    def note(self, text: str) -> None:
        """Something slow begins."""
        self._line(f"pvemu: {text}")

    def results(self, fresh: list[Result]) -> None:
        """Some cases are through."""
        for result in fresh:
            self._done += 1
            self._bad += result.is_bad
            if not self._quiet:
                seconds = f" ({result.guest_seconds:.2f} guest seconds)" if result.guest_seconds else ""
                reason = f": {result.reason}" if result.outcome in ("skipped", "xfailed") else ""
                self._line(f"{_MARKS[result.outcome]:8} {result.id}{seconds}{reason}")
                if result.is_bad:
                    for line in result.lines():
                        self._line(f"         {line}")
        self._draw()

    def summary(self, results: list[Result]) -> None:
        """The last line."""
        self._clear()
        counts: dict[str, int] = {}
        for result in results:
            counts[result.outcome] = counts.get(result.outcome, 0) + 1
        said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "no scenario"
        print(f"pvemu: {said} in {time.monotonic() - self._began:.1f} s", file=self._out)

    def _line(self, text: str) -> None:
        self._clear()
        print(text, file=self._out, flush=True)

    def _clear(self) -> None:
        if self._is_terminal:
            print("\r\x1b[K", end="", file=self._out, flush=True)

    def _draw(self) -> None:
        if self._is_terminal and self._done < self._total:
            left = ""
            if self._done:
                seconds = (time.monotonic() - self._began) / self._done * (self._total - self._done)
                left = f", about {seconds:.0f} s left"
            running = min(self._jobs, self._total - self._done)
            line = f"{self._done} of {self._total} done, {self._bad} failed, {running} running{left}"
            print(f"\r\x1b[K{line}", end="", file=self._out, flush=True)
