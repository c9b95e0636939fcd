"""Guests that go back to where they stood."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pvemu.testing.failures import ExpectTimeoutError
from pvemu.testing.guest import Guest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Artifact = Callable[[str, str], Path]


@pytest.fixture
def menu(guest: Artifact) -> Iterator[Guest]:
    """A guest at its menu: `second` is highlighted."""
    disk = guest("guide-basic", "basic.img")
    with Guest.boot(guest("guide-basic", "grub-x86_64-xen.bin"), f"xvda={disk},ro", memory=64) as started:
        started.wait_for_menu()
        yield started


def test_each_choice_from_one_snapshot_is_that_of_a_guest_of_its_own(menu: Guest, guest: Artifact) -> None:
    snapshot = menu.snapshot()
    for keys, said in (("\x1b[A\r", "I am the first"), ("\r", "I am the second"), ("\x1b[A\r", "I am the first")):
        menu.restore(snapshot)
        assert menu.sent == []
        menu.send(keys)
        assert menu.expect(r"I am the (\w+)").text == said
        assert menu.wait_for_shutdown() == "poweroff"
        disk = f"xvda={guest('guide-basic', 'basic.img')},ro"
        with Guest.boot(menu.config.kernel, disk, memory=64) as cold:
            cold.wait_for_menu()
            cold.send(keys)
            cold.wait_for_shutdown()
            assert bytes(menu.console) == bytes(cold.console)
            assert (menu.seconds, menu.screen, menu.xenstore) == (cold.seconds, cold.screen, cold.xenstore)
            assert menu.hypercalls == cold.hypercalls


def test_the_guest_itself_goes_on_after_a_snapshot(menu: Guest) -> None:
    menu.snapshot()
    menu.send("\r")
    menu.expect("I am the second")
    assert menu.machine.domain is not None


def test_a_restored_guest_has_everything_but_its_machine(menu: Guest) -> None:
    before = (menu.menu, menu.text, menu.screen, menu.stages[0].file, menu.repro(), menu.screen_svg(), menu.asciicast())
    snapshot = menu.snapshot()
    menu.send("\x1b[A")
    menu.wait_for_input()
    menu.restore(snapshot)
    assert (
        menu.menu, menu.text, menu.screen, menu.stages[0].file, menu.repro(), menu.screen_svg(), menu.asciicast(),
    ) == before  # fmt: skip
    with pytest.raises(AttributeError, match="in another process"):
        _ = menu.machine.domain
    found = menu.expect(r"(?P<what>\d+)s")
    assert found.match["what"] == found.match[1]


def test_snapshots_of_restored_guests(menu: Guest) -> None:
    first = menu.snapshot()
    menu.restore(first)
    menu.send("\x1b[A")
    menu.wait_for_input()
    second = menu.snapshot()
    menu.restore(first)
    menu.restore(second)
    assert menu.menu is not None
    assert menu.menu.selected == 0
    menu.restore(first)
    assert menu.menu.selected == 1


def test_failures_come_over(menu: Guest) -> None:
    menu.restore(menu.snapshot())
    with pytest.raises(ExpectTimeoutError, match="no match for 'nothing'") as caught:
        menu.expect("nothing", timeout=1)
    assert caught.value.seen.stage.guest_os == "GRUB"
    assert any("second" in line for line in caught.value.seen.screen)


def test_its_processes_end_with_it(menu: Guest, guest: Artifact) -> None:
    snapshot = menu.snapshot()
    menu.restore(snapshot)
    menu.close()
    with pytest.raises(ValueError, match="closed"):
        menu.restore(snapshot)
    with pytest.raises(ValueError, match="closed"):
        menu.expect("more")
    assert menu.menu is not None, "what was seen can still be looked at"
    with pytest.raises(ValueError, match="closed"):
        menu.snapshot()


def test_a_snapshot_of_another_guest_is_refused(menu: Guest, guest: Artifact) -> None:
    with (
        Guest.boot(guest("guide-basic", "grub-x86_64-xen.bin"), memory=64) as other,
        pytest.raises(ValueError, match="another guest"),
    ):
        other.restore(menu.snapshot())


def test_no_process_is_left(guest: Artifact) -> None:
    def children() -> str:
        return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()

    before = children()
    with Guest.boot(guest("guide-basic", "grub-x86_64-xen.bin"), memory=64) as started:
        started.restore(started.snapshot())
        assert children() == before, "they are nobody's children"
