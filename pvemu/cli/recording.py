"""``--screenshot`` and ``--record-cast``: the console as a picture, and as a recording."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.debug.stages import Stage

__all__ = ["Recording"]

_NS_PER_S = 1_000_000_000


class Recording:
    """Keeps the console's bytes and when they came. ``sink`` gets them too; ``elapsed`` is guest time in ns."""

    def __init__(
        self, picture: IO[bytes] | None, cast: IO[bytes] | None, title: str, sink: Callable[[bytes], None]
    ) -> None:
        self._picture = picture
        self._cast = cast
        self._title = title
        self._sink = sink
        self._timeline: list[tuple[float, bytes]] = []
        self.elapsed: Callable[[], int] = lambda: 0

    def __call__(self, data: bytes) -> None:
        """The console wrote ``data``."""
        if self._picture is not None or self._cast is not None:
            self._timeline.append((self.elapsed() / _NS_PER_S, data))
        self._sink(data)

    def files(self, stages: list[Stage]) -> list[tuple[IO[bytes], bytes, str]]:
        """What is to be written at the end: file, content, the option that asked for it."""
        wanted: list[tuple[IO[bytes], bytes, str]] = []
        if self._picture is not None:
            from pvemu.debug.screen import render_svg

            console = b"".join(data for _, data in self._timeline)
            wanted.append((self._picture, render_svg(console, self._title).encode(), "--screenshot"))
        if self._cast is not None:
            from pvemu.testing.asciicast import asciicast

            text = asciicast(self._timeline, stages, self._title)
            wanted.append((self._cast, text.encode("utf-8", "replace"), "--record-cast"))
        return wanted
