"""A process that holds a guest: it does what comes through its channel, and forks itself when asked to. A fork that
waits is a checkpoint (copy-on-write memory: 15 ms with a guest of 512 MiB).
"""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

from pvemu.control.channel import Channel, ClosedError
from pvemu.control.pulse import INTERRUPT
from pvemu.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.control.debuggee import Debuggee

__all__ = ["FORK", "Message", "Worker", "fork_process"]

#: The request that makes a checkpoint.
FORK = "fork"
#: What a worker sends: ("return", value), ("refused", text), ("bug", report), ("console", bytes),
#: ("checkpoint", exits) with the channel of the new process.
Message = tuple[str, Any]


def fork_process() -> int:
    """os.fork, quietly: no thread of ours runs beside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a test runner's own threads are no matter to the child
        return os.fork()


class Worker:
    """``inspect(debuggee, name, arguments)`` does the requests that ``Debuggee`` has no method for."""

    def __init__(
        self, debuggee: Debuggee, channel: Channel, inspect: Callable[[Debuggee, str, tuple[Any, ...]], object]
    ) -> None:
        self._debuggee = debuggee
        self._inspect = inspect
        self._channel = channel
        self._is_loud = False
        debuggee.on_checkpoint = self._checkpoint
        self._console_undo = debuggee.machine.observe_console(self._console)
        self._adopt(channel)

    def _adopt(self, channel: Channel) -> None:
        self._channel = channel
        interval = self._debuggee.pulse.interval
        self._debuggee.attach(channel)
        self._debuggee.pulse.interval = interval

    def serve(self) -> NoReturn:
        """Serve until the other end is gone; never returns, in no child either."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the process that the user talks to
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for our children
        try:
            while True:
                message, _ = self._channel.receive()
                if message != INTERRUPT:  # one that comes too late
                    self._answer(*message)
        except ClosedError:
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a forked process must not go on in its parent's code
            traceback.print_exc()
            os._exit(1)

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == FORK:
            self._channel.send(("return", None), *self._fork())
            return
        try:
            self._channel.send(("return", self._call(name, arguments)))
        except InputError as error:
            self._channel.send(("refused", str(error)))
        except ClosedError:
            raise
        except Exception:  # noqa: BLE001 - told to the process that the user sees, which reports it
            self._channel.send(("bug", traceback.format_exc()))

    def _call(self, name: str, arguments: tuple[Any, ...]) -> object:
        match name:
            case "loud":  # whether console output and checkpoints are told: not on the way to a place of the past
                self._is_loud, self._debuggee.pulse.interval = arguments
                return None
            case "type":
                self._debuggee.keyboard.type(*arguments)
                return None
            case "play":
                self._debuggee.keyboard.play(*arguments)
                return None
            case "typed":
                return self._debuggee.keyboard.script
            case "stop":
                return self._debuggee.stop
        method = getattr(self._debuggee, name, None)
        if method is not None and not name.startswith("_"):
            return method(*arguments)
        return self._inspect(self._debuggee, name, arguments)

    def _console(self, data: bytes) -> None:
        if self._is_loud:
            self._channel.send(("console", data))

    def _checkpoint(self) -> None:
        ends = self._fork()
        if ends:
            self._channel.send(("checkpoint", self._debuggee.machine.engine.exits), *ends)
            for end in ends:
                end.close()

    def _fork(self) -> list[Channel]:
        """The channel of a new process that stands where this one does."""
        theirs, ours = Channel.pair()
        if fork_process() == 0:
            theirs.close()
            self._channel.close()
            self._is_loud = False
            self._debuggee.pulse.interval = 0
            self._adopt(ours)
            self.serve()
        ours.close()
        return [theirs]
