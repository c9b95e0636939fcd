"""One scenario watching a guest: what to type next, whether it is over, what differed first.

A judge only looks; several may watch the same guest. What it sees and when depends on the guest's time alone, so it
comes to the same verdict whether the guest was started for it or shared with others.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING

from hypercalls.public import sched
from hypercalls.public.io.xenbus import XenbusState
from pvemu.hypervisor.domain import SHUTDOWN_NAMES
from pvemu.scenario.result import Difference
from pvemu.scenario.typist import Typist, WrongKeyError
from pvemu.testing.guest import BENIGN_ERRORS

if TYPE_CHECKING:
    from pvemu.debug.stages import Stage
    from pvemu.machine import Outcome
    from pvemu.scenario.model import Scenario, StageExpect
    from pvemu.testing.guest import Guest

__all__ = ["DEFAULT_WITHIN", "Judge", "stage_field", "stage_sentence"]

#: Guest seconds that a run may take when the scenario does not say.
DEFAULT_WITHIN = 60.0
_ERROR = re.compile(r"error: [^\n]*(?=\n)")
#: How far back a match may begin in output that was searched before, in characters.
_WINDOW = 1 << 14
_JOURNAL = " (its file system's journal holds changes that were not written back, and are not seen)"
_CRASHES = (sched.SHUTDOWN_crash, sched.SHUTDOWN_watchdog)


class Judge:
    """``scenario`` against ``guest``. ``differences`` tells what came of it once ``is_over``."""

    def __init__(self, scenario: Scenario, guest: Guest) -> None:
        self._scenario = scenario
        self._expect, self._allow = scenario.expect, scenario.allow
        self._guest = guest
        self.differences: list[Difference] = []
        self.is_over = False
        self.deadline = self._expect.within if self._expect.within is not None else DEFAULT_WITHIN
        self._console = [re.compile(pattern, re.MULTILINE) for pattern in self._expect.console]
        self._never = [re.compile(pattern, re.MULTILINE) for pattern in self._expect.never]
        self._console_done = 0
        self._console_at = 0
        self._never_at = 0
        self._errors_at = 0
        self._nr_stages = 0
        self._menu_seen = self._expect.menu is None
        self.typist = Typist(scenario.keys, guest)

    # -- what happens ------------------------------------------------------------------------------------------------
    def on_text(self, fresh: int) -> None:
        """The console showed ``fresh`` more characters."""
        text = self._guest.text
        start = len(text) - fresh - _WINDOW
        self._follow_console(text, start)
        for index, pattern in enumerate(self._never):
            found = pattern.search(text, max(start, self._never_at))
            if found is not None:
                self._differs(f"expect.never[{index}]", f"no match for {pattern.pattern!r}", repr(found.group()))
                return
        for found in _ERROR.finditer(text, self._errors_at):
            self._errors_at = found.end()
            line = found.group().rstrip()
            if not any(re.fullmatch(allowed, line) for allowed in (*BENIGN_ERRORS, *self._allow.errors)):
                self._differs("allow.errors", "no error on the console but those listed", repr(line))
                return
        self.typist.on_text(text, start)
        self._end_if_done()

    def on_stage(self, stage: Stage) -> None:
        """A kernel is at its start of day."""
        number = self._nr_stages
        self._nr_stages += 1
        wanted = self._expect.stages
        nr_wanted = len(wanted) if wanted is not None else 1
        if number >= nr_wanted and not self._allow.stages:
            found = f"one more: {stage_sentence(number, stage)}"
            self._differs("expect.stages", f"{nr_wanted} stage{'s'[: nr_wanted > 1]}", found)
            return
        if wanted is not None and number < len(wanted):
            difference = _stage_difference(number, wanted[number], stage)
            if difference is not None:
                self._differs(*difference)
                return
        if number and not self._allow.devices:
            left = [vdev for vdev, backend in self._guest.machine.backends.items() if _is_connected(backend.state)]
            if left:
                found = f"{', '.join(left)} still connected as stage {number} starts"
                self._differs("allow.devices", "every disk given back at a hand-off", found)
                return
        self._end_if_done()

    def on_poll(self) -> None:
        """The guest waits for a key."""
        if not self._menu_seen and not self.is_over:
            self._check_menu()
        self._end_if_done()

    def on_end(self, outcome: Outcome) -> None:
        """The guest runs no more."""
        if self.is_over:
            return
        machine = self._guest.machine
        reason = machine.domain.shutdown_reason
        if reason in _CRASHES and not self._allow.crash:
            crash = machine.crash_lines[0] if machine.crash_lines else "the guest says it crashed"
            self._differs("allow.crash", "no crash", repr(crash))
            return
        ended = f"it {outcome.detail or outcome.kind}"
        if reason is not None:
            shutdown = SHUTDOWN_NAMES.get(reason, str(reason))
            ended = f"the guest shut down ({shutdown})"
            wanted = self._expect.shutdown
            if wanted is not None and shutdown != wanted:
                self._differs("expect.shutdown", repr(wanted), repr(shutdown), shutdown)
                return
        self._end_unmet(f"none when {ended}", is_down=reason is not None)

    def on_deadline(self) -> None:
        """It is time."""
        if self.is_over:
            return
        open_fields = self._unmet("none", is_down=False)
        if not open_fields and not self._has_goal:
            self.is_over = True  # what must never show did not
            return
        within = self._expect.within
        if within is not None:
            first = open_fields[0].field if open_fields else "the run"
            self.differences.append(
                Difference("expect.within", f"all of it in {within:g} guest seconds", f"{first} still open then")
            )
        self._end_unmet(f"none in {self.deadline:g} guest seconds", is_down=False)

    # -- what to type ------------------------------------------------------------------------------------------------
    def is_key_due(self) -> bool:
        """Whether ``due_key`` would say something."""
        return not self.is_over and self.typist.is_due

    def due_key(self) -> str | None:
        """What is to be typed now; None for nothing. The guest stands still meanwhile."""
        if self.is_over:
            return None
        try:
            return self.typist.due()
        except WrongKeyError as error:
            self._differs(error.field, error.wanted, error.found)
            return None

    # -- the verdict -------------------------------------------------------------------------------------------------
    def check_files(self) -> None:
        """After the run: the files that the guest should have written."""
        for index, file in enumerate(self._expect.files):
            place = f"expect.files[{index}]"
            content = self._guest.read_file(file.path)
            journal = _JOURNAL if self._guest.has_pending_journal(file.path) else ""
            if file.exists != (content is not None):
                wanted, found = ("a file", "none") if file.exists else ("no file", "one")
                self.differences.append(Difference(f"{place}.path", f"{wanted} {file.path}", found + journal))
            elif content is not None:
                text = content.decode("utf-8", "replace")
                digest = sha256(content).hexdigest()
                if file.matches is not None and not re.search(file.matches, text, re.MULTILINE):
                    found = f"{text[:200]!r}{journal}"
                    self.differences.append(Difference(f"{place}.matches", f"a match for {file.matches!r}", found))
                if file.sha256 is not None and file.sha256 != digest:
                    self.differences.append(Difference(f"{place}.sha256", file.sha256, digest + journal, digest))

    @property
    def _has_goal(self) -> bool:
        expect = self._expect
        return bool(expect.console or expect.stages or expect.menu or expect.shutdown)

    def _end_if_done(self) -> None:
        if not self.is_over and self._has_goal and self._expect.shutdown is None and not self._unmet("", is_down=False):
            self.is_over = True

    def _end_unmet(self, found: str, *, is_down: bool) -> None:
        self.differences += self._unmet(found, is_down=is_down)
        self.is_over = True

    def _unmet(self, found: str, *, is_down: bool) -> list[Difference]:
        """What is still to come, in the order of a boot."""
        expect = self._expect
        unmet: list[Difference] = []
        if expect.stages is not None and self._nr_stages < len(expect.stages):
            number = len(expect.stages)
            unmet.append(Difference("expect.stages", f"{number} stages", f"{self._nr_stages}, and {found} more"))
        if not self._menu_seen:
            unmet.append(Difference("expect.menu", "a menu", found))
        if self.typist.missing is not None:
            field, moment = self.typist.missing
            unmet.append(Difference(field, f"{moment}, to type then", found))
        for index in range(self._console_done, len(self._console)):
            wanted = f"a match for {self._console[index].pattern!r}"
            unmet.append(Difference(f"expect.console[{index}]", wanted, found))
        if expect.shutdown is not None and not is_down:
            unmet.append(Difference("expect.shutdown", repr(expect.shutdown), found))
        return unmet

    def _follow_console(self, text: str, start: int) -> None:
        while self._console_done < len(self._console):
            found = self._console[self._console_done].search(text, max(start, self._console_at))
            if found is None:
                return
            self._console_done += 1
            self._console_at = found.end()

    def _check_menu(self) -> None:
        wanted, menu = self._expect.menu, self._guest.menu
        if menu is None or wanted is None:
            return
        self._menu_seen = True
        if wanted.entries is not None and tuple(wanted.entries) != menu.entries:
            self._differs("expect.menu.entries", _listed(wanted.entries), _listed(menu.entries), menu.entries)
        elif wanted.selected is not None and wanted.selected != menu.entries[menu.selected]:
            selected = menu.entries[menu.selected]
            self._differs("expect.menu.selected", repr(wanted.selected), repr(selected), selected)
        elif wanted.countdown is not None and wanted.countdown != menu.countdown:
            found = f"{menu.countdown} s" if menu.countdown is not None else "none"
            self._differs("expect.menu.countdown", f"{wanted.countdown} s", found, menu.countdown)

    def _differs(
        self, place: str, wanted: str, found: str, value: str | int | tuple[str, ...] | None = None
    ) -> None:
        if not self.is_over:
            self.differences.append(Difference(place, wanted, found, value))
            self.is_over = True


def stage_sentence(number: int, stage: Stage) -> str:
    """A stage in words: number, guest OS, file, start."""
    file = f" from {stage.file}" if stage.file is not None and number else ""
    return f"{number}, {stage.guest_os or 'a kernel without a name'}{file}, started at {stage.start_ns / 1e9:.3f} s"


def _stage_difference(number: int, wanted: StageExpect, stage: Stage) -> Difference | None:
    for name in ("os", "version", "cmdline", "ramdisk", "file", "ramdisk_file"):
        expected = getattr(wanted, name)
        if expected is not None:
            found = stage_field(stage, name)
            if expected != found:
                shown = repr(found) if found is not None else "none"
                return Difference(f"expect.stages[{number}].{name}", repr(expected), shown, found)
    return None


def stage_field(stage: Stage, name: str) -> str | None:
    """What a stage is, by the name of StageExpect's field."""
    match name:
        case "os":
            return stage.guest_os
        case "version":
            return stage.guest_version
        case "ramdisk":
            return stage.ramdisk.sha256 if stage.ramdisk is not None else ""
        case "ramdisk_file":
            return stage.ramdisk_file or ""
        case "file":
            return stage.file
        case _:
            return stage.cmdline


def _is_connected(state: int) -> bool:
    return state in (XenbusState.XenbusStateInitialised, XenbusState.XenbusStateConnected)


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(map(repr, names)) or "none"
