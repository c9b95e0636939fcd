"""How much memory a boot loader can have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.boot.conftest import Boot


@pytest.mark.parametrize(("mib", "verdict"), [(3927, "success"), (3928, "crash"), (4096, "crash")])
def test_grubs_i386_port_ends_below_xens_hole(
    boot: Boot, guest: Callable[[str, str], Path], mib: int, verdict: str
) -> None:
    """It maps all its memory at its frame numbers, and Xen keeps the addresses from 0xf5800000 on: with more it dies of
    a page fault there before it has said a word, as on Xen.
    """
    ran = boot(
        guest("pvgrub", "grub-i386-xen.bin"), f"xvda={guest('menu', 'menu.img')},ro", memory=mib,
        until="automatically in",
    )  # fmt: skip
    assert ran.verdict.verdict == verdict
    assert bool(ran.console) == (verdict == "success")
