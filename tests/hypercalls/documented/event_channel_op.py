"""event_channel_op and event_channel_op_compat (xen/common/event_channel.c, event_2l.c, event_fifo.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.public import errno as e
from hypercalls.public import event_channel as ec
from hypercalls.public import xen
from tests.hypercalls.documented import Case, Family
from tests.hypercalls.documented.world import DOM0, FREE, NOBODY, NOWHERE, NR_VCPUS, World

if TYPE_CHECKING:
    from collections.abc import Callable

SELF = xen.DOMID_SELF
#: A port of the first bucket that nobody opened, and the first one behind it.
CLOSED, NEVER = 60, 64
MAX_PORT = 1023
TIMER, CONSOLE = xen.VIRQ_TIMER, xen.VIRQ_CONSOLE


def op(world: World, name: str, **fields: int) -> int:
    """EVTCHNOP_``name`` with a structure of these fields."""
    argument = getattr(ec, f"evtchn_{name}")(**fields)
    return world.hypercall("event_channel_op", getattr(ec, f"EVTCHNOP_{name}"), argument)


def _call(name: str, **fields: int) -> Callable[[World], int]:
    return lambda world: op(world, name, **fields)


def _ipi(world: World, vcpu: int = 0) -> int:
    return world.event_channels.bind_ipi(vcpu)


def _on_ipi(name: str, **fields: int) -> Callable[[World], int]:
    return lambda world: op(world, name, port=_ipi(world), **fields)


def _on_virq(name: str, virq: int, **fields: int) -> Callable[[World], int]:
    return lambda world: op(world, name, port=world.event_channels.bind_virq(virq, 0), **fields)


def _full(name: str, **fields: int) -> Callable[[World], int]:
    """With every port open."""

    def provoke(world: World) -> int:
        ports = [_ipi(world) for _ in range(MAX_PORT)]
        assert ports == list(range(1, MAX_PORT + 1))
        return op(world, name, **fields)

    return provoke


def _read_only(name: str, **fields: int) -> Callable[[World], int]:
    """The answer cannot be written."""

    def provoke(world: World) -> int:
        argument = getattr(ec, f"evtchn_{name}")(**fields)
        at = world.put_read_only(argument)
        return world.hypercall("event_channel_op", getattr(ec, f"EVTCHNOP_{name}"), at)

    return provoke


def _unreadable(name: str) -> Case:
    number = getattr(ec, f"EVTCHNOP_{name}")
    return Case(f"EVTCHNOP_{name}", e.EFAULT, lambda world: world.hypercall("event_channel_op", number, NOWHERE))


def _xens(name: str) -> Case:
    number = getattr(ec, f"EVTCHNOP_{name}")
    return Case(f"EVTCHNOP_{name}", e.EFAULT, lambda world: world.hypercall("event_channel_op", number, world.xen), 64)


def _virq_twice(world: World) -> int:
    assert op(world, "bind_virq", virq=TIMER) == 0
    return op(world, "bind_virq", virq=TIMER)


def _virq_of_vcpu_0_that_was_moved(world: World) -> int:
    port = world.event_channels.bind_virq(CONSOLE, 0)
    assert op(world, "bind_vcpu", port=port, vcpu=1) == 0
    return op(world, "bind_virq", virq=CONSOLE)


def _bind_bound_port(world: World) -> int:
    offered = world.event_channels.alloc_unbound(SELF, SELF)
    assert op(world, "bind_interdomain", remote_dom=SELF, remote_port=offered) == 0
    return op(world, "bind_interdomain", remote_dom=SELF, remote_port=offered)


def _bind_port_for_dom0(world: World) -> int:
    return op(
        world, "bind_interdomain", remote_dom=SELF, remote_port=world.event_channels.alloc_unbound(SELF, DOM0)
    )


def _bind_dom0s_bound_port(world: World) -> int:
    backend = world.event_channels.bind_backend(world.event_channels.alloc_for_backend(), lambda: None)
    return op(world, "bind_interdomain", remote_dom=DOM0, remote_port=backend.port)


def _close_twice(world: World) -> int:
    port = _ipi(world)
    assert op(world, "close", port=port) == 0
    return op(world, "close", port=port)


def _control_block(world: World, offset: int = 0, vcpu: int = 0) -> int:
    return op(world, "init_control", control_gfn=world.mfns[FREE], offset=offset, vcpu=vcpu)


def _second_control_block(world: World) -> int:
    assert _control_block(world) == 0
    return _control_block(world, 2048)


def _fifo(name: str, **fields: int) -> Callable[[World], int]:
    """In the FIFO ABI."""

    def provoke(world: World) -> int:
        assert _control_block(world) == 0
        return op(world, name, **fields)

    return provoke


def _full_array(world: World) -> int:
    assert _control_block(world) == 0
    for _ in range(ec.EVTCHN_FIFO_NR_CHANNELS // 1024):
        assert op(world, "expand_array", array_gfn=world.mfns[FREE + 1]) == 0
    return op(world, "expand_array", array_gfn=(1 << 40))


def _page_table(name: str, field: str) -> Callable[[World], int]:
    def provoke(world: World) -> int:
        if name != "init_control":
            assert _control_block(world) == 0
        return op(world, name, **{field: world.root})

    return provoke


def _priority_beyond_the_lowest(world: World) -> int:
    port = _ipi(world)
    assert _control_block(world) == 0
    return op(world, "set_priority", port=port, priority=ec.EVTCHN_FIFO_PRIORITY_MIN + 1)



_STRUCT = "the structure is not mapped; do_event_channel_op"
_ANSWER = "the structure is not mapped, or cannot be written: then it was done all the same; do_event_channel_op"
_FULL = "every port up to max_evtchn_port (xl: 1023) is open; get_free_port"
_NO_VCPU = "no such vcpu; domain_vcpu"
_NO_DOMAIN = "no such domain; rcu_lock_domain_by_any_id"
_NOT_SELF = "dom0's ports are not the caller's; xsm_evtchn_{}, XSM_TARGET"

FAMILY = Family(
    documented={
        ("event_channel_op", e.ENOSYS): "no such operation; do_event_channel_op",
        ("EVTCHNOP_alloc_unbound", e.EFAULT): _ANSWER,
        ("EVTCHNOP_alloc_unbound", e.ESRCH): _NO_DOMAIN,
        ("EVTCHNOP_alloc_unbound", e.EPERM): _NOT_SELF.format("unbound"),
        ("EVTCHNOP_alloc_unbound", e.ENOSPC): _FULL,
        ("EVTCHNOP_bind_interdomain", e.EFAULT): _ANSWER,
        ("EVTCHNOP_bind_interdomain", e.ESRCH): _NO_DOMAIN,
        ("EVTCHNOP_bind_interdomain", e.ENOSPC): _FULL,
        ("EVTCHNOP_bind_interdomain", e.EINVAL): "no port, or none that waits for the caller; evtchn_bind_interdomain",
        ("EVTCHNOP_bind_virq", e.EFAULT): _ANSWER,
        ("EVTCHNOP_bind_virq", e.EINVAL): "no such VIRQ, or a global one not on vcpu 0; evtchn_bind_virq",
        ("EVTCHNOP_bind_virq", e.ENOENT): _NO_VCPU,
        ("EVTCHNOP_bind_virq", e.EEXIST): "it is bound there; evtchn_bind_virq",
        ("EVTCHNOP_bind_virq", e.ENOSPC): _FULL,
        ("EVTCHNOP_bind_ipi", e.EFAULT): _ANSWER,
        ("EVTCHNOP_bind_ipi", e.ENOENT): _NO_VCPU,
        ("EVTCHNOP_bind_ipi", e.ENOSPC): _FULL,
        ("EVTCHNOP_bind_pirq", e.EFAULT): _STRUCT,
        ("EVTCHNOP_bind_pirq", e.EINVAL): "beyond the domain's nr_pirqs; evtchn_bind_pirq",
        ("EVTCHNOP_bind_pirq", e.EPERM): "no device of the domain's has it; pirq_access_permitted",
        ("EVTCHNOP_close", e.EFAULT): _STRUCT,
        ("EVTCHNOP_close", e.EINVAL): "no open port; evtchn_close",
        ("EVTCHNOP_send", e.EFAULT): _STRUCT,
        ("EVTCHNOP_send", e.EINVAL): "no open port, or one without another end; evtchn_send",
        ("EVTCHNOP_status", e.EFAULT): _ANSWER,
        ("EVTCHNOP_status", e.ESRCH): _NO_DOMAIN,
        ("EVTCHNOP_status", e.EINVAL): "the domain, dom0 too, never had such a port; evtchn_status",
        ("EVTCHNOP_status", e.EPERM): _NOT_SELF.format("status"),
        ("EVTCHNOP_bind_vcpu", e.EFAULT): _STRUCT,
        ("EVTCHNOP_bind_vcpu", e.ENOENT): _NO_VCPU,
        ("EVTCHNOP_bind_vcpu", e.EINVAL): "no open port, or one that stays: an IPI, a VIRQ by vcpu; evtchn_bind_vcpu",
        ("EVTCHNOP_unmask", e.EFAULT): _STRUCT,
        ("EVTCHNOP_unmask", e.EINVAL): "there never was such a port; evtchn_unmask",
        ("EVTCHNOP_reset", e.EFAULT): _STRUCT,
        ("EVTCHNOP_reset", e.ESRCH): _NO_DOMAIN,
        ("EVTCHNOP_reset", e.EPERM): _NOT_SELF.format("reset"),
        ("EVTCHNOP_init_control", e.EFAULT): _ANSWER,
        ("EVTCHNOP_init_control", e.ENOENT): _NO_VCPU,
        ("EVTCHNOP_init_control", e.EINVAL): "a block that crosses its page or is not aligned, a second one, a frame "
        "that the caller may not write; evtchn_fifo_init_control, map_guest_page",
        ("EVTCHNOP_expand_array", e.EFAULT): _STRUCT,
        ("EVTCHNOP_expand_array", e.EOPNOTSUPP): "in the 2-level ABI; evtchn_fifo_expand_array",
        ("EVTCHNOP_expand_array", e.EINVAL): "a frame that the caller may not write; map_guest_page",
        ("EVTCHNOP_expand_array", e.ENOSPC): "128 pages; add_page_to_event_array",
        ("EVTCHNOP_set_priority", e.EFAULT): _STRUCT,
        ("EVTCHNOP_set_priority", e.EINVAL): "there never was such a port, or priority; evtchn_fifo_set_priority",
        ("EVTCHNOP_set_priority", e.ENOSYS): "in the 2-level ABI; evtchn_port_set_priority",
        ("EVTCHNOP_set_priority", e.EACCES): "the port is closed; evtchn_port_set_priority",
        ("event_channel_op_compat", e.EFAULT): "the structure is not mapped; do_event_channel_op_compat",
        ("event_channel_op_compat", e.ENOSYS): "not one of the first ten operations; do_event_channel_op_compat",
        ("event_channel_op_compat", e.EINVAL): "as the operation has it; do_event_channel_op",
    },
    cases=[
        *map(_unreadable, ("alloc_unbound", "bind_interdomain", "bind_virq", "bind_ipi", "bind_pirq", "close", "send",
                           "status", "bind_vcpu", "unmask", "reset", "init_control", "expand_array", "set_priority")),
        *map(_xens, ("alloc_unbound", "send", "status", "reset", "init_control")),
        Case("event_channel_op", e.ENOSYS, lambda world: world.hypercall("event_channel_op", 15, NOWHERE)),
        Case("event_channel_op", e.ENOSYS, lambda world: world.hypercall("event_channel_op", -1, NOWHERE)),
        Case("EVTCHNOP_alloc_unbound", e.EFAULT, _read_only("alloc_unbound", dom=SELF)),
        Case("EVTCHNOP_alloc_unbound", e.ESRCH, _call("alloc_unbound", dom=NOBODY)),
        Case("EVTCHNOP_alloc_unbound", e.ESRCH, _call("alloc_unbound", dom=xen.DOMID_IO)),
        Case("EVTCHNOP_alloc_unbound", e.ESRCH, _full("alloc_unbound", dom=NOBODY)),
        Case("EVTCHNOP_alloc_unbound", e.EPERM, _call("alloc_unbound", dom=DOM0)),
        Case("EVTCHNOP_alloc_unbound", e.EPERM, _full("alloc_unbound", dom=DOM0)),
        Case("EVTCHNOP_alloc_unbound", e.ENOSPC, _full("alloc_unbound", dom=SELF)),
        Case("EVTCHNOP_bind_interdomain", e.ESRCH, _call("bind_interdomain", remote_dom=NOBODY)),
        Case("EVTCHNOP_bind_interdomain", e.ESRCH, _full("bind_interdomain", remote_dom=NOBODY)),
        Case("EVTCHNOP_bind_interdomain", e.ENOSPC, _full("bind_interdomain", remote_dom=SELF, remote_port=9999)),
        Case("EVTCHNOP_bind_interdomain", e.ENOSPC, _full("bind_interdomain", remote_dom=DOM0)),
        Case("EVTCHNOP_bind_interdomain", e.EINVAL, _call("bind_interdomain", remote_dom=SELF)),
        Case("EVTCHNOP_bind_interdomain", e.EINVAL, _call("bind_interdomain", remote_dom=SELF, remote_port=NEVER)),
        Case("EVTCHNOP_bind_interdomain", e.EINVAL, _call("bind_interdomain", remote_dom=DOM0, remote_port=1)),
        Case("EVTCHNOP_bind_interdomain", e.EINVAL, _call("bind_interdomain", remote_dom=DOM0, remote_port=1 << 31)),
        Case("EVTCHNOP_bind_interdomain", e.EINVAL, _bind_bound_port),
        Case("EVTCHNOP_bind_interdomain", e.EINVAL, _bind_port_for_dom0),
        Case("EVTCHNOP_bind_interdomain", e.EINVAL, _bind_dom0s_bound_port),
        Case("EVTCHNOP_bind_interdomain", e.EFAULT, lambda world: _read_only(
            "bind_interdomain", remote_dom=SELF, remote_port=world.event_channels.alloc_unbound(SELF, SELF))(world)),
        Case("EVTCHNOP_bind_virq", e.EFAULT, _read_only("bind_virq", virq=TIMER)),
        Case("EVTCHNOP_bind_virq", e.EINVAL, _call("bind_virq", virq=24)),
        Case("EVTCHNOP_bind_virq", e.EINVAL, _call("bind_virq", virq=0xFFFF_FFFF)),
        Case("EVTCHNOP_bind_virq", e.EINVAL, _call("bind_virq", virq=24, vcpu=99)),
        Case("EVTCHNOP_bind_virq", e.EINVAL, _call("bind_virq", virq=CONSOLE, vcpu=1)),
        Case("EVTCHNOP_bind_virq", e.EINVAL, _call("bind_virq", virq=CONSOLE, vcpu=99)),
        Case("EVTCHNOP_bind_virq", e.EINVAL, _call("bind_virq", virq=xen.VIRQ_ARCH_7, vcpu=1)),
        Case("EVTCHNOP_bind_virq", e.ENOENT, _call("bind_virq", virq=TIMER, vcpu=NR_VCPUS)),
        Case("EVTCHNOP_bind_virq", e.ENOENT, _call("bind_virq", virq=TIMER, vcpu=0xFFFF_FFFF)),
        Case("EVTCHNOP_bind_virq", e.ENOENT, _full("bind_virq", virq=TIMER, vcpu=NR_VCPUS)),
        Case("EVTCHNOP_bind_virq", e.EEXIST, _virq_twice),
        Case("EVTCHNOP_bind_virq", e.EEXIST, _virq_of_vcpu_0_that_was_moved),
        Case("EVTCHNOP_bind_virq", e.ENOSPC, _full("bind_virq", virq=TIMER)),
        Case("EVTCHNOP_bind_ipi", e.EFAULT, _read_only("bind_ipi")),
        Case("EVTCHNOP_bind_ipi", e.ENOENT, _call("bind_ipi", vcpu=NR_VCPUS)),
        Case("EVTCHNOP_bind_ipi", e.ENOENT, _full("bind_ipi", vcpu=NR_VCPUS)),
        Case("EVTCHNOP_bind_ipi", e.ENOSPC, _full("bind_ipi")),
        Case("EVTCHNOP_bind_pirq", e.EINVAL, _call("bind_pirq", pirq=1000)),
        Case("EVTCHNOP_bind_pirq", e.EPERM, _call("bind_pirq", pirq=3)),
        Case("EVTCHNOP_bind_pirq", e.EPERM, _full("bind_pirq", pirq=3)),
        Case("EVTCHNOP_close", e.EINVAL, _call("close", port=0)),
        Case("EVTCHNOP_close", e.EINVAL, _call("close", port=CLOSED)),
        Case("EVTCHNOP_close", e.EINVAL, _call("close", port=NEVER)),
        Case("EVTCHNOP_close", e.EINVAL, _call("close", port=0xFFFF_FFFF)),
        Case("EVTCHNOP_close", e.EINVAL, _close_twice),
        Case("EVTCHNOP_send", e.EINVAL, _call("send", port=0)),
        Case("EVTCHNOP_send", e.EINVAL, _call("send", port=CLOSED)),
        Case("EVTCHNOP_send", e.EINVAL, _call("send", port=NEVER)),
        Case("EVTCHNOP_send", e.EINVAL, _on_virq("send", TIMER)),
        Case("EVTCHNOP_status", e.EFAULT, _read_only("status", dom=SELF)),
        Case("EVTCHNOP_status", e.ESRCH, _call("status", dom=NOBODY)),
        Case("EVTCHNOP_status", e.ESRCH, _call("status", dom=NOBODY, port=9999)),
        Case("EVTCHNOP_status", e.EINVAL, _call("status", dom=SELF, port=NEVER)),
        Case("EVTCHNOP_status", e.EINVAL, _call("status", dom=DOM0, port=4096)),
        Case("EVTCHNOP_status", e.EPERM, _call("status", dom=DOM0, port=0)),
        Case("EVTCHNOP_status", e.EPERM, _call("status", dom=DOM0, port=63)),
        Case("EVTCHNOP_bind_vcpu", e.ENOENT, _on_ipi("bind_vcpu", vcpu=NR_VCPUS)),
        Case("EVTCHNOP_bind_vcpu", e.ENOENT, _call("bind_vcpu", port=9999, vcpu=NR_VCPUS)),
        Case("EVTCHNOP_bind_vcpu", e.EINVAL, _call("bind_vcpu", port=9999)),
        Case("EVTCHNOP_bind_vcpu", e.EINVAL, _call("bind_vcpu", port=0)),
        Case("EVTCHNOP_bind_vcpu", e.EINVAL, _call("bind_vcpu", port=CLOSED)),
        Case("EVTCHNOP_bind_vcpu", e.EINVAL, _on_ipi("bind_vcpu")),
        Case("EVTCHNOP_bind_vcpu", e.EINVAL, _on_virq("bind_vcpu", TIMER)),
        Case("EVTCHNOP_unmask", e.EINVAL, _call("unmask", port=NEVER)),
        Case("EVTCHNOP_reset", e.ESRCH, _call("reset", dom=NOBODY)),
        Case("EVTCHNOP_reset", e.EPERM, _call("reset", dom=DOM0)),
        Case("EVTCHNOP_init_control", e.EFAULT, lambda world: _read_only(
            "init_control", control_gfn=world.mfns[FREE])(world)),
        Case("EVTCHNOP_init_control", e.ENOENT, _call("init_control", vcpu=NR_VCPUS, offset=1)),
        Case("EVTCHNOP_init_control", e.EINVAL, lambda world: _control_block(world, 4)),
        Case("EVTCHNOP_init_control", e.EINVAL, lambda world: _control_block(world, 4096 - 64)),
        Case("EVTCHNOP_init_control", e.EINVAL, lambda world: _control_block(world, 0xFFFF_FFF8)),
        Case("EVTCHNOP_init_control", e.EINVAL, _call("init_control", control_gfn=1 << 40)),
        Case("EVTCHNOP_init_control", e.EINVAL, _page_table("init_control", "control_gfn")),
        Case("EVTCHNOP_init_control", e.EINVAL, _second_control_block),
        Case("EVTCHNOP_expand_array", e.EOPNOTSUPP, _call("expand_array", array_gfn=1 << 40)),
        Case("EVTCHNOP_expand_array", e.EINVAL, _fifo("expand_array", array_gfn=1 << 40)),
        Case("EVTCHNOP_expand_array", e.EINVAL, _page_table("expand_array", "array_gfn")),
        Case("EVTCHNOP_expand_array", e.ENOSPC, _full_array),
        Case("EVTCHNOP_set_priority", e.EINVAL, _call("set_priority", port=NEVER, priority=99)),
        Case("EVTCHNOP_set_priority", e.EINVAL, _priority_beyond_the_lowest),
        Case("EVTCHNOP_set_priority", e.ENOSYS, _call("set_priority", port=CLOSED, priority=99)),
        Case("EVTCHNOP_set_priority", e.EACCES, _fifo("set_priority", port=CLOSED, priority=99)),
        Case("event_channel_op_compat", e.EFAULT, lambda world: world.hypercall("event_channel_op_compat", NOWHERE)),
        Case("event_channel_op_compat", e.ENOSYS, lambda world: world.hypercall(
            "event_channel_op_compat", ec.evtchn_op(cmd=ec.EVTCHNOP_reset))),
        Case("event_channel_op_compat", e.EINVAL, lambda world: world.hypercall(
            "event_channel_op_compat", ec.evtchn_op(cmd=ec.EVTCHNOP_close))),
    ],
    unreachable={
        ("EVTCHNOP_alloc_unbound", e.ENOMEM): "pvemu has no heap of Xen's to run out of; evtchn_allocate_port",
        ("EVTCHNOP_bind_pirq", e.EEXIST): "no pirq can be bound in the first place; evtchn_bind_pirq",
        ("EVTCHNOP_status", e.EACCES): "no channel of a PV guest's ends in Xen itself; consumer_is_xen",
        ("EVTCHNOP_reset", e.EBUSY): "another vcpu's reset is under way; evtchn_reset",
        ("EVTCHNOP_reset", e.EAGAIN): "a port opened by another vcpu meanwhile; evtchn_reset",
        ("EVTCHNOP_init_control", e.ENOMEM): "no heap of Xen's to run out of; setup_control_block",
        ("EVTCHNOP_expand_array", e.ENOMEM): "no heap of Xen's to run out of; map_guest_page",
    },
)  # fmt: skip
