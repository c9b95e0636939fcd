"""Entering guest code at another privilege level or code width: by an IRETQ in a page of the hypervisor's own, as a
register write sets no CPL.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from unicorn import Uc, x86_const

from pvemu.cpu.unicorn.hooks import ENTRY_VADDR

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.cpu.exits import Exit
    from pvemu.cpu.unicorn.hidden_state import CpuState
    from pvemu.cpu.unicorn.hooks import Hooks
    from pvemu.cpu.unicorn.native import Native
    from pvemu.cpu.unicorn.register_file import RegisterFile
    from pvemu.memory.ram import Ram

__all__ = ["Entry"]

_EFLAGS_TF, _EFLAGS_IF = 1 << 8, 1 << 9
#: Of QEMU's hflags (target/i386/cpu.h): HF_CPL, HF_CS32, HF_SS32, HF_ADDSEG, HF_CS64.
_HFLAGS_SEGMENTS = 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 15
_HF_CS64 = 1 << 15
#: Ring 0 as the engine starts, and FLAT_KERNEL_CS64.
_ENTRY_SELECTORS = frozenset((0, 0xE033))
#: mov %eax, %ds; mov %ecx, %es; mov %edx, %fs; mov %ebx, %gs; iretq
_LOAD_DATA, _LOAD_DATA_AT = b"\x8e\xd8\x8e\xc1\x8e\xe2\x8e\xeb\x48\xcf", 64
_DATA_REGISTERS = ("rax", "rcx", "rdx", "rbx")


class Entry:
    """``entry_maddr`` is the page's address, ``start`` runs what stands at an address, ``raised`` tells the exception
    that ended it, ``state`` finds the CPU's modes.
    """

    def __init__(
        self, uc: Uc, native: Native, ram: Ram, registers: RegisterFile, hooks: Hooks, entry_maddr: int,
        start: Callable[[int], None], raised: Callable[[], Exit | None], state: Callable[[], CpuState],
    ) -> None:  # fmt: skip
        self._uc = uc
        self._flush_page = native.flush_page
        self._ram = ram
        self._registers = registers
        self._hooks = hooks
        self._entry_maddr = entry_maddr
        self._start = start
        self._raised = raised
        self._state = state

    def enter_from_ring0(
        self, rip: int, rsp: int, cs: int, ss: int, rflags: int = 0x202,
        data: tuple[int, int, int, int] | None = None,
    ) -> Exit | None:  # fmt: skip
        """``enter`` for a guest whose privilege level or code width may be another than the CPU is at. ``data`` is
        loaded into ds, es, fs and gs, descriptors and all.
        """
        self._to_ring0()
        if data is None:
            return self.enter(rip, rsp, cs, ss, rflags)
        registers = self._registers
        kept = [registers.read(name) for name in _DATA_REGISTERS]
        for name, selector in zip(_DATA_REGISTERS, data, strict=True):
            registers.write(name, selector)
        refusal = self.enter(rip, rsp, cs, ss, rflags, _LOAD_DATA_AT)
        for name, value in zip(_DATA_REGISTERS, kept, strict=True):
            registers.write(name, value)
        return refusal

    def enter(self, rip: int, rsp: int, cs: int, ss: int, rflags: int = 0x202, entry_offset: int = 0) -> Exit | None:
        """Load ``cs``/``ss`` with their privilege level by an IRETQ from ring 0, then stand at ``rip``. All other
        registers keep their values. The exception, where the CPU refuses the selectors: it stays in ring 0 then, and
        has to be entered with better ones.
        """
        hooks, registers = self._hooks, self._registers
        if not self._is_entry_code():
            self._to_ring0()
        frame = struct.pack("<5Q", rip, cs, rflags & ~_EFLAGS_TF, rsp, ss)
        self._ram.write(self._entry_maddr, b"\x48\xcf".ljust(16, b"\xcc") + frame)
        self._ram.write(self._entry_maddr + _LOAD_DATA_AT, _LOAD_DATA)
        self._uc.reg_write(x86_const.UC_X86_REG_RSP, ENTRY_VADDR + 16)
        registers.write("rflags", _EFLAGS_IF | 2)  # without an NT of the guest's: it makes the IRETQ a fault
        hooks.is_entering, hooks.is_entry_fetched = True, False
        self._flush_page(ENTRY_VADDR)
        self._flush_page(rip)
        self._start(ENTRY_VADDR + entry_offset)  # ends when the guest's first instruction is fetched
        hooks.is_entering = False
        self._flush_page(ENTRY_VADDR)
        refusal = self._raised()
        if refusal is None and rflags & _EFLAGS_TF:
            registers.write("rflags", rflags)
        return refusal

    def _to_ring0(self) -> None:
        """Have the CPU take what it runs for 64-bit code in ring 0."""
        state = self._state()
        at = state.fields.hflags
        state.words[at] = state.words[at] & ~_HFLAGS_SEGMENTS | state.kernel_hflags & _HFLAGS_SEGMENTS

    def _is_entry_code(self) -> bool:
        """Whether the IRETQ that enters guest code means itself: in 64-bit code, which Xen's own selectors are."""
        if self._registers.read("cs") in _ENTRY_SELECTORS:
            return True
        state = self._state()
        return bool(state.words[state.fields.hflags] & _HF_CS64)
