"""multicall: several hypercalls in one (xen/common/multicall.c)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from hypercalls.arguments import u32
from hypercalls.errors import XenError
from hypercalls.guest_handle import check_native_handle
from hypercalls.public.errno import EINVAL
from hypercalls.public.xen import __HYPERVISOR_iret, __HYPERVISOR_multicall, multicall_entry

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_multicall"]


def do_multicall(ctx: Context, call_list: int, nr_calls: int) -> int:
    """Run ``nr_calls`` entries in order, each with its own ``result``; EFAULT as soon as an entry cannot be used.

    A multicall inside a multicall gets -EINVAL. An iret ends the list. Between two calls an event is delivered, and
    calls that sleep sleep: the rest of the list is another multicall then, which the guest comes back to.
    """
    nr_calls = u32(nr_calls)
    abi = ctx.abi
    mask, long_size = abi.long_mask, abi.long_size
    check_native_handle(ctx, call_list, nr_calls, abi.sizeof(multicall_entry))
    entry, result_at = abi.reader(multicall_entry), abi.offsetof(multicall_entry, "result")
    load, store, call = ctx.guest.copy_from_guest, ctx.guest.copy_to_guest, ctx.call
    end = call_list + nr_calls * entry.size
    for place in range(call_list, end, entry.size):
        if place != call_list and ctx.vcpu.preempt_check():
            return ctx.vcpu.create_continuation(__HYPERVISOR_multicall, place, (end - place) // entry.size)
        op, _, *args = entry.unpack(load(place, entry.size))
        result = -EINVAL if op == __HYPERVISOR_multicall else call(op, args)
        encoded = (result & mask).to_bytes(long_size, "little")
        if op == __HYPERVISOR_iret:
            with suppress(XenError):
                store(place + result_at, encoded)
            return result
        store(place + result_at, encoded)
    return 0
