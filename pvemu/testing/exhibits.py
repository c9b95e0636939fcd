"""All there is to see of a guest when something went wrong, as files."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvemu.testing.guest import Guest

__all__ = ["exhibits"]


def exhibits(guest: Guest) -> dict[str, bytes]:
    """File name -> content: console, screen (text and picture), recording, hypercalls, xenstore, how to repeat it."""
    texts = {
        "console.txt": guest.text,
        "screen.txt": "\n".join(guest.screen),
        "hypercalls.txt": "\n".join(guest.hypercalls),
        "xenstore.txt": guest.xenstore,
        "repro.sh": guest.repro(),
    }
    shown = {name: f"{text.rstrip()}\n".encode("utf-8", "replace") for name, text in texts.items()}
    return {
        **shown,
        "console.raw": bytes(guest.console),
        "screen.svg": guest.screen_svg().encode(),
        "console.cast": guest.asciicast().encode("utf-8", "replace"),
    }
