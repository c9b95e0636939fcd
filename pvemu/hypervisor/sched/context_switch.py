"""One vcpu gives up the CPU to another (context_switch of xen/arch/x86/domain.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.hypervisor.descriptor_tables import gdt_vaddr

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pvemu.cpu.guest_cpu import RegisterContexts
    from pvemu.hypervisor.descriptor_tables import DescriptorTables
    from pvemu.hypervisor.mm import Mm
    from pvemu.hypervisor.vcpu import Vcpu

__all__ = ["ContextSwitch"]


class ContextSwitch:
    """Between any two of ``vcpus``, none of which has run. ``set_current`` are those who serve the running vcpu, to be
    told which it is. Not while guest code runs.
    """

    def __init__(
        self, registers: RegisterContexts, mm: Mm, tables: DescriptorTables, vcpus: Sequence[Vcpu],
        set_current: Sequence[Callable[[Vcpu], None]],
    ) -> None:  # fmt: skip
        for vcpu in vcpus:
            vcpu.parked.registers = registers.new(gdt_vaddr(vcpu.vcpu_id))
        self._registers = registers
        self._mm = mm
        self._tables = tables
        self._set_current = set_current

    def __call__(self, before: Vcpu, after: Vcpu) -> None:
        """From one vcpu to another."""
        assert before.parked.registers is not None
        assert after.parked.registers is not None
        self._registers.save(before.parked.registers)
        self._mm.park(before)
        self._tables.park(before)
        self._registers.load(after.parked.registers)
        self._tables.take_up(after)
        self._mm.take_up(after)
        for tell in self._set_current:
            tell(after)
