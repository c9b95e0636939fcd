"""Loops that a guest repeats for ever: found by stepping through them for real."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unicorn import Uc, unicorn_const

from pvemu.cpu.registers import GENERAL_64

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.cpu.exits import Exit
    from pvemu.cpu.unicorn.hooks import Hooks
    from pvemu.cpu.unicorn.register_file import RegisterFile
    from pvemu.memory.ram import Ram

__all__ = ["Loops"]


class Loops:
    """``run_one(rip)`` runs one instruction and says what came of it, if anything did: it is ``unreported`` then."""

    def __init__(
        self, uc: Uc, ram: Ram, registers: RegisterFile, hooks: Hooks, run_one: Callable[[int], Exit | None]
    ) -> None:
        self._uc = uc
        self._ram = ram
        self._registers = registers
        self._hooks = hooks
        self._run_one = run_one
        self.unreported: Exit | None = None

    def find(self, max_steps: int = 4096, *, others_run: bool = False) -> list[int]:
        """Instruction addresses of the loop that the guest provably repeats for ever, empty when it is none: the same
        registers come back and nothing was stored or left guest code meanwhile. The guest does not notice that it is
        looked at: an exit that was met is had by the next run, where it would have come. Where ``others_run``, which
        may end it, storing what is there already is no store: so does one who tries to take a lock.
        """
        stores = 0

        def on_store(_uc: Uc, _kind: int, maddr: int, size: int, value: int, _data: object) -> None:
            nonlocal stores
            if others_run and self._ram.contains(maddr >> 12):
                new = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
                if self._ram.read(maddr, size) == new:
                    return
            stores += 1

        hook = self._uc.hook_add(unicorn_const.UC_HOOK_MEM_WRITE, on_store)
        self._uc.ctl_flush_tb()  # hooks are seen by code that is translated after them only
        seen: dict[tuple[int, ...], int] = {}
        path: list[int] = []
        read, hooks = self._registers.read, self._hooks
        try:
            exits = hooks.exits
            for step in range(max_steps):
                general = map(read, GENERAL_64)
                state = (read("rip"), read("rflags"), *general, *self._registers.vector_registers())
                if state in seen:
                    return path[seen[state] :]
                seen[state] = step
                path.append(state[0])
                self.unreported = self._run_one(state[0])
                if stores or hooks.exits != exits or self.unreported is not None:
                    return []
            return []
        finally:
            self._uc.hook_del(hook)
            self._uc.ctl_flush_tb()

    def step_to(self, rip: int, max_steps: int) -> None:
        """Run single instructions until ``rip`` is next."""
        for _ in range(max_steps):
            here = self._registers.read("rip")
            if here == rip:
                return
            self._run_one(here)
