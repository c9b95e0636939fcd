"""event_channel_op and its legacy form (xen/common/event_channel.c do_event_channel_op, xen/arch/x86/compat.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypercalls.arguments import s32
from hypercalls.guest_handle import patched
from hypercalls.public import event_channel as ec
from hypercalls.public.errno import ENOSYS

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercalls.context import Context

__all__ = ["do_event_channel_op", "do_event_channel_op_compat"]


def do_event_channel_op(ctx: Context, cmd: int, arg: int) -> int:
    """``cmd``: an EVTCHNOP_*; ``arg``: its structure."""
    if cmd == ec.EVTCHNOP_send:  # by far the most frequent
        ctx.event_channels.send(int.from_bytes(ctx.guest.copy_from_guest(arg, 4), "little"))
        return 0
    handler = _HANDLERS.get(s32(cmd))
    if handler is None:
        return -ENOSYS
    handler(ctx, arg)
    return 0


def do_event_channel_op_compat(ctx: Context, uop: int) -> int:
    """``uop``: struct evtchn_op, whose command is one of those that were there before 0x00030202."""
    data = ctx.guest.copy_from_guest(uop, ctx.abi.sizeof(ec.evtchn_op))
    (cmd,) = ctx.abi.reader(ec.evtchn_op, "cmd").unpack(data)
    if cmd > ec.EVTCHNOP_unmask:
        return -ENOSYS
    return do_event_channel_op(ctx, cmd, uop + ctx.abi.offsetof(ec.evtchn_op, "u"))


def _read(ctx: Context, cls: type, arg: int, *fields: str) -> tuple[int, ...]:
    layout = ctx.abi.reader(cls, *fields)
    return layout.unpack(ctx.guest.copy_from_guest(arg, layout.size))


def _answer(ctx: Context, cls: type, arg: int, **values: int) -> None:
    """Write the whole structure back, as the guest left it but for ``values``."""
    data = ctx.guest.copy_from_guest(arg, ctx.abi.sizeof(cls))
    ctx.guest.copy_to_guest(arg, patched(ctx, data, cls, **values))


def _alloc_unbound(ctx: Context, arg: int) -> None:
    dom, remote_dom = _read(ctx, ec.evtchn_alloc_unbound, arg, "dom", "remote_dom")
    _answer(ctx, ec.evtchn_alloc_unbound, arg, port=ctx.event_channels.alloc_unbound(dom, remote_dom))


def _bind_interdomain(ctx: Context, arg: int) -> None:
    remote_dom, remote_port = _read(ctx, ec.evtchn_bind_interdomain, arg, "remote_dom", "remote_port")
    local_port = ctx.event_channels.bind_interdomain(remote_dom, remote_port)
    _answer(ctx, ec.evtchn_bind_interdomain, arg, local_port=local_port)


def _bind_virq(ctx: Context, arg: int) -> None:
    virq, vcpu = _read(ctx, ec.evtchn_bind_virq, arg, "virq", "vcpu")
    _answer(ctx, ec.evtchn_bind_virq, arg, port=ctx.event_channels.bind_virq(virq, vcpu))


def _bind_pirq(ctx: Context, arg: int) -> None:
    pirq, flags = _read(ctx, ec.evtchn_bind_pirq, arg, "pirq", "flags")
    _answer(ctx, ec.evtchn_bind_pirq, arg, port=ctx.event_channels.bind_pirq(pirq, flags))


def _bind_ipi(ctx: Context, arg: int) -> None:
    (vcpu,) = _read(ctx, ec.evtchn_bind_ipi, arg, "vcpu")
    _answer(ctx, ec.evtchn_bind_ipi, arg, port=ctx.event_channels.bind_ipi(vcpu))


def _close(ctx: Context, arg: int) -> None:
    (port,) = _read(ctx, ec.evtchn_close, arg)
    ctx.event_channels.close(port)


def _send(ctx: Context, arg: int) -> None:
    (port,) = _read(ctx, ec.evtchn_send, arg)
    ctx.event_channels.send(port)


def _status(ctx: Context, arg: int) -> None:
    dom, port = _read(ctx, ec.evtchn_status, arg, "dom", "port")
    found = ctx.event_channels.status(dom, port)
    detail = dict(zip(_STATUS_DETAIL.get(found.status, ()), found.detail, strict=True))
    _answer(ctx, ec.evtchn_status, arg, status=found.status, vcpu=found.vcpu, **detail)


#: What besides an EVTCHNSTAT_* fills in of struct evtchn_status.
_STATUS_DETAIL: Final = {
    ec.EVTCHNSTAT_unbound: ("u.unbound.dom",),
    ec.EVTCHNSTAT_interdomain: ("u.interdomain.dom", "u.interdomain.port"),
    ec.EVTCHNSTAT_pirq: ("u.pirq",),
    ec.EVTCHNSTAT_virq: ("u.virq",),
}


def _bind_vcpu(ctx: Context, arg: int) -> None:
    port, vcpu = _read(ctx, ec.evtchn_bind_vcpu, arg)
    ctx.event_channels.bind_vcpu(port, vcpu)


def _unmask(ctx: Context, arg: int) -> None:
    (port,) = _read(ctx, ec.evtchn_unmask, arg)
    ctx.event_channels.unmask(port)


def _reset(ctx: Context, arg: int) -> None:
    (dom,) = _read(ctx, ec.evtchn_reset, arg)
    ctx.event_channels.reset(dom, False)


def _reset_cont(ctx: Context, arg: int) -> None:
    (dom,) = _read(ctx, ec.evtchn_reset, arg)
    ctx.event_channels.reset(dom, True)


def _init_control(ctx: Context, arg: int) -> None:
    control_gfn, offset, vcpu = _read(ctx, ec.evtchn_init_control, arg, "control_gfn", "offset", "vcpu")
    link_bits = ctx.event_channels.init_control(control_gfn, offset, vcpu)
    _answer(ctx, ec.evtchn_init_control, arg, link_bits=link_bits)


def _expand_array(ctx: Context, arg: int) -> None:
    (array_gfn,) = _read(ctx, ec.evtchn_expand_array, arg)
    ctx.event_channels.expand_array(array_gfn)


def _set_priority(ctx: Context, arg: int) -> None:
    port, priority = _read(ctx, ec.evtchn_set_priority, arg)
    ctx.event_channels.set_priority(port, priority)


#: what Xen continues an interrupted reset with; a guest may call it just as well
EVTCHNOP_reset_cont: Final = 14

_HANDLERS: Final[dict[int, Callable[[Context, int], None]]] = {
    ec.EVTCHNOP_bind_interdomain: _bind_interdomain,
    ec.EVTCHNOP_bind_virq: _bind_virq,
    ec.EVTCHNOP_bind_pirq: _bind_pirq,
    ec.EVTCHNOP_close: _close,
    ec.EVTCHNOP_send: _send,
    ec.EVTCHNOP_status: _status,
    ec.EVTCHNOP_alloc_unbound: _alloc_unbound,
    ec.EVTCHNOP_bind_ipi: _bind_ipi,
    ec.EVTCHNOP_bind_vcpu: _bind_vcpu,
    ec.EVTCHNOP_unmask: _unmask,
    ec.EVTCHNOP_reset: _reset,
    ec.EVTCHNOP_init_control: _init_control,
    ec.EVTCHNOP_expand_array: _expand_array,
    ec.EVTCHNOP_set_priority: _set_priority,
    EVTCHNOP_reset_cont: _reset_cont,
}
