"""What a scenario types, and when it is due: a guest's output, stage, time and waiting decide."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pvemu.testing.keys import PRESSED
from pvemu.testing.menu import EntrySearch, NoEntryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pvemu.scenario.model import Key
    from pvemu.testing.guest import Guest

__all__ = ["IDLE_SECONDS", "Typist", "WrongKeyError"]

#: A guest that sleeps waits for input when nothing came from it for so long, in guest seconds.
IDLE_SECONDS = 1.0
_ROUNDING = 1e-6


class WrongKeyError(Exception):
    """A key that cannot be typed: ``field`` says which; what it ``wanted``, and what was ``found``."""

    def __init__(self, field: str, wanted: str, found: str) -> None:
        super().__init__(f"{field}: wanted {wanted}, found {found}")
        self.field = field
        self.wanted = wanted
        self.found = found


class Typist:
    """``keys`` for ``guest``, one after the other."""

    def __init__(self, keys: Sequence[Key], guest: Guest) -> None:
        self._keys = keys
        self._guest = guest
        self._done = 0
        self._from = 0  # where in the text the next key's pattern may begin
        self._has_matched = False
        self._last_output = 0.0
        self._search: EntrySearch | None = None  # of a menu that the next key chooses from, once it was looked at

    def on_text(self, text: str, start: int) -> None:
        """The console shows ``text`` now; what is new may match from ``start`` on."""
        self._last_output = self._guest.seconds
        key = self._next
        if key is not None and key.after is not None and not self._has_matched:
            found = re.compile(key.after, re.MULTILINE).search(text, max(start, self._from))
            self._has_matched = found is not None

    @property
    def wants_time(self) -> float | None:
        """The guest second at which the next key may be due, when that is all it waits for."""
        key = self._next
        return key.at if key is not None else None

    @property
    def waits_for_input(self) -> bool:
        """Whether the next key is for when the guest waits for one."""
        key = self._next
        return key is not None and _when(key) is not None

    @property
    def is_due(self) -> bool:
        """Whether ``due`` would say something."""
        guest, key = self._guest, self._next
        if key is None or len(guest.stages) <= key.stage or (key.at is not None and guest.seconds < key.at):
            return False
        if key.after is not None and not self._has_matched:
            return False
        when = _when(key)
        if when == "menu":
            return guest.machine.console.is_waiting and guest.menu is not None
        return when is None or guest.machine.console.is_waiting or self._sleeps_for_input()

    def due(self) -> str | None:
        """What is to be typed now; None for nothing. The guest stands still meanwhile. Raises WrongKeyError."""
        key = self._next
        if key is None or not self.is_due:
            return None
        text = self._choice(key) if key.choose is not None else None
        if self._search is not None and not self._search.is_over:
            return text
        self._search = None
        self._done += 1
        self._from, self._has_matched = len(self._guest.text), False
        if text is not None:
            return text
        return key.send if key.send is not None else "".join(PRESSED[name] for name in key.press or ())

    @property
    def missing(self) -> tuple[str, str] | None:
        """The field of the first key that was not typed, and what it waits for; None when all were."""
        key = self._next
        return (f"keys[{self._done}]", _moment(key)) if key is not None else None

    @property
    def _next(self) -> Key | None:
        return self._keys[self._done] if self._done < len(self._keys) else None

    def _sleeps_for_input(self) -> bool:
        """A guest that does not poll: it sleeps, and nothing has come from it for a while."""
        machine = self._guest.machine
        has_read = machine.sched.is_idle and machine.console.is_input_taken
        return has_read and self._guest.seconds - self._last_output >= IDLE_SECONDS - _ROUNDING

    def _choice(self, key: Key) -> str:
        assert key.choose is not None
        self._search = self._search or EntrySearch(key.choose)
        try:
            return self._search.look(self._guest.screen)
        except NoEntryError as error:
            raise WrongKeyError(f"keys[{self._done}].choose", f"a menu entry {error.wanted}", error.found) from None


def _when(key: Key) -> str | None:
    """At which kind of waiting a key is typed; a key that says nothing waits for any."""
    if key.choose is not None:
        return "menu"
    if key.when is None and key.after is None and key.at is None:
        return "input"
    return key.when


def _moment(key: Key) -> str:
    parts = [f"stage {key.stage}"] if key.stage else []
    parts += [f"a match for {key.after!r}"] if key.after is not None else []
    parts += [f"guest second {key.at:g}"] if key.at is not None else []
    when = _when(key)
    parts += [{"menu": "a menu", "input": "the guest to wait for a key"}[when]] if when is not None else []
    return " and ".join(parts)
