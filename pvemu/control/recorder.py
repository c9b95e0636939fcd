"""Making a recording while a session runs, and having the session again from one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvemu.control.keyboard import Keyboard, KeyLog
from pvemu.control.recording import End, Recording, packages, save

if TYPE_CHECKING:
    from pvemu.config import DomainConfig
    from pvemu.machine import Machine

__all__ = ["Recorder", "Replay"]

#: Ends of a run that its guest has nothing to do with.
_FORCED = ("left", "gone", "interrupted")


class Recorder:
    """Records to ``path``: ``attach`` each domain before it starts, ``finish`` whatever became of the run. ConfigError
    where it could not be had again, or not written.
    """

    def __init__(self, path: str, config: DomainConfig, options: dict[str, Any]) -> None:
        self._path = path
        self._recording = Recording.begin(config, options)
        self._log = KeyLog()
        self.typed = self._log.typed
        self._machine: Machine | None = None
        save(self._recording, path)

    def attach(self, machine: Machine) -> None:
        """A domain is about to start; what types on it is in place."""
        self._machine = machine
        self._log.attach(machine.clock)

    def finish(self) -> None:
        """Write the recording."""
        self._recording.keys = self._log.keys
        if self._machine is not None:
            self._recording.end = end_of(self._machine, self._log.domain)
        save(self._recording, self._path)


def end_of(machine: Machine, domain: int) -> End:
    """Where a run stands that has ended."""
    kind, detail = machine.outcome if machine.outcome is not None else ("error", "an error of pvemu itself")
    return End(domain, machine.engine.exits, machine.clock.time, kind, detail, kind in _FORCED)


class Replay:
    """Has the domains of a session do what they did: ``attach`` each before it starts."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._domain = -1
        self._machine: Machine | None = None

    @property
    def warnings(self) -> list[str]:
        """What was another version when the run was recorded."""
        now = packages()
        return [
            f"recorded with {name} {then}, this is {now[name]}: the run may be another"
            for name, then in self._recording.packages.items()
            if now.get(name) != then
        ]

    def script(self, domain: int) -> list[tuple[int, bytes]]:
        """What was typed in one domain: (which idling, bytes)."""
        return [(idle, keys) for of, idle, keys in self._recording.keys if of == domain]

    def attach(self, machine: Machine) -> None:
        """A domain is about to start."""
        self._domain += 1
        self._machine = machine
        Keyboard(machine.clock, machine.console).play(self.script(self._domain))
        end = self._recording.end
        if end is not None and end.is_forced and end.domain == self._domain:
            machine.engine.at_exit(end.exits, lambda: machine.stop(end.kind, end.detail))

    def parted(self) -> str | None:
        """How the run ended otherwise than the recorded one; None when it is the same."""
        end = self._recording.end
        if end is None or self._machine is None:
            return None
        now = end_of(self._machine, self._domain)
        if end.is_forced or (now.domain, now.exits, now.time) == (end.domain, end.exits, end.time):
            return None
        return (
            f"the run is not the recorded one: it ended after {now.exits} exits at {now.time} ns ({now.kind}), "
            f"the recorded one after {end.exits} at {end.time} ns ({end.kind})"
        )
