"""Event channels, timers and sleeping, in virtual time (xen/common/event_channel.c, sched/core.c)."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest, MicroGuest


@pytest.fixture
def guest(micro: MakeGuest) -> MicroGuest:
    return micro("events.S").run_to("stuck")


def test_upcalls_come_when_they_may(guest: MicroGuest) -> None:
    values = guest.values
    steps = ["masked", "unmasked", "block", "channel_masked", "channel_unmasked", "ipi", "loopback", "iret", "periodic",
             "moved"]  # fmt: skip
    assert [values[f"upcalls_{step}"] for step in steps] == [0, 1, 2, 2, 3, 4, 6, 7, 14, 17]
    assert values["pending_masked"] == 1  # (a periodic timer ticks when it is set, too)
    assert values["interdomain"] == values["periodic"] == values["register_info"] == 0


def test_frames_and_ports_of_upcalls(guest: MicroGuest) -> None:
    timer, ipi = 1 << guest.values["timer_port"], 1 << guest.values["ipi_port"]
    upcalls = guest.upcalls
    pending = [u.pending & ~(1 << guest.machine.console_port) for u in upcalls]
    assert pending[:4] == [timer, timer, ipi, ipi]
    assert pending[6:13] == [ipi, ipi] + [timer] * 5
    assert all((u.mask, u.cs, u.saved_mask) == (1, 0xE030, 0) for u in upcalls)


def test_sleeps_end_on_time(guest: MicroGuest) -> None:
    values = guest.values
    assert values["late"] < 100_000
    assert values["poll_late"] < 100_000
    assert 0 <= values["block_late"] < 100_000
    assert 2_900_000_000 < values["poll_left"] <= 3_000_000_000
    ticks = [u.tsc for u in guest.upcalls[8:13]]
    assert all(1_700_000 < b - a < 2_300_000 for a, b in itertools.pairwise(ticks))


@pytest.mark.parametrize(("bits", "long"), [(64, ".quad"), (32, ".long")])
def test_a_periodic_timer_ends_no_sleep(micro: MakeGuest, bits: int, long: str) -> None:
    """sched_context_switch stops it: one who has nothing else sleeps for ever; who wakes hears the tick then."""
    guest = micro(
        f"""
main:   call    map_shared_info
        hypercall __HYPERVISOR_event_channel_op, $1, $virq_arg          # VIRQ_TIMER, every 10 ms
        mov     virq_arg + 8, %eax
        mov     %eax, port
        hypercall __HYPERVISOR_sched_op, $3, $poll_arg
        mov     port, %eax
        lock btr %eax, shared_page + 0x800
        jnc     1f
        movl    $0, timeout
        hypercall __HYPERVISOR_sched_op, $3, $poll_arg
1:      shutdown 1
        .data
        .balign 8
poll_arg: {long} port, 1
timeout: .quad  3000000000
virq_arg: .long 0, 0, 0
port:   .long   0
        .text
""",
        bits=bits,
    )
    assert guest.run().kind == "stuck"
    assert 0 <= guest.machine.clock.now() - 3_000_000_000 < 1_000_000


def test_time_is_one_and_repeats(micro: MakeGuest) -> None:
    first, second = micro("events.S").run_to("stuck"), micro("events.S").run_to("stuck")
    assert first.console == second.console
    assert first.upcalls == second.upcalls
    assert first.machine.clock.time == second.machine.clock.time
    assert first.values["tsc_timestamp"] == first.values["system_time"]  # a TSC of 1 GHz


def test_who_stops_a_guest_to_look_changes_nothing(micro: MakeGuest, guest: MicroGuest) -> None:
    """Asleep or not: a sleep that is interrupted goes on."""
    looked_at = micro("events.S")
    machine = looked_at.machine
    looks = asleep = 0
    while machine.clock.time <= guest.machine.clock.time:
        machine.clock.observe_at(machine.clock.now() + 130_001, lambda: machine.stop("look"))
        assert machine.run().kind == "look"
        looks += 1
        asleep += machine.sched.is_idle
    assert looks > 100
    assert asleep > 50
    assert looked_at.console == guest.console
    assert looked_at.upcalls == guest.upcalls
