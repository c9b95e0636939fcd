"""console_io: Xen's own console (xen/drivers/char/console.c do_console_io).

Whether the domain may use it is the port's affair: a release build of Xen refuses (EPERM), a debug build lets it write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypercalls.arguments import u32
from hypercalls.public.errno import E2BIG, ENOSYS
from hypercalls.public.xen import CONSOLEIO_read, CONSOLEIO_write

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_console_io"]

CHUNK: Final = 4096


def do_console_io(ctx: Context, cmd: int, count: int, buffer: int) -> int:
    """Write ``count`` bytes, or read up to as many: the result is how many there were."""
    cmd, count = u32(cmd), u32(count)
    if cmd == CONSOLEIO_write:
        for start in range(0, count, CHUNK):
            ctx.console.write(ctx.guest.copy_from_guest(buffer + start, min(CHUNK, count - start)))
        return 0
    if cmd == CONSOLEIO_read:
        if count > 0x7FFFFFFF:
            return -E2BIG
        data = ctx.console.read(count)
        if data:
            ctx.guest.copy_to_guest(buffer, data)
        return len(data)
    return -ENOSYS
