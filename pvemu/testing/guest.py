r"""A guest under test: start it, wait for what it shows, type, look at it.

The guest only runs while something is waited for, so what a test sees never depends on how fast the machine is.

with Guest.boot("grub-x86_64-xen.bin", "disk.img") as guest:
    guest.wait_for_menu()
    guest.send("\r")
    guest.expect("Loading Linux")
"""

from __future__ import annotations

from os import fspath
from typing import TYPE_CHECKING, Self, cast

from hypercalls.public import sched
from pvemu.config import DEFAULT_MEMORY_MIB, DomainConfig, StrictConfig
from pvemu.debug.origins import Origins
from pvemu.disk.spec import parse_disk_specs
from pvemu.hypervisor.domain import SHUTDOWN_NAMES
from pvemu.machine import Machine
from pvemu.testing.console_text import WINDOW, Found, compiled, in_words
from pvemu.testing.failures import (
    ExpectTimeoutError,
    GuestCrashError,
    GuestError,
    GuestStoppedError,
    SaveRefusedError,
    Sighting,
    UnexpectedOutputError,
)
from pvemu.testing.guest_view import BENIGN_ERRORS, GuestView
from pvemu.testing.menu import EntrySearch
from pvemu.testing.session import crash_report
from pvemu.testing.snapshot import Elsewhere, Snapshot, take_snapshot, wherever_it_runs
from pvemu.testing.watchdog import HANG_SECONDS, Watchdog

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Sequence
    from os import PathLike

    from pvemu.debug.stages import Stage
    from pvemu.machine import Outcome
    from pvemu.testing.menu import Menu

__all__ = ["BENIGN_ERRORS", "DEFAULT_TIMEOUT", "Found", "Guest"]

#: Guest seconds that a wait takes at most when nothing else is said.
DEFAULT_TIMEOUT = 60.0
_NS_PER_S = 1_000_000_000


class Guest(GuestView):
    """One domain from its start of day on. ``boot`` is the comfortable way to make one."""

    def __init__(self, config: DomainConfig) -> None:
        super().__init__(config, Machine.create(config))
        machine = self.machine
        self._position = 0
        self._ended: Outcome | None = None
        self._is_closed = False
        self._snapshots: list[Snapshot] = []
        self._wanted_stages = 0
        machine.on_console_output = self._take_output
        machine.stages.observe(self._new_stage)
        Origins(machine.stages, machine.ram, machine.backends, config.disks)
        machine.start()

    @classmethod
    def boot(
        cls, kernel: str | PathLike[str], *disks: str | PathLike[str], memory: int = DEFAULT_MEMORY_MIB,
        cmdline: str = "", ramdisk: str | PathLike[str] | None = None, write: bool = False,
        strict_seed: int | None = None,
    ) -> Self:  # fmt: skip
        """A guest that is about to run. ``disks`` are written as for ``--disk``; ``memory`` is in MiB; under a
        ``strict_seed`` nothing is kept that Xen does not promise.
        """
        config = DomainConfig(
            kernel=fspath(kernel), ramdisk=fspath(ramdisk) if ramdisk is not None else None, cmdline=cmdline,
            memory_mib=memory, disks=parse_disk_specs(fspath(disk) for disk in disks), write=write,
            strict=StrictConfig(strict_seed) if strict_seed is not None else None,
        )  # fmt: skip
        return cls(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the disk images back. What was seen can still be looked at; the guest cannot go on."""
        if not self._is_closed:
            self._is_closed = True
            for snapshot in self._snapshots:
                snapshot.close()
            if self.remote is None:
                self.machine.close()
            else:
                self.remote.call("close")

    # -- going back --------------------------------------------------------------------------------------------------
    def snapshot(self) -> Snapshot:
        """The guest as it stands, for ``restore``: all of it, but for files that a disk given ``rw`` writes to."""
        if self._is_closed:
            raise ValueError("this guest is closed: take snapshots before close()")
        taken = take_snapshot(self) if self.remote is None else self.remote.snapshot()
        self._snapshots.append(taken)
        return taken

    def restore(self, snapshot: Snapshot) -> None:
        """Be as the guest was when ``snapshot`` was taken; as often as you like. The guest is in another process from
        now on, so ``machine`` cannot be looked at any more; all else goes on as before.
        """
        if snapshot not in self._snapshots or self._is_closed:
            raise ValueError("this snapshot is of another guest, or the guest is closed")
        if self.remote is None:
            self.machine.close()
            self.machine = cast("Machine", Elsewhere())
        self.remote = snapshot.copy()
        self.remote.call("seconds")
        console, self.sent, self.timeline = self.remote.seen
        self.console[:] = console

    # -- waiting -----------------------------------------------------------------------------------------------------
    @wherever_it_runs
    def expect(
        self, pattern: str | re.Pattern[str] | Sequence[str | re.Pattern[str]], timeout: float = DEFAULT_TIMEOUT,
        *, not_matching: str | re.Pattern[str] | Sequence[str | re.Pattern[str]] = (),
    ) -> Found:  # fmt: skip
        """Run until a pattern matches what the console showed since the last match, colours and cursor movements left
        out. The match that begins first wins; what follows it is left for the next call.

        Raises UnexpectedOutputError when ``not_matching`` matches earlier, ExpectTimeoutError after ``timeout`` guest
        seconds, GuestCrashError, GuestStoppedError.
        """
        patterns, unwanted = compiled(pattern), compiled(not_matching)
        if not patterns:
            raise ValueError("expect: no pattern; give at least one regular expression")
        found = self._text.search([*patterns, *unwanted], self._position)
        if found is None:

            def look(fresh: int) -> None:
                nonlocal found
                if found is None:
                    start = max(self._position, len(self._text.text) - fresh - WINDOW)
                    found = self._text.search([*patterns, *unwanted], start)
                    if found is not None:
                        self.machine.stop("found")

            stop_looking = self.observe_text(look)
            try:
                self._run(timeout, lambda: found is not None, f"no match for {in_words(patterns)}")
            finally:
                stop_looking()
        assert found is not None
        self._position = max(found.match.end(), self._position)
        if found.index >= len(patterns):
            raise UnexpectedOutputError(
                f"{found.text!r} came, which must not come before {in_words(patterns)}", self._sighting()
            )
        return found

    @wherever_it_runs
    def wait_for_input(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Run until the guest has read all that was typed and waits for a key."""
        self._run_until_polled(lambda: self.machine.console.is_waiting, timeout, "the guest never waited for a key")

    @wherever_it_runs
    def wait_for_menu(self, timeout: float = DEFAULT_TIMEOUT) -> Menu:
        """Run until a menu is on the screen and the guest waits for a key; the menu."""
        self._run_until_polled(
            lambda: self.machine.console.is_waiting and self.menu is not None, timeout, "no menu came"
        )
        menu = self.menu
        assert menu is not None
        return menu

    @wherever_it_runs
    def choose(self, entry: str | int, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Run until a menu is on the screen, and then the entry of that title (or place, from 0) in it; a menu that is
        longer than the screen is looked through. Raises NoEntryError.
        """
        search = EntrySearch(entry)
        while not search.is_over:
            self.wait_for_menu(timeout)
            self.send(search.look(self.screen))

    @wherever_it_runs
    def wait_for_stage(self, number: int, timeout: float = DEFAULT_TIMEOUT) -> Stage:
        """Run to the first instruction of stage ``number`` (the first that runs is 0); what it is."""
        stages = self.machine.stages
        self._wanted_stages = number + 1
        self._run(timeout, lambda: len(stages.stages) > number, f"stage {number} never started")
        return stages.stages[number]

    @wherever_it_runs
    def wait_for_shutdown(self, timeout: float = DEFAULT_TIMEOUT) -> str:
        """Run until the guest shuts down; why it did: ``poweroff``, ``reboot``, ... A crash is raised."""
        machine = self.machine
        self._run(timeout, lambda: machine.domain.shutdown_reason is not None and not self._has_crashed, "no shutdown")
        return SHUTDOWN_NAMES.get(machine.domain.shutdown_reason or 0, "unknown")

    def suspend(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Suspend the guest and resume it in place, as ``xl save -c`` does: it is asked through ``control/shutdown``,
        shuts down for the reason ``suspend``, and goes on when something is waited for.
        """
        machine = self.machine
        self._suspend(timeout, lambda: machine.domain.shutdown_reason == sched.SHUTDOWN_suspend)

    def _suspend(self, timeout: float, is_suspended: Callable[[], bool]) -> None:
        machine = self.machine
        if not self._is_closed:
            machine.dom0.ask_to("suspend")
        self._run(timeout, is_suspended, "the guest did not suspend")
        machine.resume()
        self._ended = None

    @wherever_it_runs
    def save(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """``xl save -c``, but for the file: suspend the guest, look at it as libxc does, and resume it in place.
        SaveRefusedError with libxc's line when it would not be saved; the guest is resumed then too, as by xl.
        """
        from pvemu.testing.save_refusal import save_refusal

        machine = self.machine
        refusal: str | None = None

        def is_suspended() -> bool:
            nonlocal refusal
            if machine.domain.shutdown_reason != sched.SHUTDOWN_suspend:
                return False
            refusal = save_refusal(machine)
            return True

        self._suspend(timeout, is_suspended)
        if refusal is not None:
            raise SaveRefusedError(f"the guest cannot be saved: {refusal}", self._sighting())

    @wherever_it_runs
    def send(self, text: str) -> None:
        r"""Type ``text``; the guest reads it when it runs. Enter is ``\r``, arrow up ``\x1b[A``, down ``\x1b[B``."""
        self.sent.append(text)
        self.machine.console.send(text.encode())

    # -- for those who decide themselves when to stop ------------------------------------------------------------------
    def observe_text(self, observer: Callable[[int], None]) -> Callable[[], None]:
        """Have ``observer`` told how many characters were added to ``text``; the result takes it off again."""
        return self._text.observe(observer)

    @wherever_it_runs
    def advance(self, until: float) -> Outcome | None:
        """Run until ``machine.stop`` is called or it is ``until`` guest seconds since the start. Why it ended for good;
        None where it can go on.
        """
        machine = self.machine
        if self._ended is None:
            limit = machine.clock.start + round(until * _NS_PER_S)
            deadline = machine.clock.observe_at(limit, lambda: machine.stop("deadline"))
            watchdog = Watchdog(machine, HANG_SECONDS)
            try:
                outcome = machine.run()
            finally:
                watchdog.stop()
                deadline.cancel()
            if outcome.kind not in ("found", "deadline"):
                self._ended = outcome
        return self._ended

    # -- running -----------------------------------------------------------------------------------------------------
    def _take_output(self, data: bytes) -> None:
        self.console += data
        self.timeline.append((self.seconds, data))
        self._text.take(data)

    def _new_stage(self, stage: Stage) -> None:
        if len(self.stages) == self._wanted_stages:
            self.machine.stop("found")

    def _run_until_polled(self, condition: Callable[[], bool], timeout: float, unmet: str) -> None:
        """Run until ``condition`` holds at a moment when the guest looks for a key."""
        machine = self.machine
        seen = -1

        def polled() -> None:
            nonlocal seen
            if machine.console.is_waiting and seen != len(self.console):
                seen = len(self.console)  # the screen can only have changed when something was written
                if condition():
                    machine.stop("found")

        machine.on_console_poll = polled
        try:
            self._run(timeout, condition, unmet)
        finally:
            machine.on_console_poll = lambda: None

    def _run(self, timeout: float, condition: Callable[[], bool], unmet: str) -> None:
        """Run until ``condition`` holds when the machine stops; raises what kept it from holding."""
        if condition():
            return
        if self._is_closed:
            raise ValueError("this guest is closed: wait for things before close()")
        self.advance(self.seconds + timeout)
        if condition():
            return
        raise self._failure(timeout, unmet)

    @property
    def _has_crashed(self) -> bool:
        return self.machine.domain.shutdown_reason in (sched.SHUTDOWN_crash, sched.SHUTDOWN_watchdog)

    def _failure(self, timeout: float, unmet: str) -> GuestError:
        machine, ended = self.machine, self._ended
        if ended is None:
            waiting = "; the guest waits for a key" if machine.console.is_waiting else ""
            return ExpectTimeoutError(f"timed out after {timeout:g} guest seconds: {unmet}{waiting}", self._sighting())
        reason_code = machine.domain.shutdown_reason
        if self._has_crashed:
            first = machine.crash_lines[0] if machine.crash_lines else "the guest says it crashed"
            report = crash_report(machine, bytes(self.console))
            return GuestCrashError(f"the guest crashed ({first}): {unmet}", self._sighting(), report)
        if reason_code is not None:
            name = SHUTDOWN_NAMES.get(reason_code, str(reason_code))
            return GuestStoppedError(f"the guest shut down ({name}): {unmet}", self._sighting())
        return GuestStoppedError(f"{ended.detail or ended.kind}: {unmet}", self._sighting())

    def _sighting(self) -> Sighting:
        stages = self.stages
        return Sighting(len(stages), stages[-1], self.screen, self.hypercalls, self.seconds)
