"""The CPU as the hypervisor core uses it; :class:`pvemu.cpu.unicorn.engine.Engine` is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pvemu.cpu.registers import Registers

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GuestCpu"]


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
