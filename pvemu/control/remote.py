"""A guest in another process, as the timeline uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvemu.control.channel import Channel, ClosedError
from pvemu.control.pulse import INTERRUPT
from pvemu.control.worker import FORK
from pvemu.errors import ConfigError, PvemuError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Remote", "WorkerError"]


class WorkerError(PvemuError):
    """A process that held the guest failed: our bug, with its report."""


class Remote:
    """``on_console(bytes)`` and ``on_checkpoint(exits, remote)`` are told while a call is under way."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.on_console: Callable[[bytes], None] = lambda data: None
        self.on_checkpoint: Callable[[int, Remote], None] = lambda exits, remote: remote.close()

    def call(self, name: str, *arguments: object) -> Any:
        """Have ``name`` done there. ConfigError says what was wrong with the request."""
        self.begin(name, *arguments)
        while True:
            done, value = self.take()
            if done:
                return value

    def begin(self, name: str, *arguments: object) -> None:
        """Send a request, to be finished with ``take``."""
        try:
            self.channel.send((name, arguments))
        except ClosedError:
            raise WorkerError("the process that held the guest is gone") from None

    def take(self) -> tuple[bool, Any]:
        """The next message: (whether the call is done, its value)."""
        try:
            (kind, value), ends = self.channel.receive()
        except ClosedError:
            raise WorkerError("the process that held the guest is gone") from None
        match kind:
            case "return":
                return True, Remote(ends[0]) if ends else value
            case "refused":
                raise ConfigError(value)
            case "bug":
                raise WorkerError(value)
            case "console":
                self.on_console(value)
            case "checkpoint":
                self.on_checkpoint(value, Remote(ends[0]))
        return False, None

    def interrupt(self) -> None:
        """Have a running guest stand still soon."""
        self.channel.send(INTERRUPT)

    def fork(self) -> Remote:
        """Another process that stands where this one does."""
        remote: Remote = self.call(FORK)
        return remote

    def close(self) -> None:
        """Let the process end."""
        self.channel.close()
