"""vcpu_op: vcpus up and down, run states, timers, info areas (xen/common/domain.c common_vcpu_op,
xen/arch/x86/domain.c do_vcpu_op, xen/arch/x86/x86_64/domain.c compat_vcpu_op).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypercalls.arguments import s32, u32
from hypercalls.guest_handle import check_handle
from hypercalls.public import arch_x86, vcpu, xen
from hypercalls.public.errno import EINVAL, ENOENT, ENOSYS

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_vcpu_op"]

MILLISECS: Final = 1_000_000
#: the longest period of a timer, ns (STIME_DELTA_MAX)
STIME_DELTA_MAX: Final = (1 << 62) - 1


def do_vcpu_op(ctx: Context, cmd: int, vcpuid: int, arg: int) -> int:
    """``cmd``: a VCPUOP_*; ``arg``: its structure."""
    vcpuid = u32(vcpuid)
    if not ctx.vcpu.exists(vcpuid):
        return -ENOENT
    match s32(cmd):
        case vcpu.VCPUOP_initialise:
            if not ctx.vcpu.has_info(vcpuid):
                return -EINVAL
            context = ctx.guest.copy_from_guest(arg, ctx.abi.sizeof(arch_x86.vcpu_guest_context))
            ctx.vcpu.initialise(vcpuid, context)
        case vcpu.VCPUOP_up:
            ctx.vcpu.up(vcpuid)
        case vcpu.VCPUOP_down:
            ctx.vcpu.down(vcpuid)
        case vcpu.VCPUOP_is_up:
            return int(ctx.vcpu.is_up(vcpuid))
        case vcpu.VCPUOP_get_runstate_info:
            state, state_entry_time, times = ctx.vcpu.runstate(vcpuid)
            info = ctx.abi.reader(vcpu.vcpu_runstate_info).pack(state, state_entry_time, *times)
            ctx.guest.copy_to_guest(arg, info)
        case vcpu.VCPUOP_register_runstate_memory_area:
            area = _area(ctx, arg, ctx.abi.sizeof(vcpu.vcpu_runstate_info))
            ctx.vcpu.register_runstate_area(vcpuid, area)
        case vcpu.VCPUOP_register_vcpu_time_memory_area:
            ctx.vcpu.register_time_area(vcpuid, _area(ctx, arg, ctx.abi.sizeof(xen.vcpu_time_info)))
        case vcpu.VCPUOP_register_vcpu_info:
            layout = ctx.abi.reader(vcpu.vcpu_register_vcpu_info, "mfn", "offset")
            mfn, offset = layout.unpack(ctx.guest.copy_from_guest(arg, layout.size))
            ctx.vcpu.register_vcpu_info(vcpuid, mfn, offset)
        case vcpu.VCPUOP_send_nmi:
            if arg:
                return -EINVAL
            ctx.vcpu.send_nmi(vcpuid)
        case vcpu.VCPUOP_get_physid:
            return -EINVAL  # only for a pinned vcpu of the hardware domain
        case _:
            return _timer_op(ctx, s32(cmd), vcpuid, arg)
    return 0


def _area(ctx: Context, arg: int, size: int) -> int:
    """The address in a register_*_memory_area, which must not reach into Xen. Of the union, only a pointer is read."""
    area = int.from_bytes(ctx.guest.copy_from_guest(arg, 8 if ctx.abi.bits == 64 else 4), "little")
    check_handle(ctx, area, 1, size)
    return area


def _timer_op(ctx: Context, cmd: int, vcpuid: int, arg: int) -> int:
    """Timers: any vcpu's periodic one, the caller's own single-shot one."""
    match cmd:
        case vcpu.VCPUOP_set_periodic_timer:
            period = int.from_bytes(ctx.guest.copy_from_guest(arg, 8), "little")
            if not MILLISECS <= period <= STIME_DELTA_MAX:
                return -EINVAL
            ctx.vcpu.set_periodic_timer(vcpuid, period)
        case vcpu.VCPUOP_stop_periodic_timer:
            ctx.vcpu.stop_periodic_timer(vcpuid)
        case vcpu.VCPUOP_set_singleshot_timer:
            layout = ctx.abi.reader(vcpu.vcpu_set_singleshot_timer)
            if ctx.abi.bits == 64 and vcpuid != ctx.vcpu.vcpu_id:
                return -EINVAL
            timeout, flags = layout.unpack(ctx.guest.copy_from_guest(arg, layout.size))
            if vcpuid != ctx.vcpu.vcpu_id:  # compat_common_vcpu_op translates the structure first
                return -EINVAL
            ctx.vcpu.set_singleshot_timer(timeout, bool(flags & vcpu.VCPU_SSHOTTMR_future))
        case vcpu.VCPUOP_stop_singleshot_timer:
            if vcpuid != ctx.vcpu.vcpu_id:
                return -EINVAL
            ctx.vcpu.stop_singleshot_timer()
        case _:
            return -ENOSYS
    return 0
