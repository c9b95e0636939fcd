"""The user's terminal as the guest's console: raw keys in, bytes out, and always given back as it was."""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import termios
import time
import tty
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from pvemu.machine import Machine
    from pvemu.testing.session import Session

__all__ = ["LEAVE_KEY", "Terminal"]

#: Ctrl-], as in telnet and xl console.
LEAVE_KEY = 0x1D
_NS_PER_S = 1_000_000_000
#: Most that one wait takes, so that signals are seen; and how often a busy guest's user is looked after, in seconds.
_MAX_WAIT = 0.2


class Terminal:
    """Raw mode for the duration of a ``with`` block. Guest time is held to the clock on the wall while the guest idles
    (a menu's countdown can be watched and interrupted); that is the one place where a run depends on it.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._in = sys.stdin.fileno()
        self._saved = termios.tcgetattr(self._in)
        self._typed = b""
        self._waiting = False
        self._due = 0.0
        self.on_keys: Callable[[bytes], None] = lambda keys: None  #: told what is typed, when the guest gets it

    def __enter__(self) -> Self:
        print("pvemu: Ctrl-] leaves", file=sys.stderr, flush=True)
        atexit.register(self._restore)
        tty.setraw(self._in)
        self._then = self._session.on_domain
        self._session.on_domain = self._attach
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.setitimer(signal.ITIMER_REAL, _MAX_WAIT, _MAX_WAIT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        self._session.machine.clock.on_idle = None
        self._restore()
        atexit.unregister(self._restore)
        # Colours, a hidden cursor and its place are the guest's; the shell goes on below all of it.
        with suppress(OSError):
            out = sys.stdout.fileno()
            os.write(out, b"\x1b[0m\x1b[?25h\x1b[%d;1H\r\n" % os.get_terminal_size(out).lines)

    def _attach(self, machine: Machine) -> None:
        """A domain is about to start, the first or the next after a reboot."""
        machine.clock.on_idle = self._wait
        self._then(machine)

    def _restore(self) -> None:
        with suppress(termios.error):  # a terminal that is gone wants nothing back
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._saved)

    def _on_alarm(self, _number: int, _frame: object) -> None:
        """A guest that computes does not idle, and yet Ctrl-] must leave. Other keys are kept until it idles: this may
        run in the midst of anything.
        """
        if not self._waiting and select.select([self._in], [], [], 0)[0]:
            self._read_keys()

    def _wait(self, target: int | None) -> bool:
        """The guest idles until ``target`` (system time): wait that long for a key. True when one came."""
        self._waiting = True
        try:
            left = None if target is None else self._time_until(target)
            while not self._session.machine.is_stopping:
                wait = _MAX_WAIT if left is None else max(min(left, _MAX_WAIT), 0)
                if not self._typed and select.select([self._in], [], [], wait)[0]:
                    self._read_keys()
                if self._typed:
                    keys, self._typed = self._typed, b""
                    self._due = 0.0  # guest time has not come to the target
                    self._session.machine.console.send(keys)
                    self.on_keys(keys)
                    return True
                if left is not None:
                    left -= wait
                    if left <= 0:
                        return False
            return True
        finally:
            self._waiting = False

    def _time_until(self, target: int) -> float:
        """Seconds to wait for guest time to be ``target``. What the last waits took too long, this one is short of:
        a countdown is many of them.
        """
        now = time.monotonic()
        self._due = max(self._due, now - _MAX_WAIT) + (target - self._session.machine.clock.now()) / _NS_PER_S
        return self._due - now

    def _read_keys(self) -> None:
        keys = os.read(self._in, 1024)
        if not keys:
            self._session.stop("gone", "the terminal is gone")
        elif LEAVE_KEY in keys:
            self._session.stop("left", "left with Ctrl-]")
        self._typed += keys
