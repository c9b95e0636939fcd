"""32-bit guests: ring 1, PAE tables, `int $0x82`, compat frames (xen/arch/x86/x86_64/compat/entry.S, pv/iret.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvemu.debug.crash_report import execution_state, page_walk
from pvemu.hypervisor.compat.mm import compat_cr3_to_pfn

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest, MicroGuest

U32 = 1 << 32
GENERAL = ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp")
TRY = 10  # bytes of the store before the instruction in `try`


class TestStartOfDay:
    @pytest.fixture
    def guest(self, micro: MakeGuest) -> MicroGuest:
        return micro("start_of_day32.S", bits=32).run_to("poweroff")

    def test_registers(self, guest: MicroGuest) -> None:
        built = guest.machine.built
        registers = {name: guest.word("boot_registers", i) for i, name in enumerate(GENERAL)}
        expected = dict.fromkeys(GENERAL, 0)
        expected["esp"], expected["esi"] = built.stack_top, built.start_info_pfn << 12
        assert registers == expected
        assert guest.word("boot_registers", 8) == 0x202
        selectors = [guest.word("boot_registers", i) & 0xFFFF for i in range(9, 15)]
        assert selectors == [0xE019, 0xE021, 0xE021, 0xE021, 0xE021, 0xE021]

    def test_memory(self, guest: MicroGuest) -> None:
        built, values = guest.machine.built, guest.values
        assert values["magic"].to_bytes(4, "little") == b"x86_"
        assert values["nr_pages"] == 16 << 8
        assert values["pt_base"] == built.pt_base
        assert values["nr_pt_frames"] == len(built.pt_pfns)
        assert values["mfn_list"] == built.mfn_list
        assert values["l3_entry0"] & 0xFFF == 0x67
        assert values["l2_xen"] & 0x1F_FFFF == 0x81  # a 2 MiB page, not for user mode
        assert values["m2p_mismatches"] == 0

    def test_what_is_not_the_guests(self, guest: MicroGuest) -> None:
        log = guest.traps32
        assert [(t.vector, t.error) for t in log] == [
            (14, 3), (14, 3), (14, 0), (14, 0), (14, 2), (14, 0x10),
        ]  # fmt: skip

    def test_shared_info(self, guest: MicroGuest) -> None:
        values = guest.values
        assert values["mapped"] == 0
        assert (values["mask0"], values["mask31"]) == (1, 1)
        assert values["pending_ports"] == 1 << guest.machine.console_port
        assert values["wc_version"] % 2 == 0
        assert 1_767_225_600 - 2 <= values["wc_sec"] <= 1_767_225_600

    def test_hypercalls(self, guest: MicroGuest) -> None:
        values = guest.values
        assert values["version"] == values["version_by_int"] == 4 << 16 | 17
        kept = [values[f"kept_{name}"] for name in ("ebx", "ecx", "edx", "esi", "edi", "ebp")]
        assert kept == [0, 0x1111, 0x2222, 0x3333, 0x4444, 0x5555]
        assert values["carry"] == 1
        assert values["unknown"] == values["segment_base"] == U32 - 38


class TestTraps:
    #: index, label, vector, error code, offset of the frame's eip from the instruction
    EXPECTED = (
        (0, "at_de", 0, -1, 0),
        (1, "at_int3", 3, -1, 1),
        (2, "at_ud", 6, -1, 0),
        (3, "at_gp", 13, 0, 0),
        (4, "at_pf_read", 14, 0, 0),
        (5, "at_pf_write", 14, 2, 0),
        (6, "at_selector", 13, 0x800, 0),
        (7, "at_int22", 0x22, -1, 2),
        (8, "at_int21", 0x21, -1, 2),
        (9, "at_int80", 0x80, -1, 2),
        (10, "at_int13", 13, 13 * 8 + 2, 0),
        (11, "at_int99", 13, 0x99 * 8 + 2, 0),
        (12, "at_ring0", 13, 0xE010, 0),
        (13, "at_unmasked", 6, -1, 0),
        (14, "at_unmasked80", 0x80, -1, 2),
    )

    @pytest.fixture
    def guest(self, micro: MakeGuest) -> MicroGuest:
        return micro("traps32.S", bits=32).run_to("poweroff")

    def test_vector_error_code_and_eip(self, guest: MicroGuest) -> None:
        log = guest.traps32
        got = [
            (i, label, log[i].vector, log[i].error, log[i].eip - guest.symbols[label] - TRY)
            for i, label, *_ in self.EXPECTED
        ]
        assert tuple(got) == self.EXPECTED
        assert [(t.vector, t.error) for t in log[15:]] == [(13, 0)] * 20, "never a double fault"

    def test_the_rest_of_the_frame(self, guest: MicroGuest) -> None:
        log = guest.traps32
        for i, trap in enumerate(log):
            assert (trap.cs, trap.handler_cs, trap.handler_ss) == (0xE019, 0xE019, 0xE021), i
            words = 4 if trap.error >= 0 else 3
            assert trap.entry_esp == guest.symbols["stack_top"] - 4 - 4 * words, i
            is_unmasked = i in (13, 14)
            assert trap.saved_mask == (0 if is_unmasked else 1), i
            assert bool(trap.eflags & 0x200) is is_unmasked, i
            assert trap.handler_mask == (0 if is_unmasked and trap.vector != 0x80 else 1), i
        assert (log[4].cr2, log[5].cr2) == (0x6666008, 0x6666009)

    def test_control_registers(self, guest: MicroGuest) -> None:
        assert guest.values["cr0"] == 0x80050033
        assert compat_cr3_to_pfn(guest.values["cr3"]) == guest.machine.mm.guest_root


class TestUserMode:
    @pytest.fixture
    def guest(self, micro: MakeGuest) -> MicroGuest:
        return micro("user_mode32.S", bits=32).run_to("poweroff")

    def test_iret_to_ring_3(self, guest: MicroGuest) -> None:
        assert [guest.word("user_saw", i) & 0xFFFF for i in range(3)] == [0x7777, 0xE02B, 0xE033]

    def test_traps_come_on_the_kernels_stack(self, guest: MicroGuest) -> None:
        log = guest.traps32
        console_port, m2p = guest.symbols["console_port"], 0xF5900000
        assert [(t.vector, t.error) for t in log] == [
            (0x80, -1), (13, 0), (14, 5), (14, 7), (14, 5), (13, 0x22 * 8 + 2), (13, 0x82 * 8 + 2), (13, 0), (0x21, -1),
        ]  # fmt: skip
        assert [t.cr2 for t in log[2:5]] == [console_port, console_port, m2p]
        assert log[0].eip == guest.symbols["after_80"]
        assert log[6].eip == guest.symbols["at_user_int82"]
        for trap in log:
            assert (trap.cs, trap.ss, trap.esp) == (0xE02B, 0xE033, guest.symbols["user_stack_top"])
            words = 6 if trap.error >= 0 else 5
            assert trap.entry_esp == guest.symbols["kernel_stack_top"] - 4 * words
            assert (trap.handler_cs, trap.handler_ss) == (0xE019, 0xE021)


def test_event_upcall_and_its_mask(micro: MakeGuest) -> None:
    guest = micro(
        """
main:   call    map_shared_info
        hypercall __HYPERVISOR_set_callbacks, $KERNEL_CS, $upcall, $KERNEL_CS, $upcall
        show    callbacks, %eax
        hypercall __HYPERVISOR_event_channel_op, $7, $ipi       # bind_ipi
        mov     ipi + 4, %eax
        mov     %eax, port
        hypercall __HYPERVISOR_event_channel_op, $4, $port      # send: masked
        show    early, upcalls
        movb    $0, shared_page + 1
        hypercall __HYPERVISOR_xen_version, $0
        show    upcalls, upcalls
        show    in_handler, in_handler
        show    frame_cs, frame_cs
        movzbl  shared_page + 1, %eax
        show    mask_after, %eax
        ret
upcall: incl    upcalls
        movb    $0, shared_page
        movl    $0, shared_page + 4
        movl    $0, shared_page + 0x800
        push    %eax
        movzbl  shared_page + 1, %eax
        mov     %eax, in_handler
        mov     8(%esp), %eax
        mov     %eax, frame_cs
        mov     $__HYPERVISOR_iret, %eax
        int     $0x82
        .data
ipi:    .long   0, 0
port:   .long   0
upcalls: .long  0
in_handler: .long 0
frame_cs: .long 0
        .text
""",
        bits=32,
    ).run_to("poweroff")
    values = guest.values
    assert (values["callbacks"], values["early"], values["upcalls"]) == (0, 0, 1)
    assert (values["in_handler"], values["mask_after"], values["frame_cs"]) == (1, 0, 0xE019)


def test_syscall_without_an_entry_is_a_gp_of_user_mode(micro: MakeGuest) -> None:
    """compat_syscall: the frame shows the selectors that SYSCALL would, and it goes on the kernel's stack."""
    guest = micro(
        """
main:   call    install_traps
        hypercall __HYPERVISOR_stack_switch, $KERNEL_DS, $stack_bottom + 4096
        movl    $end, trap_hook
at:     try     syscall
end:    poweroff
""",
        bits=32,
    ).run_to("poweroff")
    first = guest.traps32[0]
    assert (first.vector, first.error, first.eip) == (13, 0, guest.symbols["at"] + TRY)
    assert (first.cs, first.ss, first.entry_esp) == (0xE02B, 0xE033, guest.symbols["stack_bottom"] + 4096 - 24)


def test_syscall_goes_to_its_entry(micro: MakeGuest) -> None:
    guest = micro(
        """
        .set    __HYPERVISOR_callback_op, 30
main:   call    install_traps
        hypercall __HYPERVISOR_stack_switch, $KERNEL_DS, $stack_bottom + 4096
        hypercall __HYPERVISOR_callback_op, $0, $callback
        show    callback, %eax
at:     syscall
entry:  show    ecx, %ecx
        show    eip, (%esp)
        show    cs, 4(%esp)
        show    ss, 16(%esp)
        poweroff
        .data
callback: .word 7, 0                            # CALLBACKTYPE_syscall32
        .long   KERNEL_CS, entry
        .text
""",
        bits=32,
    ).run_to("poweroff")
    values = guest.values
    assert values["callback"] == 0
    assert values["ecx"] == values["eip"] == guest.symbols["entry"]
    assert (values["cs"] & 0xFFFF, values["ss"]) == (0xE02B, 0xE033)


def test_a_native_iret_to_ring_3_is_seen(micro: MakeGuest) -> None:
    """The mode is in CS: a kernel in ring 1 can leave for ring 3 without Xen."""
    guest = micro(
        """
main:   call    install_traps
        remap   user, PTE_P | PTE_US
        hypercall __HYPERVISOR_stack_switch, $KERNEL_DS, $stack_top
        movl    $end, trap_hook
        pushl   $USER_DS
        pushl   $0
        pushl   $0x202
        pushl   $USER_CS
        pushl   $user
        iret
end:    poweroff
        .data
        .balign 4096
user:   mov     $USER_DS, %eax
        mov     %eax, %ds
at:     movb    stack_top - 1, %al
        .balign 4096
        .text
""",
        bits=32,
    ).run_to("poweroff")
    (trap,) = guest.traps32
    assert (trap.vector, trap.error, trap.eip, trap.cs, trap.ss) == (14, 5, guest.symbols["at"], 0xE02B, 0xE033)


def test_an_instruction_is_emulated_where_its_segment_puts_it(micro: MakeGuest) -> None:
    guest = micro(
        """
main:   call    install_traps
        mov     start_info, %ecx
        mov     SI_mfn_list(%ecx), %ecx
        mov     $gdt, %eax
        shr     $12, %eax
        mov     (%ecx, %eax, 4), %eax
        mov     %eax, frame
        remap   gdt, PTE_P
        hypercall 2, $frame, $8                 # set_gdt
        show    set_gdt, %eax
        ljmp    $0x19, $there - 0x100000
there:  clts                                    # emulated
        mov     %cs, %ebx
        ljmp    $KERNEL_CS, $1f
1:      show    cs, %ebx
        ret
        .data
        .balign 4096
gdt:    .quad   0, 0, 0, 0x00cf9b100000ffff     # ring 0 code, base 0x100000
        .balign 4096
frame:  .long   0
        .text
""",
        bits=32,
    ).run_to("poweroff")
    assert (guest.values["set_gdt"], guest.values["cs"]) == (0, 0x19)
    assert guest.traps32 == []


CRASHES = {
    "no handler": ("ud2", "Unhandled: vec 6, #UD[ffffffff]"),
    "page fault": ("movl 0x6666000, %eax", "Unhandled: vec 14, #PF[0000]"),
    "no stack": ("call install_traps; mov $0x6666000, %esp; ud2", "compat_create_bounce_frame: page fault"),
    "stack of Xen's": ("call install_traps; mov $0xf5900800, %esp; ud2", "compat_create_bounce_frame: page fault"),
    "no event callback": ("call map_shared_info; show x, $1; movb $0, shared_page + 1; show x, $1", "null selector"),
    "iret without stack": ("mov $0x6666000, %esp; mov $23, %eax; int $0x82",
                           "domain_crash called from arch/x86/pv/iret.c:121"),
    "iret to ring 0": ("pushl $0x202; pushl $0xe008; pushl $0; pushl $0; mov $23, %eax; int $0x82",
                       "domain_crash called from arch/x86/pv/iret.c:204"),
}


def test_xens_text_of_a_crash(micro: MakeGuest) -> None:
    guest = micro("main:\n movl $0x12345678, 0x6666008", bits=32)
    machine = guest.machine
    guest.run()
    lines = execution_state(machine.config.domid, machine.vcpu, machine.engine, machine.walker, machine.guest)
    assert "RIP:    e019:[<" in "\n".join(lines)
    at = lines.index(f"Guest stack trace from esp={guest.symbols['stack_top'] - 4:08x}:")
    words = lines[at + 1].split()
    assert len(words[0]) == 8
    assert len(words) == 8
    walk = page_walk(machine.walker, machine.m2p, 0x6666008)
    assert walk[0] == "Pagetable walk from 0000000006666008:"
    assert [line[:10] for line in walk[1:]] == [" L4[0x000]", " L3[0x000]", " L2[0x033]"]


@pytest.mark.parametrize("name", CRASHES)
def test_crash(micro: MakeGuest, name: str) -> None:
    source, line = CRASHES[name]
    guest = micro("main:\n" + source.replace("; ", "\n"), bits=32)
    guest.run()
    assert guest.ending == "crash"
    assert line in guest.machine.crash_lines[0]


def test_a_selector_that_iret_cannot_load_is_a_gp_at_the_target(micro: MakeGuest) -> None:
    guest = micro(
        """
main:   call    install_traps
        movl    $back, trap_resume
        pushl   $0x202
        pushl   $0x0809                         # beyond the GDT, ring 1
        pushl   $0x1234
        pushl   $0
        mov     $__HYPERVISOR_iret, %eax
        int     $0x82
back:   ret
""",
        bits=32,
    )
    guest.run()
    first = guest.traps32[0]
    assert (first.vector, first.error, first.eip, first.cs) == (13, 0x808, 0x1234, 0x0809)
