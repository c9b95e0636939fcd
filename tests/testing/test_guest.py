"""Guests under test: waiting, typing, looking, and what a wait that fails says."""

from __future__ import annotations

import itertools
import re
import shlex
from typing import TYPE_CHECKING

import pytest

from pvemu.config import DomainConfig
from pvemu.disk.spec import parse_disk_specs
from pvemu.testing.failures import ExpectTimeoutError, GuestCrashError, GuestStoppedError, UnexpectedOutputError
from pvemu.testing.guest import Guest
from pvemu.testing.menu import NoEntryError
from pvemu.testing.repro import repro_command
from tests.builder.make_elf import make_kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Artifact = Callable[[str, str], Path]

PROMPT = "grub> "


@pytest.fixture
def grub(guest: Artifact) -> Iterator[Guest]:
    """A GRUB without a disk, which ends at its prompt."""
    with Guest.boot(guest("guide-basic", "grub-x86_64-xen.bin"), memory=64) as started:
        yield started


class TestExpect:
    def test_finds_text_that_is_coloured_on_the_wire(self, grub: Guest) -> None:
        assert grub.expect("^Welcome to GRUB!$|Welcome to GRUB!\n").text.startswith("Welcome to GRUB!")
        assert b"\x1b[" in grub.console
        assert "\x1b" not in grub.text

    def test_the_match_that_begins_first_wins(self, grub: Guest) -> None:
        grub.wait_for_input()
        found = grub.expect(["never", "version", re.compile(r"W(el)come")])
        assert (found.index, found.text, found.match[1]) == (2, "Welcome", "el")
        assert grub.expect(["never", "version"]).index == 1, "the next call goes on behind it"

    def test_what_comes_in_pieces_is_read_whole(self, grub: Guest) -> None:
        for byte in "\x1b[1;31mcaf\u00e9\x1b[0m \x1b(B!\r\n".encode():
            grub._take_output(bytes((byte,)))
        assert grub.text == "caf\u00e9 !\n"

    def test_each_match_is_found_once(self, grub: Guest) -> None:
        grub.expect(PROMPT)
        with pytest.raises(ExpectTimeoutError):
            grub.expect(PROMPT, timeout=1)
        grub.send("echo again\r")
        grub.expect("\nagain\n.*grub> ")

    def test_a_timeout_counts_guest_seconds_and_says_where_it_stands(self, grub: Guest) -> None:
        grub.expect(PROMPT)
        before = grub.seconds
        with pytest.raises(ExpectTimeoutError) as caught:
            grub.expect(["no such text", "nor this"], timeout=30)
        assert grub.seconds - before == pytest.approx(30, abs=0.5)
        lines = str(caught.value).splitlines()
        assert lines[0] == (
            "timed out after 30 guest seconds: no match for 'no such text' or 'nor this'; the guest waits for a key"
        )
        assert lines[1].startswith("last stage reached: 0 (GRUB, entry 0x0, started at 0.000 s)")
        assert "| grub>" in lines
        assert caught.value.seen.screen == grub.screen

    def test_goes_on_after_a_timeout(self, grub: Guest) -> None:
        grub.expect(PROMPT)
        with pytest.raises(ExpectTimeoutError):
            grub.expect("later", timeout=1)
        grub.send("echo later\r")
        grub.expect("\nlater")

    def test_what_must_not_come(self, grub: Guest) -> None:
        with pytest.raises(UnexpectedOutputError, match="'version 2' came, which must not come before 'grub> '"):
            grub.expect(PROMPT, not_matching=["never", r"version \d"])
        grub.expect(PROMPT)

    def test_what_comes_after_the_match_may_come(self, grub: Guest) -> None:
        grub.expect("Welcome", not_matching=PROMPT)

    def test_no_pattern_is_a_mistake_of_the_test(self, grub: Guest) -> None:
        with pytest.raises(ValueError, match="no pattern"):
            grub.expect([])


class TestTheEnd:
    def test_waiting_for_more_than_comes(self, grub: Guest) -> None:
        grub.send("halt\r")
        with pytest.raises(GuestStoppedError, match=r"the guest shut down \(poweroff\): no match for 'never'"):
            grub.expect("never")
        assert grub.wait_for_shutdown() == "poweroff"
        assert grub.expect(PROMPT).text == PROMPT, "what it showed can still be searched"

    def test_reboot(self, grub: Guest) -> None:
        grub.send("reboot\r")
        assert grub.wait_for_shutdown() == "reboot"

    def test_no_shutdown(self, grub: Guest) -> None:
        with pytest.raises(ExpectTimeoutError, match="no shutdown"):
            grub.wait_for_shutdown(timeout=3)

    def test_a_second_stage_that_never_comes(self, grub: Guest) -> None:
        assert grub.wait_for_stage(0).guest_os == "GRUB"
        with pytest.raises(ExpectTimeoutError, match="stage 1 never started"):
            grub.wait_for_stage(1, timeout=3)

    def test_a_crash(self, tmp_path: Path) -> None:
        kernel = tmp_path / "kernel"
        kernel.write_bytes(make_kernel(code=b"\x0f\x0b"))
        with Guest.boot(kernel, memory=8) as guest:
            with pytest.raises(GuestCrashError, match="vec 6, #UD") as caught:
                guest.expect("hello")
            assert any("RIP:" in line for line in caught.value.report)
            with pytest.raises(GuestCrashError):
                guest.wait_for_shutdown()

    def test_a_closed_guest_can_be_looked_at_but_not_run(self, grub: Guest) -> None:
        grub.expect(PROMPT)
        grub.close()
        assert "grub>" in grub.screen
        with pytest.raises(ValueError, match="closed"):
            grub.expect("more")


class TestLooking:
    def test_screen_xenstore_and_hypercalls(self, grub: Guest) -> None:
        grub.wait_for_input()
        assert len(grub.screen) == 24
        assert grub.menu is None
        assert '/local/domain/1/name = "guest"' in grub.xenstore
        assert any("sched_op" in line for line in grub.hypercalls)

    def test_the_menu_follows_the_keys(self, guest: Artifact) -> None:
        disk = guest("guide-basic", "basic.img")
        with Guest.boot(guest("guide-basic", "grub-x86_64-xen.bin"), f"xvda={disk},ro") as started:
            menu = started.wait_for_menu()
            assert (menu.selected, menu.countdown) == (1, 3)
            started.send("\x1b[A")
            started.wait_for_input()
            assert started.menu == (("first", "second"), 0, None)

    def test_an_entry_is_chosen_by_its_title_or_place(self, guest: Artifact) -> None:
        disk = guest("guide-basic", "basic.img")
        with Guest.boot(guest("guide-basic", "grub-x86_64-xen.bin"), f"xvda={disk},ro") as started:
            started.wait_for_menu()
            at_the_menu = started.snapshot()
            started.choose("first")
            started.expect("I am the first entry")
            started.restore(at_the_menu)
            started.choose(1)
            started.expect("I am the second entry")
            started.restore(at_the_menu)
            with pytest.raises(NoEntryError, match=r"no entry 'third', it has entries 'first', 'second'"):
                started.choose("third")

    def test_a_countdown_goes_down(self, guest: Artifact) -> None:
        disk = guest("guide-basic", "basic.img")
        with Guest.boot(guest("guide-basic", "grub-x86_64-xen.bin"), f"xvda={disk},ro") as started:
            started.wait_for_menu()
            started.expect("in 2s")
            started.wait_for_input()
            menu = started.menu
            assert menu is not None
            assert menu.countdown == 2

    def test_the_same_command_again(self, grub: Guest) -> None:
        grub.send("ls\r")
        grub.expect(PROMPT)
        words = grub.repro().split()
        assert words[:2] == ["pvemu", "boot"]
        assert words[3:5] == ["--memory", "64"]
        assert words[words.index("--send") + 1] == r"'ls\r'"

    def test_how_it_is_sliced_changes_nothing(self, guest: Artifact) -> None:
        consoles = []
        for patterns in (["I am the second"], ["Welcome", "GNU GRUB", "second", "I am the second"]):
            disk = guest("guide-basic", "basic.img")
            with Guest.boot(guest("guide-basic", "grub-x86_64-xen.bin"), f"xvda={disk},ro") as started:
                for pattern in patterns:
                    started.expect(pattern)
                started.wait_for_shutdown()
                consoles.append(bytes(started.console))
        assert consoles[0] == consoles[1]


def test_the_command_that_repeats_a_run_has_its_disks_as_they_were(tmp_path: Path) -> None:
    disks = parse_disk_specs([f"{tmp_path}/a,b=c.img", f"sda={tmp_path}/x.iso,cdrom", "big.img,rw,sector-size=4096"])
    config = DomainConfig(kernel="k", disks=disks, cmdline="a 'b'", write=True)
    words = shlex.split(repro_command(config, ["\r"], 2.0))
    given = [word for before, word in itertools.pairwise(words) if before == "--disk"]
    assert parse_disk_specs(given) == disks
    assert words[words.index("--cmdline") + 1] == "a 'b'"
    assert "--write" in words
    assert words[-2:] == ["--timeout", "7"]
