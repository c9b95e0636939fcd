"""A list of hypercalls that an event comes in between: the rest of the list is done when the guest comes back to it
(xen/common/multicall.c, hypercall_create_continuation of xen/arch/x86/hypercall.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypercalls.table import Row
    from tests.guests.conftest import MakeGuest

#: xen_version, send to oneself, xen_version twice; upcalls are not masked
LIST = """
        .macro  entry op, a1, a2
        {long}   \\op, -1, \\a1, \\a2, 0, 0, 0, 0
        .endm
        .data
        .balign 8
list:   entry   __HYPERVISOR_xen_version, 0, 0
        entry   __HYPERVISOR_event_channel_op, 4, port
        entry   __HYPERVISOR_xen_version, 0, 0
        entry   __HYPERVISOR_xen_version, 0, 0
port:   .long   0
bind:   .long   0, 0
callback: .long 0, 0
"""
GUESTS = {
    64: """
main:
        call    install_upcall
        hypercall 24, $7, $0
        hypercall __HYPERVISOR_event_channel_op, $7, $bind
        mov     bind + 4, %eax
        mov     %eax, port
        movb    $0, shared_page
        movb    $0, shared_page + 1
        mov     $13, %eax
        mov     $list, %rdi
        mov     $4, %rsi
        syscall
behind: mov     %rax, %r15
        mov     %rdi, %r14
        mov     %rsi, %r13
        movb    $1, shared_page + 1
        show    result, %r15
        show    left, %r13
        sub     $list, %r14
        show    done, %r14
        poweroff
""",
    32: """
main:
        call    map_shared_info
        hypercall __HYPERVISOR_set_callbacks, $0xe019, $upcall, $0xe019, $upcall
        hypercall 24, $7, $0
        hypercall __HYPERVISOR_event_channel_op, $7, $bind
        mov     bind + 4, %eax
        mov     %eax, port
        movb    $0, shared_page
        movb    $0, shared_page + 1
        mov     $13, %eax
        mov     $list, %ebx
        mov     $4, %ecx
        int     $0x82
behind: mov     %eax, %ebp
        mov     %ebx, %esi
        mov     %ecx, %edi
        movb    $1, shared_page + 1
        show    result, %ebp
        show    left, %edi
        sub     $list, %esi
        show    done, %esi
        poweroff
upcall: movb    $0, shared_page
        movl    $0, shared_page + 4
        movl    $0, shared_page + 0x800
        iret
""",
}


@pytest.mark.parametrize("bits", [64, 32])
def test_an_event_is_delivered_between_two_calls_of_a_list(micro: MakeGuest, bits: int) -> None:
    guest = micro(GUESTS[bits] + LIST.format(long=".quad" if bits == 64 else ".long"), bits=bits)
    machine = guest.machine
    seen: list[str] = []

    def before(row: Row, _args: Sequence[int]) -> None:
        if row.name != "iret":  # the way back from the upcall
            seen.append(row.name)

    machine.hypercalls.monitor(before, lambda row, args, result: None)
    machine.traps.observe(lambda delivery: seen.append("upcall at " + ("the call" if at(guest.at("behind")) else "?")))

    def at(behind: int) -> bool:
        return machine.engine.read("rip") == behind - 2

    guest.run_to("poweroff")
    first = seen.index("multicall")
    assert seen[first : first + 7] == [
        "multicall", "xen_version", "event_channel_op", "upcall at the call", "multicall", "xen_version", "xen_version",
    ]  # fmt: skip
    assert guest.values == {"result": 0, "left": 2, "done": 2 * 8 * machine.abi.long_size}


@pytest.mark.parametrize("bits", [64, 32])
def test_behind_a_yield_the_list_goes_on_as_another(micro: MakeGuest, bits: int) -> None:
    """SCHEDOP_yield leaves something to do; made alone, it leaves nothing for a list that comes later."""
    long = ".quad" if bits == 64 else ".long"
    values = LIST.format(long=long).replace("__HYPERVISOR_event_channel_op, 4, port", "29, 0, 0")
    source = GUESTS[bits].replace("hypercall 24, $7, $0", "hypercall 29, $0, $0")
    guest = micro(source + values, bits=bits).run_to("poweroff")
    assert guest.values == {"result": 0, "left": 2, "done": 2 * 8 * guest.machine.abi.long_size}
    plain = values.replace("29, 0, 0", "__HYPERVISOR_xen_version, 0, 0")
    guest = micro(source + plain, bits=bits).run_to("poweroff")
    assert guest.values == {"result": 0, "left": 4, "done": 0}
