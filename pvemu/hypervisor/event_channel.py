"""Event channels of one domain, 2-level ABI (xen/common/event_channel.c, event_2l.c).

The other ends live in dom0 and are plain callables: the core never names a device. ``alloc_for_backend`` is what the
toolstack does for console and xenstore; ``bind_backend`` what a back-end driver does with a port that the guest
offered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypercalls.context import EvtchnStatus
from hypercalls.errors import XenError
from hypercalls.public import errno as e
from hypercalls.public import event_channel as ec
from hypercalls.public import xen
from pvemu.observers import subscribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.shared_info import SharedInfo, VcpuInfo

__all__ = ["BackendChannel", "EventChannels"]

_FREE, _UNBOUND, _INTERDOMAIN, _VIRQ, _IPI = range(5)
_NR_VIRQS = 24
#: Interrupts of a domain without devices: one I/O APIC's 24 and 32 more (extra_guest_irqs).
_NR_PIRQS = 24 + 32
#: Those of which each vcpu has its own (virq_is_global is false).
_VCPU_VIRQS = frozenset((xen.VIRQ_TIMER, xen.VIRQ_DEBUG, xen.VIRQ_XENOPROF, xen.VIRQ_XENPMU))
#: max_evtchn_port that xl gives a domain: b_info.event_channels.
_MAX_EVTCHN_PORT = 1023
#: Ports come into being in groups of so many (EVTCHNS_PER_BUCKET); one of a group without an owner is closed, not bad.
_BUCKET = 64


@dataclass(slots=True)
class _Channel:
    state: int = _FREE
    vcpu: int = 0
    remote_dom: int = 0
    remote_port: int = 0
    number: int = 0  #: the VIRQ of a _VIRQ channel
    backend: BackendChannel | None = None  #: dom0's end
    local_peer: int = 0  #: this domain's own other end (loopback)


class BackendChannel:
    """dom0's end of a channel to the guest; of no effect once either side has closed."""

    def __init__(self, channels: EventChannels, port: int, on_send: Callable[[], None]) -> None:
        self._channels = channels
        self._port = port
        self.on_send = on_send

    def notify(self) -> None:
        """Raise the guest's end."""
        if self._channels.backend_of(self._port) is self:
            self._channels.raise_port(self._port)

    def close(self) -> None:
        """Close dom0's end: the guest's becomes unbound again."""
        if self._channels.backend_of(self._port) is self:
            self._channels.unbind_backend(self._port)


class EventChannels:
    """All channels of the domain. ``on_pending`` is told when a vcpu has an upcall to take."""

    def __init__(self, domid: int, shared_info: SharedInfo, vcpu_infos: list[VcpuInfo]) -> None:
        self._domid = domid
        self._shared = shared_info
        self._vcpu_infos = vcpu_infos
        self._bits = shared_info.bits_per_word
        self.max_ports = shared_info.words_per_map * shared_info.bits_per_word
        self._channels: dict[int, _Channel] = {}
        self._virqs: dict[tuple[int, int], int] = {}
        self._valid_ports = _BUCKET
        self.on_pending: Callable[[int], None] = lambda vcpu: None
        self.on_bind_virq: Callable[[int, int], None] = lambda virq, vcpu: None
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
    def _free_port(self) -> int:
        """get_free_port."""
        for port in range(1, _MAX_EVTCHN_PORT + 1):
            if port not in self._channels:
                return port
        raise XenError(e.ENOSPC, "no free event channel")

    def _require_valid(self, port: int) -> None:
        if not 0 <= port < self._valid_ports:
            raise XenError(e.EINVAL, f"event channel {port} was never open")

    def _get(self, port: int) -> _Channel:
        if port not in self._channels:
            raise XenError(e.EINVAL, f"event channel {port} is not open")
        return self._channels[port]

    def _open_port(self, channel: _Channel) -> int:
        port = self._free_port()
        self._channels[port] = channel
        self._valid_ports = max(self._valid_ports, (port // _BUCKET + 1) * _BUCKET)
        return port

    def _require_vcpu(self, vcpu: int) -> None:
        if not 0 <= vcpu < len(self._vcpu_infos):
            raise XenError(e.ENOENT, f"no vcpu {vcpu}")

    def _is_self(self, dom: int) -> bool:
        return dom in (xen.DOMID_SELF, self._domid)

    def alloc_unbound(self, dom: int, remote_dom: int) -> int:
        """EVTCHNOP_alloc_unbound: a port that ``remote_dom`` may bind."""
        if not self._is_self(dom):
            raise XenError(e.EPERM if dom == 0 else e.ESRCH, f"domain {dom} is not the caller")
        return self._open_port(_Channel(_UNBOUND, remote_dom=self._domid if self._is_self(remote_dom) else remote_dom))

    def bind_interdomain(self, remote_dom: int, remote_port: int) -> int:
        """EVTCHNOP_bind_interdomain: only this domain's own ports can be bound (dom0 offers none)."""
        if not self._is_self(remote_dom) and remote_dom != 0:
            raise XenError(e.ESRCH, f"no domain {remote_dom}")
        self._free_port()
        remote = self._channels.get(remote_port) if remote_dom else None
        if remote is None or remote.state != _UNBOUND or remote.remote_dom != self._domid:
            raise XenError(e.EINVAL, f"port {remote_port} is not free for this domain")
        port = self._open_port(
            _Channel(_INTERDOMAIN, remote_dom=self._domid, remote_port=remote_port, local_peer=remote_port)
        )
        remote.state, remote.remote_port, remote.local_peer = _INTERDOMAIN, port, port
        self.raise_port(port)  # a notification of the unbound port may have been lost
        return port

    def bind_virq(self, virq: int, vcpu: int) -> int:
        """EVTCHNOP_bind_virq."""
        if not 0 <= virq < _NR_VIRQS or (virq not in _VCPU_VIRQS and vcpu):
            raise XenError(e.EINVAL, f"VIRQ {virq} on vcpu {vcpu}")
        self._require_vcpu(vcpu)
        if (vcpu, virq) in self._virqs:
            raise XenError(e.EEXIST, f"VIRQ {virq} is bound")
        port = self._open_port(_Channel(_VIRQ, vcpu=vcpu, number=virq))
        self._virqs[vcpu, virq] = port
        self.on_bind_virq(virq, vcpu)
        return port

    def is_virq_bound(self, virq: int, vcpu: int) -> bool:
        """Whether the guest listens to a VIRQ (evtchn_virq_enabled)."""
        return (vcpu, virq) in self._virqs

    def bind_ipi(self, vcpu: int) -> int:
        """EVTCHNOP_bind_ipi."""
        self._require_vcpu(vcpu)
        return self._open_port(_Channel(_IPI, vcpu=vcpu))

    def bind_pirq(self, pirq: int, flags: int) -> int:
        """EVTCHNOP_bind_pirq: the domain has no device, so no pirq may be bound."""
        raise XenError(e.EINVAL if pirq >= _NR_PIRQS else e.EPERM, f"pirq {pirq} with flags {flags:#x}")

    # -- use ---------------------------------------------------------------------------------------------------------
    def close(self, port: int) -> None:
        """EVTCHNOP_close; the other end, if any, becomes unbound."""
        channel = self._get(port)
        if channel.state == _VIRQ:
            del self._virqs[channel.vcpu if channel.number in _VCPU_VIRQS else 0, channel.number]
        if channel.local_peer:
            peer = self._channels[channel.local_peer]
            peer.state, peer.remote_port, peer.local_peer = _UNBOUND, 0, 0
        del self._channels[port]
        word, bit = divmod(port, self._bits)
        self._shared.pending[word] &= ~(1 << bit) & ((1 << self._bits) - 1)  # evtchn_free: no event on re-bind

    def send(self, port: int) -> None:
        """EVTCHNOP_send."""
        channel = self._get(port)
        for observer in tuple(self._send_observers):
            observer(port)
        if channel.state == _INTERDOMAIN:
            if channel.local_peer:
                self.raise_port(channel.local_peer)
            elif channel.backend is not None:
                channel.backend.on_send()
        elif channel.state == _IPI:
            self.raise_port(port)
        elif channel.state != _UNBOUND:
            raise XenError(e.EINVAL, f"port {port} has no other end to notify")

    def status(self, dom: int, port: int) -> EvtchnStatus:
        """EVTCHNOP_status."""
        if not self._is_self(dom):
            raise XenError(e.EPERM if dom == 0 else e.ESRCH, f"domain {dom} is not the caller")
        self._require_valid(port)
        channel = self._channels.get(port)
        if channel is None:
            return EvtchnStatus(ec.EVTCHNSTAT_closed, 0, ())
        kinds: dict[int, tuple[int, tuple[int, ...]]] = {
            _UNBOUND: (ec.EVTCHNSTAT_unbound, (channel.remote_dom,)),
            _INTERDOMAIN: (ec.EVTCHNSTAT_interdomain, (channel.remote_dom, channel.remote_port)),
            _VIRQ: (ec.EVTCHNSTAT_virq, (channel.number,)),
            _IPI: (ec.EVTCHNSTAT_ipi, ()),
        }
        status, detail = kinds[channel.state]
        return EvtchnStatus(status, channel.vcpu, detail)

    def bind_vcpu(self, port: int, vcpu: int) -> None:
        """EVTCHNOP_bind_vcpu: not for IPIs and per-vcpu VIRQs."""
        self._require_vcpu(vcpu)
        channel = self._get(port)
        if channel.state == _IPI or (channel.state == _VIRQ and channel.number in _VCPU_VIRQS):
            raise XenError(e.EINVAL, f"port {port} is bound to its vcpu")
        channel.vcpu = vcpu

    def unmask(self, port: int) -> None:
        """EVTCHNOP_unmask: a pending event is delivered then. A port that nobody has open may be unmasked as well."""
        self._require_valid(port)
        channel = self._channels.get(port)
        word, bit = divmod(port, self._bits)
        if self._shared.mask[word] >> bit & 1:
            self._shared.mask[word] &= ~(1 << bit) & ((1 << self._bits) - 1)
            if self._shared.pending[word] >> bit & 1:
                self._select(channel.vcpu if channel is not None else 0, word)

    def reset(self, dom: int) -> None:
        """EVTCHNOP_reset: close every port."""
        if not self._is_self(dom):
            raise XenError(e.EPERM if dom == 0 else e.ESRCH, f"domain {dom} is not the caller")
        for port in list(self._channels):
            if port in self._channels:
                self.close(port)

    def init_control(self, control_gfn: int, offset: int, vcpu: int) -> int:
        """EVTCHNOP_init_control: this hypervisor offers the 2-level ABI only, as Xen does where FIFO is off."""
        raise XenError(e.ENOSYS, f"FIFO event channels (gfn {control_gfn:#x}, offset {offset:#x}, vcpu {vcpu})")

    def expand_array(self, array_gfn: int) -> None:
        """EVTCHNOP_expand_array: see ``init_control``."""
        raise XenError(e.ENOSYS, f"FIFO event channels (gfn {array_gfn:#x})")

    def set_priority(self, port: int, priority: int) -> None:
        """EVTCHNOP_set_priority: the 2-level ABI has no priorities."""
        self._require_valid(port)
        raise XenError(e.ENOSYS, f"priority {priority} of port {port}")

    # -- raising -----------------------------------------------------------------------------------------------------
    def raise_port(self, port: int) -> None:
        """evtchn_2l_set_pending: mark a port of the guest pending; an upcall if it is not masked."""
        channel = self._channels.get(port)
        if channel is None:
            return
        word, bit = divmod(port, self._bits)
        value = 1 << bit
        if self._shared.pending[word] & value:
            return
        self._shared.pending[word] |= value
        self.raised += 1
        for observer in tuple(self._raise_observers):
            observer(port)
        if not self._shared.mask[word] & value:
            self._select(channel.vcpu, word)
        else:
            self.on_pending(channel.vcpu)  # a poller may wait for it

    def _select(self, vcpu: int, word: int) -> None:
        info = self._vcpu_infos[vcpu]
        if not info.pending_sel >> word & 1:
            info.pending_sel |= 1 << word
            info.upcall_pending = 1  # vcpu_mark_events_pending
        self.on_pending(vcpu)

    def raise_virq(self, virq: int, vcpu: int = 0) -> None:
        """send_guest_vcpu_virq: nothing when the guest did not bind it."""
        port = self._virqs.get((vcpu, virq))
        if port is not None:
            self.raise_port(port)

    def poll(self, port: int) -> bool:
        """evtchn_port_poll: whether a port is pending; XenError(EINVAL) where there never was one."""
        self._require_valid(port)
        return self.is_pending(port)

    def is_pending(self, port: int) -> bool:
        """Whether a port of the guest is pending."""
        word, bit = divmod(port, self._bits)
        return 0 <= port < self.max_ports and bool(self._shared.pending[word] >> bit & 1)

    # -- dom0's ends -------------------------------------------------------------------------------------------------
    def alloc_for_backend(self) -> int:
        """What the toolstack does for console and xenstore: an unbound port of the guest for dom0."""
        return self._open_port(_Channel(_UNBOUND, remote_dom=0))

    def bind_backend(self, port: int, notify: Callable[[], None]) -> BackendChannel:
        """dom0 binds the guest's unbound ``port``; ``notify`` runs when the guest sends. XenError(EINVAL) when the
        guest did not offer the port to dom0.
        """
        channel = self._channels.get(port)
        if channel is None or channel.state != _UNBOUND or channel.remote_dom != 0:
            raise XenError(e.EINVAL, f"port {port} is not offered to dom0")
        channel.state, channel.remote_port = _INTERDOMAIN, port
        channel.backend = BackendChannel(self, port, notify)
        return channel.backend

    def backend_of(self, port: int) -> BackendChannel | None:
        """dom0's end of what stands at ``port`` now."""
        channel = self._channels.get(port)
        return None if channel is None else channel.backend

    def unbind_backend(self, port: int) -> None:
        """dom0 has closed its end."""
        channel = self._channels[port]
        channel.state, channel.remote_port, channel.backend = _UNBOUND, 0, None
