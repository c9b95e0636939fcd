"""The CPU's registers by name (pvemu.cpu.registers), one at a time or fast and in groups."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

from unicorn import Uc, x86_const

from pvemu.cpu.unicorn.native import MAX_BATCH, REGISTERS, Native

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RegisterFile"]

#: A value that no register has by chance, and how much of QEMU's X86CPU is searched for it (it is larger).
_MARK, _CPU_STATE = 0x5A17_9E3B_0000_0000, 40 << 10
_MXCSR_MASK = 0xFFFF
_DATA_SELECTORS = frozenset(("ds", "es", "fs", "gs"))


class RegisterFile:
    """Registers of one CPU. ``read_quad(vaddr)`` is what the MMU serves there, None where that is nothing; the GDT is
    at ``gdt_vaddr``.
    """

    def __init__(self, uc: Uc, native: Native, read_quad: Callable[[int], int | None], gdt_vaddr: int) -> None:
        self._uc = uc
        self._native = native
        self._read_quad = read_quad
        self.gdt_vaddr = gdt_vaddr
        self.is_loading_selector = False  #: while a write has the CPU read a descriptor

    def read(self, name: str) -> int:
        """One register by name."""
        native = self._native
        native.cells[0] = 0
        native.read(native.handle, REGISTERS[name], native.cell_address)
        return native.cells[0]

    def write(self, name: str, value: int) -> None:
        """Set one register by name. A data selector that the CPU would refuse becomes 0: its fault would jump out of
        the engine, through Python's own frames.
        """
        native = self._native
        native.cells[0] = value & 0xFFFF_FFFF_FFFF_FFFF
        if name in _DATA_SELECTORS and value & 0xFFFC:
            self._load_selector(name, value & 0xFFFF)
            return
        native.write(native.handle, REGISTERS[name], native.cell_address)

    def _load_selector(self, name: str, selector: int) -> None:
        native = self._native
        self.is_loading_selector = True
        try:
            native.cells[0] = selector if self._is_data_selector(selector) else 0
            native.write(native.handle, REGISTERS[name], native.cell_address)
        finally:
            self.is_loading_selector = False

    def _is_data_selector(self, selector: int) -> bool:
        """Whether ring 3 may load this selector of the GDT (the engine has no LDT) into ds, es, fs or gs."""
        if selector & 4:
            return False
        descriptor = self._read_quad(self.gdt_vaddr + (selector & ~7))
        if descriptor is None:
            return False
        access = descriptor >> 40 & 0xFF
        is_data, is_conforming = not access & 8, access & 0xC == 0xC
        return access & 0x90 == 0x90 and (is_data or bool(access & 2)) and (access & 0x60 == 0x60 or is_conforming)

    def reader(self, *names: str) -> Callable[[], list[int]]:
        """A fast reader of up to 32 registers at once."""
        count = len(names)
        if count > MAX_BATCH:
            raise ValueError(f"{count} registers at once")
        native = self._native
        ids = native.keep((ctypes.c_int * count)(*(REGISTERS[n] for n in names)))
        id_address, pointers = ctypes.addressof(ids), ctypes.addressof(native.cell_pointers)
        batch, handle, cells = native.read_batch, native.handle, native.cells

        def read() -> list[int]:
            batch(handle, id_address, pointers, count)
            return cells[:count]

        return read

    def writer(self, name: str) -> Callable[[int], None]:
        """A fast writer of one register."""
        native = self._native
        write, handle, number, cells, address = (
            native.write, native.handle, REGISTERS[name], native.cells, native.cell_address,
        )  # fmt: skip

        def set_register(value: int) -> None:
            cells[0] = value
            write(handle, number, address)

        return set_register

    def in_memory(self, names: tuple[str, ...]) -> ctypes.Array[ctypes.c_uint64] | None:
        """The words in which the CPU keeps general registers, found by values written to them; None where they are not
        in a row in the order of ``names``. Native code reads them there; they are right inside of hooks.
        """
        cpu = self._native.cpu
        if cpu is None:
            return None
        kept = [self.read(name) for name in names]
        for i, name in enumerate(names):
            self.write(name, _MARK + i)
        marks = struct.pack(f"<{len(names)}Q", *(_MARK + i for i in range(len(names))))
        state = bytes((ctypes.c_ubyte * _CPU_STATE).from_address(cpu))
        for name, value in zip(names, kept, strict=True):
            self.write(name, value)
        at = state.find(marks)
        if at < 0 or state.find(marks, at + 1) >= 0:
            return None
        return (ctypes.c_uint64 * len(names)).from_address(cpu + at)

    def vector_registers(self) -> list[int]:
        """XMM0 to XMM15."""
        return [int(self._uc.reg_read(x86_const.UC_X86_REG_XMM0 + i)) for i in range(16)]

    def vector(self, number: int) -> int:
        """One of XMM0 to XMM15."""
        return int(self._uc.reg_read(x86_const.UC_X86_REG_XMM0 + number))

    def set_vector(self, number: int, value: int) -> None:
        """Set one of XMM0 to XMM15."""
        self._uc.reg_write(x86_const.UC_X86_REG_XMM0 + number, value)

    def x87(self) -> tuple[list[int], int, int, int]:
        """ST(0) to ST(7), 80 bits each, and the control, status and tag words."""
        words = (x86_const.UC_X86_REG_FPCW, x86_const.UC_X86_REG_FPSW, x86_const.UC_X86_REG_FPTAG)
        control, status, tags = (int(self._uc.reg_read(number)) for number in words)
        top = status >> 11 & 7
        stack = [self._uc.reg_read(x86_const.UC_X86_REG_FP0 + (top + i & 7)) for i in range(8)]
        return [exponent << 64 | mantissa for mantissa, exponent in stack], control, status, tags

    def load_fxsave(self, image: bytes) -> None:
        """Set x87 and SSE registers from what FXSAVE stores (Intel SDM 1, 10.5.1)."""
        control, status = struct.unpack_from("<HH", image)
        tags = sum((0 if image[4] >> i & 1 else 3) << 2 * i for i in range(8))
        self._uc.reg_write(x86_const.UC_X86_REG_FPCW, control)
        self._uc.reg_write(x86_const.UC_X86_REG_FPSW, status)
        top = status >> 11 & 7
        for i in range(8):
            mantissa, exponent = struct.unpack_from("<QH", image, 32 + 16 * i)
            self._uc.reg_write(x86_const.UC_X86_REG_FP0 + (top + i & 7), (mantissa, exponent))
        self._uc.reg_write(x86_const.UC_X86_REG_FPTAG, tags)
        self._uc.reg_write(x86_const.UC_X86_REG_MXCSR, struct.unpack_from("<I", image, 24)[0] & _MXCSR_MASK)
        for i in range(16):
            self.set_vector(i, int.from_bytes(image[160 + 16 * i : 176 + 16 * i], "little"))

    def mxcsr(self) -> int:
        """The SSE control and status word."""
        return int(self._uc.reg_read(x86_const.UC_X86_REG_MXCSR))
