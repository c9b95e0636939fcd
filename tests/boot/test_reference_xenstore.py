"""The tree of a running guest, GRUB at its menu with disk and console connected, is that recorded on Xen 4.17."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pvemu.testing.guest import Guest

if TYPE_CHECKING:
    from collections.abc import Callable

    FindGuest = Callable[[str, str], Path]

RECORDED = Path(__file__).parents[1] / "data" / "xenstore" / "grub32-menu-running.txt"
#: What is a matter of the host and the moment: frames, grants of the guest's choice, loop devices, terminals, times.
HOSTS = re.compile(
    r"(/(?:ring-ref|port|tty|params|physical-device|uuid|vm|start_time|event-channel|limit|name|domain))"
    r' = ".*?"'
)


def comparable(text: str, bits: int) -> list[str]:
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", HOSTS.sub(r'\1 = "*"', text))
    lines = [line for line in text.splitlines() if re.match(r"/local/domain/(1[/ ]|0/backend)", line)]
    return [line.replace("x86_32-abi", f"x86_{bits}-abi") for line in lines]


@pytest.mark.parametrize("bits", [32, 64])
def test_a_running_guests_tree_is_the_recorded_one(bits: int, guest: FindGuest) -> None:
    loader = guest("pvgrub", f"grub-{'i386' if bits == 32 else 'x86_64'}-xen.bin")
    with Guest.boot(loader, f"xvda={guest('menu', 'menu.img')},rw") as booted:
        booted.wait_for_menu()
        tree = booted.xenstore
    ours, theirs = comparable(tree, bits), comparable(RECORDED.read_text(), bits)
    assert [line for line in ours if line not in theirs] == []
    assert [line for line in theirs if line not in ours] == []
    assert ours == theirs
