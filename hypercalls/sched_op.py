"""sched_op and its legacy form (xen/common/sched/core.c do_sched_op, xen/arch/x86/compat.c)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from hypercalls.arguments import s32, s64, u8, u32
from hypercalls.errors import XenError
from hypercalls.guest_handle import check_native_handle, read_array
from hypercalls.public import sched
from hypercalls.public.errno import EINVAL, ENOSPC, ENOSYS, EPERM, ESRCH

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_sched_op", "do_sched_op_compat"]

MAX_POLLED_PORTS: Final = 128
_PORT: Final = Struct("<I")
NR_DOMAIN_WATCHDOG_TIMERS: Final = 2


def do_sched_op(ctx: Context, cmd: int, arg: int) -> int:
    """``cmd``: a SCHEDOP_*; ``arg``: its structure."""
    match s32(cmd):
        case sched.SCHEDOP_yield:
            ctx.sched.yield_()
        case sched.SCHEDOP_block:
            ctx.sched.block()
        case sched.SCHEDOP_shutdown:
            (reason,) = _read(ctx, sched.sched_shutdown, arg)
            ctx.domain.shutdown(u8(reason))
        case sched.SCHEDOP_shutdown_code:
            (reason,) = _read(ctx, sched.sched_shutdown, arg)
            ctx.domain.shutdown_code(u8(reason))
        case sched.SCHEDOP_poll:
            return _poll(ctx, arg)
        case sched.SCHEDOP_remote_shutdown:
            domain_id, _ = _read(ctx, sched.sched_remote_shutdown, arg)
            return -EPERM if domain_id in (0, ctx.domain.domid) else -ESRCH
        case sched.SCHEDOP_watchdog:
            watchdog_id, timeout = _read(ctx, sched.sched_watchdog, arg)
            return _watchdog(ctx, watchdog_id, timeout)
        case sched.SCHEDOP_pin_override:
            return -EPERM
        case _:
            return -ENOSYS
    return 0


def do_sched_op_compat(ctx: Context, cmd: int, arg: int) -> int:
    """As before 0x00030101: yield, block, and shutdown whose ``arg`` is the reason itself."""
    match s32(cmd):
        case sched.SCHEDOP_yield:
            ctx.sched.yield_()
        case sched.SCHEDOP_block:
            ctx.sched.block()
        case sched.SCHEDOP_shutdown:
            ctx.domain.shutdown(u8(arg))
        case _:
            return -ENOSYS
    return 0


def _read(ctx: Context, cls: type, arg: int) -> tuple[int, ...]:
    layout = ctx.abi.reader(cls)
    return layout.unpack(ctx.guest.copy_from_guest(arg, layout.size))


def _watchdog(ctx: Context, watchdog_id: int, timeout: int) -> int:
    if watchdog_id > NR_DOMAIN_WATCHDOG_TIMERS:
        return -EINVAL
    try:
        return ctx.domain.watchdog(watchdog_id, timeout)
    except XenError as error:
        if error.errno != ENOSPC or ctx.abi.bits == 32:
            raise
        return u32(-ENOSPC)  # domain_watchdog returns it as unsigned int: the upper half of the register is clear


def _poll(ctx: Context, arg: int) -> int:
    ports, nr_ports, timeout = _read(ctx, sched.sched_poll, arg)
    if nr_ports > MAX_POLLED_PORTS:
        return -EINVAL
    check_native_handle(ctx, ports, nr_ports, 4)
    ctx.sched.poll((port for (port,) in read_array(ctx, ports, nr_ports, _PORT)), s64(timeout))
    return 0
