"""Runs a `pvemu` command and writes down every hypercall: number, arguments, result, guest time.

Run as `python record_run.py LOG boot KERNEL ...`, in a process of its own: that is what is compared.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pvemu.cli import main
from pvemu.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypercalls.table import Row

log: list[str] = []
start = Machine.start


def watched_start(self: Machine) -> None:
    """Start as ever, with a monitor on the one call site of hypercalls."""

    def before(row: Row, args: Sequence[int]) -> None:
        log.append(f"{self.clock.now()} {row.name} {' '.join(f'{arg:x}' for arg in args)}")

    def after(row: Row, args: Sequence[int], result: int) -> None:
        log.append(f"{self.clock.now()} -> {result}")

    self.hypercalls.monitor(before, after)
    start(self)


if __name__ == "__main__":
    Machine.start = watched_start  # type: ignore[method-assign]  # the command makes its machine itself
    status = main(sys.argv[2:])
    Path(sys.argv[1]).write_text("\n".join(log), encoding="utf-8")
    sys.exit(status)
