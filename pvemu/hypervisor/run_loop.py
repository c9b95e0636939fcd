"""The run loop: guest code is entered, its exits are served, until the domain stops or somebody ends the run
(continue_running and the way back to guest code of xen/arch/x86/x86_64/entry.S).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hypercalls.public import sched as sched_abi
from pvemu.cpu.exits import Exit, ExitKind
from pvemu.hypervisor.domain import Domain, DomainCrashError
from pvemu.hypervisor.sched.wedged import GuestLoops, hang
from pvemu.hypervisor.traps.exit_handler import TRAP_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pvemu.hypervisor.sched import Sched
    from pvemu.hypervisor.time import VirtualClock
    from pvemu.hypervisor.traps.exception_entry import ExceptionEntry
    from pvemu.hypervisor.traps.traps import Traps
    from pvemu.hypervisor.vcpu import Vcpu

__all__ = ["Outcome", "RunLoop", "RunningCpu"]

_VECTOR_PF = 14


class Outcome(NamedTuple):
    """Why a run ended: ``reason`` is one of shutdown, stuck, hang, or what a caller of ``stop`` said."""

    kind: str
    detail: str


class RunningCpu(Protocol):
    """The CPU as the loop uses it (pvemu.cpu.unicorn.engine.Engine)."""

    @property
    def loops(self) -> GuestLoops:
        """Loops that the guest repeats for ever."""

    @property
    def is_pause_requested(self) -> bool:
        """Whether one who looks on wants the guest to pause."""

    def run(self) -> Exit:
        """Run guest code until it is left: why it was."""

    def stop(self) -> None:
        """Leave guest code when the current exit is served."""


class RunLoop(ABC):
    """A machine's, which has the parts that are named here, and sees to what is to be done at a domain's end."""

    engine: RunningCpu
    clock: VirtualClock
    domain: Domain
    sched: Sched
    traps: Traps
    exceptions: ExceptionEntry
    vcpus: Sequence[Vcpu]
    vcpu: Vcpu

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.crash_lines: list[str] = []
        self.fault_address: int | None = None  #: of the page fault that crashed the guest
        self.leaving = Exit(ExitKind.STOPPED)  #: why guest code was left last
        self._is_amidst = False  # guest code was left for one who looks on
        self._pending: Exit | None = None  # an exception that is held
        #: Asked about each exception before Xen looks at it: True holds it, and the run pauses until the next ``run``.
        self.holds_exception: Callable[[Exit], bool] = lambda leaving: False

    @abstractmethod
    def _ended(self) -> None:
        """The domain has shut down."""

    def run(self) -> Outcome:
        """Run until the domain stops or ``stop`` is called, or one who only looks on has it pause: callable again."""
        self.outcome = None
        while self.outcome is None and self.domain.shutdown_reason is None:
            try:
                if not self._serve():
                    continue
                if self.engine.is_pause_requested or not self._run_guest():
                    self._is_amidst = True
                    return Outcome("paused", "")
            except DomainCrashError as crash:
                whom = f"d{self.domain.domid}v{self.vcpu.vcpu_id}"
                self.crash_lines = [line.replace("%pv", whom) for line in crash.lines]
                self.domain.shutdown(sched_abi.SHUTDOWN_crash)
        if self.domain.shutdown_reason is not None:
            self._ended()
        if self.outcome is None:
            self.outcome = Outcome("shutdown", "")
        return self.outcome

    def _serve(self) -> bool:
        """What is to be done before guest code is entered; False when there may be more. Nothing, where the guest was
        left for the sake of one who looks on: it must not notice.
        """
        if self._is_amidst:
            self._is_amidst = False
            return True
        vcpu = self.vcpu
        if vcpu.resume is not None:
            action, vcpu.resume = vcpu.resume, None
            action()
            return False  # it may be a sleep, interrupted once more
        if vcpu.refused_frame is not None:
            (refusal, cs, ss), vcpu.refused_frame = vcpu.refused_frame, None
            self.exceptions.refused_frame(refusal, cs, ss)
            return False
        if self.sched.is_due:
            self.sched.schedule()
            return False
        self.traps.deliver_events()
        return True

    def _run_guest(self) -> bool:
        """Run guest code and serve the exit that ends it. False when it is only paused."""
        leaving, self._pending = self._pending or self.engine.run(), None
        self.leaving = leaving
        match leaving.kind:
            case ExitKind.EXCEPTION:
                if self.holds_exception(leaving):
                    self._pending = leaving
                    return False
                self.clock.charge(TRAP_NS)
                self.fault_address = leaving.address if leaving.vector == _VECTOR_PF else None
                self.exceptions.handle(leaving)
                self.clock.run_due()
            case ExitKind.WEDGED:
                self._on_wedged()
            case ExitKind.PAUSED | ExitKind.BREAKPOINT | ExitKind.BUDGET:
                return False
        return True

    def _on_wedged(self) -> None:
        loops = self.engine.loops
        loop = loops.find(others_run=len(self.vcpus) > 1)
        if not loop:
            self._is_amidst = True  # it computes, and must not notice that it was looked at
            return
        text = hang(loops, loop, self.sched, self.clock)
        if text is not None:
            self.outcome = Outcome("hang", text)

    def stop(self, kind: str, detail: str = "") -> None:
        """End the run from a callback; the domain lives on."""
        if self.outcome is None:
            self.outcome = Outcome(kind, detail)
        self.engine.stop()

    @property
    def is_stopping(self) -> bool:
        """Whether the run is about to end."""
        return self.outcome is not None or self.domain.shutdown_reason is not None

    def _stuck(self) -> None:
        self.stop("stuck", "the guest sleeps and nothing will ever wake it")
