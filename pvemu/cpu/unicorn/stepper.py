"""Running guest code with every instruction counted: where a run stands, and stopping it exactly there.

Such a run is the same run, five times slower. That takes two precautions. Guest code is never left in the midst of an
instruction: a request to stop lowers the number of instructions to run, which is looked at before each. And a stop that
the guest may notice (an upcall is to be delivered) takes effect where it would without counting: at the end of the
translated block.
"""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, Any

from unicorn import Uc, x86_const

from pvemu.cpu.exits import Exit, ExitKind
from pvemu.cpu.unicorn.hidden_state import EngineError, find_count_limit

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.cpu.unicorn.hooks import Hooks
    from pvemu.cpu.unicorn.native import Native
    from pvemu.cpu.unicorn.watch import Watch

__all__ = ["UNLIMITED", "Stepper", "is_block_end"]

#: More instructions than any run has.
UNLIMITED = 1 << 62


def is_block_end(uc: Uc, rip: int) -> bool:
    """Whether a translated block that starts at the instruction at ``rip`` ends with it."""
    _pc, count, _size = uc.ctl_request_cache(rip)
    return int(count) <= 1


class Stepper:
    """``start(rip, count)`` enters guest code, ``why_left()`` tells what the hooks noted. ``insns`` counts the
    instructions begun since the last exit, ``stretch`` those from the exit before it to it.
    """

    def __init__(
        self, uc: Uc, native: Native, hooks: Hooks, watch: Watch, start: Callable[[int, int], None],
        why_left: Callable[[], Exit | None], no_exit_request: Any,
    ) -> None:  # fmt: skip
        if not isinstance(no_exit_request, ctypes.Array):
            raise EngineError("this Unicorn cannot be stopped at an instruction: use 2.1.4")
        self._uc = uc
        self._hooks = hooks
        self._watch = watch
        self._start = start
        self._why_left = why_left
        self._no_exit_request = no_exit_request
        at = native.handle + find_count_limit()
        self._limit = ctypes.c_size_t.from_address(at)
        self._counter = ctypes.c_size_t.from_address(at - ctypes.sizeof(ctypes.c_size_t))
        watch.stop_behind = self._stop_next
        self.is_on = False
        self.insns = 0
        self.target_exit: int | None = None  #: stand behind the instruction that makes this exit
        self.settles = False  #: pause where a run that does not count pauses for that exit: at the end of the block
        self.stretch = 0
        self._base = 0  # of _counter, at the last exit
        self._carried = 0  # instructions since the last exit, before guest code was entered
        self._before = 0  # of those that ``count`` runs, before one that was run again
        self._ends_block = True
        self._is_settling = False
        self.budget: int | None = None  #: instructions that may still be run
        self.on_exit: Callable[[int, int], None] = lambda exits, stretch: None  #: told of each
        self._last_rip = -1  # of the last instruction that ran, while a stop is due
        self._stop_requested = False

    # -- on and off --------------------------------------------------------------------------------------------------
    def switch(self, *, on: bool) -> None:
        """Count from now on, or no more; code is translated anew."""
        if on == self.is_on:
            return
        self.is_on = on
        self._watch.is_exact = on
        self._no_exit_request[0] = 0 if on else 1
        self._uc.ctl_flush_tb()
        self._hooks.alarm = 0 if on else math.inf
        self._hooks.on_alarm = self._on_exit
        self._last_rip = -1

    def _on_exit(self, ends_block: bool) -> None:
        counter = int(self._counter.value)
        self.stretch = counter - self._base + self._carried
        self._base, self._carried = counter, 0
        self._ends_block = ends_block
        self.on_exit(self._hooks.exits, self.stretch)
        if self.target_exit is None or self._hooks.exits < self.target_exit:
            return
        if self.settles and not ends_block:
            self._last_rip = int(self._uc.reg_read(x86_const.UC_X86_REG_RIP))
            self._is_settling = True
            self._limit.value = counter
        else:
            self.pause_soon()

    def pause_soon(self) -> None:
        """Pause before the next instruction."""
        self._hooks.pause_requested = True
        self._stop_next()

    def _stop_next(self) -> None:
        self._limit.value = self._counter.value

    def interrupt(self) -> None:
        """Stop before the next instruction; from any thread."""
        self._hooks.pause_requested = True
        self._limit.value = 0

    def request_stop(self, rip: int) -> bool:
        """The guest is to be left for its own sake, while the instruction at ``rip`` runs. False: at once is right."""
        if self._ends_block:
            return False
        self._last_rip = rip
        self._stop_requested = True
        self._limit.value = self._counter.value
        return True

    # -- running -----------------------------------------------------------------------------------------------------
    def run(self, *, stop_due: bool) -> tuple[Exit, bool]:
        """Run at most ``budget`` instructions: why guest code was left, and whether a stop for the guest's sake is
        still due. ``stop_due`` says that one was, from before.
        """
        watch, hooks = self._watch, self._hooks
        while True:
            if (stop_due or self._is_settling) and self._is_block_end():
                if self._is_settling:
                    self._is_settling, hooks.pause_requested = False, True
                return Exit(ExitKind.STOPPED if stop_due else ExitKind.PAUSED), False
            if self.budget is not None and self.budget <= 0:
                return Exit(ExitKind.BUDGET), stop_due
            if hooks.pause_requested:
                return Exit(ExitKind.PAUSED), stop_due
            self._stop_requested = watch.code_hit = watch.memory_hit = False
            rip = int(self._uc.reg_read(x86_const.UC_X86_REG_RIP))
            one_by_one = stop_due or self._is_settling
            if one_by_one:
                self._last_rip = rip
            begun = self.count(rip, 1 if one_by_one else UNLIMITED if self.budget is None else self.budget)
            if stop_due and hooks.undo_for is None and (hooks.vector is not None or hooks.fault is not None):
                return Exit(ExitKind.STOPPED), False  # as without counting: the stop comes before the exception
            known = self._why_left()
            if known is not None:
                if self._is_settling:
                    self._is_settling, hooks.pause_requested = False, True
                return known, False
            stop_due = stop_due or self._stop_requested
            if watch.code_hit or watch.memory_hit:
                return Exit(ExitKind.BREAKPOINT), stop_due
            if not begun and not hooks.pause_requested:
                raise EngineError(f"the CPU ran nothing at rip {rip:#x}")

    def count(self, rip: int, budget: int) -> int:
        """Run up to ``budget`` instructions; how many were begun."""
        hooks = self._hooks
        self._base, self._carried, self._ends_block, self._before = 0, self.insns, True, 0
        self._start(rip, budget)
        begun = int(self._counter.value)
        is_cut = hooks.vector is None and hooks.fault is None and hooks.undo_for is None
        if is_cut and (begun > self._limit.value or self._watch.code_hit):
            begun -= 1  # the last was counted, and not run
        self.insns = self._carried = begun - self._base + self._carried
        self._base = int(self._counter.value)
        begun += self._before
        if self.budget is not None:
            self.budget -= begun
        return begun

    def try_again(self) -> int:
        """The instruction begun last is to run once more, and counts once: how many may run from it on, 0 to stop
        before it.
        """
        done = int(self._counter.value) - 1
        left = int(self._limit.value) - done
        if left <= 0:
            return 0
        self._carried += done - self._base
        self._base = 0
        self._before += done
        return left

    def _is_block_end(self) -> bool:
        """Whether the last instruction ends its block."""
        return self._last_rip >= 0 and is_block_end(self._uc, self._last_rip)
