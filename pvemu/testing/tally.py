"""What the domains of one run did, added up: a guest that reboots goes on as another domain."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from pvemu.hypervisor.domain import SHUTDOWN_NAMES

if TYPE_CHECKING:
    from pvemu.debug.stages import Stage
    from pvemu.machine import Machine

__all__ = ["DomainRun", "Tally", "shutdown_name"]


class DomainRun(NamedTuple):
    """One domain from its start to its end, in nanoseconds since the run began. ``shutdown`` is None where it never
    shut down.
    """

    domid: int
    start_ns: int
    end_ns: int
    shutdown: str | None

    def as_json(self) -> dict[str, object]:
        """One object of ``--json``'s ``domains``."""
        return {
            "domid": self.domid, "start": self.start_ns / 1e9, "end": self.end_ns / 1e9, "shutdown": self.shutdown,
        }  # fmt: skip


def shutdown_name(machine: Machine) -> str | None:
    """Why a domain shut down, in xl's words; None while it has not."""
    code = machine.domain.shutdown_reason
    return SHUTDOWN_NAMES.get(code, str(code)) if code is not None else None


class Tally:
    """Stages, hypercalls and disk requests of all domains so far."""

    def __init__(self) -> None:
        self.domains: list[DomainRun] = []
        self.stages: list[Stage] = []
        self.hypercalls: Counter[str] = Counter()
        self.unknown_hypercalls: Counter[str] = Counter()
        self.absent_hypercalls: Counter[str] = Counter()
        self.disks: dict[str, dict[str, int]] = {}
        self.xen_log: list[str] = []

    def add(self, machine: Machine, *, is_followed: bool = False) -> None:
        """A domain is at its end; with ``is_followed`` another one takes its place, and nobody will see it crashed."""
        clock = machine.clock
        start = self.domains[-1].end_ns if self.domains else 0
        self.domains.append(
            DomainRun(machine.config.domid, start, clock.now() - clock.start, shutdown_name(machine))
        )
        self.stages += machine.stages.stages
        self.hypercalls.update(machine.hypercalls.counts)
        self.unknown_hypercalls.update(machine.hypercalls.unknown)
        self.absent_hypercalls.update(machine.hypercalls.absent)
        self.xen_log += machine.xen_log
        if is_followed:
            self.xen_log += machine.crash_lines
        for vdev, counts in machine.disk_statistics().items():
            known = self.disks.setdefault(vdev, dict.fromkeys(counts, 0))
            for name, count in counts.items():
                known[name] += count
