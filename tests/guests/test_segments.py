"""Segment selectors and bases that a guest asks for (do_set_segment_base, descriptor tables)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest


def test_user_gs_selector(micro: MakeGuest) -> None:
    """A selector that cannot be loaded becomes 0, whatever it is, and the kernel's GS base stays."""
    values = micro("""
        .macro select selector
        hypercall __HYPERVISOR_set_segment_base, $3, $\\selector
        show result, %rax
        mov %gs, %eax
        show gs_\\selector, %rax
        mov %gs:0, %rax
        show base, %rax
        .endm
main:   hypercall __HYPERVISOR_set_segment_base, $2, $here
        select 0x0008
        select 0x0007
        select 0xe008
        select 0xe010
        select 0xe033
        select 0xe02b
        select 0xffff
        select 0xe028
        ret
        .data
        .balign 8
here:   .quad 0x4711
        .text
""").run_to("poweroff").values
    selectors = {name: value for name, value in values.items() if name.startswith("gs_")}
    good = {"gs_0xe02b": 0xE02B, "gs_0xe033": 0xE033, "gs_0xe028": 0xE02B}
    assert selectors == dict.fromkeys(selectors, 0) | good
    assert (values["result"], values["base"]) == (0, 0x4711)
