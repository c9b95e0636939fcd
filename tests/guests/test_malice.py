"""Guests that mean harm, or are broken: they end, or go on as on Xen, and nothing of ours breaks.

Any exception that is not the guest's own fails these tests, as does a run that a watchdog has to end.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from hypercalls.table import TABLE
from pvemu.hypervisor.domain import DomainCrashError

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest, MicroGuest

#: Random hypercalls: numbers 0 to 63, arguments that are small, pointers into `heap`, or anything.
STORM = """
        .macro random                           # rax; xorshift in r15
        mov %r15, %rax
        shl $13, %rax
        xor %rax, %r15
        mov %r15, %rax
        shr $7, %rax
        xor %rax, %r15
        mov %r15, %rax
        shl $17, %rax
        xor %rax, %r15
        mov %r15, %rax
        .endm
main:   call install_upcall
        call install_traps
        movq $recover, trap_resume
        mov seed, %r15
        mov $400, %r14d
again:  mov $stack_top - 256, %rsp
        dec %r14
        jz done
        mov $64, %ebx                           # random bytes, small numbers and pointers in the heap
1:      call argument
        mov %rax, heap(, %rbx, 8)
        dec %ebx
        jnz 1b
        call argument
        mov %rax, %rdi
        call argument
        mov %rax, %rsi
        call argument
        mov %rax, %rdx
        call argument
        mov %rax, %r10
        call argument
        mov %rax, %r8
        random
        and $63, %eax
        cmp skipped, %eax
        je again
        cmp $29, %eax                           # sched_op and iret end too many runs
        je again
        cmp $23, %eax
        je again
        syscall
recover: jmp again                              # until the trap log is full
done:   ret
argument:
        random
        mov %rax, %rbp
        shr $60, %rbp
        cmp $6, %ebp
        jb 1f
        cmp $10, %ebp
        jb 2f
        cmp $12, %ebp
        jb 3f
        ret
1:      and $15, %eax
        ret
2:      and $511, %eax
        add $heap, %rax
        ret
3:      and $0xffff, %eax
        add $0x40000, %rax                      # about machine frames
        ret
        .data
        .balign 8
seed:   .quad 0
skipped: .long -1
        .bss
        .balign 4096
heap:   .skip 8192
        .text
"""


def run_to_any_end(guest: MicroGuest, seconds: float = 10) -> str:
    timer = threading.Timer(seconds, lambda: guest.machine.stop("timeout"))
    timer.start()
    try:
        guest.run()
    finally:
        timer.cancel()
    assert guest.ending != "timeout"
    return guest.ending


def test_random_hypercalls(micro: MakeGuest) -> None:
    calls = 0
    for seed in range(1, 14):
        guest = micro(STORM)
        guest.poke("seed", (seed * 0x9E3779B97F4A7C15 & (1 << 64) - 1).to_bytes(8, "little"))
        assert run_to_any_end(guest) in ("poweroff", "crash", "stuck", "hang", "watchdog"), seed
        calls += sum(guest.machine.hypercalls.counts.values())
    assert calls > 3000


def test_every_hypercall_with_hostile_arguments(micro: MakeGuest) -> None:
    """From the host, all numbers, all pairs of pointers that are not there and values at the edges. What ends a run is
    undone: the next call finds a running domain.
    """
    guest = micro("main: call install_upcall\nshow ready, $1\n1: mov $30000, %ecx\n2: rdtsc\nloop 2b\npoweroff\n"
                  ".bss\n.balign 4096\nheap: .skip 4096\n.text")  # fmt: skip
    machine = guest.machine
    values = (0, 1, 2, 7, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 63, (1 << 64) - 1, guest.symbols["heap"],
              guest.symbols["heap"] + 4090, 0xFFFF_8000_0000_0000, 0x666666666000)  # fmt: skip
    for op in range(64):
        for i in range(len(values) ** 2):
            args = [values[i % 13], values[i // 13], values[(i * 5 + 3) % 13], values[(i * 7 + 1) % 13], 1, 0]
            if TABLE.get(op) is not None and TABLE[op].name == "multicall":
                args[1] = min(args[1], 300)  # all memory is calls, if one lets it
            try:
                result = machine.hypercalls.call(op, args)
            except DomainCrashError:
                continue
            assert isinstance(result, int)
            assert -4096 < result < 1 << 64
            machine.domain.resume()
            machine.vcpu.resume = machine.outcome = None


@pytest.mark.parametrize("indices", [(0, 0x8000_0000), (5, 4), (0xFFFF_FFFF, 0), (0, 2049), (0x7FFF_FFFF, 0xFFFF_FFFF)])
def test_console_indices(micro: MakeGuest, indices: tuple[int, int]) -> None:
    cons, prod = indices
    guest = micro(f"""
main:   mov console_ring, %rdi
        movl ${cons}, 1024+2048+8(%rdi)
        movl ${prod}, 1024+2048+12(%rdi)
        call console_kick
        movl ${prod}, 0xc00(%rdi)
        movl ${cons}, 0xc04(%rdi)
        call console_kick
        poweroff
""")
    assert run_to_any_end(guest) == "poweroff"


RINGS = [(0, 16, 0, 0), (0, 1025, 0, 0), (0xFFFF_FFF0, 0, 0, 0), (0, 0, 7, 3), (0, 1024, 0, 0)]


@pytest.mark.parametrize("indices", RINGS)
@pytest.mark.parametrize("fill", [0, 0x01010101, 0xFFFFFFFF, 0x0B0B0B0B])
def test_xenstore_ring(micro: MakeGuest, indices: tuple[int, int, int, int], fill: int) -> None:
    guest = micro(f"""
main:   mov start_info, %rbx
        mov SI_store_mfn(%rbx), %rax
        mov $M2P, %rcx
        mov (%rcx, %rax, 8), %rdi
        shl $12, %rdi
        mov %rdi, %rdx
        mov ${fill}, %eax
        mov $256, %ecx
        rep stosl
        movl ${indices[0]}, 2048(%rdx)
        movl ${indices[1]}, 2052(%rdx)
        movl ${indices[2]}, 2056(%rdx)
        movl ${indices[3]}, 2060(%rdx)
        mov 64(%rbx), %eax
        mov %eax, port
        hypercall __HYPERVISOR_event_channel_op, $4, $port
        hypercall __HYPERVISOR_sched_op, $0
        hypercall __HYPERVISOR_event_channel_op, $4, $port
        poweroff
        .data
port:   .long 0
        .text
""")
    assert run_to_any_end(guest) == "poweroff"


@pytest.mark.parametrize("seed", range(8))
def test_random_bytes_as_code(micro: MakeGuest, seed: int) -> None:
    """With a handler that steps on by one byte after every exception, until the log is full."""
    guest = micro("""
main:   call install_upcall
        call install_traps
        movq $skip, trap_hook
        movq $1, trap_return
        jmp code
skip:   incq 8 + 3*8 + 4*8(%rsp)
        ret
        .balign 4096
code:   .skip 4096, 0xcc
""")
    state, code = seed + 1, bytearray()
    for _ in range(4096):
        state = (state * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
        code.append(state >> 56)
    guest.poke("code", bytes(code))
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.3):
            guest.machine.engine.interrupt()

    watchdog = threading.Thread(target=watch)
    watchdog.start()
    try:
        assert run_to_any_end(guest) in ("crash", "hang", "stuck", "poweroff", "reboot")
    finally:
        is_over.set()
        watchdog.join()


SELECTORS = [(0xE033, 0xE02B), (0, 0), (0xE030, 0xE028), (0xE033, 0), (0x33, 0x2B), (0xFFFF, 0xFFFF), (0xE02B, 0xE033),
             (0xE008, 0xE010), (7, 7)]  # fmt: skip


@pytest.mark.parametrize("selectors", SELECTORS)
@pytest.mark.parametrize("rip", [0x1234567890ABCDEF, 0xFFFF82D040000000, 0x666666666000])
def test_iret_to_anywhere(micro: MakeGuest, selectors: tuple[int, int], rip: int) -> None:
    cs, ss = selectors
    guest = micro(f"""
main:   call install_traps
        movq $1f, trap_resume
        movq $flat, trap_hook
        mov $0x{rip:x}, %rax
        pushq ${ss}
        pushq $stack_top - 512
        pushq $0x202
        pushq ${cs & ~3}
        push %rax
        pushq $0
        pushq $0
        pushq $0
        pushq $0
        mov $23, %eax
        syscall
1:      poweroff
flat:   movw $0xe030, 8 + 3*8 + 5*8(%rsp)
        movq $0xe02b, 8 + 3*8 + 8*8(%rsp)
        ret
""")
    run_to_any_end(guest)
    assert guest.ending == "poweroff", (guest.machine.crash_lines, guest.traps[:3])
    trap = guest.traps[0]
    assert trap.rip == rip
    assert trap.vector in (11, 12, 13, 14)


PLACES = ["$M2P", "$0xffff820000000000", "$0xffff82000000e000", "$0xffff87fffffff000", "$0x8000"]


@pytest.mark.parametrize("place", PLACES)
def test_stores_to_xen(micro: MakeGuest, place: str) -> None:
    guest = micro(f"""
main:   call install_traps
        mov {place}, %rax
        try movq $-1, (%rax)
        try movq $-1, 8(%rax)
        poweroff
""").run_to("poweroff")
    assert [t.vector for t in guest.traps] == ([] if place == "$0x8000" else [14] * 2)
