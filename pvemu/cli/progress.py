"""One line on stderr that tells a person who waits where the run is: nothing that decides anything reads it.

Only where stderr is a terminal that does not show the console as well: the console is the guest's, and a line of ours
among its cursor movements would spoil it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from pvemu.testing.session import Session

__all__ = ["Progress", "is_wanted", "progress_line"]

_FIRST_SECONDS, _STEP_SECONDS = 0.5, 0.5
_CLEAR = "\r\x1b[K"
_WIDTH = 79
_NS_PER_S = 1_000_000_000


def is_wanted() -> bool:
    """Whether stderr is a terminal, and stdout is not the same one."""
    if not sys.stderr.isatty():
        return False
    if not sys.stdout.isatty():
        return True
    return os.fstat(sys.stdout.fileno()).st_rdev != os.fstat(sys.stderr.fileno()).st_rdev


def progress_line(session: Session, wall_seconds: float) -> str:
    """Stage, guest time, hypercalls and TLB fills so far."""
    machine = session.machine
    stages = list(machine.stages.stages)
    stage = f"{stages[-1].guest_os or 'a kernel'} (stage {len(stages) - 1})" if stages else "no kernel"
    reboots = f"domain {machine.config.domid}, " if machine.config.domid > 1 else ""
    guest = (machine.clock.now() - machine.clock.start) / _NS_PER_S
    hypercalls = sum(list(machine.hypercalls.counts.values()))
    return (
        f"pvemu: {reboots}{stage}: {guest:.3f} guest s, {hypercalls:,} hypercalls, {machine.engine.tlb_fills:,} TLB "
        f"fills; {wall_seconds:.0f} s"
    )


class Progress:
    """Shows the line for the duration of a ``with`` block, from half a second on; it is gone at the end.

    A thread draws it: guest code may run for seconds without coming back to Python, and lets other threads run
    meanwhile.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _draw(self) -> None:
        began = time.monotonic()
        wait, is_shown = _FIRST_SECONDS, False
        while not self._done.wait(wait):
            line = progress_line(self._session, time.monotonic() - began)[:_WIDTH]
            sys.stderr.write(_CLEAR + line)
            sys.stderr.flush()
            wait, is_shown = _STEP_SECONDS, True
        if is_shown:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()
