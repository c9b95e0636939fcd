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

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.shared_info import SharedInfo, VcpuInfo

__all__ = ["BackendChannel", "EventChannels"]

_FREE, _UNBOUND, _INTERDOMAIN, _VIRQ, _IPI = range(5)
_NR_VIRQS = 24
#: virq_is_global: delivered to vcpu 0 only.
_GLOBAL_VIRQS = frozenset((xen.VIRQ_CONSOLE, xen.VIRQ_DOM_EXC, xen.VIRQ_TBUF, xen.VIRQ_DEBUGGER,
                           xen.VIRQ_CON_RING, xen.VIRQ_PCPU_STATE, xen.VIRQ_MEM_EVENT, xen.VIRQ_ARGO,
                           xen.VIRQ_ENOMEM))  # fmt: skip


@dataclass(slots=True)
class _Channel:
    state: int = _FREE
    vcpu: int = 0
    remote_dom: int = 0
    remote_port: int = 0
    number: int = 0  #: the VIRQ of a _VIRQ channel
    notify: Callable[[], None] | None = None  #: dom0's end
    local_peer: int = 0  #: this domain's own other end (loopback)


@dataclass(slots=True)
class BackendChannel:
    """dom0's end of a channel to the guest."""

    _channels: EventChannels
    _port: int
    _channel: _Channel

    def notify(self) -> None:
        """Raise the guest's end; nothing when either side has closed."""
        if self._channels.is_bound(self._port, self._channel):
            self._channels.raise_port(self._port)

    def close(self) -> None:
        """Close dom0's end: the guest's becomes unbound again."""
        if self._channels.is_bound(self._port, self._channel):
            self._channel.state, self._channel.remote_port, self._channel.notify = _UNBOUND, 0, None


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
        self.on_pending: Callable[[int], None] = lambda vcpu: None

    # -- allocation --------------------------------------------------------------------------------------------------
    def _free_port(self) -> int:
        for port in range(1, self.max_ports):
            if port not in self._channels:
                return port
        raise XenError(e.ENOSPC, "no free event channel")

    def _get(self, port: int) -> _Channel:
        if not 0 < port < self.max_ports or port not in self._channels:
            raise XenError(e.EINVAL, f"event channel {port} is not open")
        return self._channels[port]

    def _open_port(self, channel: _Channel) -> int:
        port = self._free_port()
        self._channels[port] = channel
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
        if not self._is_self(remote_dom):
            raise XenError(e.EINVAL if remote_dom == 0 else e.ESRCH, f"domain {remote_dom} offers no such port")
        remote = self._channels.get(remote_port)
        if remote is None or remote.state != _UNBOUND or remote.remote_dom != self._domid:
            raise XenError(e.EINVAL, f"port {remote_port} is not free for this domain")
        port = self._open_port(
            _Channel(_INTERDOMAIN, remote_dom=self._domid, remote_port=remote_port, local_peer=remote_port)
        )
        remote.state, remote.remote_port, remote.local_peer = _INTERDOMAIN, port, port
        self.raise_port(port)
        return port

    def bind_virq(self, virq: int, vcpu: int) -> int:
        """EVTCHNOP_bind_virq."""
        if not 0 <= virq < _NR_VIRQS or (virq in _GLOBAL_VIRQS and vcpu):
            raise XenError(e.EINVAL, f"VIRQ {virq} on vcpu {vcpu}")
        self._require_vcpu(vcpu)
        if (vcpu, virq) in self._virqs:
            raise XenError(e.EEXIST, f"VIRQ {virq} is bound")
        port = self._open_port(_Channel(_VIRQ, vcpu=vcpu, number=virq))
        self._virqs[vcpu, virq] = port
        return port

    def bind_ipi(self, vcpu: int) -> int:
        """EVTCHNOP_bind_ipi."""
        self._require_vcpu(vcpu)
        return self._open_port(_Channel(_IPI, vcpu=vcpu))

    def bind_pirq(self, pirq: int, flags: int) -> int:
        """EVTCHNOP_bind_pirq: the domain has no device, so no pirq may be bound."""
        raise XenError(e.EINVAL if pirq >= 16 else e.EPERM, f"pirq {pirq} with flags {flags:#x}")

    # -- use ---------------------------------------------------------------------------------------------------------
    def close(self, port: int) -> None:
        """EVTCHNOP_close; the other end, if any, becomes unbound."""
        channel = self._get(port)
        if channel.state == _VIRQ:
            del self._virqs[channel.vcpu, channel.number]
        if channel.local_peer and channel.local_peer != port:
            peer = self._channels[channel.local_peer]
            peer.state, peer.remote_port, peer.local_peer = _UNBOUND, 0, 0
        del self._channels[port]
        word, bit = divmod(port, self._bits)
        self._shared.pending[word] &= ~(1 << bit) & ((1 << self._bits) - 1)  # evtchn_free: no event on re-bind

    def send(self, port: int) -> None:
        """EVTCHNOP_send."""
        channel = self._get(port)
        if channel.state == _INTERDOMAIN:
            if channel.local_peer:
                self.raise_port(channel.local_peer)
            elif channel.notify is not None:
                channel.notify()
        elif channel.state == _IPI:
            self.raise_port(port)
        elif channel.state != _UNBOUND:
            raise XenError(e.EINVAL, f"port {port} has no other end to notify")

    def status(self, dom: int, port: int) -> EvtchnStatus:
        """EVTCHNOP_status."""
        if not self._is_self(dom):
            raise XenError(e.EPERM if dom == 0 else e.ESRCH, f"domain {dom} is not the caller")
        if not 0 <= port < self.max_ports:
            raise XenError(e.EINVAL, f"port {port} is out of range")
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
        if channel.state == _IPI or (channel.state == _VIRQ and channel.number not in _GLOBAL_VIRQS):
            raise XenError(e.EINVAL, f"port {port} is bound to its vcpu")
        channel.vcpu = vcpu

    def unmask(self, port: int) -> None:
        """EVTCHNOP_unmask: a pending event is delivered then."""
        channel = self._get(port)
        word, bit = divmod(port, self._bits)
        if self._shared.mask[word] >> bit & 1:
            self._shared.mask[word] &= ~(1 << bit) & ((1 << self._bits) - 1)
            if self._shared.pending[word] >> bit & 1:
                self._select(channel.vcpu, word)

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
        self._get(port)
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

    def is_pending(self, port: int) -> bool:
        """Whether a port of the guest is pending (SCHEDOP_poll)."""
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
        channel.state, channel.remote_port, channel.notify = _INTERDOMAIN, port, notify
        return BackendChannel(self, port, channel)

    def is_bound(self, port: int, channel: _Channel) -> bool:
        """Whether ``channel`` still is what stands at ``port``, with dom0 at its other end."""
        return channel.notify is not None and self._channels.get(port) is channel
