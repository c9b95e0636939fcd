"""The user's terminal as the guest's console: raw keys in, bytes out, and always given back as it was."""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import termios
import tty
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from pvemu.machine import Machine

__all__ = ["LEAVE_KEY", "Terminal"]

#: Ctrl-], as in telnet and xl console.
LEAVE_KEY = 0x1D
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_NS_PER_S = 1_000_000_000
#: Most that one wait takes, so that signals are seen.
_MAX_WAIT = 0.2


class Terminal:
    """Raw mode for the duration of a ``with`` block. Guest time is held to the clock on the wall while the guest idles
    (a menu's countdown can be watched and interrupted); that is the one place where a run depends on it.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._in = sys.stdin.fileno()
        self._saved = termios.tcgetattr(self._in)
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        print("pvemu: Ctrl-] leaves", file=sys.stderr, flush=True)
        atexit.register(self._restore)
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)
        tty.setraw(self._in)
        self._machine.clock.on_idle = self._wait
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._machine.clock.on_idle = None
        self._restore()
        atexit.unregister(self._restore)
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave back
        # Colours and a hidden cursor are the guest's; the shell wants its own.
        sys.stdout.write("\x1b[0m\x1b[?25h\r\n")
        sys.stdout.flush()

    def _restore(self) -> None:
        termios.tcsetattr(self._in, termios.TCSADRAIN, self._saved)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._machine.stop("interrupted", f"interrupted by {signal.Signals(number).name}")

    def _wait(self, target: int | None) -> bool:
        """The guest idles until ``target`` (system time): wait that long for a key. True when one came."""
        now = self._machine.clock.now()
        left = _MAX_WAIT if target is None else min((target - now) / _NS_PER_S, _MAX_WAIT)
        while True:
            ready, _, _ = select.select([self._in], [], [], max(left, 0))
            if ready:
                return self._take_keys()
            if target is not None and (target - now) / _NS_PER_S <= _MAX_WAIT:
                return False
            if self._machine.is_stopping:
                return True
            if target is not None:
                now += int(_MAX_WAIT * _NS_PER_S)
                left = min((target - now) / _NS_PER_S, _MAX_WAIT)

    def _take_keys(self) -> bool:
        keys = os.read(self._in, 1024)
        if not keys or LEAVE_KEY in keys:
            self._machine.stop("left", "left with Ctrl-]")
        else:
            self._machine.console.send(keys)
        return True
