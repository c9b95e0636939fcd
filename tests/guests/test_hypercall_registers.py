"""What a hypercall leaves of the registers, and which of their bits count (xen/arch/x86/pv/hypercall.c, entry.S).

A release build keeps the arguments' registers; SYSCALL itself takes rcx and r11.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest

KEPT64 = ["rbx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r12", "r13", "r14", "r15"]
KEPT32 = ["ebx", "ecx", "edx", "esi", "edi", "ebp"]
VERSION = 4 << 16 | 17
ENOSYS = 38


def guest64() -> str:
    """XENVER_version with each register holding its own number; then numbers that are too wide."""
    fill = "".join(f"mov ${0x1111_0000_0000_0000 + i:#x}, %{name}\n" for i, name in enumerate(KEPT64))
    keep = "".join(f"mov %{name}, kept + {8 * i}\n" for i, name in enumerate(KEPT64))
    return f"""
main:   {fill} xor %edi, %edi
        xor %esi, %esi
        mov $17, %eax
        syscall
behind: mov %rax, result
        mov %rcx, kept + 8 * 20
        mov %r11, kept + 8 * 21
        {keep} show result, result
        mov $0x100000011, %rax                  # xen_version, if only 32 bits counted
        xor %edi, %edi
        syscall
        show wide_number, %rax
        mov $17, %eax
        mov $0x100000000, %rdi                  # an int: XENVER_version
        syscall
        show wide_command, %rax
        mov $12, %eax
        mov $0x10000000002, %rdi                # an unsigned long: XENMEM_maximum_ram_page with a first extent
        syscall
        show wide_memory_op, %rax
        poweroff
        .data
        .balign 8
result: .quad 0
kept:   .skip 8 * 24
"""


def guest32() -> str:
    fill = "".join(f"mov ${0x1111_0000 + i:#x}, %{name}\n" for i, name in enumerate(KEPT32))
    keep = "".join(f"mov %{name}, kept + {4 * i}\n" for i, name in enumerate(KEPT32))
    return f"""
main:   {fill} xor %ebx, %ebx
        xor %ecx, %ecx
        mov $17, %eax
        int $0x82
        mov %eax, result
        {keep} show result, result
        poweroff
        .data
        .balign 8
result: .long 0
kept:   .skip 4 * 8
"""


def test_registers_of_a_64_bit_guest(micro: MakeGuest) -> None:
    guest = micro(guest64()).run_to("poweroff")
    expected = {name: 0x1111_0000_0000_0000 + i for i, name in enumerate(KEPT64)} | {"rdi": 0, "rsi": 0}
    assert {name: guest.quad("kept", i) for i, name in enumerate(KEPT64)} == expected
    assert guest.quad("kept", 20) == guest.symbols["behind"]
    assert guest.quad("kept", 21) & 0x200
    assert guest.values["result"] == guest.values["wide_command"] == VERSION
    assert guest.values["wide_number"] == (1 << 64) - ENOSYS
    assert guest.values["wide_memory_op"] == (1 << 64) - 22


def test_registers_of_a_32_bit_guest(micro: MakeGuest) -> None:
    guest = micro(guest32(), bits=32).run_to("poweroff")
    expected = {name: 0x1111_0000 + i for i, name in enumerate(KEPT32)} | {"ebx": 0, "ecx": 0}
    assert {name: guest.word("kept", i) for i, name in enumerate(KEPT32)} == expected
    assert guest.values["result"] == VERSION
