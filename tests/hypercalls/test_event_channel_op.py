"""event_channel_op and its legacy form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hypercalls.context import EvtchnStatus
from hypercalls.errors import XenError
from hypercalls.public import event_channel as ec
from hypercalls.public.errno import EBUSY, EFAULT, EINVAL, ENOSYS, ESRCH
from tests.hypercalls.fake_context import BASE, BOTH, FakeContext

if TYPE_CHECKING:
    from hypercalls.abi import Abi

WIDTHS = pytest.mark.parametrize("abi", BOTH, ids=["64", "32"])

#: operation, argument, port call, (field, value) stored
OPS: list[tuple[int, object, tuple[object, ...], tuple[str, int] | None]] = [
    (
        ec.EVTCHNOP_alloc_unbound,
        ec.evtchn_alloc_unbound(dom=0x7FF0, remote_dom=3),
        ("alloc_unbound", 0x7FF0, 3),
        ("port", 11),
    ),
    (
        ec.EVTCHNOP_bind_interdomain,
        ec.evtchn_bind_interdomain(remote_dom=3, remote_port=4),
        ("bind_interdomain", 3, 4),
        ("local_port", 12),
    ),
    (ec.EVTCHNOP_bind_virq, ec.evtchn_bind_virq(virq=1, vcpu=2), ("bind_virq", 1, 2), ("port", 13)),
    (ec.EVTCHNOP_bind_ipi, ec.evtchn_bind_ipi(vcpu=2), ("bind_ipi", 2), ("port", 14)),
    (ec.EVTCHNOP_bind_pirq, ec.evtchn_bind_pirq(pirq=9, flags=1), ("bind_pirq", 9, 1), ("port", 15)),
    (ec.EVTCHNOP_close, ec.evtchn_close(port=5), ("close", 5), None),
    (ec.EVTCHNOP_send, ec.evtchn_send(port=5), ("send", 5), None),
    (ec.EVTCHNOP_bind_vcpu, ec.evtchn_bind_vcpu(port=5, vcpu=1), ("bind_vcpu", 5, 1), None),
    (ec.EVTCHNOP_unmask, ec.evtchn_unmask(port=5), ("unmask", 5), None),
    (ec.EVTCHNOP_reset, ec.evtchn_reset(dom=0x7FF0), ("reset", 0x7FF0, False), None),
    (14, ec.evtchn_reset(dom=0x7FF0), ("reset", 0x7FF0, True), None),
    (
        ec.EVTCHNOP_init_control,
        ec.evtchn_init_control(control_gfn=1 << 33, offset=8, vcpu=1),
        ("init_control", 1 << 33, 8, 1),
        ("link_bits", 17),
    ),
    (ec.EVTCHNOP_expand_array, ec.evtchn_expand_array(array_gfn=77), ("expand_array", 77), None),
    (ec.EVTCHNOP_set_priority, ec.evtchn_set_priority(port=5, priority=6), ("set_priority", 5, 6), None),
]


@WIDTHS
@pytest.mark.parametrize(("cmd", "argument", "call", "stored"), OPS)
def test_operation(
    abi: Abi, cmd: int, argument: object, call: tuple[object, ...], stored: tuple[str, int] | None
) -> None:
    context = FakeContext(abi)
    context.put(argument)
    assert context.hypercall("event_channel_op", cmd, BASE) == 0
    assert context.calls == [call]
    if stored:
        assert getattr(context.get(type(argument)), stored[0]) == stored[1]
        context.guest.read_only = range(BASE, BASE + 64)
        assert context.hypercall("event_channel_op", cmd, BASE) == -EFAULT
    assert context.hypercall("event_channel_op", cmd, 0) == -EFAULT
    refusing = FakeContext(abi, **{str(call[0]): XenError(EBUSY)})
    refusing.put(argument)
    assert refusing.hypercall("event_channel_op", cmd, BASE) == -EBUSY


@WIDTHS
@pytest.mark.parametrize(
    ("found", "path", "value"),
    [
        (EvtchnStatus(ec.EVTCHNSTAT_unbound, 1, (3,)), ("unbound", "dom"), 3),
        (EvtchnStatus(ec.EVTCHNSTAT_interdomain, 1, (3, 9)), ("interdomain", "port"), 9),
        (EvtchnStatus(ec.EVTCHNSTAT_pirq, 1, (4,)), ("pirq",), 4),
        (EvtchnStatus(ec.EVTCHNSTAT_virq, 1, (2,)), ("virq",), 2),
        (EvtchnStatus(ec.EVTCHNSTAT_closed, 1, ()), ("virq",), 0),
    ],
)
def test_status(abi: Abi, found: EvtchnStatus, path: tuple[str, ...], value: int) -> None:
    context = FakeContext(abi, status=found)
    context.put(ec.evtchn_status(dom=0x7FF0, port=5))
    assert context.hypercall("event_channel_op", ec.EVTCHNOP_status, BASE) == 0
    answer = context.get(ec.evtchn_status)
    assert (answer.port, answer.status, answer.vcpu) == (5, found.status, 1)
    detail = answer.u
    for name in path:
        detail = getattr(detail, name)
    assert detail == value
    context.answers["status"] = XenError(ESRCH)
    assert context.hypercall("event_channel_op", ec.EVTCHNOP_status, BASE) == -ESRCH


@WIDTHS
def test_unknown_operations(abi: Abi) -> None:
    for cmd in (15, 99, (1 << 32) - 1):
        assert FakeContext(abi).hypercall("event_channel_op", cmd, BASE) == -ENOSYS


@WIDTHS
def test_the_legacy_form_holds_command_and_argument(abi: Abi) -> None:
    context = FakeContext(abi)
    op = ec.evtchn_op(cmd=ec.EVTCHNOP_bind_virq)
    op.u.bind_virq.virq = 3
    context.put(op)
    assert context.hypercall("event_channel_op_compat", BASE) == 0
    assert context.calls == [("bind_virq", 3, 0)]
    assert context.get(ec.evtchn_op).u.bind_virq.port == 13
    context.put(ec.evtchn_op(cmd=ec.EVTCHNOP_reset))
    assert context.hypercall("event_channel_op_compat", BASE) == -ENOSYS
    assert context.hypercall("event_channel_op_compat", 0) == -EFAULT


def test_only_32_bits_of_the_command_count() -> None:
    context = FakeContext(close=XenError(EINVAL))
    context.put(ec.evtchn_close(port=5))
    assert context.hypercall("event_channel_op", 1 << 40 | ec.EVTCHNOP_close, BASE) == -EINVAL
