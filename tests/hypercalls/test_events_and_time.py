"""event_channel_op, sched_op, vcpu_op and set_timer_op with the real ports, where they do what is asked: facts that
Xen 4.17 itself was asked for, in both widths.
"""

from __future__ import annotations

import pytest

from hypercalls.public import errno as e
from hypercalls.public import event_channel as ec
from hypercalls.public import sched, vcpu, xen
from pvemu.hypervisor.width import PV32, PV64
from tests.hypercalls.documented.world import DOM0, NOWHERE, PAGES, WIDTHS, World

SELF = xen.DOMID_SELF
MS = 1_000_000
AREA = PAGES.stop - 0x1000


@pytest.fixture(params=[64, 32])
def world(request: pytest.FixtureRequest) -> World:
    return World(WIDTHS[request.param])


def _timer_port(world: World) -> int:
    """VIRQ_TIMER's, with the periodic timer stopped that every vcpu starts with."""
    port = world.event_channels.bind_virq(xen.VIRQ_TIMER, 0)
    assert world.hypercall("vcpu_op", vcpu.VCPUOP_stop_periodic_timer, 0) == 0
    return port


def _is_pending(world: World, port: int) -> bool:
    word, bit = divmod(port, world.abi.bits)
    return bool(world.shared_info.pending[word] >> bit & 1)


def _acknowledge(world: World, port: int) -> None:
    word, bit = divmod(port, world.abi.bits)
    world.shared_info.pending[word] &= ~(1 << bit) & world.abi.long_mask


def _poll(world: World, ports: list[int], timeout: int) -> int:
    at = world.put(b"".join(port.to_bytes(4, "little") for port in ports)) if ports else 0
    argument = sched.sched_poll(ports=at, nr_ports=len(ports), timeout=timeout & (1 << 64) - 1)
    return world.hypercall("sched_op", sched.SCHEDOP_poll, argument)


def _set_timer(world: World, timeout: int) -> None:
    timeout &= (1 << 64) - 1
    halves = (timeout,) if world.abi.bits == 64 else (timeout & 0xFFFF_FFFF, timeout >> 32)
    assert world.hypercall("set_timer_op", *halves) == 0
    world.clock.run_due()


def _single_shot(world: World, timeout: int, flags: int = 0) -> None:
    argument = vcpu.vcpu_set_singleshot_timer(timeout_abs_ns=timeout & (1 << 64) - 1, flags=flags)
    assert world.hypercall("vcpu_op", vcpu.VCPUOP_set_singleshot_timer, 0, argument) == 0


# -- event channels ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("closed", (0, 0, 0xA5A5_0004, 0xA5A5_0005)),
        ("unbound", (1, 0, 0xA5A5_0000, 0xA5A5_0005)),
        ("interdomain", (2, 0, 0xA5A5_0007, 2)),
        ("virq", (4, 0, 1, 0xA5A5_0005)),
        ("ipi", (5, 1, 0xA5A5_0004, 0xA5A5_0005)),
    ],
)
def test_status_writes_what_it_has_to_tell_and_no_more(world: World, kind: str, words: tuple[int, ...]) -> None:
    """evtchn_status fills in the structure that was read, whose union it knows no more of than the state says."""
    events, port = world.event_channels, 1
    match kind:
        case "unbound":
            events.alloc_unbound(SELF, DOM0)
        case "interdomain":
            port = events.bind_interdomain(SELF, events.alloc_unbound(SELF, SELF))
            words = (2, 0, 0xA5A5_0000 | world.domain.domid, 1)
        case "virq":
            events.bind_virq(xen.VIRQ_DEBUG, 0)
        case "ipi":
            events.bind_ipi(1)
    given = [0xA5A5_0000 | SELF, port, *(0xA5A5_0000 + i for i in range(2, 7))]
    at = world.put(b"".join(word.to_bytes(4, "little") for word in given))
    assert world.hypercall("event_channel_op", ec.EVTCHNOP_status, at) == 0
    found = memoryview(world.guest.copy_from_guest(at, 28)).cast("I").tolist()
    assert found == [*given[:2], *words, given[6]]


def test_a_guest_that_reset_its_channels_finds_dom0_again(world: World) -> None:
    """What a kernel does that takes over from another: it closes everything, and has its console all the same."""
    events = world.event_channels
    heard: list[int] = []
    channel = events.bind_backend(events.alloc_for_backend(), lambda: heard.append(1))
    status = ec.evtchn_status(dom=SELF, port=1)
    at = world.put(status)
    assert world.hypercall("event_channel_op", ec.EVTCHNOP_status, at) == 0
    remote = world.get(ec.evtchn_status, at).u.interdomain
    assert (remote.dom, remote.port) == (DOM0, channel.port)
    assert world.hypercall("event_channel_op", ec.EVTCHNOP_reset, ec.evtchn_reset(dom=SELF)) == 0
    assert world.hypercall("event_channel_op", ec.EVTCHNOP_send, ec.evtchn_send(port=1)) == -e.EINVAL
    bind = ec.evtchn_bind_interdomain(remote_dom=DOM0, remote_port=remote.port)
    assert world.hypercall("event_channel_op", ec.EVTCHNOP_bind_interdomain, bind) == 0
    assert world.hypercall("event_channel_op", ec.EVTCHNOP_send, ec.evtchn_send(port=1)) == 0
    assert heard == [1]


# -- polling -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("timeout", [1, -1, 1 << 63])
def test_a_poll_until_a_time_that_is_past_ends_at_once(world: World, timeout: int) -> None:
    """do_poll: a timeout is a signed time of Xen's."""
    port = world.event_channels.bind_ipi(0)
    before = world.clock.now()
    assert _poll(world, [port], timeout) == 0
    assert _poll(world, [], timeout) == 0
    assert (world.clock.now() - before, world.is_stuck) == (0, False)


def test_a_polls_ports_are_looked_at_in_order(world: World) -> None:
    port, closed = world.event_channels.bind_ipi(0), 60
    assert _poll(world, [port, closed], 1) == -e.EINVAL
    world.event_channels.send(port)
    assert _poll(world, [port, closed], 1) == 0
    assert _poll(world, [closed, port], 1) == -e.EINVAL


def test_with_an_upcall_to_take_no_port_is_looked_at(world: World) -> None:
    world.vcpu.info.upcall_pending = 1
    assert _poll(world, [60], 1) == -e.EINVAL
    world.vcpu.info.upcall_mask = 0
    assert _poll(world, [60], 1) == 0


def test_32_bits_may_name_any_address_for_no_ports(world: World) -> None:
    """compat_poll translates the structure, and the native do_poll looks at the handle."""
    argument = sched.sched_poll(ports=world.xen, nr_ports=0, timeout=1)
    answer = world.hypercall("sched_op", sched.SCHEDOP_poll, argument)
    assert answer == (-e.EFAULT if world.width is PV64 else 0)


# -- watchdogs ---------------------------------------------------------------------------------------------------------
def test_64_bits_get_a_watchdog_too_many_as_an_unsigned_int(world: World) -> None:
    """domain_watchdog: -ENOSPC and an id in one expression make an unsigned one of both."""

    def watchdog(timeout: int) -> int:
        return world.hypercall("sched_op", sched.SCHEDOP_watchdog, sched.sched_watchdog(id=0, timeout=timeout))

    assert [watchdog(1000), watchdog(0)] == [1, 2]
    assert watchdog(1000) == (-e.ENOSPC if world.width is PV32 else 0xFFFF_FFE4)


# -- timers ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("timeout", [0, 1, -1, 1 << 63])
@pytest.mark.parametrize("flags", [0, vcpu.VCPU_SSHOTTMR_future, 0xFFFF_FFFF])
def test_a_single_shot_that_is_past_is_heard_at_once(world: World, timeout: int, flags: int) -> None:
    """VCPUOP_set_singleshot_timer of 4.17: VCPU_SSHOTTMR_future does not count; what is negative is past."""
    port = _timer_port(world)
    _single_shot(world, timeout, flags)
    assert _is_pending(world, port)


def test_a_single_shot_ends_the_one_before(world: World) -> None:
    port = _timer_port(world)
    _single_shot(world, world.clock.now() + 10 * MS)
    _single_shot(world, 1)
    _acknowledge(world, port)
    assert _poll(world, [port], world.clock.now() + 30 * MS) == 0
    assert not _is_pending(world, port)
    _single_shot(world, (1 << 63) - 1)  # for ever, all but
    assert _poll(world, [port], world.clock.now() + 30 * MS) == 0
    assert not _is_pending(world, port)


def test_one_single_shot_timer_has_two_hypercalls(world: World) -> None:
    port = _timer_port(world)
    _single_shot(world, world.clock.now() + 10 * MS)
    _set_timer(world, 0)
    assert _poll(world, [port], world.clock.now() + 30 * MS) == 0
    assert not _is_pending(world, port)


@pytest.mark.parametrize(("timeout", "heard_after"), [(1, 0), (1 << 63, 100), (-1, 100), (1 << 51, 100), (1 << 49, 0)])
def test_timeouts_of_set_timer_op(world: World, timeout: int, heard_after: int) -> None:
    """do_set_timer_op: what is negative, or two weeks away, comes in 100 ms; what is past at once."""
    port = _timer_port(world)
    start = world.clock.now()
    _set_timer(world, timeout)
    assert _poll(world, [port], start + 300 * MS) == 0
    assert _is_pending(world, port) == (timeout != 1 << 49)
    if timeout != 1 << 49:
        assert world.clock.now() - start == heard_after * MS


def test_the_vcpu_of_a_single_shot_is_looked_at_before_the_structure_or_after(world: World) -> None:
    """compat_common_vcpu_op translates the structure first; common_vcpu_op is told of one that is its own."""
    answer = world.hypercall("vcpu_op", vcpu.VCPUOP_set_singleshot_timer, 1, NOWHERE)
    assert answer == (-e.EINVAL if world.width is PV64 else -e.EFAULT)


def test_a_periodic_timer_counts_from_the_tick_before(world: World) -> None:
    """vcpu_periodic_timer_work: after a pause longer than the period the first tick comes at once. A vcpu that never
    ran has never ticked.
    """
    port, other = _timer_port(world), world.event_channels.bind_virq(xen.VIRQ_TIMER, 1)
    argument = vcpu.vcpu_set_periodic_timer(period_ns=10 * MS)
    assert _poll(world, [], world.clock.now() + 50 * MS) == 0
    for vcpuid, its_port in enumerate((port, other)):
        assert world.hypercall("vcpu_op", vcpu.VCPUOP_set_periodic_timer, vcpuid, argument) == 0
        assert _is_pending(world, its_port)
        _acknowledge(world, its_port)
    start = world.clock.now()
    assert _poll(world, [port], start + 100 * MS) == 0  # it does not tick for one who sleeps
    assert (world.clock.now() - start, _is_pending(world, port)) == (100 * MS, True)


# -- areas -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("before", "after"), [(0x1001, 0x1004), (0x2000, 0x2002), (0xFFFF_FFFE, 0), (0xFFFF_FFFF, 2)])
def test_the_version_of_the_time_follows_what_the_guest_left(world: World, before: int, after: int) -> None:
    """__update_vcpu_system_time counts in the guest's own memory, and leaves no bit of the rest as it was."""
    at = world.abi.offsetof(xen.shared_info, "vcpu_info[0].time")
    size = world.abi.sizeof(xen.vcpu_time_info)
    page = world.shared_info.page
    page[at : at + size] = before.to_bytes(4, "little") + bytes([0x77]) * (size - 4)
    area = world.put((AREA).to_bytes(8, "little"))
    assert world.hypercall("vcpu_op", vcpu.VCPUOP_register_vcpu_time_memory_area, 0, area) == 0
    time = world.abi.unpack(xen.vcpu_time_info, page, at)
    assert (time.version, time.pad0, time.flags) == (after, 0, 0)
    assert page[at + size - 2 : at + size] == bytes(2)
    assert world.guest.copy_from_guest(AREA, size) == bytes(page[at : at + size])


def test_a_vcpu_was_offline_while_its_domain_was_built(world: World) -> None:
    """vcpu_runstate_get: the times add up to those since the domain was made, which is since Xen's start at most."""
    for vcpuid, state in ((0, vcpu.RUNSTATE_running), (1, vcpu.RUNSTATE_offline)):
        at = world.put(vcpu.vcpu_runstate_info())
        assert world.hypercall("vcpu_op", vcpu.VCPUOP_get_runstate_info, vcpuid, at) == 0
        info = world.get(vcpu.vcpu_runstate_info, at)
        assert info.state == state
        assert 0 < info.time[vcpu.RUNSTATE_offline] <= sum(info.time) < world.clock.now()
        assert 0 < info.state_entry_time <= world.clock.now()


def test_the_runstate_area_of_another_vcpu_is_up_to_date(world: World) -> None:
    """VCPUOP_register_runstate_memory_area: of the caller as of its last change, of another one as of now."""
    world.clock.charge(5000)
    for vcpuid in (0, 1):
        argument = world.put(AREA.to_bytes(8, "little"))
        assert world.hypercall("vcpu_op", vcpu.VCPUOP_register_runstate_memory_area, vcpuid, argument) == 0
        _, since, now = world.vcpu.runstate(vcpuid)
        info = world.get(vcpu.vcpu_runstate_info, AREA)
        lag = [then - shown for then, shown in zip(now, info.time, strict=True)]
        assert (info.state_entry_time, lag) == (since, [5000, 0, 0, 0] if vcpuid == 0 else [0] * 4)


def test_a_runstate_area_of_nothing_is_written_to_once(world: World) -> None:
    """Registration writes wherever the handle points to; afterwards a null handle is none."""
    zero = world.mfns[0x40]
    world.mm.update_va_mapping(0, zero << 12 | 7, 0)
    assert world.hypercall("vcpu_op", vcpu.VCPUOP_register_runstate_memory_area, 0, world.put(bytes(8))) == 0
    assert world.get(vcpu.vcpu_runstate_info, 0).state_entry_time == world.vcpu.runstate(0)[1]
    before = world.guest.copy_from_guest(0, 48)
    world.clock.charge(1000)
    world.vcpu.slept(500)
    assert world.guest.copy_from_guest(0, 48) == before


def test_a_vcpu_without_room_in_shared_info_starts_with_upcalls_masked(world: World) -> None:
    """map_vcpu_info of one from 32 on, whose events went nowhere before."""
    many = World(world.width, 34)
    for vcpuid in (32, 33):
        port = many.event_channels.bind_ipi(vcpuid)
        many.event_channels.send(port)
        argument = vcpu.vcpu_register_vcpu_info(mfn=many.mfn(AREA), offset=64 * vcpuid)
        assert many.hypercall("vcpu_op", vcpu.VCPUOP_register_vcpu_info, vcpuid, argument) == 0
        info = many.get(xen.vcpu_info, AREA + 64 * vcpuid)
        assert (info.evtchn_upcall_pending, info.evtchn_upcall_mask) == (1, 1)
        assert info.evtchn_pending_sel == many.abi.long_mask
        assert info.arch.cr2 == 0
