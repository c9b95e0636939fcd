"""A real GRUB under strictness: to its menu, and from it into the GRUB that it chainloads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvemu.testing.guest import Guest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    FindGuest = Callable[[str, str], Path]


@pytest.mark.parametrize("bits", ["x86_64", "i386"])
def test_grub_chainloads_grub_under_a_strict_seed(guest: FindGuest, bits: str) -> None:
    loader = guest("pvgrub", f"grub-{bits}-xen.bin")
    with Guest.boot(loader, f"xvda={guest('chain', 'chain.img')},ro", strict_seed=3) as strict:
        strict.wait_for_menu()
        strict.send("\r")
        stage = strict.wait_for_stage(1)
    assert stage.guest_os is not None
    assert not strict.errors()
