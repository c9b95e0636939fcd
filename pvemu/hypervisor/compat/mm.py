"""Page-table hypercalls of a 32-bit guest (xen/arch/x86/x86_64/compat/mm.c, new_guest_cr3 of xen/arch/x86/mm.c).

Its root is an L3, which Xen puts into the first slot of an L4 of its own.
"""

from __future__ import annotations

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from pvemu.cpu.paging_pae import HYPERVISOR_COMPAT_VIRT_START
from pvemu.frames import PAGE_SHIFT
from pvemu.hypervisor.mm import Mm
from pvemu.memory.frame_table import PageType

__all__ = ["CompatMm", "compat_cr3_to_pfn", "compat_pfn_to_cr3"]

_MACH2PHYS_COMPAT_VIRT_END = 0xFFE0_0000


def compat_pfn_to_cr3(pfn: int) -> int:
    """xen_pfn_to_cr3 of 32 bits: the frame's number turned left by 12, so that it may lie above 4 GiB."""
    return (pfn << 12 | pfn >> 20) & 0xFFFF_FFFF


def compat_cr3_to_pfn(cr3: int) -> int:
    """xen_cr3_to_pfn of 32 bits."""
    return (cr3 & 0xFFFF_FFFF) >> 12 | (cr3 << 20) & 0xFFFF_FFFF


class CompatMm(Mm):
    """As :class:`Mm`, with an L3 as root and one set of tables for kernel and user mode."""

    root_type = PageType.L3
    linear_bits = 32

    def new_user_baseptr(self, mfn: int) -> None:
        """MMUEXT_NEW_USER_BASEPTR: there is no such thing."""
        raise XenError(e.EINVAL, f"a user base pointer {mfn:x}")

    def read_cr3(self) -> int:
        """The root as CR3 shows it."""
        return compat_pfn_to_cr3(self.guest_root)

    def write_cr3(self, value: int) -> None:
        """MOV to CR3; XenError where it cannot be."""
        self.new_baseptr(compat_cr3_to_pfn(value))

    def machphys_mapping(self) -> tuple[int, int, int]:
        """XENMEM_machphys_mapping: (v_start, v_end, max_mfn)."""
        start, end = HYPERVISOR_COMPAT_VIRT_START, _MACH2PHYS_COMPAT_VIRT_END
        return start, end, (end - start) // 4 - 1

    def machphys_compat_mfn_list(self) -> list[int]:
        """XENMEM_machphys_compat_mfn_list: it is the only table."""
        return self.machphys_mfn_list()

    def machphys_mfn_list(self) -> list[int]:
        """XENMEM_machphys_mfn_list: first mfn of every 2 MiB of the table."""
        assert self._m2p.compat is not None
        found: list[int] = []
        for maddr in self._m2p.compat.superpages():
            found.append(maddr >> PAGE_SHIFT or (found[-1] if found else 0))
        return found
