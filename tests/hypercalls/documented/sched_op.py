"""sched_op and sched_op_compat (xen/common/sched/core.c, xen/common/sched/compat.c, xen/arch/x86/compat.c)."""

from __future__ import annotations

from hypercalls.public import errno as e
from hypercalls.public import sched
from tests.hypercalls.documented import Case, Family
from tests.hypercalls.documented.world import DOM0, DOMID, NOBODY, NOWHERE, World


def _poll(world: World, nr_ports: int, ports: int | None = None) -> int:
    """SCHEDOP_poll of ``nr_ports`` ports, which are closed ones unless they stand at ``ports``."""
    at = world.put(bytes(4 * 128)) if ports is None else ports
    return world.hypercall("sched_op", sched.SCHEDOP_poll, sched.sched_poll(ports=at, nr_ports=nr_ports))


def _watchdog(world: World, id: int, timeout: int) -> int:
    return world.hypercall("sched_op", sched.SCHEDOP_watchdog, sched.sched_watchdog(id=id, timeout=timeout))


def _remote_shutdown(world: World, domid: int) -> int:
    return world.hypercall(
        "sched_op", sched.SCHEDOP_remote_shutdown, sched.sched_remote_shutdown(domain_id=domid, reason=0)
    )


def _three_watchdogs(world: World) -> int:
    assert [_watchdog(world, 0, 100) for _ in range(2)] == [1, 2]
    return _watchdog(world, 0, 100)


def _watchdog_of_before(world: World) -> int:
    assert _watchdog(world, 0, 100) == 1
    assert _watchdog(world, 1, 0) == 0
    return _watchdog(world, 1, 100)


def _unreadable(name: str) -> Case:
    operation = getattr(sched, name)
    return Case(name, e.EFAULT, lambda world: world.hypercall("sched_op", operation, NOWHERE))


FAMILY = Family(
    documented={
        ("sched_op", e.ENOSYS): "no such operation; do_sched_op",
        ("SCHEDOP_shutdown", e.EFAULT): "the structure is not mapped; do_sched_op",
        ("SCHEDOP_shutdown_code", e.EFAULT): "the structure is not mapped; do_sched_op",
        ("SCHEDOP_poll", e.EFAULT): "the structure or a port is not mapped, or the ports are in Xen's part; do_poll",
        ("SCHEDOP_poll", e.EINVAL): "more than 128 ports, or one that is not open; do_poll, evtchn_port_poll",
        ("SCHEDOP_remote_shutdown", e.EFAULT): "the structure is not mapped; do_sched_op",
        ("SCHEDOP_remote_shutdown", e.ESRCH): "no such domain, and DOMID_SELF names none; rcu_lock_domain_by_id",
        ("SCHEDOP_remote_shutdown", e.EPERM): "the caller has no power over it, nor over itself; xsm_schedop_shutdown",
        ("SCHEDOP_watchdog", e.EFAULT): "the structure is not mapped; do_sched_op",
        ("SCHEDOP_watchdog", e.EINVAL): "an id beyond 2, or a watchdog that is not in use; domain_watchdog",
        ("SCHEDOP_watchdog", e.ENOSPC): "a third watchdog; domain_watchdog (64 bits get it as unsigned int)",
        ("SCHEDOP_pin_override", e.EPERM): "only the hardware domain may, whatever it asks for; do_sched_op",
        ("sched_op_compat", e.ENOSYS): "anything but yield, block and shutdown; do_sched_op_compat",
    },
    cases=[
        *map(_unreadable, ("SCHEDOP_shutdown", "SCHEDOP_shutdown_code", "SCHEDOP_poll", "SCHEDOP_remote_shutdown",
                           "SCHEDOP_watchdog")),
        Case("sched_op", e.ENOSYS, lambda world: world.hypercall("sched_op", sched.SCHEDOP_pin_override + 1)),
        Case("sched_op", e.ENOSYS, lambda world: world.hypercall("sched_op", -1)),
        Case("SCHEDOP_poll", e.EFAULT, lambda world: _poll(world, 1, NOWHERE)),
        Case("SCHEDOP_poll", e.EFAULT, lambda world: _poll(world, 128, world.xen)),
        Case("SCHEDOP_poll", e.EFAULT, lambda world: _poll(world, 0, world.xen), bits=64),
        Case("SCHEDOP_poll", e.EINVAL, lambda world: _poll(world, 129)),
        Case("SCHEDOP_poll", e.EINVAL, lambda world: _poll(world, 129, NOWHERE)),
        Case("SCHEDOP_poll", e.EINVAL, lambda world: _poll(world, 1)),
        Case("SCHEDOP_remote_shutdown", e.ESRCH, lambda world: _remote_shutdown(world, NOBODY)),
        Case("SCHEDOP_remote_shutdown", e.ESRCH, lambda world: _remote_shutdown(world, 0x7FF0)),
        Case("SCHEDOP_remote_shutdown", e.EPERM, lambda world: _remote_shutdown(world, DOM0)),
        Case("SCHEDOP_remote_shutdown", e.EPERM, lambda world: _remote_shutdown(world, DOMID)),
        Case("SCHEDOP_watchdog", e.EINVAL, lambda world: _watchdog(world, 3, 100)),
        Case("SCHEDOP_watchdog", e.EINVAL, lambda world: _watchdog(world, 2, 0)),
        Case("SCHEDOP_watchdog", e.EINVAL, _watchdog_of_before),
        Case("SCHEDOP_watchdog", e.ENOSPC, _three_watchdogs, bits=32),
        Case("SCHEDOP_watchdog", e.ENOSPC, lambda world: _three_watchdogs(world) - (1 << 32), bits=64),
        Case("SCHEDOP_pin_override", e.EPERM,
             lambda world: world.hypercall("sched_op", sched.SCHEDOP_pin_override, NOWHERE)),
        Case("sched_op_compat", e.ENOSYS, lambda world: world.hypercall("sched_op_compat", sched.SCHEDOP_poll)),
    ],
    never_fails={
        "SCHEDOP_yield": "do_sched_op: there is no argument",
        "SCHEDOP_block": "do_sched_op: there is no argument",
    },
)  # fmt: skip
