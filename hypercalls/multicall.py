"""multicall: several hypercalls in one (xen/common/multicall.c)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from hypercalls.arguments import u32
from hypercalls.errors import XenError
from hypercalls.guest_handle import check_handle, read_array
from hypercalls.public.errno import EINVAL
from hypercalls.public.xen import __HYPERVISOR_iret, __HYPERVISOR_multicall, multicall_entry

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_multicall"]


def do_multicall(ctx: Context, call_list: int, nr_calls: int) -> int:
    """Run ``nr_calls`` entries in order, each with its own ``result``; EFAULT as soon as an entry cannot be used.

    A multicall inside a multicall gets -EINVAL. An iret ends the list. Calls that sleep or stop the domain take effect
    when the whole list is done.
    """
    nr_calls = u32(nr_calls)
    abi = ctx.abi
    size, mask, long_size = abi.sizeof(multicall_entry), abi.long_mask, abi.long_size
    check_handle(ctx, call_list, nr_calls, size)
    place = call_list + abi.offsetof(multicall_entry, "result")
    store, call = ctx.guest.copy_to_guest, ctx.call
    for op, _, *args in read_array(ctx, call_list, nr_calls, abi.reader(multicall_entry)):
        result = -EINVAL if op == __HYPERVISOR_multicall else call(op, args)
        encoded = (result & mask).to_bytes(long_size, "little")
        if op == __HYPERVISOR_iret:
            with suppress(XenError):
                store(place, encoded)
            return result
        store(place, encoded)
        place += size
    return 0
