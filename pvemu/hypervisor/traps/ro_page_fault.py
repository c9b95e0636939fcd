"""Writable page tables: a store of the guest kernel to one of its own level-1 tables, done through the checks of a
page-table update (xen/arch/x86/pv/ro-page-fault.c).

Xen emulates the instruction. Here the CPU executes it, one step, on a copy of the table; what it changed is then
carried over, so that every storing instruction that Xen knows works, flags included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import xen
from pvemu.cpu.exits import Exit, ExitKind
from pvemu.cpu.paging import PTE_ADDR, PTE_P, PTE_RW
from pvemu.cpu.registers import GENERAL_64
from pvemu.frames import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, Mfn
from pvemu.hypervisor.traps.debugreg import DR_STEP
from pvemu.hypervisor.traps.memory_write import Store, modifies, store_of
from pvemu.hypervisor.traps.traps import GuestException
from pvemu.hypervisor.vcpu.current import ServesCurrent
from pvemu.memory.frame_table import FrameTable, PageType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.mm import Mm
    from pvemu.hypervisor.traps.emulate import CodeReader
    from pvemu.hypervisor.vcpu import Vcpu
    from pvemu.memory.ram import Ram

__all__ = ["RoPageFault"]

_VECTOR_DB, _VECTOR_PF = 1, 14
_EFLAGS_TF = 1 << 8
_ENTRY_SIZE = 8
_SAVED = (*GENERAL_64, "rip", "rflags")


class RoPageFault(ServesCurrent):
    """Does the stores of one vcpu. ``scratch`` is a frame of Xen's own for the copy; ``run_on_copy(page, maddr)`` runs
    the CPU with the page at linear address ``page`` writable at ``maddr`` instead of where it is mapped.
    """

    def __init__(
        self, vcpu: Vcpu, code: CodeReader, ram: Ram, frames: FrameTable, mm: Mm, scratch: Mfn,
        run_on_copy: Callable[[int, int], Exit], is_compat: bool = False,
    ) -> None:  # fmt: skip
        self._vcpu = vcpu
        self._code = code
        self._ram = ram
        self._frames = frames
        self._mm = mm
        self._scratch = scratch
        self._run_on_copy = run_on_copy
        self._is_compat = is_compat

    def handle(self, address: int) -> bool:
        """pv_ro_page_fault for a refused write at ``address``. False: the #PF is the guest's. GuestException is what
        the instruction raises instead.
        """
        at = self._mm.l1_entry_address(address)
        if at is None:
            return False
        entry = self._ram.read_u64(at)
        mfn = (entry & PTE_ADDR) >> PAGE_SHIFT
        if entry & (PTE_P | PTE_RW) != PTE_P or not self._frames.is_guest(mfn):
            return False
        if self._frames.type_of(mfn) != PageType.L1:
            return False
        store = self._store_at(address)
        return store is not None and self._store(address, Mfn(mfn), store)

    def _store_at(self, address: int) -> Store | None:
        """What the next instruction stores, if Xen could do that: an aligned part of an entry in ``address``'s page,
        or something else that it may leave as it is. Xen takes an offset for a linear address here, whatever the
        segment.
        """
        instruction = self._code.instruction()
        store = None if instruction is None else store_of(instruction)
        if instruction is None or store is None:
            return None
        if store.is_push:
            at = self._vcpu.regs.read("rsp") - store.size
        else:
            operands = self._code.memory_operands(instruction)
            at = operands[-1].offset if operands else -1
        if not store.is_bit_string and ((at ^ address) | (at + store.size - 1 ^ address)) & ~PAGE_MASK:
            return None
        if at & (store.size - 1) or store.size > _ENTRY_SIZE:
            return store._replace(size=0) if modifies(instruction) else None
        return store

    def _store(self, address: int, mfn: Mfn, store: Store) -> bool:
        regs, ram = self._vcpu.regs, self._ram
        saved = [regs.read(name) for name in _SAVED]
        rflags = saved[-1]
        ram.write(self._scratch << PAGE_SHIFT, ram.frame(mfn))
        regs.write("rflags", rflags | _EFLAGS_TF)
        leaving = self._run_on_copy(address & ~PAGE_MASK, self._scratch << PAGE_SHIFT)
        regs.write("rflags", regs.read("rflags") & ~_EFLAGS_TF | rflags & _EFLAGS_TF)
        if leaving.kind != ExitKind.EXCEPTION:
            return False
        if leaving.vector != _VECTOR_DB:
            raise GuestException(leaving.vector, leaving.error_code, leaving.address)
        if not self._carry_over(address, mfn, store):
            for name, value in zip(_SAVED, saved, strict=True):
                regs.write(name, value)
            return False
        if rflags & _EFLAGS_TF:
            self._vcpu.debugreg.record(DR_STEP)
            raise GuestException(_VECTOR_DB)
        return True

    def _carry_over(self, address: int, mfn: Mfn, store: Store) -> bool:
        """Make the changes of the copy; only the one entry that the fault was about may have any."""
        before = self._ram.frame(mfn).cast("Q")
        after = self._ram.frame(self._scratch).cast("Q")
        changed = [i for i in range(PAGE_SIZE // 8) if before[i] != after[i]] if before != after else []
        if not changed:
            return True
        if changed != [(address & PAGE_MASK) >> 3] or not store.size:
            return False
        slot = changed[0]
        request, new = (mfn << PAGE_SHIFT) + 8 * slot | xen.MMU_NORMAL_PT_UPDATE, after[slot]
        try:
            self._mm.mmu_update(request, new)
        except XenError:
            if not (self._is_compat and store.size == 4 and address & 4 and new & PTE_P) or store.is_atomic:
                return False
            # The halves of a PAE entry written the wrong way round: the lower one follows at once.
            self._mm.mmu_update(request, new & ~PTE_P)
        return True
