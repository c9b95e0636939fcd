"""The CPU as the hypervisor core uses it; :class:`pvemu.cpu.unicorn.engine.Engine` is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pvemu.cpu.registers import Registers

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GuestCpu", "RegisterContexts", "SavedRegisters"]


class SavedRegisters:
    """All registers of a vcpu that does not run: ``saved`` is known to the CPU alone, the GDT is at ``gdt_vaddr``."""

    def __init__(self, saved: Any, gdt_vaddr: int) -> None:
        self.saved = saved
        self.gdt_vaddr = gdt_vaddr


class RegisterContexts(Protocol):
    """What changes one vcpu's registers for another's."""

    def new(self, gdt_vaddr: int) -> SavedRegisters:
        """Those of a vcpu that is yet to begin, before any has run."""

    def save(self, context: SavedRegisters) -> None:
        """Keep the registers of now."""

    def load(self, context: SavedRegisters) -> None:
        """Go on with these."""


class GuestCpu(Registers, Protocol):
    """Registers, single and in groups, and leaving guest code."""

    @property
    def reader(self) -> Callable[..., Callable[[], list[int]]]:
        """``reader(*names)`` makes a fast reader of registers."""

    @property
    def writer(self) -> Callable[[str], Callable[[int], None]]:
        """``writer(name)`` makes a fast writer of one register."""

    def stop(self) -> None:
        """Leave guest code when the current exit is served."""
