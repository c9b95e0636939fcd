"""A guest that switches to FIFO event channels: its pages, as Xen fills them (xen/common/event_fifo.c)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from hypercalls.public.errno import EOPNOTSUPP

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest

MFN_OF_32 = """
        .macro  mfn_of address:req
        mov     start_info, %ecx
        mov     SI_mfn_list(%ecx), %ecx
        mov     $\\address, %eax
        shr     $12, %eax
        mov     (%ecx, %eax, 4), %eax
        .endm
"""
SOURCE = """
main:   mfn_of  control
        mov     %{a}, init_arg
        hypercall __HYPERVISOR_event_channel_op, $11, $init_arg
        show    init, %{a}
        movzbl  init_arg + 16, %eax
        show    link_bits, %{a}
        mfn_of  array
        mov     %{a}, expand_arg
        hypercall __HYPERVISOR_event_channel_op, $12, $expand_arg
        show    expand, %{a}
        hypercall __HYPERVISOR_event_channel_op, $7, $ipi_arg
        hypercall __HYPERVISOR_event_channel_op, $7, $ipi_arg2
        mov     ipi_arg2 + 4, %eax
        mov     %eax, port_arg
        mov     %eax, priority_arg
        hypercall __HYPERVISOR_event_channel_op, $13, $priority_arg
        show    priority, %{a}
        hypercall __HYPERVISOR_event_channel_op, $4, $port_arg
        hypercall __HYPERVISOR_event_channel_op, $4, $ipi_arg+4
        mov     control + 8, %eax
        show    ready, %{a}
        mov     control + 8 + 8 + 4 * 3, %eax
        show    head_3, %{a}
        mov     control + 8 + 8 + 4 * 7, %eax
        show    head_7, %{a}
        mov     ipi_arg2 + 4, %eax
        show    port, %{a}
        mov     array(, %{a}, 4), %eax
        show    word, %{a}
        mov     ipi_arg + 4, %eax
        show    first, %{a}
        hypercall __HYPERVISOR_event_channel_op, $10, $reset_arg
        mov     %eax, results                   # the console's channel is closed now
        hypercall __HYPERVISOR_event_channel_op, $12, $expand_arg
        mov     %eax, results + 4
        ret
        .data
        .balign 8
init_arg: .quad 0
        .long   8, 0
        .quad   0
expand_arg: .quad 0
ipi_arg: .long  0, 0
ipi_arg2: .long 0, 0
port_arg: .long 0
priority_arg: .long 0, 3
reset_arg: .word 0x7ff0
        .balign 4
results: .long  1, 0
        .bss
        .balign 4096
control: .skip  4096
array:  .skip   4096
        .text
"""


def queue(words: tuple[int, ...], port: int) -> list[int]:
    """Ports from ``port`` on, as their words link them."""
    ports = []
    while port:
        ports.append(port)
        port = words[port] & 0x1FFFF
    return ports


@pytest.mark.parametrize(("bits", "register"), [(64, "rax"), (32, "eax")])
def test_pages_of_a_guest_with_fifo_channels(micro: MakeGuest, bits: int, register: str) -> None:
    source = (MFN_OF_32 if bits == 32 else "") + SOURCE.replace("{a}", register)
    guest = micro(source, bits=bits).run_to("poweroff")
    values = guest.values
    assert [values[name] for name in ("init", "link_bits", "expand", "priority")] == [0, 17, 0, 0]
    assert values["ready"] == 1 << 7 | 1 << 3
    assert values["head_3"] == values["port"]
    words = struct.unpack("<1024I", guest.read("array", 4096))
    assert queue(words, values["head_7"]) == [guest.machine.console_port, values["first"]]
    assert values["word"] == 1 << 31 | 1 << 29  # pending and linked, the last of its queue
    assert struct.unpack("<2i", guest.read("results")) == (0, -EOPNOTSUPP)
