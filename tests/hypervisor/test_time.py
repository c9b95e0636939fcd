"""Virtual time, sleeping and polling, the vcpu's timers, watchdogs."""

from __future__ import annotations

import pytest

from hypercalls.abi import ABI64
from hypercalls.public import errno as e
from hypercalls.public import sched as sched_abi
from hypercalls.public import xen
from pvemu.hypervisor.domain import Domain
from pvemu.hypervisor.event_channel import EventChannels
from pvemu.hypervisor.sched import Sched
from pvemu.hypervisor.shared_info import SharedInfo
from pvemu.hypervisor.time import SYSTEM_TIME_AT_START, VirtualClock
from pvemu.hypervisor.vcpu.timers import VcpuTimers
from tests.hypervisor.world import DOMID, FakePages, refused

MS, S = 1_000_000, 1_000_000_000
START = SYSTEM_TIME_AT_START


class Sleeper:
    """What Sched needs of a vcpu, and its parts."""

    def __init__(self) -> None:
        shared = SharedInfo(ABI64, memoryview(bytearray(4096)))
        self.info = shared.vcpu_info(0)
        self.shared = shared
        self.info.upcall_mask = 0
        self.clock = VirtualClock()
        self.events = EventChannels(DOMID, shared, [self.info], FakePages(), lambda line: None)
        self.timers = VcpuTimers(0, self.clock, self.events, runs=True)
        self.blocked: list[int] = []
        self.slept = self.blocked.append
        self.stopping = False
        self.stuck = 0
        self.sched = Sched(self.clock, self, self.events, lambda: self.stopping, self._on_stuck)  # type: ignore[arg-type] # two attributes of a vcpu are all it asks for

    def _on_stuck(self) -> None:
        self.stuck += 1

    def acknowledge(self) -> None:
        self.info.upcall_pending = self.info.pending_sel = 0
        for word in range(64):
            self.shared.pending[word] = 0


@pytest.fixture
def vcpu() -> Sleeper:
    return Sleeper()


# -- the clock ---------------------------------------------------------------------------------------------------------
def test_calls_are_made_in_order_of_time_then_of_asking() -> None:
    clock = VirtualClock()
    made: list[str] = []
    clock.call_at(START + 20, lambda: made.append("late"))
    clock.call_at(START + 10, lambda: made.append("first"))
    clock.call_at(START + 10, lambda: made.append("second"))
    gone = clock.call_at(START + 5, lambda: made.append("never"))
    gone.cancel()
    gone.cancel()
    assert clock.next_due == START + 10
    assert not clock.run_due()
    clock.charge(15)
    assert clock.run_due()
    assert made == ["first", "second"]
    assert clock.skip_to_next()
    assert (made[2:], clock.now()) == (["late"], START + 20)
    assert not clock.skip_to_next()
    assert clock.next_due is None


def test_a_call_may_ask_for_another_one_now() -> None:
    clock = VirtualClock()
    made: list[int] = []

    def again() -> None:
        clock.call_at(0, lambda: made.append(2))

    clock.call_at(0, again)
    assert clock.run_due()
    assert made == [2]
    assert clock.now() == START  # the past is now


def test_polling_makes_time_run_faster_up_to_what_is_due() -> None:
    clock = VirtualClock()
    steps = []
    for _ in range(120):
        before = clock.now()
        steps.append(clock.poll() - before)
    assert steps[:16] == [50] * 16
    assert steps == sorted(steps)
    assert steps[-1] >= MS
    clock.charge(1)
    before = clock.now()
    assert clock.poll() - before == 50  # it did something: patience again
    for _ in range(120):
        clock.poll()
    clock.call_at(clock.now() + 7, lambda: None)
    before = clock.now()
    assert clock.poll() - before == 7


@pytest.mark.parametrize("delay", [1_000, 50_000, 300_000, 2 * MS, 50 * MS])
def test_a_delay_loop_ends_about_when_it_means_to(delay: int) -> None:
    clock = VirtualClock()
    until = clock.now() + delay
    looks = 1
    while clock.poll() < until:
        looks += 1
    assert until <= clock.now() <= until + delay // 6
    assert looks < 200


def test_a_countdown_costs_few_looks() -> None:
    clock = VirtualClock()
    looks = 1
    while clock.poll(looks % 3) < START + 5 * S:
        looks += 1
    assert looks < 1000


def test_a_guest_at_work_that_often_looks_at_the_clock_is_not_polling() -> None:
    clock = VirtualClock()
    for look in range(9_000):
        clock.poll(look % 9)
    assert clock.now() == START + 9_000 * 50


def test_exits_of_which_nothing_comes_use_up_a_guests_time() -> None:
    clock = VirtualClock()
    ended: list[int] = []
    clock.call_at(START + 600 * S, lambda: ended.append(clock.now()))
    for _ in range(1 << 17):
        clock.charge(1000)
    assert clock.now() == START + (1 << 17) * 1000  # so far each took its own time
    exits = 0
    while not clock.run_due():
        clock.charge(1000)
        exits += 1
    assert ended == [START + 600 * S]
    assert exits < 600_000
    clock.progress()
    clock.charge(1000)
    assert clock.now() == START + 600 * S + 1000


def test_a_limit_ends_a_sleep() -> None:
    clock = VirtualClock()
    clock.call_at(START + 100, lambda: None)
    assert clock.skip_to_next(START + 40)
    assert clock.now() == START + 40
    assert clock.skip_to_next(START + 40)
    assert clock.now() == START + 40
    asked: list[int | None] = []

    def idle(until: int | None) -> bool:
        asked.append(until)
        return True

    clock.on_idle = idle
    assert clock.skip_to_next()
    assert (asked, clock.now()) == ([START + 100], START + 40)  # somebody else had something for the guest


# -- block and poll ----------------------------------------------------------------------------------------------------
def test_block_sleeps_until_an_upcall(vcpu: Sleeper) -> None:
    port = vcpu.events.bind_ipi(0)
    vcpu.info.upcall_mask = 1
    vcpu.clock.call_at(START + 5 * MS, lambda: vcpu.events.send(port))
    vcpu.sched.block()
    assert (vcpu.info.upcall_mask, vcpu.clock.now(), vcpu.blocked) == (0, START + 5 * MS, [5 * MS])
    vcpu.sched.block()  # still pending
    assert vcpu.clock.now() == START + 5 * MS


def test_one_whom_nothing_can_wake_is_stuck(vcpu: Sleeper) -> None:
    vcpu.sched.block()
    vcpu.sched.poll([vcpu.events.bind_ipi(0)], 0)
    assert (vcpu.stuck, vcpu.sched.is_idle) == (2, False)
    vcpu.stopping = True
    vcpu.sched.block()
    assert vcpu.stuck == 2


def test_poll_ends_with_its_port_its_time_or_an_upcall(vcpu: Sleeper) -> None:
    events, clock = vcpu.events, vcpu.clock
    mine, other = events.bind_ipi(0), events.bind_ipi(0)
    vcpu.shared.mask[0] = (1 << 64) - 1
    vcpu.sched.poll([mine], START + MS)
    assert clock.now() == START + MS
    clock.call_at(START + 2 * MS, lambda: events.send(other))  # masked, and not the one
    clock.call_at(START + 3 * MS, lambda: events.send(mine))
    vcpu.sched.poll([mine], START + S)
    assert clock.now() == START + 3 * MS
    vcpu.sched.poll([mine], 0)  # pending: at once
    assert clock.now() == START + 3 * MS
    vcpu.acknowledge()
    clock.call_at(START + 4 * MS, lambda: events.send(other))
    clock.call_at(START + 5 * MS, lambda: events.send(mine))
    vcpu.sched.poll([mine, mine], 0)  # who polls several is woken by any
    assert clock.now() == START + 4 * MS
    vcpu.acknowledge()
    vcpu.shared.mask[0] = 0
    vcpu.info.upcall_mask = 1
    clock.call_at(START + 4 * MS + 1, lambda: events.send(other))
    vcpu.sched.poll([mine], 0)  # an upcall ends it, even a masked one
    assert clock.now() == START + 4 * MS + 1
    vcpu.sched.poll([mine], START + 4 * MS + 2)  # but not one that was there before
    assert clock.now() == START + 4 * MS + 2
    vcpu.info.upcall_mask = 0
    vcpu.sched.poll([4096], 0)  # an upcall to take: ports are not even looked at
    vcpu.acknowledge()
    refused(e.EINVAL, vcpu.sched.poll, [mine, 64], 0)
    vcpu.events.send(mine)
    vcpu.sched.poll([mine, 64], 0)  # nobody looks further than to the first that is pending
    vcpu.acknowledge()
    refused(e.EINVAL, vcpu.sched.poll, [0], 0)


def test_yield_lets_due_things_happen(vcpu: Sleeper) -> None:
    made: list[int] = []
    vcpu.clock.call_at(START + 1, lambda: made.append(1))
    vcpu.sched.yield_()
    assert made == [1]


# -- timers ------------------------------------------------------------------------------------------------------------
def ticks(vcpu: Sleeper, until: int) -> list[int]:
    """Times at which VIRQ_TIMER came."""
    seen = []
    while vcpu.clock.now() < until:
        raised = vcpu.events.raised
        if not vcpu.clock.skip_to_next(until):
            break
        if vcpu.events.raised != raised:
            seen.append(vcpu.clock.now() - START)
            vcpu.acknowledge()
    return seen


def test_a_vcpu_starts_with_a_periodic_timer(vcpu: Sleeper) -> None:
    assert vcpu.clock.next_due is None  # nobody listens
    vcpu.clock.charge(25 * MS)
    port = vcpu.events.bind_virq(xen.VIRQ_TIMER, 0)
    assert ticks(vcpu, START + 55 * MS) == [30 * MS, 40 * MS, 50 * MS]
    vcpu.events.close(port)
    assert ticks(vcpu, START + 75 * MS) == []
    assert vcpu.clock.next_due is None
    vcpu.events.bind_virq(xen.VIRQ_TIMER, 0)
    assert ticks(vcpu, START + 85 * MS) == [80 * MS]
    vcpu.timers.stop_periodic_timer()
    assert ticks(vcpu, START + S) == []


def test_the_periodic_timer(vcpu: Sleeper) -> None:
    vcpu.timers.stop_periodic_timer()
    vcpu.events.bind_virq(xen.VIRQ_TIMER, 0)
    refused(e.EINVAL, vcpu.timers.set_periodic_timer, MS - 1)
    vcpu.clock.charge(3 * MS)
    vcpu.timers.set_periodic_timer(2 * MS)
    assert vcpu.events.raised == 1  # the last tick is longer ago than that
    vcpu.acknowledge()
    vcpu.timers.set_periodic_timer(4 * MS)
    assert ticks(vcpu, START + 12 * MS) == [7 * MS, 11 * MS]


def test_a_periodic_timer_wakes_nobody(vcpu: Sleeper) -> None:
    """sched_context_switch stops it while the vcpu sleeps, and an overdue tick comes, once, when it runs on."""
    vcpu.info.upcall_mask = 1
    port = vcpu.events.bind_virq(xen.VIRQ_TIMER, 0)
    vcpu.sched.poll([port], START + 95 * MS)
    assert (vcpu.clock.now(), vcpu.events.raised, vcpu.events.is_pending(port)) == (START + 95 * MS, 1, True)
    vcpu.acknowledge()
    vcpu.sched.poll([port], START + 99 * MS)  # too short for a tick: it goes on counting where it stood
    assert not vcpu.events.is_pending(port)
    assert ticks(vcpu, START + 120 * MS) == [105 * MS, 115 * MS]
    vcpu.sched.block()
    assert (vcpu.stuck, vcpu.events.raised) == (1, 3)


def test_a_periodic_timer_set_while_the_vcpu_sleeps_wakes_it(vcpu: Sleeper) -> None:
    """vcpu_set_periodic_timer arms it, whoever asks and whether the vcpu runs or not."""
    vcpu.events.bind_virq(xen.VIRQ_TIMER, 0)
    vcpu.clock.call_at(START + 2 * MS, lambda: vcpu.timers.set_periodic_timer(4 * MS))
    vcpu.sched.block()
    assert vcpu.clock.now() == START + 4 * MS
    vcpu.acknowledge()
    assert ticks(vcpu, START + 13 * MS) == [8 * MS, 12 * MS]


def test_binding_the_virq_of_a_vcpu_that_sleeps_starts_no_timer(vcpu: Sleeper) -> None:
    vcpu.timers.park()
    vcpu.events.bind_virq(xen.VIRQ_TIMER, 0)
    assert vcpu.clock.next_due is None
    vcpu.timers.take_up()
    assert ticks(vcpu, START + 25 * MS) == [10 * MS, 20 * MS]


def test_the_single_shot_timer(vcpu: Sleeper) -> None:
    timers, clock = vcpu.timers, vcpu.clock
    timers.stop_periodic_timer()
    vcpu.events.bind_virq(xen.VIRQ_TIMER, 0)
    timers.set_timer(START + 5)
    timers.set_timer(START + 7)  # replaces it
    assert ticks(vcpu, START + 10) == [7]
    timers.set_timer(START + 50)
    timers.set_timer(0)
    timers.set_singleshot_timer(START + 60, False)
    timers.stop_singleshot_timer()
    assert ticks(vcpu, START + 100) == []
    timers.set_timer(5)  # past: as soon as can be
    assert clock.run_due()
    assert vcpu.events.raised == 2
    vcpu.acknowledge()
    for huge in (1 << 63, (1 << 64) - 1, clock.now() + (1 << 50)):
        timers.set_timer(huge)
        assert clock.next_due == clock.now() + 100 * MS
    for future in (False, True):
        raised = vcpu.events.raised
        timers.set_singleshot_timer(START, future)
        assert vcpu.events.raised == raised + 1
        assert clock.next_due is None
        vcpu.acknowledge()
    timers.set_singleshot_timer(clock.now() + 3, True)
    assert clock.next_due == clock.now() + 3


# -- the domain --------------------------------------------------------------------------------------------------------
def domain_at(clock: VirtualClock) -> Domain:
    return Domain(DOMID, clock, lambda: None)


def test_watchdogs() -> None:
    clock = VirtualClock()
    domain = domain_at(clock)
    lines: list[str] = []
    domain.log = lines.append
    assert [domain.watchdog(0, 10), domain.watchdog(0, 20)] == [1, 2]
    refused(e.ENOSPC, domain.watchdog, 0, 10)
    refused(e.EINVAL, domain.watchdog, 3, 10)
    assert domain.watchdog(1, 30) == 0  # a kick
    assert clock.next_due == START + 20 * S
    assert domain.watchdog(2, 0) == 0
    refused(e.EINVAL, domain.watchdog, 2, 5)
    assert clock.next_due == START + 30 * S
    assert clock.skip_to_next()
    assert domain.shutdown_reason == sched_abi.SHUTDOWN_watchdog
    assert lines == [f"Watchdog timer fired for domain {DOMID}"]


def test_a_new_watchdog_without_time_fires_at_once() -> None:
    clock = VirtualClock()
    domain = domain_at(clock)
    assert domain.watchdog(0, 0) == 1
    clock.run_due()
    assert domain.shutdown_reason == sched_abi.SHUTDOWN_watchdog


def test_the_first_shutdown_reason_stands() -> None:
    domain = domain_at(VirtualClock())
    domain.shutdown_code(sched_abi.SHUTDOWN_crash)
    assert domain.shutdown_reason is None
    domain.shutdown(sched_abi.SHUTDOWN_poweroff)
    domain.shutdown(sched_abi.SHUTDOWN_reboot)
    assert domain.shutdown_reason == sched_abi.SHUTDOWN_crash


def test_vm_assists() -> None:
    domain = domain_at(VirtualClock())
    for known in (0, 1, 2, 3, 4, 5, xen.VMASST_TYPE_m2p_strict):
        domain.vm_assist(known, True)
        assert known in domain.assists
        domain.vm_assist(known, False)
        assert known not in domain.assists
    for unknown in (6, 31, 63, 64, 1 << 31):
        refused(e.EINVAL, domain.vm_assist, unknown, True)


def test_a_domain_has_its_own_uuid() -> None:
    assert len(domain_at(VirtualClock()).handle) == 16
    assert domain_at(VirtualClock()).handle != Domain(DOMID + 1, VirtualClock(), lambda: None).handle
