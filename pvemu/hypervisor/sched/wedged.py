"""A guest that has made no exit for long, as the watchdog saw: does it wait, compute, or hang?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pvemu.hypervisor.sched.sched import Sched
    from pvemu.hypervisor.time import VirtualClock

__all__ = ["GuestLoops", "hang"]


class GuestLoops(Protocol):
    """What the CPU knows of loops (pvemu.cpu.unicorn.loops)."""

    def find(self, max_steps: int = 4096, *, others_run: bool = False) -> list[int]:
        """Addresses of the loop that is repeated for ever; none, where it is none."""

    def step_to(self, rip: int, max_steps: int) -> None:
        """Run single instructions until ``rip`` is next."""


def hang(loops: GuestLoops, loop: list[int], sched: Sched, clock: VirtualClock) -> str | None:
    """What to say of a guest that hangs in ``loop``, which nothing inside it can end. If it waits for another vcpu, or
    for an event, that comes at once, always at the loop's lowest address, so that runs repeat.
    """
    loops.step_to(min(loop), len(loop))
    if sched.preempt():
        return None
    if not sched.current.info.upcall_mask and clock.next_due is not None:
        clock.skip_to_next()
        return None
    where = f"{min(loop):#x}" if len(loop) == 1 else f"{min(loop):#x}..{max(loop):#x}"
    return f"the guest hangs: it repeats {len(loop)} instruction{'s'[: len(loop) > 1]} at {where} for ever"
