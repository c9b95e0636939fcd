"""xenstored and xenconsoled at their slowest: answers in pieces of a few bytes, output taken a little at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.devices.console import ConsoleBackend
from pvemu.devices.xenstore.ring import XenstoreRing

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from pvemu.devices.xenstore.connection import Connection
    from pvemu.devices.xenstore.server import XenStore
    from pvemu.hypervisor.time import VirtualClock

__all__ = ["SlowConsole", "SlowXenstoreRing"]

_PAUSE_NS = 20_000
#: Bytes that go through at a time: mostly a few, so that headers are cut too.
_PIECES = (1, 3, 7, 15, 16, 17, 40, 200, 1000)


class SlowXenstoreRing(XenstoreRing):
    """Each reply goes into the ring piece by piece, with an event for each; one request is heard at a time."""

    def __init__(
        self, page: memoryview, connection: Connection, notify: Callable[[], None], store: XenStore,
        clock: VirtualClock, rng: random.Random,
    ) -> None:  # fmt: skip
        self._clock = clock
        self._rng = rng
        self._is_scheduled = False
        super().__init__(page, connection, notify, store)

    def kick(self) -> None:
        """Hear one message, or send one piece; the rest after a while."""
        connection = self.connection
        if not connection.is_ignored and (self._output() or self._input()):
            self.notify()
            self._again()

    def flush(self) -> None:
        """Something waits to be sent."""
        self._again()

    def _again(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._clock.call_at(self._clock.now() + self._rng.randint(0, _PAUSE_NS), self._turn)

    def _turn(self) -> None:
        self._is_scheduled = False
        self.kick()

    def _put_whole(self, data: bytes) -> bool:
        return False  # always through the queue, which is sent in pieces

    def _room(self, used: int) -> int:
        return min(super()._room(used), self._rng.choice(_PIECES))

    def _sends_more(self) -> bool:
        return False


class SlowConsole(ConsoleBackend):
    """Output is taken piece by piece, so the ring stays full for long; keys come one at a time."""

    def __init__(
        self, page: memoryview, on_output: Callable[[bytes], None], on_poll: Callable[[], None], clock: VirtualClock,
        rng: random.Random,
    ) -> None:  # fmt: skip
        super().__init__(page, on_output, on_poll)
        self._clock = clock
        self._rng = rng
        self._is_scheduled = False

    def _take(self, size: int) -> int:
        taken = min(size, self._rng.choice(_PIECES))
        if taken < size and not self._is_scheduled:
            self._is_scheduled = True
            self._clock.call_at(self._clock.now() + self._rng.randint(0, _PAUSE_NS), self._turn)
        return taken

    def _turn(self) -> None:
        self._is_scheduled = False
        self.kick()

    def _give(self, room: int) -> int:
        return min(room, 1)
