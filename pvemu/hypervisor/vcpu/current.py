"""``current``: what serves the vcpu that runs, whichever that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvemu.hypervisor.vcpu.vcpu import Vcpu

__all__ = ["ServesCurrent"]


class ServesCurrent:
    """A room that acts on the running vcpu; it is told of each change (set_current of xen/arch/x86/include/asm)."""

    _vcpu: Vcpu

    def set_current(self, vcpu: Vcpu) -> None:
        """Act on this one from now on."""
        self._vcpu = vcpu
