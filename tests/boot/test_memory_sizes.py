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
    """It maps all its memory at its frame numbers, and Xen keeps the addresses from 0xf5800000 on: with more it dies
    before it has said a word, as on Xen. There it reads the machine-to-physical table as its shared pages, with pfns of
    domain 0 as indices of the xenstore ring; the write to that ring is a page fault.
    """
    ran = boot(
        guest("pvgrub", "grub-i386-xen.bin"), f"xvda={guest('menu', 'menu.img')},ro", memory=mib,
        until="automatically in",
    )  # fmt: skip
    assert ran.verdict.verdict == verdict
    assert bool(ran.console) == (verdict == "success")
    if mib == 3928:
        assert ran.verdict.reason == "d1v0 Unhandled: vec 14, #PF[0003]"
        assert "(XEN) Pagetable walk from 00000000f5802" in "\n".join(ran.verdict.crash_report)
