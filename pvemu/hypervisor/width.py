"""What differs between a 64-bit and a 32-bit PV domain, as one object for each width.

The machine makes a domain of the classes named here; everything else is the same, or follows from the ABI.
"""

from __future__ import annotations

from typing import NamedTuple

from hypercalls.abi import ABI32, ABI64, Abi
from hypercalls.public.io.protocols import XEN_IO_PROTO_ABI_X86_32, XEN_IO_PROTO_ABI_X86_64
from pvemu.hypervisor.compat.descriptor_tables import CompatDescriptorTables
from pvemu.hypervisor.compat.mm import CompatMm
from pvemu.hypervisor.compat.page_types import CompatPageTypes
from pvemu.hypervisor.compat.traps import CompatTraps
from pvemu.hypervisor.compat.vcpu import CompatVcpu
from pvemu.hypervisor.descriptor_tables import DescriptorTables
from pvemu.hypervisor.mm import Mm
from pvemu.hypervisor.page_types import PageTypes
from pvemu.hypervisor.traps.traps import Traps
from pvemu.hypervisor.vcpu import Vcpu

__all__ = ["PV32", "PV64", "Width"]


class Width(NamedTuple):
    """``root_level`` is the level of the root page table, ``protocol`` the ABI of rings by its xenstore name."""

    abi: Abi
    root_level: int
    protocol: str
    page_types: type[PageTypes]
    mm: type[Mm]
    vcpu: type[Vcpu]
    traps: type[Traps]
    descriptor_tables: type[DescriptorTables]

    @property
    def is_compat(self) -> bool:
        """is_pv_32bit_domain."""
        return self.abi.bits == 32


PV64 = Width(ABI64, 4, XEN_IO_PROTO_ABI_X86_64, PageTypes, Mm, Vcpu, Traps, DescriptorTables)
PV32 = Width(
    ABI32, 3, XEN_IO_PROTO_ABI_X86_32, CompatPageTypes, CompatMm, CompatVcpu, CompatTraps, CompatDescriptorTables
)
