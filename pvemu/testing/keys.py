"""Keys that have no letter, as a terminal sends them."""

from __future__ import annotations

__all__ = ["PRESSED"]

#: What a terminal sends for a key's name.
PRESSED = {
    "enter": "\r", "escape": "\x1b", "tab": "\t", "backspace": "\x7f", "space": " ", "up": "\x1b[A", "down": "\x1b[B",
    "right": "\x1b[C", "left": "\x1b[D", "home": "\x1b[1~", "end": "\x1b[4~", "delete": "\x1b[3~",
    "page-up": "\x1b[5~", "page-down": "\x1b[6~",
}  # fmt: skip
