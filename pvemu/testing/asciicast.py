"""A recording of the console: asciicast v2, guest time, each kernel that starts as a marker.

https://docs.asciinema.org/manual/asciicast/v2/ is the format.
"""

from __future__ import annotations

import codecs
import json
from typing import TYPE_CHECKING

from pvemu.debug.screen import COLUMNS, LINES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pvemu.debug.stages import Stage

__all__ = ["asciicast"]


def asciicast(output: Iterable[tuple[float, bytes]], stages: Sequence[Stage], title: str) -> str:
    """The recording of ``output``: guest seconds since the start, and what the console was sent then."""
    events: list[tuple[float, str, str]] = []
    for number, stage in enumerate(stages):
        label = " ".join(filter(None, (f"stage {number}:", stage.guest_os or "a kernel", stage.guest_version)))
        events.append((stage.start_ns / 1e9, "m", label))
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    events += [(seconds, "o", decoder.decode(data)) for seconds, data in output]
    events.sort(key=lambda event: event[0])
    header = {"version": 2, "width": COLUMNS, "height": LINES, "title": title, "env": {"TERM": "xterm"}}
    lines = [header, *([round(seconds, 6), kind, text] for seconds, kind, text in events if text)]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
