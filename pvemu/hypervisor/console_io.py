"""Xen's emergency console as an unprivileged domain has it (xen/drivers/char/console.c do_console_io)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ConsoleIo"]


class ConsoleIo:
    """HYPERVISOR_console_io of a domain without a hypervisor console: output is logged, input is never there."""

    def __init__(self, log: Callable[[bytes], None]) -> None:
        self._log = log

    def write(self, data: bytes) -> None:
        """CONSOLEIO_write."""
        self._log(data)

    def read(self, count: int) -> bytes:
        """CONSOLEIO_read."""
        return b""
