"""The parts of physdev_op that a guest without devices has: I/O privilege (xen/arch/x86/physdev.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import errno as e

if TYPE_CHECKING:
    from pvemu.hypervisor.vcpu import Vcpu

__all__ = ["Physdev"]

_MAX_IOPORTS = 65536


class Physdev:
    """Acts on one vcpu."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self.iobitmap = (0, 0)

    def set_iopl(self, iopl: int) -> None:
        """PHYSDEVOP_set_iopl: what ``pushf`` would show, 0 to 3."""
        if iopl > 3:
            raise XenError(e.EINVAL, f"IOPL {iopl}")
        self._vcpu.iopl = iopl << 12

    def set_iobitmap(self, bitmap: int, nr_ports: int) -> None:
        """PHYSDEVOP_set_iobitmap: kept; no port reaches a device either way."""
        if nr_ports > _MAX_IOPORTS:
            raise XenError(e.EINVAL, f"{nr_ports} I/O ports")
        self.iobitmap = (bitmap, nr_ports)

    def eoi(self, pirq: int) -> None:
        """PHYSDEVOP_eoi: no pirq is bound."""
        raise XenError(e.EINVAL, f"pirq {pirq} is not bound")
