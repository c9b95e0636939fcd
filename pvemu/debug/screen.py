"""The console as a person saw it: an 80x24 terminal fed with the console's bytes, as text and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyte

__all__ = ["COLUMNS", "LINES", "render", "render_svg"]

COLUMNS, LINES = 80, 24

#: As a Linux console shows them.
_COLOURS = {
    "black": "#000000", "red": "#aa0000", "green": "#00aa00", "brown": "#aa5500", "blue": "#0000aa",
    "magenta": "#aa00aa", "cyan": "#00aaaa", "white": "#aaaaaa", "brightblack": "#555555", "brightred": "#ff5555",
    "brightgreen": "#55ff55", "brightbrown": "#ffff55", "brightyellow": "#ffff55", "brightblue": "#5555ff",
    "brightmagenta": "#ff55ff", "brightcyan": "#55ffff", "brightwhite": "#ffffff",
}  # fmt: skip
_FOREGROUND, _BACKGROUND = "#aaaaaa", "#000000"
#: A character's box, in the picture's units.
_WIDTH, _HEIGHT, _BASELINE = 8, 17, 13
_MARGIN = 8
#: As SVG 1.1 says it, and as SVG 2 does.
_KEEP_BLANKS = 'xml:space="preserve" style="white-space:pre"'
_FONT = "DejaVu Sans Mono, Menlo, Consolas, monospace"


class _Run(NamedTuple):
    """Characters in a row that look the same."""

    column: int
    text: str
    foreground: str
    background: str
    is_bold: bool
    is_underlined: bool


def render(console: bytes) -> list[str]:
    """The lines of the screen as it stands after ``console``, without trailing blanks and without empty lines at the
    end.
    """
    lines = [line.rstrip() for line in _screen(console).display]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def render_svg(console: bytes, title: str = "The guest's console") -> str:
    """The same screen as an SVG picture, with its colours: the same bytes for the same console."""
    screen = _screen(console)
    width, height = COLUMNS * _WIDTH + 2 * _MARGIN, LINES * _HEIGHT + 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f"<title>{_escape(title)}</title>",
        f'<rect width="{width}" height="{height}" rx="4" fill="{_BACKGROUND}"/>',
        f'<g font-family="{_FONT}" font-size="13" fill="{_FOREGROUND}" {_KEEP_BLANKS}>',
    ]
    for row in range(LINES):
        for run in _runs(screen, row):
            parts += _drawn(run, row)
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _screen(console: bytes) -> pyte.Screen:
    import pyte

    screen = pyte.Screen(COLUMNS, LINES)
    pyte.ByteStream(screen).feed(console)
    return screen


def _runs(screen: pyte.Screen, row: int) -> Iterator[_Run]:
    run: _Run | None = None
    for column in range(COLUMNS):
        cell = screen.buffer[row][column]
        foreground, background = _colour(cell.fg, _FOREGROUND), _colour(cell.bg, _BACKGROUND)
        if cell.bold and f"bright{cell.fg}" in _COLOURS:
            foreground = _COLOURS[f"bright{cell.fg}"]
        if cell.reverse:
            foreground, background = background, foreground
        fresh = _Run(column, cell.data, foreground, background, cell.bold, cell.underscore)
        if run is not None and run[2:] == fresh[2:]:
            run = run._replace(text=run.text + fresh.text)
            continue
        if run is not None:
            yield run
        run = fresh
    if run is not None:
        yield run


def _drawn(run: _Run, row: int) -> Iterator[str]:
    left, top = _MARGIN + run.column * _WIDTH, _MARGIN + row * _HEIGHT
    width = len(run.text) * _WIDTH
    if run.background != _BACKGROUND:
        yield f'<rect x="{left}" y="{top}" width="{width}" height="{_HEIGHT}" fill="{run.background}"/>'
    text = run.text.rstrip() if not run.is_underlined else run.text
    if text:
        # textLength keeps columns in place whatever font there is
        look = f' fill="{run.foreground}"' if run.foreground != _FOREGROUND else ""
        look += ' font-weight="bold"' if run.is_bold else ""
        look += ' text-decoration="underline"' if run.is_underlined else ""
        place = f'x="{left}" y="{top + _BASELINE}" textLength="{len(text) * _WIDTH}" lengthAdjust="spacingAndGlyphs"'
        yield f"<text {place}{look}>{_escape(text)}</text>"


def _colour(name: str, default: str) -> str:
    if name == "default":
        return default
    return _COLOURS.get(name, f"#{name}")


def _escape(text: str) -> str:
    from html import escape  # every start of pvemu imports this module, few draw

    return escape(text, quote=False)
