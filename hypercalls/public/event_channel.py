"""Event channels: operations, their arguments, states, the FIFO ABI (public/event_channel.h)."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from hypercalls.declare import ZERO, Array, Bytes, PerWidth, cstruct, cunion, u8, u16, u32, u64

domid_t: TypeAlias = u16
evtchn_port_t: TypeAlias = u32

EVTCHNOP_bind_interdomain = 0
EVTCHNOP_bind_virq = 1
EVTCHNOP_bind_pirq = 2
EVTCHNOP_close = 3
EVTCHNOP_send = 4
EVTCHNOP_status = 5
EVTCHNOP_alloc_unbound = 6
EVTCHNOP_bind_ipi = 7
EVTCHNOP_bind_vcpu = 8
EVTCHNOP_unmask = 9
EVTCHNOP_reset = 10
EVTCHNOP_init_control = 11
EVTCHNOP_expand_array = 12
EVTCHNOP_set_priority = 13

BIND_PIRQ__WILL_SHARE = 1

EVTCHNSTAT_closed = 0
EVTCHNSTAT_unbound = 1
EVTCHNSTAT_interdomain = 2
EVTCHNSTAT_pirq = 3
EVTCHNSTAT_virq = 4
EVTCHNSTAT_ipi = 5


@cstruct
class evtchn_alloc_unbound:
    dom: domid_t = 0
    remote_dom: domid_t = 0
    port: evtchn_port_t = 0


@cstruct
class evtchn_bind_interdomain:
    remote_dom: domid_t = 0
    remote_port: evtchn_port_t = 0
    local_port: evtchn_port_t = 0


@cstruct
class evtchn_bind_virq:
    virq: u32 = 0
    vcpu: u32 = 0
    port: evtchn_port_t = 0


@cstruct
class evtchn_bind_pirq:
    pirq: u32 = 0
    flags: u32 = 0
    port: evtchn_port_t = 0


@cstruct
class evtchn_bind_ipi:
    vcpu: u32 = 0
    port: evtchn_port_t = 0


@cstruct
class evtchn_close:
    port: evtchn_port_t = 0


@cstruct
class evtchn_send:
    port: evtchn_port_t = 0


@cstruct
class evtchn_status_u_unbound:
    dom: domid_t = 0


@cstruct
class evtchn_status_u_interdomain:
    dom: domid_t = 0
    port: evtchn_port_t = 0


@cunion
class evtchn_status_u:
    unbound: evtchn_status_u_unbound = ZERO
    interdomain: evtchn_status_u_interdomain = ZERO
    pirq: u32 = 0
    virq: u32 = 0


@cstruct
class evtchn_status:
    dom: domid_t = 0
    port: evtchn_port_t = 0
    status: u32 = 0
    vcpu: u32 = 0
    u: evtchn_status_u = ZERO


@cstruct
class evtchn_bind_vcpu:
    port: evtchn_port_t = 0
    vcpu: u32 = 0


@cstruct
class evtchn_unmask:
    port: evtchn_port_t = 0


@cstruct
class evtchn_reset:
    dom: domid_t = 0


@cstruct
class evtchn_init_control:
    control_gfn: u64 = 0
    offset: u32 = 0
    vcpu: u32 = 0
    link_bits: u8 = 0
    _pad: Annotated[bytes, Bytes(7)] = b""


@cstruct
class evtchn_expand_array:
    array_gfn: u64 = 0


@cstruct
class evtchn_set_priority:
    port: evtchn_port_t = 0
    priority: u32 = 0


@cunion
class evtchn_op_u:
    alloc_unbound: evtchn_alloc_unbound = ZERO
    bind_interdomain: evtchn_bind_interdomain = ZERO
    bind_virq: evtchn_bind_virq = ZERO
    bind_pirq: evtchn_bind_pirq = ZERO
    bind_ipi: evtchn_bind_ipi = ZERO
    close: evtchn_close = ZERO
    send: evtchn_send = ZERO
    status: evtchn_status = ZERO
    bind_vcpu: evtchn_bind_vcpu = ZERO
    unmask: evtchn_unmask = ZERO


@cstruct
class evtchn_op:
    """The argument of event_channel_op_compat."""

    cmd: u32 = 0
    u: evtchn_op_u = ZERO


# -- the two-level ABI has as many channels as shared_info has pending bits
EVTCHN_2L_NR_CHANNELS = PerWidth(pv64=4096, pv32=1024)

# -- the FIFO ABI
EVTCHN_FIFO_PRIORITY_MAX = 0
EVTCHN_FIFO_PRIORITY_DEFAULT = 7
EVTCHN_FIFO_PRIORITY_MIN = 15
EVTCHN_FIFO_MAX_QUEUES = 16
EVTCHN_FIFO_PENDING = 31
EVTCHN_FIFO_MASKED = 30
EVTCHN_FIFO_LINKED = 29
EVTCHN_FIFO_BUSY = 28
EVTCHN_FIFO_LINK_BITS = 17
EVTCHN_FIFO_LINK_MASK = 131071
EVTCHN_FIFO_NR_CHANNELS = 1 << 17
EVTCHN_FIFO_MAX_QUEUES = EVTCHN_FIFO_PRIORITY_MIN + 1
EVTCHN_FIFO_LINK_MASK = (1 << EVTCHN_FIFO_LINK_BITS) - 1


@cstruct
class evtchn_fifo_control_block:
    ready: u32 = 0
    _rsvd: u32 = 0
    head: Annotated[list[int], Array(u32, EVTCHN_FIFO_MAX_QUEUES)] = ZERO
