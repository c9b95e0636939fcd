"""Why a test's guest did not do what was expected, each kind a type of its own.

All are AssertionErrors, so that a test framework counts them as failed expectations and not as errors of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pvemu.debug.stages import Stage

__all__ = [
    "ExpectTimeoutError",
    "GuestCrashError",
    "GuestError",
    "GuestStoppedError",
    "SaveRefusedError",
    "Sighting",
    "UnexpectedOutputError",
]

_SHOWN_HYPERCALLS = 6


class Sighting(NamedTuple):
    """A guest as it stood: how many stages it had reached and the last of them, screen, last hypercalls."""

    stages: int
    stage: Stage
    screen: list[str]
    hypercalls: list[str]
    guest_seconds: float


class GuestError(AssertionError):
    """``reason`` is one sentence; ``seen`` is the guest at that moment; ``report`` lines say more."""

    def __init__(self, reason: str, seen: Sighting, report: list[str] | None = None) -> None:
        self.reason = reason
        self.seen = seen
        self.report = report if report is not None else []
        super().__init__("\n".join([reason, *self._lines()]))

    def __reduce__(self) -> tuple[type[GuestError], tuple[str, Sighting, list[str]]]:
        """A failure may come from a guest in another process."""
        return type(self), (self.reason, self.seen, self.report)

    def _lines(self) -> list[str]:
        seen = self.seen
        stage = seen.stage
        where = f"{seen.stages - 1} ({stage.guest_os or 'no name'}, entry {stage.entry:#x}"
        when = f"started at {stage.start_ns / 1e9:.3f} s); it is {seen.guest_seconds:.3f} s now, in guest time"
        lines = [f"last stage reached: {where}, {when}"]
        if self.report:
            return [*lines, *self.report]
        lines += ["screen:", *(f"| {line}" for line in _without_blank_end(seen.screen))]
        return [*lines, "last hypercalls:", *(f"| {line}" for line in seen.hypercalls[-_SHOWN_HYPERCALLS:])]


class ExpectTimeoutError(GuestError):
    """Guest time ran out before what was waited for came."""


class UnexpectedOutputError(GuestError):
    """Something came that must not come."""


class GuestCrashError(GuestError):
    """The guest crashed; ``report`` is Xen's text."""


class GuestStoppedError(GuestError):
    """The guest shut down, hangs or sleeps for ever, and what was waited for had not come."""


class SaveRefusedError(GuestError):
    """The guest suspended, and libxc would not have saved it."""


def _without_blank_end(screen: list[str]) -> list[str]:
    lines = list(screen)
    while lines and not lines[-1]:
        lines.pop()
    return lines
