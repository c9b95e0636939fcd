"""Event channels of one domain (xen/common/event_channel.c); how events reach it is in ``event_2l`` and ``event_fifo``.

The other ends live in dom0 and are plain callables: the core never names a device. ``alloc_for_backend`` is what the
toolstack does for console and xenstore; ``bind_backend`` what a back-end driver does with a port that the guest
offered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.context import EvtchnStatus
from hypercalls.errors import XenError
from hypercalls.public import errno as e
from hypercalls.public import event_channel as ec
from hypercalls.public import xen
from pvemu.hypervisor.event_channel.dom0_ports import BackendChannel, Dom0Ports
from pvemu.hypervisor.event_channel.event_2l import TwoLevelPorts
from pvemu.hypervisor.event_channel.event_fifo import FifoPorts, check_control_block
from pvemu.hypervisor.event_channel.evtchn import (
    ECS_FREE,
    ECS_INTERDOMAIN,
    ECS_IPI,
    ECS_RESERVED,
    ECS_UNBOUND,
    ECS_VIRQ,
    EVTCHNS_PER_BUCKET,
    BackendEnd,
    Evtchn,
    PortOps,
)
from pvemu.observers import subscribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.domain_page import DomainPages
    from pvemu.hypervisor.shared_info import SharedInfo, VcpuInfo

__all__ = ["EventChannels"]

_NR_VIRQS = 24
#: Interrupts of a domain without devices: one I/O APIC's 24 and 32 more (extra_guest_irqs).
_NR_PIRQS = 24 + 32
#: Those of which each vcpu has its own (virq_is_global is false).
_VCPU_VIRQS = frozenset((xen.VIRQ_TIMER, xen.VIRQ_DEBUG, xen.VIRQ_XENOPROF, xen.VIRQ_XENPMU))
#: max_evtchn_port that xl gives a domain: b_info.event_channels.
_MAX_EVTCHN_PORT = 1023


class EventChannels:
    """All channels of the domain; ``pages`` maps what a guest gives for the FIFO ABI, ``log`` is Xen's console."""

    def __init__(
        self, domid: int, shared_info: SharedInfo, vcpu_infos: list[VcpuInfo], pages: DomainPages,
        log: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._domid = domid
        self._vcpu_infos = vcpu_infos
        self._pages = pages
        self._log = log
        self._two_level = TwoLevelPorts(shared_info, vcpu_infos, self._mark_events_pending)
        self._fifo: FifoPorts | None = None
        self._ports: PortOps = self._two_level
        self._dom0 = Dom0Ports()
        self._channels = [Evtchn(port) for port in range(EVTCHNS_PER_BUCKET)]
        self._channels[0].state = ECS_RESERVED
        self._virqs: dict[tuple[int, int], int] = {}
        #: By vcpu: told of each VIRQ that is bound on it.
        self.on_bind_virq: dict[int, Callable[[int], None]] = {}
        #: vcpu_kick: told of a vcpu that has an upcall to take.
        self.on_kick: Callable[[int], None] = lambda vcpu_id: None
        self.raised = 0  #: how often a port became pending
        self._send_observers: list[Callable[[int], None]] = []
        self._raise_observers: list[Callable[[int], None]] = []

    def observe(
        self, on_send: Callable[[int], None] | None = None, on_raise: Callable[[int], None] | None = None
    ) -> Callable[[], None]:
        """``on_send`` is told each port that the guest sends on, ``on_raise`` each that becomes pending; returns how to
        stop that.
        """
        undo = [subscribe(self._send_observers, on_send)] if on_send is not None else []
        undo += [subscribe(self._raise_observers, on_raise)] if on_raise is not None else []

        def stop() -> None:
            for one in undo:
                one()

        return stop

    # -- allocation --------------------------------------------------------------------------------------------------
    def _get_free_port(self) -> Evtchn:
        """get_free_port: the channel is closed still."""
        is_busy = self._ports.is_busy
        for chn in self._channels:
            if chn.state == ECS_FREE and not is_busy(chn):
                return chn
        port = len(self._channels)
        if port > _MAX_EVTCHN_PORT or port >= self._ports.max_evtchns:
            raise XenError(e.ENOSPC, "no free event channel")
        self._channels += [Evtchn(port + i) for i in range(EVTCHNS_PER_BUCKET)]
        return self._channels[port]

    def _from_port(self, port: int) -> Evtchn:
        """_evtchn_from_port: EINVAL for a port that there never was."""
        if not 0 <= port < len(self._channels):
            raise XenError(e.EINVAL, f"event channel {port} was never open")
        return self._channels[port]

    def _open(self, chn: Evtchn, state: int, vcpu_id: int = 0) -> Evtchn:
        chn.state = state
        chn.notify_vcpu_id = vcpu_id
        self._ports.init(chn)
        return chn

    def _free(self, chn: Evtchn) -> None:
        """evtchn_free: no event of before on the next binding."""
        self._ports.clear_pending(chn)
        chn.state, chn.notify_vcpu_id, chn.backend = ECS_FREE, 0, None

    def _require_vcpu(self, vcpu: int) -> None:
        if not 0 <= vcpu < len(self._vcpu_infos):
            raise XenError(e.ENOENT, f"no vcpu {vcpu}")

    def _is_self(self, dom: int) -> bool:
        return dom in (xen.DOMID_SELF, self._domid)

    def _require_self(self, dom: int) -> None:
        if not self._is_self(dom):
            raise XenError(e.EPERM if dom == 0 else e.ESRCH, f"domain {dom} is not the caller")

    def alloc_unbound(self, dom: int, remote_dom: int) -> int:
        """EVTCHNOP_alloc_unbound: a port that ``remote_dom`` may bind."""
        self._require_self(dom)
        chn = self._open(self._get_free_port(), ECS_UNBOUND)
        chn.remote_dom = self._domid if self._is_self(remote_dom) else remote_dom
        return chn.port

    def bind_interdomain(self, remote_dom: int, remote_port: int) -> int:
        """EVTCHNOP_bind_interdomain: a port that the domain offers itself, or one of dom0's that it was bound to."""
        if not self._is_self(remote_dom) and remote_dom != 0:
            raise XenError(e.ESRCH, f"no domain {remote_dom}")
        chn = self._get_free_port()
        if remote_dom:
            remote = self._from_port(remote_port)
            if remote.state != ECS_UNBOUND or remote.remote_dom != self._domid:
                raise XenError(e.EINVAL, f"port {remote_port} is not free for this domain")
            chn.remote_dom = self._domid
            remote.state, remote.remote_port = ECS_INTERDOMAIN, chn.port
        else:
            end = self._dom0.unbound(remote_port)
            if end is None:
                raise XenError(e.EINVAL, f"dom0's port {remote_port} is not free for this domain")
            chn.remote_dom, chn.backend, end.guest_port = 0, end, chn.port
        self._open(chn, ECS_INTERDOMAIN)
        chn.remote_port = remote_port
        self._set_pending(chn)  # a notification of the unbound port may have been lost
        return chn.port

    def bind_virq(self, virq: int, vcpu: int) -> int:
        """EVTCHNOP_bind_virq."""
        if not 0 <= virq < _NR_VIRQS or (virq not in _VCPU_VIRQS and vcpu):
            raise XenError(e.EINVAL, f"VIRQ {virq} on vcpu {vcpu}")
        self._require_vcpu(vcpu)
        if (vcpu, virq) in self._virqs:
            raise XenError(e.EEXIST, f"VIRQ {virq} is bound")
        chn = self._open(self._get_free_port(), ECS_VIRQ, vcpu)
        chn.virq = virq
        self._virqs[vcpu, virq] = chn.port
        if vcpu in self.on_bind_virq:
            self.on_bind_virq[vcpu](virq)
        return chn.port

    def is_virq_bound(self, virq: int, vcpu: int) -> bool:
        """Whether the guest listens to a VIRQ (evtchn_virq_enabled)."""
        return (vcpu, virq) in self._virqs

    def bind_ipi(self, vcpu: int) -> int:
        """EVTCHNOP_bind_ipi."""
        self._require_vcpu(vcpu)
        return self._open(self._get_free_port(), ECS_IPI, vcpu).port

    def bind_pirq(self, pirq: int, flags: int) -> int:
        """EVTCHNOP_bind_pirq: the domain has no device, so no pirq may be bound."""
        raise XenError(e.EINVAL if pirq >= _NR_PIRQS else e.EPERM, f"pirq {pirq} with flags {flags:#x}")

    # -- use ---------------------------------------------------------------------------------------------------------
    def close(self, port: int) -> None:
        """EVTCHNOP_close; the other end, if any, waits to be bound again."""
        chn = self._from_port(port)
        if not chn.is_usable:
            raise XenError(e.EINVAL, f"event channel {port} is not open")
        if chn.state == ECS_VIRQ:
            del self._virqs[chn.notify_vcpu_id if chn.virq in _VCPU_VIRQS else 0, chn.virq]
        elif chn.backend is not None:
            chn.backend.guest_port = None
        elif chn.state == ECS_INTERDOMAIN:
            self._channels[chn.remote_port].state = ECS_UNBOUND
        self._free(chn)

    def send(self, port: int) -> None:
        """EVTCHNOP_send."""
        chn = self._from_port(port)
        for observer in tuple(self._send_observers):
            observer(port)
        if chn.state == ECS_INTERDOMAIN:
            if chn.backend is not None:
                chn.backend.send()
            else:
                self._set_pending(self._channels[chn.remote_port])
        elif chn.state == ECS_IPI:
            self._set_pending(chn)
        elif chn.state != ECS_UNBOUND:
            raise XenError(e.EINVAL, f"port {port} has no other end to notify")

    def status(self, dom: int, port: int) -> EvtchnStatus:
        """EVTCHNOP_status: of dom0's ports no more than which there are."""
        if dom == 0 and not self._dom0.is_valid(port):
            raise XenError(e.EINVAL, f"dom0's event channel {port} was never open")
        self._require_self(dom)
        chn = self._from_port(port)
        kinds: dict[int, tuple[int, tuple[int, ...]]] = {
            ECS_UNBOUND: (ec.EVTCHNSTAT_unbound, (chn.remote_dom,)),
            ECS_INTERDOMAIN: (ec.EVTCHNSTAT_interdomain, (chn.remote_dom, chn.remote_port)),
            ECS_VIRQ: (ec.EVTCHNSTAT_virq, (chn.virq,)),
            ECS_IPI: (ec.EVTCHNSTAT_ipi, ()),
        }
        status, detail = kinds.get(chn.state, (ec.EVTCHNSTAT_closed, ()))
        return EvtchnStatus(status, chn.notify_vcpu_id, detail)

    def bind_vcpu(self, port: int, vcpu: int) -> None:
        """EVTCHNOP_bind_vcpu: not for IPIs and per-vcpu VIRQs."""
        self._require_vcpu(vcpu)
        chn = self._from_port(port)
        is_global_virq = chn.state == ECS_VIRQ and chn.virq not in _VCPU_VIRQS
        if chn.state not in (ECS_UNBOUND, ECS_INTERDOMAIN) and not is_global_virq:
            raise XenError(e.EINVAL, f"port {port} cannot be bound to another vcpu")
        chn.notify_vcpu_id = vcpu

    def unmask(self, port: int) -> None:
        """EVTCHNOP_unmask: a pending event is delivered then. Of no effect on a closed port."""
        chn = self._from_port(port)
        if chn.is_usable:
            self._ports.unmask(chn)

    def reset(self, dom: int, resuming: bool) -> None:
        """EVTCHNOP_reset: close every port, back to two levels. ``resuming`` (EVTCHNOP_reset_cont) goes on with a reset
        that was interrupted, which never happens here: EBUSY.
        """
        self._require_self(dom)
        if resuming:
            raise XenError(e.EBUSY, "no reset was interrupted")
        for chn in self._channels:
            if chn.is_usable:
                self.close(chn.port)
        if self._fifo is not None:
            self._fifo.destroy()
            self._fifo, self._ports = None, self._two_level

    # -- the FIFO ABI ------------------------------------------------------------------------------------------------
    def init_control(self, control_gfn: int, offset: int, vcpu: int) -> int:
        """EVTCHNOP_init_control: map a vcpu's control block. The first one switches the domain to the FIFO ABI."""
        self._require_vcpu(vcpu)
        check_control_block(offset)
        if self._fifo is not None:
            self._fifo.map_control_block(vcpu, control_gfn, offset)
            return ec.EVTCHN_FIFO_LINK_BITS
        fifo = FifoPorts(self._domid, self._pages, len(self._vcpu_infos), self._mark_events_pending, self._log)
        fifo.map_control_block(vcpu, control_gfn, offset)
        self._fifo = self._ports = fifo
        for chn in self._channels[1 : self._two_level.max_evtchns]:
            chn.pending |= self._two_level.is_pending(chn)
            chn.priority = ec.EVTCHN_FIFO_PRIORITY_DEFAULT
        return ec.EVTCHN_FIFO_LINK_BITS

    def expand_array(self, array_gfn: int) -> None:
        """EVTCHNOP_expand_array: one more page of event words; EOPNOTSUPP before a control block."""
        if self._fifo is None:
            raise XenError(e.EOPNOTSUPP, "no control block was initialised")
        for port in self._fifo.expand_array(array_gfn, self._channels):
            self._count_raised(port)

    def set_priority(self, port: int, priority: int) -> None:
        """EVTCHNOP_set_priority: ENOSYS in the 2-level ABI, EACCES for a closed port."""
        chn = self._from_port(port)
        if self._fifo is not None and not chn.is_usable:
            raise XenError(e.EACCES, f"priority of closed port {port}")
        self._ports.set_priority(chn, priority)

    # -- raising -----------------------------------------------------------------------------------------------------
    def _mark_events_pending(self, vcpu_id: int) -> None:
        """vcpu_mark_events_pending: the vcpu has an upcall to take."""
        info = self._vcpu_infos[vcpu_id]
        if not info.upcall_pending:
            info.upcall_pending = 1
            self.on_kick(vcpu_id)

    def _set_pending(self, chn: Evtchn) -> None:
        """evtchn_port_set_pending."""
        if chn.is_usable and self._ports.set_pending(chn, chn.notify_vcpu_id):
            self._count_raised(chn.port)

    def _count_raised(self, port: int) -> None:
        """A port has become pending: a poller may wait for it (evtchn_check_pollers)."""
        self.raised += 1
        for observer in tuple(self._raise_observers):
            observer(port)

    def raise_port(self, port: int) -> None:
        """An event for the guest on one of its ports."""
        self._set_pending(self._channels[port])

    def raise_virq(self, virq: int, vcpu: int = 0) -> None:
        """send_guest_vcpu_virq: nothing when the guest did not bind it."""
        port = self._virqs.get((vcpu, virq))
        if port is not None:
            self.raise_port(port)

    def poll(self, port: int) -> bool:
        """evtchn_port_poll: whether a port is pending; XenError(EINVAL) where none is open."""
        if not self._from_port(port).is_usable:
            raise XenError(e.EINVAL, f"poll of closed port {port}")
        return self.is_pending(port)

    def is_pending(self, port: int) -> bool:
        """Whether an open port of the guest's is pending."""
        return 0 <= port < len(self._channels) and (
            self._channels[port].is_usable and self._ports.is_pending(self._channels[port])
        )

    # -- dom0's ends -------------------------------------------------------------------------------------------------
    def alloc_for_backend(self) -> int:
        """What the toolstack does for console and xenstore: an unbound port of the guest for dom0."""
        return self.alloc_unbound(xen.DOMID_SELF, 0)

    def bind_backend(self, port: int, notify: Callable[[], None]) -> BackendChannel:
        """dom0 binds the guest's unbound ``port``; ``notify`` runs when the guest sends. XenError(EINVAL) when the
        guest did not offer the port to dom0.
        """
        chn = self._from_port(port)
        if chn.state != ECS_UNBOUND or chn.remote_dom != 0:
            raise XenError(e.EINVAL, f"port {port} is not offered to dom0")
        backend = BackendChannel(self, self._dom0, port, notify)
        chn.state, chn.remote_port, chn.backend = ECS_INTERDOMAIN, backend.port, backend
        return backend

    def backend_of(self, port: int) -> BackendEnd | None:
        """dom0's end of what stands at ``port`` now."""
        return self._channels[port].backend if 0 <= port < len(self._channels) else None

    def unbind_backend(self, port: int) -> None:
        """dom0 has closed its end."""
        chn = self._channels[port]
        chn.state, chn.backend = ECS_UNBOUND, None
