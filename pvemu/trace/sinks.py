"""Where events go: lines of text, JSON lines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.trace.event import Event

__all__ = ["TextSink", "write_json_lines", "write_text"]


class TextSink(Protocol):
    """Anything that takes text."""

    def write(self, text: str, /) -> object:
        """Take some."""


def write_text(out: TextSink) -> Callable[[Event], None]:
    """A line for each event."""
    write = out.write

    def sink(event: Event) -> None:
        write(event.as_text() + "\n")

    return sink


def write_json_lines(out: TextSink) -> Callable[[Event], None]:
    """A JSON object for each event."""
    encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
    write = out.write

    def sink(event: Event) -> None:
        write(encode(event.as_json()) + "\n")

    return sink
