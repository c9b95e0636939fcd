"""What looks after a running guest from a second thread: the far end's wish to interrupt, a guest that makes no exit,
and the time for the next checkpoint. It runs only while guest code does, so that nothing is forked beside it.
"""

from __future__ import annotations

import os
import select
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pvemu.control.channel import ClosedError
from pvemu.testing.watchdog import HANG_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvemu.control.channel import Channel
    from pvemu.machine import Machine

__all__ = ["INTERRUPT", "Pulse"]

#: The message that asks a running guest to stand still.
INTERRUPT = "interrupt"
_TICK = 0.05
_LOOK_EVERY = 64  # instructions
#: A guest that made no exit for so long is stopped where it is.
_FORCE_AFTER = 0.4


class Pulse:
    """``channel`` is listened to while the guest runs; ``interval`` is wall seconds between checkpoints (0: none)."""

    def __init__(self, machine: Machine, channel: Channel | None) -> None:
        self._machine = machine
        self._channel = channel
        self.interval = 0.0
        self.is_interrupted = False
        self.was_forced = False  #: the guest was stopped at no exit
        self.wants_checkpoint = False
        self.spin_seconds: float | None = None  #: interrupt after so long
        self._last_checkpoint = time.monotonic()
        self._thread: threading.Thread | None = None
        self._wake_read, self._wake_write = -1, -1
        self._is_paused = False
        self._looks = 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No thread within: who runs guest code for a moment at a time calls ``look`` in between."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    def look(self) -> None:
        """What the thread would do, once, or nothing if it was done a moment ago."""
        self._looks += 1
        if self._looks % _LOOK_EVERY:
            return
        if self._channel is not None and select.select([self._channel.fileno()], [], [], 0)[0]:
            self._receive(self._channel)
        self.wants_checkpoint = bool(self.interval) and time.monotonic() - self._last_checkpoint >= self.interval

    def _receive(self, channel: Channel) -> None:
        try:
            message, _ = channel.receive()
        except ClosedError:
            os._exit(0)  # nobody is there any more
        if message == INTERRUPT:
            self.is_interrupted = True

    def start(self) -> None:
        """Guest code is about to run."""
        if self._is_paused:
            return
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Guest code was left."""
        if self._thread is None:
            return
        os.write(self._wake_write, b".")
        self._thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._thread = None

    def checkpoint_taken(self) -> None:
        """The next one is due an interval from now."""
        self.wants_checkpoint = False
        self._last_checkpoint = time.monotonic()

    def _watch(self) -> None:
        engine = self._machine.engine
        listened = [self._wake_read] if self._channel is None else [self._wake_read, self._channel.fileno()]
        began = progress = time.monotonic()
        seen = (engine.exits, engine.tlb_fills)
        interrupted_at: float | None = None
        while True:
            readable = select.select(listened, [], [], _TICK)[0]
            if self._wake_read in readable:
                return
            now = time.monotonic()
            if readable and self._channel is not None:
                self._receive(self._channel)
            if self.spin_seconds is not None and now - began >= self.spin_seconds:
                self.is_interrupted = True
            if self.is_interrupted:
                interrupted_at = interrupted_at or now
                engine.pause_at(0)
                if now - interrupted_at >= _FORCE_AFTER or engine.is_counting:
                    self.was_forced = True
                    engine.pause_now()
            elif self.interval and now - self._last_checkpoint >= self.interval:
                self.wants_checkpoint = True
                engine.pause_at(0)
            counts = (engine.exits, engine.tlb_fills)
            if counts != seen or self._machine.sched.is_idle:
                seen, progress = counts, now
            elif now - progress >= HANG_SECONDS and not self.is_interrupted:
                engine.interrupt()
                progress = now
