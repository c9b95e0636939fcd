"""A guest's console among other text: without what would move the cursor about or clear the screen."""

from __future__ import annotations

import re

__all__ = ["ConsoleText"]

_ESCAPE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[78=>]|\r(?!\n)|\x07")
_OPEN = re.compile(rb"(\x1b(\[[0-9;?]*|[()])?|\r)\Z")
#: Where text goes on elsewhere on the screen, and the line that is.
_MOVE = re.compile(rb"\n|\x1b\[([0-9]*)(?:;[0-9]*)?[Hf]")


class ConsoleText:
    """Takes output piece by piece; an escape sequence may come in two."""

    def __init__(self) -> None:
        self._rest = b""
        self._row = 0

    def feed(self, data: bytes) -> bytes:
        """What can be shown of it. A jump to another line of the screen becomes the end of this one."""
        data = self._rest + data
        found = _OPEN.search(data)
        data, self._rest = (data[: found.start()], data[found.start() :]) if found is not None else (data, b"")
        text = _ESCAPE.sub(b"", _MOVE.sub(self._moved, data)).replace(b"\r\n", b"\n")
        return re.sub(rb"\n{3,}", b"\n\n", text)

    def _moved(self, found: re.Match[bytes]) -> bytes:
        before = self._row
        self._row = before + 1 if found[0] == b"\n" else int(found[1] or 1)
        return b"" if self._row == before else b"\n"
