"""The vcpus of a guest that stands still: one runs, the others' registers are kept for them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvemu.machine import Machine

__all__ = ["VcpuState", "registers_of", "vcpu_states"]

_RUNSTATES = ("running", "runnable", "blocked", "offline")


class VcpuState(NamedTuple):
    """One vcpu that has a context: its number, its run state, whether it is the one that stands here."""

    vcpu_id: int
    runstate: str
    is_current: bool


def vcpu_states(machine: Machine) -> list[VcpuState]:
    """Those that were brought up at least once, or can be."""
    return [
        VcpuState(vcpu.vcpu_id, _RUNSTATES[vcpu.areas.runstate()[0]], vcpu is machine.vcpu)
        for vcpu in machine.vcpus
        if vcpu.is_initialised
    ]


@contextmanager
def registers_of(machine: Machine, vcpu_id: int) -> Iterator[None]:
    """``machine.engine`` shows a vcpu's registers, and ``machine.vcpu`` is that vcpu; to look, not to change or run.
    Memory is the running vcpu's still. Of no effect for a vcpu that there is not.
    """
    running = machine.vcpu
    if not 0 <= vcpu_id < len(machine.vcpus) or machine.vcpus[vcpu_id] is running:
        yield
        return
    other = machine.vcpus[vcpu_id]
    kept, shown = running.parked.registers, other.parked.registers
    assert kept is not None
    assert shown is not None
    contexts = machine.engine.contexts
    contexts.save(kept)
    contexts.load(shown)
    machine.vcpu = other
    try:
        yield
    finally:
        machine.vcpu = running
        contexts.load(kept)
