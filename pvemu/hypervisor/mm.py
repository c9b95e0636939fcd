"""Page-table hypercalls of the running domain: mmu_update, update_va_mapping, mmuext_op (xen/arch/x86/mm.c).

Each change drops from the TLB what the CPU may have cached of the old value, at once: a flush that the guest asks for
later finds nothing to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from hypercalls.public import xen
from pvemu.cpu.paging import PTE_ADDR, PTE_P, PageWalker, table_slot
from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Mfn
from pvemu.memory.frame_table import TABLE_LEVEL, FrameTable, PageType
from pvemu.observers import subscribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.memory import Reservation
    from pvemu.hypervisor.page_types import PageTypes
    from pvemu.hypervisor.vcpu.vcpu import Vcpu
    from pvemu.memory.m2p import MachineToPhys
    from pvemu.memory.ram import Ram

__all__ = ["EntryUpdate", "Mm"]


class EntryUpdate(NamedTuple):
    """A page-table entry was changed: at machine address ``maddr``, in a table of ``level``."""

    maddr: int
    level: int
    old: int
    new: int


class Mm:
    """Owner of the root page table and of every change to the guest's tables.

    ``guest_root`` is the kernel's root (v->arch.guest_table), ``guest_root_user`` the one for user mode or 0.
    ``on_new_baseptr`` is told of each new kernel root, and whether it was never loaded since it became one.
    """

    root_type = PageType.L4
    linear_bits = 64  #: of an address that a guest's structure gives in 64

    def __init__(
        self, ram: Ram, frames: FrameTable, types: PageTypes, m2p: MachineToPhys, walker: PageWalker,
        reservation: Reservation,
    ) -> None:  # fmt: skip
        # memory_op's half of the port (hypercalls.context.MmPort)
        self.populate_physmap = reservation.populate_physmap
        self.increase_reservation = reservation.increase_reservation
        self.decrease_reservation = reservation.decrease_reservation
        self.exchange_frames = reservation.exchange_frames
        self.place_extent = reservation.place_extent
        self.maximum_ram_page = reservation.maximum_ram_page
        self.current_reservation = reservation.current_reservation
        self.maximum_reservation = reservation.maximum_reservation
        self.maximum_gpfn = reservation.maximum_gpfn
        self.memory_map = reservation.memory_map
        self.set_memory_map = reservation.set_memory_map
        self._ram = ram
        self._frames = frames
        self._types = types
        self._m2p = m2p
        self._walker = walker
        self._observers: list[Callable[[EntryUpdate], None]] = []
        self.guest_root = Mfn(0)
        self.guest_root_user = Mfn(0)
        self.on_new_baseptr: Callable[[bool], None] = lambda is_fresh: None
        self.on_set_ldt: Callable[[int, int], None] = lambda vaddr, ents: None
        #: pv_destroy_ldt: the CPU must forget the LDT's pages, a new root may map others there.
        self.on_destroy_ldt: Callable[[], None] = lambda: None

    def set_ldt(self, vaddr: int, ents: int) -> None:
        """MMUEXT_SET_LDT: the descriptor tables' affair."""
        self.on_set_ldt(vaddr, ents)

    def observe(self, observer: Callable[[EntryUpdate], None]) -> Callable[[], None]:
        """Tell ``observer`` of every page-table entry that was changed; returns how to stop that."""
        return subscribe(self._observers, observer)

    def _tell(self, maddr: int, level: int, old: int) -> None:
        update = EntryUpdate(maddr, level, old, self._ram.read_u64(maddr))
        for observer in tuple(self._observers):
            observer(update)

    def _changed(self, maddr: int, old: int) -> None:
        if old & PTE_P:
            self._walker.entry_changed(maddr)
        if self._observers:
            self._tell(maddr, 1, old)

    # -- mmu_update --------------------------------------------------------------------------------------------------
    def mmu_update(self, ptr: int, val: int, is_io: bool = False) -> None:
        """One request of HYPERVISOR_mmu_update; see the ``MMU_*`` commands in its low three bits. ``is_io``: for
        DOMID_IO as the frames' owner, which owns none.
        """
        command = ptr & 7
        ptr &= ~7
        if command > xen.MMU_PT_UPDATE_NO_TRANSLATE:
            raise XenError(e.ENOSYS, f"mmu_update command {command}")
        if command != xen.MMU_MACHPHYS_UPDATE:
            self._normal_update(ptr, val, command == xen.MMU_PT_UPDATE_PRESERVE_AD, is_io)
            return
        if is_io:
            raise XenError(e.EINVAL, f"mfn {ptr >> PAGE_SHIFT:x} is not DOMID_IO's")
        self._types.get_page(ptr >> PAGE_SHIFT)
        self._types.put_page(ptr >> PAGE_SHIFT)
        self._m2p.set(ptr >> PAGE_SHIFT, val)

    def _normal_update(self, ptr: int, val: int, preserve_ad: bool, is_io: bool) -> None:
        mfn = ptr >> PAGE_SHIFT
        i = self._types.get_page(mfn)
        try:
            kind = self._frames.type[i] if self._frames.type_count[i] else PageType.NONE
            if kind == PageType.L1:
                self._changed(ptr, self._types.mod_l1_entry(ptr, val, preserve_ad, is_io))
            elif TABLE_LEVEL[kind] and not is_io and mfn not in self._types.partial:
                old = self._types.mod_table_entry(ptr, val, PageType(kind), preserve_ad)
                if old & PTE_P:
                    self._walker.upper_entry_changed(ptr)
                if self._observers:
                    self._tell(ptr, TABLE_LEVEL[kind], old)
            elif kind in (PageType.NONE, PageType.WRITABLE):
                self._ram.write_u64(ptr, val)
            else:
                raise XenError(e.EINVAL, f"mfn {mfn:x} is a {PageType(kind).name} page")
        finally:
            self._types.put_page(mfn)

    def swap_l1_entry(self, at: int, new: int) -> int:
        """Store a level-1 entry whose references are taken already; returns the old one, which keeps its own."""
        old = self._types.l1_tables.replace_entry(at, new)
        self._changed(at, old)
        return old

    def put_old_l1_entry(self, old: int) -> None:
        """put_page_from_l1e for an entry that was swapped out."""
        if old & PTE_P:
            self._types.put_from_l1e(old)

    def update_va_mapping(self, vaddr: int, val: int, flags: int) -> None:
        """Replace the level-1 entry that maps ``vaddr``; ``flags`` (UVMF_*) ask for flushes, which are done anyway."""
        at = self.l1_entry_address(vaddr)
        if at is None:
            raise XenError(e.EINVAL, f"no L1 table maps {vaddr:#x}")
        old = self._types.mod_l1_entry(at, val)
        self._changed(at, old)

    def l1_entry_address(self, vaddr: int) -> int | None:
        """map_guest_l1e: machine address of the level-1 entry for ``vaddr``, None where no table leads there."""
        if not self._walker.access_ok(vaddr, 1):
            return None
        table = self.guest_root << PAGE_SHIFT
        for level in self._walker.upper_levels:
            if not self._ram.contains(table >> PAGE_SHIFT):
                return None
            entry = self._ram.read_u64(table + 8 * table_slot(vaddr, level))
            if not entry & PTE_P:
                return None
            table = entry & PTE_ADDR
        return table + 8 * table_slot(vaddr, 1) if self.is_l1_table(table >> PAGE_SHIFT) else None

    def is_l1_table(self, mfn: int) -> bool:
        """Whether a frame is the domain's and a validated level-1 table."""
        return self._frames.is_guest(mfn) and self._frames.type_of(mfn) == PageType.L1

    # -- mmuext_op ---------------------------------------------------------------------------------------------------
    def pin_table(self, level: int, mfn: int) -> None:
        """MMUEXT_PIN_Ln_TABLE: validate as a level-``level`` table and keep it so."""
        self._types.get_page_and_type(mfn, PageType(level))
        if mfn in self._frames.pinned:
            self._types.put_page_and_type(mfn)
            raise XenError(e.EINVAL, f"mfn {mfn:x} already pinned")
        self._frames.pinned.add(mfn)

    def unpin_table(self, mfn: int) -> None:
        """MMUEXT_UNPIN_TABLE."""
        self._types.get_page(mfn)
        try:
            if mfn not in self._frames.pinned:
                raise XenError(e.EINVAL, f"mfn {mfn:x} not pinned")
            self._frames.pinned.discard(mfn)
            self._types.put_page_and_type(mfn)
        finally:
            self._types.put_page(mfn)

    def new_baseptr(self, mfn: int) -> None:
        """MMUEXT_NEW_BASEPTR: new_guest_cr3."""
        if mfn != self.guest_root:
            self._types.get_page_and_type(mfn, self.root_type)
            self.on_destroy_ldt()
            old, self.guest_root = self.guest_root, Mfn(mfn)
            if old:
                self._types.put_page_and_type(old)
            self._types.fill_ro_mpt(mfn)
            self._walker.load_root(mfn << PAGE_SHIFT)
            is_fresh = mfn in self._types.fresh_roots
            if is_fresh:
                self._types.fresh_roots.discard(mfn)
                self._walker.flush()  # a kernel that starts here is known by its first fetch
            self.on_new_baseptr(is_fresh)

    def new_user_baseptr(self, mfn: int) -> None:
        """MMUEXT_NEW_USER_BASEPTR; 0 takes it away."""
        if mfn == self.guest_root_user:
            return
        if mfn:
            self._types.get_page_and_type(mfn, self.root_type)
            if self._types.is_m2p_strict():
                self._types.zap_ro_mpt(mfn)
        old, self.guest_root_user = self.guest_root_user, Mfn(mfn)
        if old:
            self._types.put_page_and_type(old)

    def park(self, vcpu: Vcpu) -> None:
        """The vcpu that ran gives up the CPU; its tables stay its own."""
        vcpu.parked.guest_root, vcpu.parked.guest_root_user = self.guest_root, self.guest_root_user

    def take_up(self, vcpu: Vcpu) -> None:
        """write_ptbase: go on with a vcpu's own tables."""
        self.guest_root, self.guest_root_user = vcpu.parked.guest_root, vcpu.parked.guest_root_user
        is_kernel = self.root_type != PageType.L4 or vcpu.kernel_mode  # a 32-bit guest has one root
        self._walker.load_root((self.guest_root if is_kernel else self.guest_root_user) << PAGE_SHIFT)

    def read_cr3(self) -> int:
        """The kernel's root as CR3 shows it: a PV guest's frames are machine frames."""
        return self.guest_root << PAGE_SHIFT

    def write_cr3(self, value: int) -> None:
        """MOV to CR3; XenError where it cannot be."""
        self.new_baseptr(value >> PAGE_SHIFT)

    def tlb_flush(self) -> None:
        """MMUEXT_TLB_FLUSH_*: every change flushed what it had to when it was made."""

    def invlpg(self, vaddr: int) -> None:
        """MMUEXT_INVLPG_*: the same."""

    def clear_page(self, mfn: int) -> None:
        """MMUEXT_CLEAR_PAGE: the frame must be usable as writable memory."""
        self._write_page(mfn, bytes(PAGE_SIZE))

    def copy_page(self, dst_mfn: int, src_mfn: int) -> None:
        """MMUEXT_COPY_PAGE."""
        self._types.get_page(src_mfn)
        try:
            self._write_page(dst_mfn, bytes(self._ram.frame(Mfn(src_mfn))))
        finally:
            self._types.put_page(src_mfn)

    def _write_page(self, mfn: int, data: bytes) -> None:
        self._types.get_page_and_type(mfn, PageType.WRITABLE)
        self._ram.write(mfn << PAGE_SHIFT, data)
        self._types.put_page_and_type(mfn)

    # -- machine-to-physical table -----------------------------------------------------------------------------------
    def machphys_mapping(self) -> tuple[int, int, int]:
        """XENMEM_machphys_mapping: (v_start, v_end, max_mfn)."""
        start = 0xFFFF_8000_0000_0000
        return start, 0xFFFF_8040_0000_0000, (1 << 35) - 1

    def machphys_mfn_list(self) -> list[int]:
        """XENMEM_machphys_mfn_list: first mfn of every 2 MiB of the table."""
        count = (self._m2p.max_mfn * 8 + (1 << 21) - 1) >> 21
        found: list[int] = []
        for i in range(count):
            page = self._m2p.page_at(i << 21)
            hole = found[-1] if found else 0  # where the machine has no memory, the one before stands again
            found.append(hole if page is None else page >> PAGE_SHIFT)
        return found

    def machphys_compat_mfn_list(self) -> list[int]:
        """XENMEM_machphys_compat_mfn_list: the table of 32-bit domains is half as long. None is kept beside a 64-bit
        domain, which could not map it either; frames of Xen's stand for it.
        """
        return self.machphys_mfn_list()[: (self._m2p.max_mfn * 4 + (1 << 21) - 1) >> 21]
