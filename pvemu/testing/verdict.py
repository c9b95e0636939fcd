"""What came of a run, for people, for scripts and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvemu.debug.loader_refusal import Refusal
    from pvemu.debug.stages import Stage
    from pvemu.testing.tally import DomainRun

__all__ = ["EXIT_CODES", "Verdict"]

#: Exit codes as XTF's runner uses them; 1 and 2 are left to Python and to usage errors.
EXIT_CODES = {"success": 0, "error": 4, "failure": 5, "crash": 6}


@dataclass(slots=True)
class Verdict:
    """``verdict`` is a key of EXIT_CODES, ``reason`` one sentence; times in seconds; ``disks`` by vdev;
    ``domains`` more than one where the guest rebooted; ``refusal`` where a boot loader would not start a kernel.
    ``xen_log`` is what Xen's own console would have shown. Of the hypercalls that Xen 4.17 does not have, public
    headers name the ``absent`` ones; nothing names the ``unknown`` ones.
    """

    verdict: str
    reason: str
    shutdown: str | None
    stages: list[Stage]
    guest_seconds: float
    wall_seconds: float
    hypercalls: dict[str, int]
    disks: dict[str, dict[str, int]]
    unknown_hypercalls: dict[str, int] = field(default_factory=dict)
    absent_hypercalls: dict[str, int] = field(default_factory=dict)
    domains: list[DomainRun] = field(default_factory=list)
    refusal: Refusal | None = None
    crash_report: list[str] = field(default_factory=list)
    xen_log: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """The process's exit code."""
        return EXIT_CODES[self.verdict]

    def as_json(self) -> dict[str, object]:
        """The object of ``--json``. ``entry`` is hexadecimal text: it may pass 2**53."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "shutdown": self.shutdown,
            "stages": [_stage(stage) for stage in self.stages],
            "guest_seconds": self.guest_seconds,
            "wall_seconds": self.wall_seconds,
            "hypercalls": dict(sorted(self.hypercalls.items())),
            "unknown_hypercalls": dict(sorted(self.unknown_hypercalls.items())),
            "absent_hypercalls": dict(sorted(self.absent_hypercalls.items())),
            "disks": self.disks,
            "domains": [domain.as_json() for domain in self.domains],
            "refusal": self.refusal.as_json() if self.refusal is not None else None,
            "xen_log": self.xen_log,
        }


def _stage(stage: Stage) -> dict[str, object]:
    ramdisk = stage.ramdisk
    return {
        "guest_os": stage.guest_os,
        "loader": stage.loader,
        "guest_version": stage.guest_version,
        "entry": f"{stage.entry:#x}",
        "cmdline": stage.cmdline,
        "file": stage.file,
        "ramdisk": {"size": ramdisk.size, "sha256": ramdisk.sha256, "file": stage.ramdisk_file} if ramdisk else None,
        "start": stage.start_ns / 1e9,
        "domid": stage.domid,
    }
