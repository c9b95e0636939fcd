"""What came of a case, for reports, other processes and other machines: nothing in it belongs to a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["EXIT_CODES", "Difference", "Result"]

#: What a case's outcome makes of the exit code; the first of these that occurs counts.
EXIT_CODES = {"error": 4, "unusable": 2, "crashed": 6, "failed": 5}


class Difference(NamedTuple):
    """A field of the scenario that did not hold, what it wanted, and what there was instead, in words. ``value`` is
    what the field would have to be for it to hold; None where no value would do.
    """

    field: str
    wanted: str
    found: str
    value: str | int | tuple[str, ...] | None = None

    def __str__(self) -> str:
        return f"{self.field}: wanted {self.wanted}, found {self.found}"


@dataclass(slots=True)
class Result:
    """``outcome`` is passed, failed, crashed (the guest did), xfailed, skipped, unusable (the input is) or error (of
    pvemu); ``differences`` the first one first; ``reason`` says why for those that have none; ``last_stage`` is a
    sentence; ``exhibits`` are file names and contents to look at.
    """

    id: str
    name: str
    file: str
    place: str
    outcome: str
    differences: list[Difference] = field(default_factory=list)
    reason: str = ""
    last_stage: str = ""
    guest_seconds: float = 0.0
    wall_seconds: float = 0.0
    exhibits: dict[str, bytes] = field(default_factory=dict)

    @property
    def is_bad(self) -> bool:
        """Whether it is to be reported as a failure."""
        return self.outcome in EXIT_CODES

    @property
    def message(self) -> str:
        """Why, in one sentence."""
        return str(self.differences[0]) if self.differences else self.reason

    def lines(self) -> list[str]:
        """All there is to say of it, the first difference first."""
        lines = [str(difference) for difference in self.differences] or ([self.reason] if self.reason else [])
        if self.last_stage:
            lines.append(f"last stage reached: {self.last_stage}")
        return lines


def exit_code(results: list[Result]) -> int:
    """The exit code of a whole run: that of ``pvemu boot`` for the worst of its outcomes."""
    outcomes = {result.outcome for result in results}
    return next((code for outcome, code in EXIT_CODES.items() if outcome in outcomes), 0)
