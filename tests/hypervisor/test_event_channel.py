"""Event channels, 2-level ABI: every operation, every refusal, and the bits the guest sees, in both widths."""

from __future__ import annotations

import pytest

from hypercalls.abi import ABI32, ABI64, Abi
from hypercalls.public import errno as e
from hypercalls.public import event_channel as ec
from hypercalls.public import xen
from pvemu.hypervisor.event_channel import EventChannels
from pvemu.hypervisor.shared_info import SharedInfo
from tests.hypervisor.world import DOMID, FakePages, refused

DOM0, NOBODY, SELF = 0, 99, xen.DOMID_SELF


class Ports:
    """The channels of a domain with one vcpu, and its shared_info."""

    def __init__(self, abi: Abi) -> None:
        self.shared = SharedInfo(abi, memoryview(bytearray(4096)))
        self.info = self.shared.vcpu_info(0)
        self.events = EventChannels(DOMID, self.shared, [self.info], FakePages(), lambda line: None)
        self.width = abi.bits

    def mask(self, port: int) -> None:
        self.shared.mask[port // self.width] |= 1 << port % self.width

    def pending(self) -> list[int]:
        return [
            word * self.width + bit
            for word, value in enumerate(self.shared.pending)
            for bit in range(self.width)
            if value >> bit & 1
        ]

    def acknowledge(self) -> None:
        """What a guest does in its upcall."""
        self.info.upcall_pending = 0
        self.info.pending_sel = 0
        for word in range(len(self.shared.pending)):
            self.shared.pending[word] = 0

    def state(self) -> tuple[list[int], int, int]:
        return self.pending(), self.info.pending_sel, self.info.upcall_pending


@pytest.fixture(params=[ABI64, ABI32], ids=["64", "32"])
def ports(request: pytest.FixtureRequest) -> Ports:
    return Ports(request.param)


def test_a_fresh_page_masks_upcalls_of_every_vcpu(ports: Ports) -> None:
    assert [ports.shared.vcpu_info(i).upcall_mask for i in range(32)] == [1] * 32
    assert ports.state() == ([], 0, 0)


def test_ports_are_handed_out_from_one_and_reused(ports: Ports) -> None:
    events = ports.events
    assert [events.alloc_unbound(SELF, DOM0) for _ in range(3)] == [1, 2, 3]
    events.close(2)
    assert events.bind_ipi(0) == 2
    assert events.alloc_for_backend() == 4


def test_ports_end_at_xls_limit(ports: Ports) -> None:
    events = ports.events
    assert [events.bind_ipi(0) for _ in range(1023)] == list(range(1, 1024))
    for call, args in (
        (events.bind_ipi, (0,)), (events.alloc_unbound, (SELF, DOM0)), (events.bind_virq, (0, 0)),
        (events.bind_interdomain, (SELF, 1)), (events.bind_interdomain, (DOM0, 1)),
    ):  # fmt: skip
        refused(e.ENOSPC, call, *args)
    refused(e.ESRCH, events.bind_interdomain, NOBODY, 1)
    events.close(700)
    assert events.bind_ipi(0) == 700


def test_alloc_unbound_only_for_oneself(ports: Ports) -> None:
    refused(e.EPERM, ports.events.alloc_unbound, DOM0, DOMID)
    refused(e.ESRCH, ports.events.alloc_unbound, NOBODY, DOMID)
    port = ports.events.alloc_unbound(DOMID, SELF)
    assert ports.events.status(SELF, port) == (ec.EVTCHNSTAT_unbound, 0, (DOMID,))
    port = ports.events.alloc_unbound(SELF, NOBODY)  # nobody checks that the other exists
    assert ports.events.status(DOMID, port) == (ec.EVTCHNSTAT_unbound, 0, (NOBODY,))
    ports.events.send(port)
    assert ports.state() == ([], 0, 0)


def test_loopback(ports: Ports) -> None:
    events = ports.events
    offered = events.alloc_unbound(SELF, SELF)
    port = events.bind_interdomain(SELF, offered)
    assert ports.state() == ([port], 1, 1)  # one may have been lost
    assert events.status(SELF, port) == (ec.EVTCHNSTAT_interdomain, 0, (DOMID, offered))
    assert events.status(SELF, offered) == (ec.EVTCHNSTAT_interdomain, 0, (DOMID, port))
    ports.acknowledge()
    events.send(port)
    assert ports.pending() == [offered]
    events.send(offered)
    assert ports.pending() == [offered, port]
    events.close(port)
    assert ports.pending() == [offered]
    assert events.status(SELF, offered) == (ec.EVTCHNSTAT_unbound, 0, (DOMID,))
    assert events.bind_interdomain(DOMID, offered) == port


def test_bind_interdomain_refusals(ports: Ports) -> None:
    events = ports.events
    for_dom0 = events.alloc_unbound(SELF, DOM0)
    ipi = events.bind_ipi(0)
    for port in (for_dom0, ipi, 0, 77, 4096, 1 << 32):
        refused(e.EINVAL, events.bind_interdomain, SELF, port)
    refused(e.EINVAL, events.bind_interdomain, DOM0, 1)
    refused(e.ESRCH, events.bind_interdomain, NOBODY, 1)
    assert events.bind_ipi(0) == 3  # no port was used up


def test_virqs(ports: Ports) -> None:
    events = ports.events
    timer = events.bind_virq(xen.VIRQ_TIMER, 0)
    assert events.status(SELF, timer) == (ec.EVTCHNSTAT_virq, 0, (xen.VIRQ_TIMER,))
    refused(e.EEXIST, events.bind_virq, xen.VIRQ_TIMER, 0)
    refused(e.EINVAL, events.bind_virq, 24, 0)
    refused(e.EINVAL, events.bind_virq, xen.VIRQ_CONSOLE, 1)  # a global one
    refused(e.ENOENT, events.bind_virq, xen.VIRQ_DEBUG, 1)
    refused(e.EINVAL, events.send, timer)
    events.raise_virq(xen.VIRQ_DEBUG)  # nobody listens
    assert ports.pending() == []
    events.raise_virq(xen.VIRQ_TIMER)
    assert ports.state() == ([timer], 1, 1)
    events.close(timer)
    assert ports.pending() == []
    events.raise_virq(xen.VIRQ_TIMER)
    assert ports.pending() == []
    assert events.bind_virq(xen.VIRQ_TIMER, 0) == timer


def test_ipis(ports: Ports) -> None:
    refused(e.ENOENT, ports.events.bind_ipi, 1)
    port = ports.events.bind_ipi(0)
    assert ports.events.status(SELF, port) == (ec.EVTCHNSTAT_ipi, 0, ())
    ports.events.send(port)
    assert ports.state() == ([port], 1, 1)


def test_pirqs_are_for_domains_with_devices(ports: Ports) -> None:
    refused(e.EPERM, ports.events.bind_pirq, 1, 0)
    refused(e.EINVAL, ports.events.bind_pirq, 56, 0)


def test_a_closed_port_does_nothing(ports: Ports) -> None:
    events = ports.events
    assert events.status(SELF, 5) == (ec.EVTCHNSTAT_closed, 0, ())
    assert events.status(SELF, 0) == (ec.EVTCHNSTAT_closed, 0, ())
    for port in (0, 5, 63, 64, 1 << 31):
        refused(e.EINVAL, events.send, port)
        refused(e.EINVAL, events.close, port)
        refused(e.EINVAL, events.bind_vcpu, port, 0)
    for port in (64, 4096, 1 << 31):  # not even a group of ports there
        refused(e.EINVAL, events.status, SELF, port)
        refused(e.EINVAL, events.unmask, port)
        refused(e.EINVAL, events.set_priority, port, 0)
    refused(e.ENOSYS, events.set_priority, 5, 0)
    refused(e.EPERM, events.status, DOM0, 1)
    refused(e.ESRCH, events.status, NOBODY, 1)


def test_masked_and_unmasked(ports: Ports) -> None:
    events = ports.events
    for _ in range(ports.width):
        events.bind_ipi(0)
    port = ports.width  # in the second word
    ports.mask(port)
    events.send(port)
    assert ports.state() == ([port], 0, 0)
    assert events.raised == 1  # one who polls may wait for it
    events.unmask(port)
    assert ports.state() == ([port], 2, 1)
    events.unmask(port)  # a second time is no edge
    ports.info.upcall_pending = 0
    events.unmask(port)
    assert ports.info.upcall_pending == 0
    ports.mask(9)
    events.unmask(9)  # nothing was pending
    assert ports.state() == ([port], 2, 0)
    events.unmask(0)


def test_the_selector_word_tells_only_of_new_events(ports: Ports) -> None:
    events = ports.events
    a, b = events.bind_ipi(0), events.bind_ipi(0)
    events.send(a)
    ports.info.upcall_pending = 0
    events.send(b)  # its word is selected already: the guest is in its loop
    assert ports.state() == ([a, b], 1, 0)
    ports.info.pending_sel = 0
    events.send(b)  # pending already
    assert ports.state() == ([a, b], 0, 0)
    assert events.is_pending(a)
    assert not events.is_pending(3)
    assert not events.is_pending(1 << 31)


def test_bind_vcpu(ports: Ports) -> None:
    events = ports.events
    unbound, ipi = events.alloc_unbound(SELF, DOM0), events.bind_ipi(0)
    timer, console = events.bind_virq(xen.VIRQ_TIMER, 0), events.bind_virq(xen.VIRQ_CONSOLE, 0)
    events.bind_vcpu(unbound, 0)
    events.bind_vcpu(console, 0)
    refused(e.EINVAL, events.bind_vcpu, ipi, 0)
    refused(e.EINVAL, events.bind_vcpu, timer, 0)
    refused(e.ENOENT, events.bind_vcpu, unbound, 1)
    refused(e.ENOENT, events.bind_vcpu, 77, 1)


def test_the_back_end_of_a_channel(ports: Ports) -> None:
    events = ports.events
    heard: list[str] = []
    port = events.alloc_unbound(SELF, DOM0)
    channel = events.bind_backend(port, lambda: heard.append("guest"))
    assert ports.pending() == []
    assert events.status(SELF, port).status == ec.EVTCHNSTAT_interdomain
    events.send(port)
    events.send(port)
    assert heard == ["guest", "guest"]
    channel.notify()
    assert ports.state() == ([port], 1, 1)
    refused(e.EINVAL, events.bind_backend, port, lambda: None)
    channel.close()
    assert events.status(SELF, port) == (ec.EVTCHNSTAT_unbound, 0, (DOM0,))
    ports.acknowledge()
    channel.notify()
    events.send(port)
    assert (ports.pending(), len(heard)) == ([], 2)
    again = events.bind_backend(port, lambda: heard.append("again"))
    channel.notify()
    channel.close()  # the old end is nobody's any more
    events.send(port)
    assert heard[2:] == ["again"]
    again.notify()
    assert ports.pending() == [port]


def test_a_guest_that_closes_leaves_dom0_alone(ports: Ports) -> None:
    events = ports.events
    port = events.alloc_unbound(SELF, DOM0)
    channel = events.bind_backend(port, lambda: None)
    channel.notify()
    events.close(port)
    assert ports.pending() == []
    channel.notify()
    assert events.bind_ipi(0) == port
    channel.notify()
    channel.close()
    assert ports.pending() == []
    assert events.status(SELF, port).status == ec.EVTCHNSTAT_ipi


def test_a_port_of_dom0s_that_was_left_alone_can_be_bound_again(ports: Ports) -> None:
    """evtchn_close leaves the other end unbound, for the domain that closed."""
    events = ports.events
    heard: list[int] = []
    first, port = (events.alloc_for_backend() for _ in range(2))
    other = events.bind_backend(first, lambda: None)
    channel = events.bind_backend(port, lambda: heard.append(1))
    assert channel.port != other.port
    assert events.status(SELF, port) == (ec.EVTCHNSTAT_interdomain, 0, (DOM0, channel.port))
    refused(e.EINVAL, events.bind_interdomain, DOM0, channel.port)  # it is in use
    events.close(port)
    events.close(first)
    again = events.bind_interdomain(DOM0, channel.port)
    assert again == first
    assert events.status(SELF, again) == (ec.EVTCHNSTAT_interdomain, 0, (DOM0, channel.port))
    assert ports.pending() == [again]  # an event may have been lost
    refused(e.EINVAL, events.bind_interdomain, DOM0, channel.port)
    ports.acknowledge()
    events.send(again)
    assert heard == [1]
    channel.notify()
    assert ports.pending() == [again]
    channel.close()
    assert events.status(SELF, again) == (ec.EVTCHNSTAT_unbound, 0, (DOM0,))
    refused(e.EINVAL, events.bind_interdomain, DOM0, channel.port)
    other.close()
    refused(e.EINVAL, events.bind_interdomain, DOM0, other.port)


def test_dom0_has_its_ports_in_buckets_as_well(ports: Ports) -> None:
    events = ports.events
    refused(e.EPERM, events.status, DOM0, 63)
    refused(e.EINVAL, events.status, DOM0, 64)
    ends = [events.bind_backend(events.alloc_for_backend(), lambda: None).port for _ in range(64)]
    assert len(set(ends)) == 64
    refused(e.EPERM, events.status, DOM0, max(ends))
    refused(e.EPERM, events.status, DOM0, 64)


@pytest.mark.parametrize("kind", ["ipi", "for another", "closed"])
def test_dom0_binds_only_what_it_is_offered(ports: Ports, kind: str) -> None:
    port = 9
    if kind == "ipi":
        port = ports.events.bind_ipi(0)
    elif kind == "for another":
        port = ports.events.alloc_unbound(SELF, DOMID)
    refused(e.EINVAL, ports.events.bind_backend, port, lambda: None)


def test_reset_closes_everything(ports: Ports) -> None:
    events = ports.events
    offered = events.alloc_unbound(SELF, SELF)
    events.bind_interdomain(SELF, offered)
    events.bind_virq(xen.VIRQ_TIMER, 0)
    channel = events.bind_backend(events.alloc_for_backend(), lambda: None)
    refused(e.EPERM, events.reset, DOM0, False)
    refused(e.ESRCH, events.reset, NOBODY, False)
    refused(e.EBUSY, events.reset, SELF, True)  # no reset was interrupted
    events.reset(SELF, False)
    assert [events.status(SELF, port).status for port in range(1, 5)] == [ec.EVTCHNSTAT_closed] * 4
    channel.notify()
    assert ports.pending() == []
    assert events.bind_virq(xen.VIRQ_TIMER, 0) == 1


def test_polled_ports_are_open(ports: Ports) -> None:
    port = ports.events.bind_ipi(0)
    assert not ports.events.poll(port)
    ports.events.send(port)
    assert ports.events.poll(port)
    for closed in (0, 5, 64, 1 << 31):
        refused(e.EINVAL, ports.events.poll, closed)
