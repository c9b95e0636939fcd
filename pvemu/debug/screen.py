"""The console as a person saw it: an 80x24 terminal fed with the console's bytes."""

from __future__ import annotations

__all__ = ["render"]

_COLUMNS, _LINES = 80, 24


def render(console: bytes) -> list[str]:
    """The lines of the screen as it stands after ``console``, without trailing blanks and without empty lines at the
    end.
    """
    import pyte

    screen = pyte.Screen(_COLUMNS, _LINES)
    pyte.ByteStream(screen).feed(console)
    lines = [line.rstrip() for line in screen.display]
    while lines and not lines[-1]:
        lines.pop()
    return lines
