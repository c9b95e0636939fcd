"""Suspend and resume in place (SCHEDOP_shutdown, domain_resume, xc_domain_resume_cooperative)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest

SUSPEND64 = """
main:   call    install_upcall
        bind_timer
        mov     %rax, %rbx
        mfn_of  0x100000
        mov     %rax, %r12
        movl    $2, shutdown_reason
        hypercall __HYPERVISOR_sched_op, $2, $shutdown_reason, %r12
        show    cancelled, %rax
        rdtsc64
        add     $5000000, %rax
        hypercall __HYPERVISOR_set_timer_op, %rax
        hypercall __HYPERVISOR_sched_op, $1
        show    woken, $1
        movl    $2, shutdown_reason
        hypercall __HYPERVISOR_sched_op, $2, $shutdown_reason, %r12
        show    again, %rax
        ret
"""
SUSPEND32 = """
main:   movl    $2, shutdown_reason
        hypercall __HYPERVISOR_sched_op, $2, $shutdown_reason, $0
        show    cancelled, %eax
        ret
"""


def test_a_suspended_guest_goes_on_and_knows(micro: MakeGuest) -> None:
    guest = micro(SUSPEND64).run_to("suspend")
    before = guest.machine.clock.time
    with pytest.raises(KeyError):
        guest.values["cancelled"]
    guest.machine.resume()
    assert guest.machine.clock.time == before
    guest.run_to("suspend")
    assert (guest.values["cancelled"], guest.values["woken"]) == (1, 1)
    guest.machine.resume()
    guest.run_to("poweroff")
    assert guest.values["again"] == 1
    with pytest.raises(ValueError, match="not suspended"):
        guest.machine.resume()


def test_in_32_bits(micro: MakeGuest) -> None:
    guest = micro(SUSPEND32, bits=32).run_to("suspend")
    guest.machine.resume()
    assert guest.run_to("poweroff").values["cancelled"] == 1


def test_a_test_suspends_its_guest(micro: MakeGuest) -> None:
    from pvemu.testing.failures import GuestStoppedError
    from pvemu.testing.guest import Guest

    path = str(micro(SUSPEND32, bits=32).path)
    with Guest.boot(path, memory=16) as guest:
        guest.suspend()
        assert 'control/shutdown = "suspend"' in guest.xenstore
        guest.expect("cancelled=0*1")
        with pytest.raises(GuestStoppedError, match="did not suspend"):
            guest.suspend()


def test_a_test_has_its_guest_saved(micro: MakeGuest) -> None:
    from pvemu.testing.failures import SaveRefusedError
    from pvemu.testing.guest import Guest

    path = str(micro(SUSPEND32, bits=32).path)
    with Guest.boot(path, memory=16) as guest:
        with pytest.raises(SaveRefusedError, match=r"cannot be saved: max_pfn 0xf{16} too large for p2m tree"):
            guest.save()
        guest.expect("cancelled=0*1")
