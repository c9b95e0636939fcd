"""Which code ran: basic blocks in drcov's format, which Lighthouse and its relatives read; a module for each stage's
kernel and for each of GRUB's modules.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.debug.symbols import Module, Symbols
    from pvemu.machine import Machine

__all__ = ["Coverage"]

_MAX_OFFSET, _MAX_SIZE, _MAX_MODULES = 1 << 32, 1 << 16, 1 << 16


class Coverage:
    """Attached to ``machine`` from now until :meth:`close`; every block counts from when it first runs."""

    def __init__(
        self, machine: Machine, symbols: Symbols, *, is_open: bool = True,
        on_code: Callable[[int, int], None] | None = None,
    ) -> None:  # fmt: skip
        self._is_open = is_open
        self._on_code = on_code
        self._symbols = symbols
        self._machine = machine
        #: Modules by (stage, name, base): number, end, path.
        self._modules: dict[tuple[int, str, int], tuple[int, int, str]] = {}
        self._blocks: dict[tuple[int, int, int], None] = {}
        self.unknown = 0  #: blocks that belong to no known module
        self._recorder = machine.engine.record_blocks(None, on_code=self._translated)

    def close(self) -> None:
        """Look no longer."""
        self._recorder.close()

    def open(self) -> None:
        """Count from here on, what ran before too."""
        self._is_open = True
        self._machine.engine.retranslate()

    def shut(self) -> None:
        """Count no more for now."""
        self._is_open = False

    def _translated(self, address: int, size: int) -> None:
        if self._on_code is not None:
            self._on_code(address, size)
        if self._is_open:
            self._count(address, size)

    def _count(self, address: int, size: int) -> None:
        place = self._symbols.locate(address)
        if place is None:
            self.unknown += 1
            return
        module = self._symbols.module_of(address)
        assert module is not None
        number = self._number(place.stage, module)
        offset = place.module_offset
        if number < _MAX_MODULES and offset < _MAX_OFFSET:
            self._blocks[offset, min(size, _MAX_SIZE - 1), number] = None

    def _number(self, stage: int, module: Module) -> int:
        key = stage, module.name, module.base
        if key not in self._modules:
            self._modules[key] = len(self._modules), module.end, module.path or ""
        return self._modules[key][0]

    def drcov(self) -> bytes:
        """The whole file: version 2, module table version 2, then 8 bytes for each block."""
        lines = [
            "DRCOV VERSION: 2", "DRCOV FLAVOR: pvemu", f"Module Table: version 2, count {len(self._modules)}",
            "Columns: id, base, end, entry, checksum, timestamp, path",
        ]  # fmt: skip
        for (stage, name, base), (number, end, path) in self._modules.items():
            where = f"stage{stage}/{name}" if not path else f"stage{stage}/{name} ({path})"
            lines.append(f"{number}, {base:#x}, {end:#x}, {0:#x}, {0:#010x}, {0:#010x}, {where}")
        lines.append(f"BB Table: {len(self._blocks)} bbs\n")
        table = b"".join(struct.pack("<IHH", offset, size, number) for offset, size, number in self._blocks)
        return "\n".join(lines).encode() + table
