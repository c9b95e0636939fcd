"""Looks at a guest that spins without a single exit: nothing in guest time ever would."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvemu.machine import Machine

__all__ = ["HANG_SECONDS", "Watchdog"]

#: Wall seconds without any exit from guest code after which the machine looks whether the guest hangs.
HANG_SECONDS = 2.0


class Watchdog:
    """Interrupts a guest that made no exit at all for ``seconds`` of wall time."""

    def __init__(self, machine: Machine, seconds: float) -> None:
        self._machine = machine
        self._seconds = seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        engine = self._machine.engine
        seen = (-1, -1)
        while not self._done.wait(self._seconds):
            now = (engine.exits, engine.tlb_fills)
            if now == seen and not self._machine.sched.is_idle:
                engine.interrupt()
            seen = now

    def stop(self) -> None:
        """The run is over."""
        self._done.set()
