"""sched_op and the reasons of a shutdown (public/sched.h)."""

from __future__ import annotations

from hypercalls.declare import cstruct, guest_handle, s32, u32, u64
from hypercalls.public.event_channel import domid_t  # noqa: TC001 - layouts evaluate annotations

SCHEDOP_yield = 0
SCHEDOP_block = 1
SCHEDOP_shutdown = 2
SCHEDOP_poll = 3
SCHEDOP_remote_shutdown = 4
SCHEDOP_shutdown_code = 5
SCHEDOP_watchdog = 6
SCHEDOP_pin_override = 7


@cstruct
class sched_shutdown:
    reason: u32 = 0


@cstruct
class sched_poll:
    ports: guest_handle = 0
    nr_ports: u32 = 0
    timeout: u64 = 0


@cstruct
class sched_remote_shutdown:
    domain_id: domid_t = 0
    reason: u32 = 0


@cstruct
class sched_watchdog:
    id: u32 = 0
    timeout: u32 = 0


@cstruct
class sched_pin_override:
    pcpu: s32 = 0


SHUTDOWN_poweroff = 0
SHUTDOWN_reboot = 1
SHUTDOWN_suspend = 2
SHUTDOWN_crash = 3
SHUTDOWN_watchdog = 4
SHUTDOWN_soft_reset = 5
SHUTDOWN_MAX = 5
