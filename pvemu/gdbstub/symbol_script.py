"""gdb commands that load the symbols of the stage that runs: written anew whenever that changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SymbolRow", "connect_script", "symbol_script"]

#: Name, path of the file its symbols are from, base address, and (address, size) of its code.
SymbolRow = tuple[str, str | None, int, tuple[tuple[int, int], ...]]


def _quoted(path: str) -> str:
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def symbol_script(rows: Sequence[SymbolRow]) -> str:
    """Drops the symbols there were and adds those of ``rows``."""
    lines = ["set confirm off", "symbol-file"]
    for name, path, base, text in rows:
        if path is None:
            lines.append(f"# {name} at {base:#x}: no file with its symbols is known; give it with --symbols")
            continue
        at = text[0][0] if text else base
        lines.append(f"add-symbol-file {_quoted(path)} {at:#x}")
    return "\n".join([*lines, ""])


def connect_script(address: str, symbols: str) -> str:
    """Connects, and defines `symbols`, to be used when another stage or module runs."""
    return "\n".join(
        [
            "set confirm off",
            "set pagination off",
            "set breakpoint auto-hw off",
            "define symbols",
            "  monitor symbols",
            f"  source {symbols}",
            "end",
            "document symbols",
            "Load the symbols of the kernel and the modules that run now.",
            "end",
            f"target remote {address}",
            "symbols",
            "",
        ]
    )
