"""Watching code addresses and memory ranges: what breakpoints are made of.

A hook on one address is looked for when code is translated, so that code elsewhere is not slower by it; translated code
is dropped when the set changes, as hooks are seen by code that is translated after them only. A hook on memory makes
the engine take its slow path for every access: three times the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unicorn import Uc, unicorn_const

from pvemu.cpu.exits import ExitKind, MemoryAccess
from pvemu.cpu.unicorn.native import CODE, MEMORY, Native

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pvemu.cpu.unicorn.hooks import Hooks

__all__ = ["Watch"]

_KINDS = {"read": unicorn_const.UC_HOOK_MEM_READ, "write": unicorn_const.UC_HOOK_MEM_WRITE}
_READ_OF_HOOK = unicorn_const.UC_MEM_READ
#: No access of an instruction's is longer.
_LONGEST_ACCESS = 64


class Watch:
    """``on_code(address)`` is asked before an instruction at a watched address runs, True stands before it.
    ``on_memory(access)`` is told of accesses that touch a watched range, True stops behind the instruction.
    """

    def __init__(self, uc: Uc, native: Native, hooks: Hooks) -> None:
        self._uc = uc
        self._native = native
        self._hooks = hooks
        self._code: dict[int, int] = {}  # address -> hook
        self._memory: list[int] = []
        self._ranges: list[tuple[int, int, str]] = []
        self._on_code_c = CODE(self._code_reached)
        self._on_memory_c = MEMORY(self._memory_accessed)
        self.on_code: Callable[[int], bool] = lambda address: True
        self.on_memory: Callable[[MemoryAccess], bool] = lambda access: True
        self.passes = -1  #: the address that is not to be stopped at the next time: the guest stands there
        self.stops_behind = False  #: at that next time, guest code is to be left at the end of its block
        self.is_off = False  #: while Xen has an instruction of the guest's run on a copy
        self.is_exact = False  #: guest code is left at the next instruction, not undone from there
        self.code_hit = False
        self.memory_hit = False
        self.stop_soon: Callable[[], None] = lambda: None
        self.stop_behind: Callable[[], None] = lambda: None  #: the instruction

    def set_code(self, addresses: Collection[int]) -> None:
        """Watch exactly these linear addresses."""
        wanted = set(addresses)
        if wanted == self._code.keys():
            return
        for address in self._code.keys() - wanted:
            self._native.unhook(self._code.pop(address))
        for address in sorted(wanted - self._code.keys()):
            self._code[address] = self._native.hook(
                unicorn_const.UC_HOOK_CODE, self._on_code_c, first=address, last=address
            )
        self._uc.ctl_flush_tb()

    def set_memory(self, ranges: Collection[tuple[int, int, str]]) -> None:
        """Watch exactly these ranges: (machine address, size, ``read``, ``write`` or ``access``)."""
        wanted = sorted(ranges)
        if wanted == self._ranges:
            return
        for hook in self._memory:
            self._native.unhook(hook)
        self._memory.clear()
        self._ranges = wanted
        for maddr, size, kind in wanted:
            for name in ("read", "write") if kind == "access" else (kind,):
                hook = self._native.hook(
                    _KINDS[name], self._on_memory_c, first=max(maddr - _LONGEST_ACCESS, 0), last=maddr + size - 1
                )
                self._memory.append(hook)
        self._uc.ctl_flush_tb()

    @property
    def watches_memory(self) -> bool:
        """Whether any range is watched."""
        return bool(self._ranges)

    @property
    def code_addresses(self) -> list[int]:
        """The addresses that are watched."""
        return list(self._code)

    # -- called from C -----------------------------------------------------------------------------------------------
    def _code_reached(self, _uc: int, address: int, _size: int, _data: int) -> None:
        hooks = self._hooks
        if hooks.undo_for is not None or self.is_off or address not in self._code:
            return
        try:
            if address == self.passes:
                self.passes = -1
                if self.stops_behind:
                    self.stops_behind = False
                    self.stop_soon()
                return
            if not self.on_code(address):
                return
            if self.is_exact:
                self.code_hit = True
                self._uc.emu_stop()  # its effect comes before the instruction
            else:
                hooks.undo(ExitKind.BREAKPOINT)
        except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
            hooks.keep_error(error)

    def _memory_accessed(self, _uc: int, kind: int, maddr: int, size: int, value: int, _data: int) -> None:
        if self._hooks.undo_for is not None or self.is_off:
            return
        try:
            access = MemoryAccess("read" if kind == _READ_OF_HOOK else "write", maddr, size, value)
            for start, length, wanted in self._ranges:
                if start < maddr + size and maddr < start + length and wanted in {access.kind, "access"}:
                    if self.on_memory(access):
                        self.memory_hit = True
                        self.stop_behind()
                    return
        except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
            self._hooks.keep_error(error)
