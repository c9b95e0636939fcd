"""What the CPU does for a PV guest, as silicon under Xen does it: single behaviours."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest

UD, NP, SS, GP, PF = 6, 11, 12, 13, 14
RF = 1 << 16


def test_faults_show_rf_and_traps_do_not(micro: MakeGuest) -> None:
    guest = micro(
        """
main:   call    install_traps
        try     ud2
        try     hlt
        try     movb 0x7fffff8, %al
        try     int3
        try     int $0x21                       # a #GP to Xen
        try     int $0x80                       # its own gate
        ret
"""
    ).run_to("poweroff")
    got = [(trap.vector, bool(trap.rflags & RF)) for trap in guest.traps]
    assert got == [(UD, True), (GP, True), (PF, True), (3, False), (0x21, True), (0x80, False)]


def test_addresses_that_are_not_canonical(micro: MakeGuest) -> None:
    guest = micro(
        """
main:   call    install_traps
        mov     $1 << 47, %rbp
        mov     %rbp, %rax
        mov     %rsp, %rbx
        try     movb (%rbp), %cl
        try     movb (%rax), %cl
        try     movb %ds:8(%rbp), %cl           # 64-bit code has no such override
        try     movb %fs:(%rbp), %cl
        try     pushq (%rax)
        ret
"""
    ).run_to("poweroff")
    assert [(trap.vector, trap.error) for trap in guest.traps] == [(SS, 0), (GP, 0), (SS, 0), (GP, 0), (GP, 0)]


COMPAT = """
        .macro  try32 instruction:vararg
        movl    $8f, trap_resume
        \\instruction
8:
        .endm
main:   call    install_traps
        hypercall __HYPERVISOR_callback_op, $0, $callback
        show    callback, %rax
        push    $0xe023
        push    $compat
        lretq
        .code32
compat: mov     $0x12345, %ebx
        inc     %ebx                            # REX in 64-bit code
        try32   ud2
        try32   int $0x21
        mov     $0x7fffffff, %eax
        add     $1, %eax
        try32   into
        try32   sysenter
        mov     $0x6666666, %ecx
        try32   mov (%ecx), %al
        std
at:     syscall
after:  ud2
        .code64
entry:  mov     %rcx, %r12
        pushfq
        popq    %r13
        show    ebx, %rbx
        show    rcx, %r12
        mov     16(%rsp), %rax
        show    rip, %rax
        mov     24(%rsp), %eax
        show    cs, %rax
        mov     32(%rsp), %rax
        show    frame_flags, %rax
        show    flags, %r13
        mov     48(%rsp), %rax
        show    ss, %rax
        poweroff
        .data
        .balign 8
callback: .word 7, 0                            # CALLBACKTYPE_syscall32
        .long   0
        .quad   entry
        .text
"""


def test_32_bit_code_in_a_64_bit_guest(micro: MakeGuest) -> None:
    guest = micro(COMPAT).run_to("poweroff")
    assert [(trap.vector, trap.cs) for trap in guest.traps] == [
        (UD, 0xE020), (0x21, 0xE020), (4, 0xE020), (UD, 0xE020), (PF, 0xE020)
    ]  # fmt: skip
    values = guest.values
    assert values["ebx"] == 0x12346
    assert values["rcx"] == values["rip"] == guest.symbols["after"]
    assert (values["cs"], values["ss"]) == (0xE020, 0xE02B)
    assert (values["frame_flags"] & 0x400, values["flags"] & 0x400) == (0x400, 0), "DF is cleared behind the frame"


def test_segment_base_instructions(micro: MakeGuest) -> None:
    guest = micro(
        """
main:   call    install_traps
        try     rdfsbase %rax                   # not before CR4 says so
        mov     %cr4, %rax
        or      $0x10000, %rax
        mov     %rax, %cr4
        mov     %cr4, %rax
        show    cr4, %rax
        mov     $0xffff880012345678, %r9
        try     wrgsbase %r9
        try     rdgsbase %r10
        show    gs64, %r10
        try     rdgsbase %r11d
        show    gs32, %r11
        mov     $0xffffffff, %rax
        try     wrfsbase %eax
        try     rdfsbase %rcx
        show    fs, %rcx
        mov     $1 << 47, %r9
        try     wrfsbase %r9
        mov     $0xc0000100, %ecx
        rdmsr
        show    msr, %rax
        ret
"""
    ).run_to("poweroff")
    values = guest.values
    assert [(trap.vector, trap.error) for trap in guest.traps] == [(UD, -1), (GP, 0)]
    assert values["cr4"] == 0x10660
    assert (values["gs64"], values["gs32"]) == (0xFFFF_8800_1234_5678, 0x1234_5678)
    assert values["fs"] == values["msr"] == 0xFFFF_FFFF


def test_rdtsc_can_be_kept_from_user_mode(micro: MakeGuest) -> None:
    """With CR4.TSD the kernel's RDTSC is emulated."""
    guest = micro(
        """
main:   call    install_traps
        rdtsc
        mov     %cr4, %rax
        or      $4, %rax
        mov     %rax, %cr4
        rdtsc64
        mov     %rax, %r12
        rdtscp
        shl     $32, %rdx
        or      %rdx, %rax
        sub     %r12, %rax
        show    later, %rax
        mov     %cr4, %rax
        and     $~4, %rax
        mov     %rax, %cr4
        rdtsc
        ret
"""
    )
    emulated: list[int] = []
    guest.machine.privileged.observe(lambda rip, instruction: emulated.append(instruction.opcode))
    guest.run_to("poweroff")
    assert guest.traps == []
    assert [opcode for opcode in emulated if opcode not in (0x0F20, 0x0F22)] == [0x0F31, 0x0F01]
    assert 0 < guest.values["later"] < 1_000_000


def test_what_is_read_of_xens_tables(micro: MakeGuest) -> None:
    guest = micro(
        """
main:   call    install_traps
        sgdt    tables
        sidt    tables + 16
        xor     %eax, %eax
        str     %ax
        show    tr, %rax
        sldt    %ax
        show    ldt, %rax
        smsw    %ax
        show    msw, %rax
        ret
        .data
        .balign 16
tables: .skip   32
        .text
"""
    ).run_to("poweroff")
    values = guest.values
    assert (values["tr"], values["ldt"], values["msw"]) == (0xE040, 0, 0x33)
    assert guest.read("tables", 10) == b"\xff\xef" + (0xFFFF_8200_0000_0000).to_bytes(8, "little")
    assert guest.read(guest.symbols["tables"] + 16, 2) == b"\xff\x0f"


def test_behind_a_gdt_there_is_nothing(micro: MakeGuest) -> None:
    """Before the first one the CPU finds no page there, then an empty one."""
    guest = micro(
        """
main:   call    install_traps
        mov     $0x2000, %eax
        try     lar %eax, %ebx
        mfn_of  gdt
        mov     %rax, gdt_frame
        map_page gdt, gdt_frame, PTE_P | PTE_US
        hypercall __HYPERVISOR_set_gdt, $gdt_frame, $512
        mov     $0x2000, %eax
        try     lar %eax, %ebx
        setz    %al
        movzbl  %al, %eax
        show    found, %rax
        mov     $0x2000, %eax
        try     mov %eax, %fs
        ret
        .data
        .balign 4096
gdt:    .skip   4096
gdt_frame: .quad 0
        .text
"""
    ).run_to("poweroff")
    assert [(trap.vector, trap.error) for trap in guest.traps] == [(GP, 0x2000), (GP, 0x2000)]
    assert guest.values["found"] == 0


def test_an_ldt(micro: MakeGuest) -> None:
    guest = micro(
        """
main:   call    install_traps
        map_page ldt, ldt_mfn, PTE_P | PTE_US
        mfn_of  ldt
        mov     %rax, ldt_mfn
        map_page ldt, ldt_mfn, PTE_P | PTE_US
        movl    $13, ext_op                     # SET_LDT
        movq    $ldt, ext_op + 8
        movl    $600, ext_op + 16
        hypercall __HYPERVISOR_mmuext_op, $ext_op, $1, $0, $DOMID_SELF
        show    set_ldt, %rax
        xor     %eax, %eax
        sldt    %ax
        show    sldt, %rax
        mov     $0x07, %eax                     # data
        try     mov %eax, %fs
        xor     %ebx, %ebx
        mov     %fs, %ebx
        show    fs, %rbx
        mov     %fs:variable - 0x1000, %rbx     # its base is 0x1000
        show    through, %rbx
        lar     %eax, %ebx
        show    access, %rbx
        lsl     %eax, %ebx
        show    limit, %rbx
        mov     $0x0f, %eax                     # absent
        try     mov %eax, %fs
        mov     $0x1007, %eax                   # its page is not there
        try     mov %eax, %fs
        mov     $600 * 8 + 7, %eax              # beyond
        try     mov %eax, %fs
        ret
        .data
        .balign 4096
ldt:    .quad   0x004ff3001000ffff, 0x004f73001000ffff
        .balign 4096
variable: .quad 0x5a5a
ldt_mfn: .quad  0
ext_op: .skip   32
        .text
""".replace("        map_page ldt, ldt_mfn, PTE_P | PTE_US\n        mfn_of", "        mfn_of", 1)
    ).run_to("poweroff")
    values = guest.values
    assert (values["set_ldt"], values["sldt"], values["fs"], values["through"]) == (0, 0xE050, 7, 0x5A5A)
    assert (values["access"], values["limit"]) == (0x0040_F300, 0xF_FFFF)
    got = [(trap.vector, trap.error) for trap in guest.traps]
    page = guest.symbols["ldt"] + 0x1000
    assert got[0] == (NP, 0x0C)
    assert got[2] == (GP, 600 * 8 + 4)
    assert page


def test_what_is_not_for_a_guest(micro: MakeGuest) -> None:
    """#GP for what only ring 0 may do, #UD for what this CPU does not have."""
    refused = {
        "hlt": GP, "invd": GP, "invlpg main": GP, "lgdt main": GP, "lidt main": GP, "lmsw %ax": GP, "ltr %ax": GP,
        "lldt %ax": GP, "swapgs": GP, "sysretq": GP, "rdpmc": GP, "mov %rax, %cr8": GP, "wrmsr": GP,
        "sysexitl": UD, "sysenter": UD, "xgetbv": UD, "xsetbv": UD, "xsave main": UD,
        "rdrand %eax": UD, "rdseed %eax": UD, "monitor": UD, "mwait": UD, "vmcall": UD, "vmmcall": UD, "clac": UD,
        "rsm": UD, "wrfsbase %rax": UD,
    }  # fmt: skip
    code = "".join(f"xor %eax, %eax\nmov $0x17, %ecx\nxor %edx, %edx\ntry {name}\n" for name in refused)
    guest = micro(f"main:   call install_traps\n{code}ret\n").run_to("poweroff")
    got = {trap.rip: trap.vector for trap in guest.traps}
    assert list(got.values()) == list(refused.values())


def test_an_error_of_the_x87_is_an_exception(micro: MakeGuest) -> None:
    """CR0.NE, with which Xen runs: #MF at the next instruction that waits."""
    guest = micro(
        """
main:   call    install_traps
        fninit
        fldcw   control
        fld1
        fldz
        fdivrp
at:     try     fwait
        fnclex
        ret
        .data
control: .word  0x37b                           # division by zero is not masked
        .text
"""
    ).run_to("poweroff")
    assert [(trap.vector, trap.rip - guest.symbols["at"]) for trap in guest.traps] == [(16, 12)]
