"""Draws docs/screen.svg: the menu of the demo's GRUB. `tools/draw_screen.py FILE` draws elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pvemu.mkimage import build  # noqa: E402 - a checkout that is not installed
from pvemu.testing.guest import Guest  # noqa: E402

PICTURE = ROOT / "docs" / "screen.svg"


def draw() -> str:
    """The picture: the guest's own GRUB, chainloaded, at its menu."""
    disk = f"xvda={build('demo')['demo.img']},ro"
    with Guest.boot(build("pvgrub")["grub-x86_64-xen.bin"], disk, memory=256) as guest:
        guest.wait_for_stage(1)
        guest.wait_for_menu()
        return guest.screen_svg()


if __name__ == "__main__":
    Path(sys.argv[1] if sys.argv[1:] else PICTURE).write_text(draw(), encoding="utf-8")
