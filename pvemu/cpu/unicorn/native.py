"""Unicorn's C functions that are called too often for its Python layer (a hypercall costs 2.3 us instead of 3.7 us),
and those of QEMU's that its API has no name for.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from unicorn import Uc, unicorn_const, x86_const
from unicorn.unicorn_py3.unicorn import uclib

from pvemu.cpu.registers import GENERAL_64
from pvemu.cpu.unicorn.hidden_state import EngineError, find_fault_address
from pvemu.frames import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CODE", "FILL", "IN", "INSN", "INTR", "INVALID", "MAX_BATCH", "MEMORY", "OUT", "REGISTERS", "U64",
           "UNMAPPED", "EngineError", "Native"]  # fmt: skip

U64 = ctypes.c_uint64
_VOID = ctypes.c_void_p
#: Types of the callbacks that hooks take (uc_hook_add of unicorn.h).
FILL = ctypes.CFUNCTYPE(ctypes.c_bool, _VOID, U64, ctypes.c_int, ctypes.POINTER(U64), _VOID)
INSN = ctypes.CFUNCTYPE(ctypes.c_uint32, _VOID, _VOID)
IN = ctypes.CFUNCTYPE(ctypes.c_uint32, _VOID, ctypes.c_uint32, ctypes.c_int, _VOID)
OUT = ctypes.CFUNCTYPE(None, _VOID, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint32, _VOID)
INTR = ctypes.CFUNCTYPE(None, _VOID, ctypes.c_uint32, _VOID)
INVALID = ctypes.CFUNCTYPE(ctypes.c_bool, _VOID, _VOID)
CODE = ctypes.CFUNCTYPE(None, _VOID, U64, ctypes.c_uint32, _VOID)
MEMORY = ctypes.CFUNCTYPE(None, _VOID, ctypes.c_int, U64, ctypes.c_int, ctypes.c_int64, _VOID)
UNMAPPED = ctypes.CFUNCTYPE(ctypes.c_bool, _VOID, ctypes.c_int, U64, ctypes.c_int, ctypes.c_int64, _VOID)
_MMIO_READ = ctypes.CFUNCTYPE(U64, _VOID, U64, ctypes.c_uint, _VOID)
_MMIO_WRITE = ctypes.CFUNCTYPE(None, _VOID, U64, ctypes.c_uint, U64, _VOID)
_REG_WRITE = ctypes.CFUNCTYPE(ctypes.c_int, _VOID, ctypes.c_int, _VOID)
_REG_BATCH = ctypes.CFUNCTYPE(ctypes.c_int, _VOID, _VOID, _VOID, ctypes.c_int)
_CONTROL = ctypes.CFUNCTYPE(ctypes.c_int, _VOID, ctypes.c_int)
_GET_CPU = ctypes.CFUNCTYPE(_VOID, _VOID, ctypes.c_int)
_CPU_EXIT = ctypes.CFUNCTYPE(None, _VOID)
_FLUSH_PAGE = ctypes.CFUNCTYPE(None, _VOID, U64)

#: Engine register numbers by the names of pvemu.cpu.registers.
REGISTERS: dict[str, int] = {
    name: getattr(x86_const, f"UC_X86_REG_{name.upper()}")
    for name in (*GENERAL_64, "rip", "rflags", "cs", "ss", "ds", "es", "fs", "gs", "fs_base", "gs_base", "cr0", "cr4")
}
#: A 32-bit guest's names for the same registers: it runs in compatibility mode, where the upper halves are zero.
REGISTERS |= {"e" + name[1:]: REGISTERS[name] for name in GENERAL_64[:8]}
#: Registers read by one call.
MAX_BATCH = 32

#: UC_CTL_WRITE(UC_CTL_TLB_FLUSH, 0): the binding has no name for it.
_CTL_TLB_FLUSH = (unicorn_const.UC_CTL_IO_WRITE << 30) | unicorn_const.UC_CTL_TLB_FLUSH
#: The number of the one CPU: Unicorn gives it none.
_UNASSIGNED_CPU_INDEX = -1


def _function(name: str, prototype: Any) -> Any:
    return prototype(ctypes.cast(getattr(uclib, name), _VOID).value)


class Native:
    """The C side of one CPU. ``handle`` is its uc_engine; ``read`` and ``write(handle, number, cell_address)`` and
    ``read_batch(handle, numbers, cell_pointers, count)`` move registers through ``cells``.
    """

    def __init__(self, uc: Uc) -> None:
        self._uch = uc._uch  # noqa: SLF001 - the binding has no public name for the handle its own hooks take
        self.handle = int(self._uch.value or 0)
        self.write = _function("uc_reg_write", _REG_WRITE)
        self.read = _function("uc_reg_read", _REG_WRITE)
        self.read_batch = _function("uc_reg_read_batch", _REG_BATCH)
        self._control = _function("uc_ctl", _CONTROL)
        self.cells = (U64 * MAX_BATCH)()
        self.cell_address = ctypes.addressof(self.cells)
        self.cell_pointers = (_VOID * MAX_BATCH)(*(self.cell_address + 8 * i for i in range(MAX_BATCH)))
        self._keep: list[Any] = []  # what C holds pointers to
        self.cpu: int | None = None  #: address of QEMU's CPUState
        self._cpu_exit: Callable[[], object] | None = None
        self._fault_address: int | None = None
        self._flush_one: Callable[[int | None, int], object] = lambda cpu, vaddr: self.flush_tlb()

    def keep(self, thing: Any) -> Any:
        """Hold what C code has a pointer to, as long as the CPU lives."""
        if not any(thing is kept for kept in self._keep):
            self._keep.append(thing)
        return thing

    def flush_tlb(self) -> None:
        """Forget every translation the CPU holds."""
        self._control(self.handle, _CTL_TLB_FLUSH)

    def flush_page(self, vaddr: int) -> None:
        """Forget the translations of the page at ``vaddr``."""
        self._flush_one(self.cpu, vaddr)

    def leave_soon(self) -> None:
        """Have guest code left at the end of the translated block, the way a refused access leaves it.

        Not by uc_emu_stop: while its request stands, Unicorn calls no hook for the rest of the block, and an RDTSC
        there reads the host's clock.
        """
        if self._cpu_exit is None:
            self._find_cpu_exit()
        assert self._cpu_exit is not None
        self._cpu_exit()

    def _find_cpu_exit(self) -> None:
        """QEMU's cpu_exit, and uc_struct.invalid_error, which stands behind invalid_addr."""
        try:
            cpu_exit = _CPU_EXIT(ctypes.cast(uclib.cpu_exit, _VOID).value or 0)
        except AttributeError:
            cpu_exit = None
        if cpu_exit is None or not self.cpu:
            self._cpu_exit = lambda: uclib.uc_emu_stop(self._uch)
            return
        cpu, error = self.cpu, ctypes.c_int.from_address(self.handle + self.fault_address + ctypes.sizeof(U64))

        def leave() -> None:
            error.value = unicorn_const.UC_ERR_EXCEPTION
            cpu_exit(cpu)

        self._cpu_exit = leave

    @property
    def fault_address(self) -> int:
        """Offset in uc_struct of the exact address of a refused access."""
        if self._fault_address is None:
            self._fault_address = find_fault_address()
        return self._fault_address

    def find_page_flush(self) -> None:
        """QEMU's tlb_flush_page, which the library exports but its API has no name for; else all is flushed. The CPU
        has to be there: the engine makes it when its first setting is read.
        """
        try:
            address = ctypes.cast(uclib.qemu_get_cpu_x86_64, _VOID).value or 0
            flush = _FLUSH_PAGE(ctypes.cast(uclib.tlb_flush_page_x86_64, _VOID).value or 0)
        except AttributeError:
            return
        self.cpu = _GET_CPU(address)(self.handle, _UNASSIGNED_CPU_INDEX)
        if self.cpu:
            self._flush_one = flush

    def hook(self, kind: int, callback: Any, *args: Any, first: int = 1, last: int = 0) -> int:
        """uc_hook_add for the addresses from ``first`` to ``last``; for every address where that is no range. The
        result is for ``unhook``.
        """
        self.keep(callback)
        hook = ctypes.c_size_t()
        status = uclib.uc_hook_add(
            self._uch, ctypes.byref(hook), kind, ctypes.cast(callback, _VOID), None, U64(first), U64(last), *args
        )
        if status != 0:
            raise EngineError(f"hook {kind} refused: {status}")
        return int(hook.value)

    def unhook(self, hook: int) -> None:
        """uc_hook_del."""
        uclib.uc_hook_del(self._uch, ctypes.c_size_t(hook))

    def add_hook(self, kind: int, callback: int, data: int, begin: int, end: int) -> int:
        """uc_hook_add of the native function at ``callback`` for [begin, end]; the handle for :meth:`remove_hook`."""
        hook = ctypes.c_size_t()
        status = uclib.uc_hook_add(
            self._uch, ctypes.byref(hook), kind, _VOID(callback), _VOID(data), U64(begin), U64(end)
        )
        if status != 0:
            raise EngineError(f"hook {kind} refused: {status}")
        return hook.value

    def remove_hook(self, hook: int) -> None:
        """uc_hook_del."""
        uclib.uc_hook_del(self._uch, ctypes.c_size_t(hook))

    def map_io(self, maddr: int, read: Callable[..., int], write: Callable[..., None]) -> None:
        """uc_mmio_map of one page at ``maddr``: ``read(uc, offset, size, data)``, ``write(uc, offset, size, value,
        data)``.
        """
        read_c, write_c = self.keep(_MMIO_READ(read)), self.keep(_MMIO_WRITE(write))
        status = uclib.uc_mmio_map(
            self._uch, U64(maddr), ctypes.c_size_t(PAGE_SIZE),
            ctypes.cast(read_c, _VOID), None, ctypes.cast(write_c, _VOID), None,
        )  # fmt: skip
        if status != 0:
            raise EngineError(f"mmio_map of {maddr:#x} failed: {status}")
