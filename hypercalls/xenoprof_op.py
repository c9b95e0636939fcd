"""xenoprof_op: profiling (xen/common/xenoprof.c). Four operations are for every domain; the others are for the one
that profiles, which only domain 0 can become.

Of the four one finds a CPU that it does not know (an AMD of family 6), and those that take part in profiling are
refused to a domain that is not invited. A buffer for samples every domain can have: nothing is ever written to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypercalls.arguments import s32, u32
from hypercalls.public.errno import EINVAL, ENODEV, EPERM

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_xenoprof_op"]

XENOPROF_init: Final = 0
XENOPROF_get_buffer: Final = 14
XENOPROF_last_op: Final = 17
#: struct xenoprof_init; of struct xenoprof_get_buffer three ints, and an address that is aligned in 64 bits
INIT_SIZE: Final = 72
NBUF_AT: Final = 4


def do_xenoprof_op(ctx: Context, op: int, arg: int) -> int:
    """``op``: an XENOPROF_*; ``arg``: its structure."""
    op = s32(op)
    if not 0 <= op <= XENOPROF_last_op:
        return -EINVAL
    if op == XENOPROF_init:
        ctx.guest.copy_from_guest(arg, INIT_SIZE)
        return -ENODEV
    return _get_buffer(ctx, arg) if op == XENOPROF_get_buffer else -EPERM


def _get_buffer(ctx: Context, arg: int) -> int:
    address_at = 16 if ctx.abi.bits == 64 else 12
    data = ctx.guest.copy_from_guest(arg, address_at + 8)
    nbuf, bufsize, maddr = ctx.xenoprof.get_buffer(int.from_bytes(data[:NBUF_AT], "little"))
    answer = data[:NBUF_AT] + nbuf.to_bytes(4, "little") + u32(bufsize).to_bytes(4, "little")
    ctx.guest.copy_to_guest(arg, answer + data[12:address_at] + maddr.to_bytes(8, "little"))
    return 0
