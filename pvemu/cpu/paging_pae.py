"""The walk of a 32-bit guest's 3-level PAE tables, which Xen has under an L4 of its own (Intel SDM 3A ch. 4).

What differs from the 64-bit walk: the kernel runs in ring 1 and needs no user pages, user mode in ring 3 does, so that
an access counts with its privilege level; the machine-to-physical table lies behind 2 MiB entries of Xen's in the last
L2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.cpu.exits import Access
from pvemu.cpu.paging import PTE_A, PTE_P, PTE_RW, PTE_US, PageWalker

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.memory.ram import Ram

__all__ = ["HYPERVISOR_COMPAT_VIRT_START", "PaePageWalker"]

#: Linear addresses from here on are Xen's in every 32-bit guest (__HYPERVISOR_COMPAT_VIRT_START).
HYPERVISOR_COMPAT_VIRT_START = 0xF580_0000
_MONITOR_FLAGS = PTE_P | PTE_RW | PTE_US | PTE_A


class PaePageWalker(PageWalker):
    """``is_user`` tells whether the CPU is in ring 3 at the moment."""

    upper_levels = (3, 2)
    _xen_required = 0

    def __init__(
        self, ram: Ram, flush: Callable[[], None], drop_code: Callable[[int], None],
        flush_page: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(ram, flush, drop_code, flush_page)
        self.is_user: Callable[[], bool] = lambda: False
        #: Machine address behind an address in Xen's part, where there is one that kernel mode may read.
        self.xen_page: Callable[[int], int | None] = lambda vaddr: None

    def attach(self, read_cs: Callable[[], list[int]], shown_at: Callable[[int], int | None]) -> None:
        """The CPU's code selector tells its ring; ``shown_at(offset)`` is what Xen shows in its part."""
        self.is_user = lambda: read_cs()[0] & 3 == 3
        self.xen_page = lambda vaddr: shown_at(vaddr - HYPERVISOR_COMPAT_VIRT_START)

    @staticmethod
    def is_address(vaddr: int) -> bool:
        """Whether it is one of 32 bits."""
        return not vaddr >> 32

    @staticmethod
    def access_ok(vaddr: int, size: int) -> bool:
        """Whether it ends below 4 GiB: what Xen shows there to a 32-bit guest may be read by pointer as well."""
        return vaddr + size <= 1 << 32

    def translate(self, vaddr: int, access: int) -> tuple[int, int] | None:
        """As :meth:`PageWalker.translate`, for the privilege level that the CPU is at."""
        self._required = PTE_US if self.is_user() else 0
        if vaddr < HYPERVISOR_COMPAT_VIRT_START:
            return super().translate(vaddr, access)
        maddr = self.xen_page(vaddr)
        if maddr is None or self._required or access != Access.READ:
            self._refuse(access, maddr is not None)
            return None
        return maddr, 1

    def lookup(self, vaddr: int, access: Access = Access.READ, root_maddr: int | None = None) -> int | None:
        """As :meth:`PageWalker.lookup`, for kernel mode: Xen's own accesses go through kernel pages too."""
        if vaddr < HYPERVISOR_COMPAT_VIRT_START or not self.is_address(vaddr):
            return super().lookup(vaddr, access, root_maddr)
        maddr = self.xen_page(vaddr & ~0xFFF)
        return maddr | (vaddr & 0xFFF) if maddr is not None and access == Access.READ else None

    def _entries_above_root(self) -> list[tuple[int, int, int]]:
        return [(4, 0, self.root_maddr | _MONITOR_FLAGS)]
