"""Keys for the guest's console, at moments that can be met again: while it idles, at the n-th time that it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pvemu.devices.console import ConsoleBackend
    from pvemu.hypervisor.time import VirtualClock

__all__ = ["KeyLog", "Keyboard"]


class Keyboard:
    """Takes ``clock.on_idle`` for itself. ``typed`` lists what the guest got: (which idling, bytes)."""

    def __init__(self, clock: VirtualClock, console: ConsoleBackend) -> None:
        self._console = console
        self._waiting: list[bytes] = []
        self._script: dict[int, bytes] = {}
        self._idles = 0
        self.typed: list[tuple[int, bytes]] = []
        clock.on_idle = self._on_idle

    def play(self, script: Sequence[tuple[int, bytes]]) -> None:
        """Type what was typed in another run, at the same moments; what is past already is left out."""
        self._script = {idle: keys for idle, keys in script if idle > self._idles}
        self.typed = [(idle, keys) for idle, keys in script if idle <= self._idles]

    @property
    def script(self) -> list[tuple[int, bytes]]:
        """What was typed and, in a replay, what will be."""
        return [*self.typed, *sorted(self._script.items())]

    def type(self, keys: bytes) -> None:
        """Type ``keys`` when the guest idles next. What was to be typed later in a replay is given up: from here on the
        run is another one.
        """
        self._script.clear()
        self._waiting.append(keys)

    def _on_idle(self, _target: int | None) -> bool:
        self._idles += 1
        keys = self._script.pop(self._idles, None)
        if keys is None and self._waiting:
            keys, self._waiting = b"".join(self._waiting), []
        if keys is None:
            return False
        self.typed.append((self._idles, keys))
        self._console.send(keys)
        return True


class KeyLog:
    """Notes what somebody else's ``clock.on_idle`` types, for a recording: (domain, which idling, bytes)."""

    def __init__(self) -> None:
        self.keys: list[tuple[int, int, bytes]] = []
        self.domain = -1
        self._idles = 0
        self._typed = b""

    def typed(self, keys: bytes) -> None:
        """Somebody types, while the guest idles."""
        self._typed += keys

    def attach(self, clock: VirtualClock) -> None:
        """Another domain is about to run, with its ``on_idle`` in place."""
        self.domain += 1
        self._idles = 0
        inner = clock.on_idle

        def on_idle(target: int | None) -> bool:
            self._idles += 1
            result = inner(target) if inner is not None else False
            if self._typed:
                self.keys.append((self.domain, self._idles, self._typed))
                self._typed = b""
            return result

        clock.on_idle = on_idle
