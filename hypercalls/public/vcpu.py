"""vcpu_op: bringing vcpus up, run states, timers, info areas (public/vcpu.h)."""

from __future__ import annotations

from typing import Annotated

from hypercalls.declare import ZERO, Array, cstruct, cunion, guest_handle, s32, u32, u64

VCPUOP_initialise = 0
VCPUOP_up = 1
VCPUOP_down = 2
VCPUOP_is_up = 3
VCPUOP_get_runstate_info = 4
VCPUOP_register_runstate_memory_area = 5
VCPUOP_set_periodic_timer = 6
VCPUOP_stop_periodic_timer = 7
VCPUOP_set_singleshot_timer = 8
VCPUOP_stop_singleshot_timer = 9
VCPUOP_register_vcpu_info = 10
VCPUOP_send_nmi = 11
VCPUOP_get_physid = 12
VCPUOP_register_vcpu_time_memory_area = 13

# -- vcpu_runstate_info.state
RUNSTATE_running = 0
RUNSTATE_runnable = 1
RUNSTATE_blocked = 2
RUNSTATE_offline = 3
XEN_RUNSTATE_UPDATE = 1 << 63

VCPU_SSHOTTMR_future = 1 << 0


@cunion
class vcpu_register_runstate_memory_area_addr:
    h: guest_handle = 0
    v: guest_handle = 0
    p: u64 = 0


@cstruct
class vcpu_register_runstate_memory_area:
    addr: vcpu_register_runstate_memory_area_addr = ZERO


@cunion
class vcpu_register_time_memory_area_addr:
    h: guest_handle = 0
    v: guest_handle = 0
    p: u64 = 0


@cstruct
class vcpu_register_time_memory_area:
    addr: vcpu_register_time_memory_area_addr = ZERO


@cstruct
class vcpu_runstate_info:
    state: s32 = 0
    state_entry_time: u64 = 0
    time: Annotated[list[int], Array(u64, 4)] = ZERO


@cstruct
class vcpu_set_periodic_timer:
    period_ns: u64 = 0


@cstruct
class vcpu_set_singleshot_timer:
    timeout_abs_ns: u64 = 0
    flags: u32 = 0


@cstruct
class vcpu_register_vcpu_info:
    mfn: u64 = 0
    offset: u32 = 0
    rsvd: u32 = 0


@cstruct
class vcpu_get_physid:
    phys_id: u64 = 0
