"""The parts of physdev_op that a guest without devices has: I/O privilege (xen/arch/x86/physdev.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from hypercalls.public.physdev import MAP_PIRQ_TYPE_GSI
from pvemu.hypervisor.vcpu.current import ServesCurrent
from pvemu.memory.frame_table import PageType

if TYPE_CHECKING:
    from pvemu.hypervisor.page_types import PageTypes
    from pvemu.hypervisor.vcpu import Vcpu

__all__ = ["Physdev"]

_MAX_IOPORTS = 65536
#: One I/O APIC's, and all: 32 more (extra_guest_irqs).
_NR_GSIS, _NR_PIRQS = 24, 56


class Physdev(ServesCurrent):
    """Acts on one vcpu of the domain whose references ``types`` keeps."""

    def __init__(self, vcpu: Vcpu, types: PageTypes) -> None:
        self._vcpu = vcpu
        self._types = types
        self._pirq_eoi_map = 0
        self._pirqs: set[int] = set()  #: those given out

    def set_iopl(self, iopl: int) -> None:
        """PHYSDEVOP_set_iopl: what ``pushf`` would show, 0 to 3."""
        if iopl > 3:
            raise XenError(e.EINVAL, f"IOPL {iopl}")
        self._vcpu.iopl = iopl << 12

    def set_iobitmap(self, bitmap: int, nr_ports: int) -> None:
        """PHYSDEVOP_set_iobitmap: kept; no port reaches a device either way."""
        if nr_ports > _MAX_IOPORTS:
            raise XenError(e.EINVAL, f"{nr_ports} I/O ports")
        self._vcpu.iobitmap = (bitmap, nr_ports)

    def get_free_pirq(self, type: int) -> int:
        """PHYSDEVOP_get_free_pirq: for a GSI those from 16 on up, then from the last number down; ENOSPC at the end."""
        first = 16 if type == MAP_PIRQ_TYPE_GSI else _NR_GSIS
        numbers: list[int] = [*range(first, _NR_GSIS), *range(_NR_PIRQS - 1, _NR_GSIS - 1, -1)]
        for pirq in numbers:
            if pirq not in self._pirqs:
                self._pirqs.add(pirq)
                return pirq
        raise XenError(e.ENOSPC, f"no free pirq of type {type}")

    def eoi(self, pirq: int) -> None:
        """PHYSDEVOP_eoi: of no effect on a pirq that is not bound, EINVAL for one that was not even given out."""
        if pirq not in self._pirqs:
            raise XenError(e.EINVAL, f"pirq {pirq} is not the domain's")

    def set_pirq_eoi_map(self, mfn: int) -> None:
        """PHYSDEVOP_pirq_eoi_gmfn: the frame in which a bit says that a pirq wants an EOI; none is bound, so none is
        ever set. EINVAL for a frame that cannot be written, EBUSY the second time.
        """
        try:
            self._types.get_page_and_type(mfn, PageType.WRITABLE)
        except XenError as error:
            raise XenError(e.EINVAL, f"pirq EOI map in mfn {mfn:#x}") from error
        if self._pirq_eoi_map:
            self._types.put_page_and_type(mfn)
            raise XenError(e.EBUSY, "there is a pirq EOI map")
        self._pirq_eoi_map = mfn
