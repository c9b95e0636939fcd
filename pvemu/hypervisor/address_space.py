"""The running vcpu's address space as a TLB miss sees it: the guest's tables, and what Xen shows of itself.

Xen's part is its read-only machine-to-physical table and the vcpu's descriptor tables
(xen/arch/x86/include/asm/config.h).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.cpu.exits import PF_INSTR, PF_PRESENT, PF_USER, PF_WRITE, Access
from pvemu.frames import PAGE_MASK, PAGE_SHIFT, Mfn
from pvemu.hypervisor.descriptor_tables import GDT_VADDR, DescriptorTables

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.cpu.exits import Exit
    from pvemu.cpu.paging import PageWalker
    from pvemu.memory.m2p import MachineToPhys

__all__ = ["AddressSpace"]

_XEN_START, _XEN_END = 0xFFFF_8000_0000_0000, 0xFFFF_8800_0000_0000
#: Where Xen's image lies in XEN_VIRT_START.
_TEXT, _TEXT_END = 0xFFFF_82D0_4020_0000, 0xFFFF_82D0_4080_0000
_M2P_END = 0xFFFF_8080_0000_0000
_LINEAR_PT_START, _LINEAR_PT_END = 0xFFFF_8100_0000_0000, 0xFFFF_8180_0000_0000
_DIRECTMAP_START = 0xFFFF_8300_0000_0000
_FETCH = int(Access.FETCH)
_PROT_R, _PROT_RW = 1, 3


class AddressSpace:
    """What the engine asks (pvemu.cpu.exits.Mmu)."""

    def __init__(
        self, walker: PageWalker, m2p: MachineToPhys, descriptor_tables: DescriptorTables,
        flush_page: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._walker = walker
        self._m2p = m2p
        self._machine_end = m2p.max_mfn << PAGE_SHIFT
        self._descriptor_tables = descriptor_tables
        self.flush_page = flush_page
        #: What the TLB may have of a page that is served in its own way: asked with the page, the access and what the
        #: tables say.
        self._watched: dict[int, Callable[[int, int, tuple[int, int] | None], tuple[int, int] | None]] = {}
        #: Whether a miss may be the guest's own doing: descriptors are for the CPU alone.
        self.is_guest_access: Callable[[], bool] = lambda: False
        #: Whether the instruction that the guest stands at gets to an address itself.
        self.touches: Callable[[int], bool] = lambda address: True
        self._descriptor_page = self._refused_descriptors = -1
        #: Whether the root table shows the machine-to-physical table: user mode's need not.
        self.shows_m2p: Callable[[], bool] = lambda: True
        self._m2p_pages: set[int] = set()  # that the TLB may have
        walker.on_load_root = self._root_loaded
        self.refused_page = -1  #: one that was refused only since it is watched
        self._trapped_maddr = self._window = -1
        #: While armed: asked about each page that is fetched from first; True when a new kernel starts there.
        self.is_start_of_day: Callable[[int], bool] | None = None
        #: Forget all translated code: a new kernel brings its own.
        self.drop_all_code: Callable[[], None] = lambda: None

    def trap_frame(self, mfn: Mfn, window: int) -> None:
        """Show ``window``, a page that is not RAM, wherever the guest maps frame ``mfn``."""
        self._trapped_maddr, self._window = mfn << PAGE_SHIFT, window

    def on_tlb_miss(self, vaddr: int, access: int) -> tuple[int, int] | None:
        """One page of the guest's address space, or of the part that Xen shows it."""
        if _XEN_START <= vaddr < _XEN_END:
            return self._xen_area(vaddr, access)
        found = self._walker.translate(vaddr, access)
        if vaddr in self._watched:
            return self._watched[vaddr](vaddr, access, found)
        if found is not None and found[0] == self._trapped_maddr:
            return self._window, found[1] & _PROT_RW
        if access == _FETCH and self.is_start_of_day is not None and self.is_start_of_day(vaddr):
            self._walker.flush()
            self.drop_all_code()
            return self._walker.translate(vaddr, access)
        return found

    def fault_error_code(self) -> int:
        """Error code of the refused access."""
        return self._walker.error_code

    def _xen_area(self, vaddr: int, access: int) -> tuple[int, int] | None:
        maddr = None
        is_allowed = access == Access.READ
        if vaddr < _M2P_END:
            maddr = self._m2p.shown_at(vaddr - _XEN_START) if self.shows_m2p() else None
            if is_allowed and maddr is not None:
                self._m2p_pages.add(vaddr)
        elif vaddr >= GDT_VADDR:
            maddr = self._descriptor_tables.page_at(vaddr, access)
            is_allowed = vaddr == self._descriptor_page or not self.is_guest_access()
        if maddr is None or not is_allowed:
            code = {Access.WRITE: PF_USER | PF_WRITE, Access.FETCH: PF_USER | PF_INSTR}.get(Access(access), PF_USER)
            if vaddr >= GDT_VADDR and maddr is not None and access != _FETCH:
                self._refused_descriptors = vaddr
            is_mapped = maddr is not None or self._is_mapped_for_xen(vaddr)
            self._walker.error_code = code | PF_PRESENT if is_mapped else code
            return None
        self._descriptor_page = -1
        return maddr, _PROT_RW if access == Access.WRITE else _PROT_R  # the CPU marks a descriptor as accessed

    def _is_mapped_for_xen(self, vaddr: int) -> bool:
        """Whether Xen itself has something there, which the guest's error codes tell: tables in the linear page table,
        its own text, the machine's memory in the direct map.
        """
        if _TEXT <= vaddr < _TEXT_END:
            return True
        if vaddr >= _DIRECTMAP_START:
            return vaddr - _DIRECTMAP_START < self._machine_end
        return _LINEAR_PT_START <= vaddr < _LINEAR_PT_END and self._walker.has_l1_table((vaddr - _LINEAR_PT_START) << 9)

    def _root_loaded(self) -> None:
        if self._m2p_pages and not self.shows_m2p():
            for page in self._m2p_pages:
                self.flush_page(page)
            self._m2p_pages.clear()

    def is_descriptor_load(self, address: int) -> bool:
        """Whether the refused access to ``address`` was the CPU's, which looks for a descriptor that is there. It may
        try again then: the guest may not read the tables itself, and only the instruction tells who wanted it.
        """
        page = address & ~PAGE_MASK
        if page != self._refused_descriptors or self.touches(address):
            return False
        self._refused_descriptors, self._descriptor_page = -1, page
        return True

    def run_on_copy(self, page: int, maddr: int, run: Callable[[], Exit]) -> Exit:
        """``run`` with the page at linear address ``page`` writable at ``maddr`` instead of where it is mapped."""
        kept = self._watched.get(page)
        self.watch(page, lambda page, access, plain: (maddr, _PROT_RW))
        try:
            return run()
        finally:
            self.unwatch(page)
            if kept is not None:
                self.watch(page, kept)

    def watch(self, page: int, serve: Callable[[int, int, tuple[int, int] | None], tuple[int, int] | None]) -> None:
        """Have ``serve(page, access, what the tables say)`` decide what the TLB gets of the page at ``page``."""
        self._watched[page] = serve
        self.flush_page(page)

    def unwatch(self, page: int) -> None:
        """The end of ``watch``."""
        del self._watched[page]
        self.flush_page(page)
