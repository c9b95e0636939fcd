"""The CPU's registers, all of them, kept while another vcpu has the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unicorn import Uc, x86_const

from pvemu.cpu.guest_cpu import SavedRegisters

if TYPE_CHECKING:
    from pvemu.cpu.unicorn.register_file import RegisterFile

__all__ = ["CpuContexts"]

#: Xen's GDT ends where it does (LAST_RESERVED_GDT_BYTE).
_GDT_LIMIT = 0xEFFF


class CpuContexts:
    """Saves and loads those of one CPU."""

    def __init__(self, uc: Uc, registers: RegisterFile) -> None:
        self._uc = uc
        self._registers = registers

    def set_gdt(self, vaddr: int) -> None:
        """Have the CPU, and whoever writes a selector, look for the GDT at a linear address."""
        self._registers.gdt_vaddr = vaddr
        self._uc.reg_write(x86_const.UC_X86_REG_GDTR, (0, vaddr, _GDT_LIMIT, 0))

    def new(self, gdt_vaddr: int) -> SavedRegisters:
        """The registers of now, with a GDT of its own: for a vcpu that is yet to begin, before any has run."""
        kept = self._registers.gdt_vaddr
        self.set_gdt(gdt_vaddr)
        context = SavedRegisters(self._uc.context_save(), gdt_vaddr)
        self.set_gdt(kept)
        return context

    def save(self, context: SavedRegisters) -> None:
        """Keep the registers of now; not while guest code runs."""
        self._uc.context_update(context.saved)

    def load(self, context: SavedRegisters) -> None:
        """Go on with these. Translations are another's affair."""
        self._uc.context_restore(context.saved)
        self._registers.gdt_vaddr = context.gdt_vaddr
