"""Event channels, FIFO ABI: control blocks, the event array, queues as a guest reads them, and a guest that writes
nonsense into them.
"""

from __future__ import annotations

import random

import pytest

from hypercalls.abi import ABI64
from hypercalls.public import errno as e
from hypercalls.public import event_channel as ec
from hypercalls.public import xen
from pvemu.frames import PAGE_SHIFT
from pvemu.hypervisor.domain_page import DomainPages
from pvemu.hypervisor.event_channel import EventChannels
from pvemu.hypervisor.shared_info import SharedInfo
from tests.hypervisor.world import DOMID, FakePages, World, refused

SELF = xen.DOMID_SELF
PENDING, MASKED, LINKED, BUSY = 1 << 31, 1 << 30, 1 << 29, 1 << 28
CONTROL, ARRAY = 100, 200


class Fifo:
    """Two vcpus; what a guest does with its pages."""

    def __init__(self, pages: DomainPages | None = None) -> None:
        self.fake = FakePages()
        self.shared = SharedInfo(ABI64, memoryview(bytearray(4096)))
        self.infos = [self.shared.vcpu_info(i) for i in range(2)]
        self.log: list[str] = []
        self.events = EventChannels(DOMID, self.shared, self.infos, pages or self.fake, self.log.append)

    def start(self) -> Fifo:
        """Control blocks for both vcpus and one page of words, nothing masked."""
        assert self.events.init_control(CONTROL, 0, 0) == 17
        self.events.init_control(CONTROL + 1, 8, 1)
        self.events.expand_array(ARRAY)
        return self

    def control(self, vcpu: int = 0) -> memoryview:
        return memoryview(self.fake.frames[CONTROL + vcpu])[8 * vcpu :][:72].cast("I")

    def words(self) -> memoryview:
        return memoryview(self.fake.frames[ARRAY]).cast("I")

    def consume(self, vcpu: int = 0) -> list[int]:
        """A guest's upcall: ports in the order of their queues, which are empty then."""
        control, words, seen = self.control(vcpu), self.words(), []
        self.infos[vcpu].upcall_pending = 0
        while control[0]:
            priority = (control[0] & -control[0]).bit_length() - 1
            control[0] &= ~(1 << priority)
            port = control[2 + priority]
            while port:
                word = words[port]
                words[port] = word & ~(LINKED | BUSY | 0x1FFFF | (0 if word & MASKED else PENDING))
                if word & PENDING and not word & MASKED:
                    seen.append(port)
                port = word & 0x1FFFF
        return seen


@pytest.fixture
def fifo() -> Fifo:
    return Fifo().start()


def test_events_come_in_the_order_they_were_sent(fifo: Fifo) -> None:
    events = fifo.events
    ports = [events.bind_ipi(0) for _ in range(4)]
    for port in (3, 1, 4, 1):
        events.send(port)
    assert ports == [1, 2, 3, 4]
    assert fifo.control()[0] == 1 << 7  # the default priority
    assert fifo.control()[2 + 7] == 3
    assert fifo.words()[3] == PENDING | LINKED | 1
    assert fifo.infos[0].upcall_pending == 1
    assert (events.raised, events.is_pending(4), events.is_pending(2)) == (3, True, False)
    assert fifo.consume() == [3, 1, 4]
    assert events.poll(2) is False
    events.send(2)
    assert fifo.consume() == [2]
    assert set(fifo.shared.pending) == {0}  # the maps of the other ABI are left alone


def test_priorities(fifo: Fifo) -> None:
    events = fifo.events
    for _ in range(3):
        events.bind_ipi(0)
    events.set_priority(2, ec.EVTCHN_FIFO_PRIORITY_MAX)
    events.set_priority(3, ec.EVTCHN_FIFO_PRIORITY_MIN)
    for port in (3, 1, 2):
        events.send(port)
    assert fifo.control()[0] == 1 << 15 | 1 << 7 | 1
    assert fifo.consume() == [2, 1, 3]
    refused(e.EINVAL, events.set_priority, 1, 16)
    refused(e.EACCES, events.set_priority, 9, 0)
    refused(e.EACCES, events.set_priority, 0, 0)
    refused(e.EINVAL, events.set_priority, 64, 0)
    events.close(3)
    assert events.bind_ipi(0) == 3
    events.send(3)
    assert fifo.control()[0] == 1 << 7  # a new binding starts with the default


def test_a_changed_priority_holds_from_the_next_event_on(fifo: Fifo) -> None:
    events = fifo.events
    events.bind_ipi(0)
    events.send(1)
    events.set_priority(1, 3)
    assert fifo.control()[0] == 1 << 7
    assert fifo.consume() == [1]
    events.send(1)
    assert fifo.control()[0] == 1 << 3
    assert fifo.consume() == [1]
    events.set_priority(1, 7)
    events.bind_ipi(0)
    events.send(2)  # the old queue's tail was port 1: it does not lead from there any more
    events.send(1)
    assert fifo.consume() == [2, 1]


def test_masked_events_are_linked_when_unmasked(fifo: Fifo) -> None:
    events = fifo.events
    events.bind_ipi(0)
    fifo.words()[1] = MASKED
    events.send(1)
    assert fifo.words()[1] == PENDING | MASKED
    assert (fifo.control()[0], fifo.infos[0].upcall_pending, events.raised) == (0, 0, 1)
    events.unmask(1)
    assert fifo.words()[1] == PENDING | LINKED
    assert fifo.consume() == [1]
    assert events.raised == 1
    fifo.words()[1] = MASKED
    events.unmask(1)  # nothing was pending
    assert (fifo.words()[1], fifo.control()[0]) == (0, 0)
    events.unmask(9)  # closed: left alone
    refused(e.EINVAL, events.unmask, 64)


def test_a_closed_port_is_busy_while_its_event_is_linked(fifo: Fifo) -> None:
    events = fifo.events
    events.bind_ipi(0)
    events.send(1)
    events.close(1)
    assert fifo.words()[1] == LINKED
    assert events.bind_ipi(0) == 2
    assert fifo.consume() == []  # not pending: ignored
    assert events.bind_ipi(0) == 1


def test_a_move_to_another_vcpu_leaves_the_old_queue(fifo: Fifo) -> None:
    events = fifo.events
    port = events.alloc_unbound(SELF, SELF)
    other = events.bind_interdomain(SELF, port)
    fifo.consume()
    events.send(other)
    assert fifo.consume(0) == [port]
    events.bind_vcpu(port, 1)
    events.send(other)
    assert (fifo.infos[0].upcall_pending, fifo.infos[1].upcall_pending) == (0, 1)
    assert fifo.consume(1) == [port]
    events.bind_ipi(0)
    events.send(3)
    assert fifo.consume(0) == [3]


def test_events_of_before_the_switch_are_kept() -> None:
    fifo = Fifo()
    events = fifo.events
    timer, ipi = events.bind_virq(xen.VIRQ_TIMER, 0), events.bind_ipi(0)
    events.raise_virq(xen.VIRQ_TIMER)
    events.init_control(CONTROL, 0, 0)
    events.send(ipi)
    assert (events.is_pending(timer), events.raised) == (False, 1)  # no word for either yet
    events.expand_array(ARRAY)
    assert fifo.consume() == [timer, ipi]
    assert events.raised == 3


def test_without_a_control_block_an_event_is_lost() -> None:
    fifo = Fifo()
    fifo.events.init_control(CONTROL, 0, 0)
    fifo.events.expand_array(ARRAY)
    port = fifo.events.bind_ipi(1)
    fifo.events.send(port)
    assert fifo.log == [f"d{DOMID}v1 has no FIFO event channel control block"]
    assert (fifo.words()[port], fifo.events.raised) == (0, 0)


def test_init_control_refusals(fifo: Fifo) -> None:
    events = fifo.events
    refused(e.ENOENT, events.init_control, 300, 0, 2)
    for offset in (4096 - 72 + 8, 1 << 31, 4, 1):
        refused(e.EINVAL, events.init_control, 300, offset, 0)
    refused(e.EINVAL, events.init_control, 300, 0, 0)  # it has one
    assert fifo.fake.mapped == {CONTROL: 1, CONTROL + 1: 1, ARRAY: 1}


def test_a_page_that_cannot_be_mapped_leaves_two_levels() -> None:
    fifo = Fifo()
    fifo.fake.refused = frozenset({300})
    refused(e.EOPNOTSUPP, fifo.events.expand_array, ARRAY)
    refused(e.EINVAL, fifo.events.init_control, 300, 0, 0)
    refused(e.EOPNOTSUPP, fifo.events.expand_array, ARRAY)
    fifo.events.bind_ipi(0)
    refused(e.ENOSYS, fifo.events.set_priority, 1, 0)
    fifo.events.send(1)
    assert fifo.shared.pending[0] == 2
    fifo.start()
    refused(e.EINVAL, fifo.events.expand_array, 300)
    assert fifo.consume() == [1]


def test_ports_and_pages_have_an_end(fifo: Fifo) -> None:
    for _ in range(127):
        fifo.events.expand_array(ARRAY + 1)
    refused(e.ENOSPC, fifo.events.expand_array, ARRAY + 1)
    assert [fifo.events.bind_ipi(0) for _ in range(1023)] == list(range(1, 1024))  # xl's limit
    refused(e.ENOSPC, fifo.events.bind_ipi, 0)
    fifo.events.send(1023)
    assert fifo.consume() == [1023]


def test_reset_gives_the_pages_back(fifo: Fifo) -> None:
    events = fifo.events
    events.bind_ipi(0)
    events.send(1)
    events.reset(SELF, False)
    assert set(fifo.fake.mapped.values()) == {0}
    assert events.bind_ipi(0) == 1
    events.send(1)
    assert fifo.shared.pending[0] == 2
    fifo.start()  # and again
    assert fifo.consume() == [1]


def test_pages_are_held_as_writable_ones() -> None:
    world = World()
    before = world.counts()
    fifo = Fifo(DomainPages(world.ram, world.types))
    control, array, table = world.mfns[10:13]
    world.mm.pin_table(1, table)
    for frame in (table, world.shared_info - 1, 0, 1 << 52):
        refused(e.EINVAL, fifo.events.init_control, frame, 0, 0)
    fifo.events.init_control(control, 64, 0)
    for frame in (table, 0):
        refused(e.EINVAL, fifo.events.expand_array, frame)
    fifo.events.expand_array(array)
    refused(e.EINVAL, world.mm.pin_table, 1, control)
    refused(e.EINVAL, world.mm.pin_table, 1, array)
    fifo.events.send(fifo.events.bind_ipi(0))
    assert world.ram.read_u64((control << PAGE_SHIFT) + 64) == 1 << 7
    fifo.events.reset(SELF, False)
    world.mm.unpin_table(table)
    world.audit()
    assert world.counts() == before


def test_what_a_guest_writes_into_its_pages_hurts_nobody_else() -> None:
    rng = random.Random(5)
    fifo = Fifo().start()
    events = fifo.events
    for _ in range(40):
        events.bind_ipi(rng.randrange(2))
    for _ in range(3000):
        pages = (fifo.control(0), fifo.control(1), fifo.words())
        page = rng.choice(pages)
        page[rng.randrange(min(len(page), 45))] = rng.choice((0, rng.getrandbits(32), PENDING, MASKED, LINKED | 1))
        port = rng.randrange(1, 41)
        match rng.randrange(5):
            case 0:
                events.unmask(port)
            case 1:
                events.set_priority(port, rng.randrange(16))
            case _:
                events.send(port)
    for words in (fifo.control(0), fifo.control(1), fifo.words()):
        for i in range(len(words)):
            words[i] = 0
    for port in range(1, 41):  # and with clean pages all is well again
        events.send(port)
    assert sorted(fifo.consume(0) + fifo.consume(1)) == list(range(1, 41))
