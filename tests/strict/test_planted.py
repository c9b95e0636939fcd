"""Guests that rely on something that Xen does not promise: each runs well, and fails under the one aspect that says so.

Each guest is a few lines that print `good` and power off, or crash where what they rely on does not hold.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pvemu.config import ASPECTS, DomainConfig, StrictConfig
from pvemu.disk.spec import parse_disk_specs
from pvemu.machine import Machine
from pvemu.testing.session import Session
from pvemu.testing.strict import StrictReport, strict_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.conftest import Assemble

    Guest = Callable[[str], Path]

_SPEC = importlib.util.spec_from_file_location("cli_conftest_strict", Path(__file__).parents[1] / "cli/conftest.py")
assert _SPEC is not None
assert _SPEC.loader is not None
CLI: Any = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = CLI
_SPEC.loader.exec_module(CLI)

SEEDS = range(1, 5)
#: In the end: the check failed, or all went well.
ENDING = """
good:   shutdown 0
bad:    shutdown 3
"""
REGISTERS = """
        mov     $2, %edi                        # XENMEM_maximum_ram_page, and rdi is used again
        xor     %esi, %esi
        mov     $12, %eax                       # memory_op
        syscall
        cmp     $2, %rdi
        jne     bad
"""
MEMORY = """
        cmpq    $0, -2048(%rsp)                 # the boot stack has never been used so deep
        jne     bad
"""
FRAMES = """
        mov     104(%rbx), %rsi                 # start_info.mfn_list
        mov     (%rsi), %rax
        inc     %rax
        cmp     %rax, 8(%rsi)
        jne     bad
"""
EVENTS = """
        movl    $100, 3084(%r12)                # out_prod: a hundred bytes of output ...
        mov     80(%rbx), %eax
        mov     %eax, argument(%rip)
        mov     $4, %edi                        # ... EVTCHNOP_send ...
        lea     argument(%rip), %rsi
        mov     $32, %eax
        syscall
        cmpl    $0, 3080(%r12)                  # ... and at once some of it has been taken: out_cons
        je      bad
"""
TIMERS = """
        movl    $0, virq(%rip)                  # VIRQ_TIMER
        movl    $0, virq+4(%rip)
        mov     $1, %edi                        # EVTCHNOP_bind_virq
        lea     virq(%rip), %rsi
        mov     $32, %eax
        syscall
        mov     virq+8(%rip), %eax
        mov     %eax, port(%rip)
        rdtsc
        shl     $32, %rdx
        or      %rdx, %rax
        mov     %rax, %rdi
        add     $1000000, %rdi                  # a timer in a millisecond (the TSC ticks in nanoseconds)
        lea     2000(%rdi), %rax
        mov     %rax, poll+16(%rip)
        mov     $15, %eax
        syscall
        lea     port(%rip), %rax
        mov     %rax, poll(%rip)
        movl    $1, poll+8(%rip)
        mov     $3, %edi                        # SCHEDOP_poll, for it, and two microseconds longer
        lea     poll(%rip), %rsi
        mov     $29, %eax
        syscall
        mov     40(%rbx), %rdi                  # shared_info's maddr: map it over the console's guard, our own page
        mov     %rdi, %rsi
        or      $0x67, %rsi
        lea     window(%rip), %rdi
        mov     $2, %edx
        mov     $14, %eax                       # update_va_mapping
        syscall
        mov     port(%rip), %eax
        bt      %rax, window+2048(%rip)         # evtchn_pending
        jnc     bad
        jmp     good
        .balign 8
virq:   .long   0, 0, 0
port:   .long   0
poll:   .quad   0, 0, 0
        .balign 4096
window: .fill   4096, 1, 0
"""
STORE = """
        lea     0x1000(%rbx), %r13              # the xenstore ring
        mov     2048(%r13), %ecx
        movl    $2, 0(%r13)                     # XS_READ "name"
        movl    $0, 4(%r13)
        movl    $0, 8(%r13)
        movl    $5, 12(%r13)
        movl    $0x656d616e, 16(%r13)
        movb    $0, 20(%r13)
        movl    $21, 2052(%r13)                 # req_prod
        mov     64(%rbx), %eax                  # store_evtchn
        mov     %eax, argument(%rip)
        mov     $4, %edi
        lea     argument(%rip), %rsi
        mov     $32, %eax
        syscall
1:      mov     $0, %edi                        # SCHEDOP_yield, until something has come
        mov     $29, %eax
        syscall
        mov     2060(%r13), %eax                # rsp_prod
        test    %eax, %eax
        jz      1b
        cmp     $17, %eax                       # which is taken for all of it
        jb      bad
"""
CONSOLE = """
        movl    $2000, 3084(%r12)               # nearly the whole ring is full, which one event empties
        mov     80(%rbx), %eax
        mov     %eax, argument(%rip)
        mov     $4, %edi
        lea     argument(%rip), %rsi
        mov     $32, %eax
        syscall
        mov     $0, %edi
        mov     $29, %eax
        syscall
        cmpl    $2000, 3080(%r12)
        jne     bad
"""
#: A blkfront of four requests, whose answers it takes to come in the order of the requests.
DISK = """
        .macro  store type, body                # XS_WRITE 11, XS_READ 2; the reply's body is in `reply`
        mov     $\\type, %eax
        lea     9f(%rip), %rsi
        mov     $8f - 9f, %edx
        call    xs_call
        jmp     8f
9:      .ascii  "\\body"
8:
        .endm
        .macro  mfn_of place                    # %rax
        lea     \\place(%rip), %rcx
        shr     $12, %rcx
        mov     104(%rbx), %rax
        mov     (%rax, %rcx, 8), %rax
        .endm
        lea     0x1000(%rbx), %r13
        mov     $2, %edi                        # GNTTABOP_setup_table
        lea     setup(%rip), %rsi
        lea     frame(%rip), %rax
        mov     %rax, 16(%rsi)
        mov     $1, %edx
        mov     $20, %eax
        syscall
        mov     frame(%rip), %rsi
        shl     $12, %rsi
        or      $0x67, %rsi
        lea     grants(%rip), %rdi
        mov     $2, %edx
        mov     $14, %eax                       # update_va_mapping
        syscall
        mfn_of  ring
        movl    $1, grants+64(%rip)             # GTF_permit_access, for domain 0
        mov     %eax, grants+68(%rip)
        mfn_of  data
        movl    $1, grants+72(%rip)
        mov     %eax, grants+76(%rip)
        movl    $1, ring+4(%rip)                # req_event, rsp_event
        movl    $1, ring+12(%rip)
        mov     $6, %edi                        # EVTCHNOP_alloc_unbound
        lea     unbound(%rip), %rsi
        mov     $32, %eax
        syscall
        mov     unbound+4(%rip), %eax
        add     $'0', %eax
        mov     %al, port(%rip)
        store   11, "device/vbd/51712/ring-ref\\0008"
        lea     channel(%rip), %rsi
        mov     $port + 1 - channel, %edx
        mov     $11, %eax
        call    xs_call
        store   11, "device/vbd/51712/state\\0003"
1:      store   2, "/local/domain/0/backend/vbd/1/51712/state\\000"
        cmpb    $'4', reply(%rip)
        jne     1b
        store   11, "device/vbd/51712/state\\0004"
        xor     %ecx, %ecx
        lea     ring+64(%rip), %rdi
1:      movl    $0x100, (%rdi)                  # BLKIF_OP_READ, one segment
        mov     %rcx, 8(%rdi)                   # the id
        mov     %rcx, 16(%rdi)                  # the sector
        movl    $9, 24(%rdi)                    # the grant; sector 0 of the page
        movl    $0, 28(%rdi)
        add     $112, %rdi
        inc     %ecx
        cmp     $4, %ecx
        jne     1b
        movl    $4, ring(%rip)                  # req_prod
        mov     unbound+4(%rip), %eax
        call    send
1:      call    yield
        cmpl    $4, ring+8(%rip)                # rsp_prod
        jne     1b
        xor     %ecx, %ecx
        lea     ring+64(%rip), %rdi
1:      cmp     %rcx, (%rdi)                    # the first answer is the first request's, and so on
        jne     bad
        add     $112, %rdi
        inc     %ecx
        cmp     $4, %ecx
        jne     1b
        jmp     good
send:   mov     %eax, argument(%rip)            # EVTCHNOP_send to port %eax
        mov     $4, %edi
        lea     argument(%rip), %rsi
        mov     $32, %eax
        syscall
        ret
yield:  push    %rdi
        push    %rdx
        push    %rcx
        xor     %edi, %edi
        mov     $29, %eax
        syscall
        pop     %rcx
        pop     %rdx
        pop     %rdi
        ret
xs_call: mov    %eax, header(%rip)              # a request of type %eax, %edx bytes at %rsi
        mov     %edx, header+12(%rip)
        push    %rsi
        push    %rdx
        lea     header(%rip), %rsi
        mov     $16, %edx
        call    xs_put
        pop     %rdx
        pop     %rsi
        call    xs_put
        mov     64(%rbx), %eax
        call    send
        lea     header(%rip), %rdi
        mov     $16, %edx
        call    xs_get
        lea     reply(%rip), %rdi
        mov     header+12(%rip), %edx
xs_get: mov     2056(%r13), %ecx                # rsp_cons
1:      cmp     %ecx, 2060(%r13)
        jne     2f
        call    yield
        jmp     1b
2:      mov     %ecx, %eax
        and     $1023, %eax
        mov     1024(%r13,%rax), %al
        mov     %al, (%rdi)
        inc     %rdi
        inc     %ecx
        mov     %ecx, 2056(%r13)
        dec     %edx
        jnz     1b
        ret
xs_put: mov     2052(%r13), %ecx                # req_prod
1:      mov     %ecx, %eax
        and     $1023, %eax
        mov     (%rsi), %r8b
        mov     %r8b, (%r13,%rax)
        inc     %rsi
        inc     %ecx
        dec     %edx
        jnz     1b
        mov     %ecx, 2052(%r13)
        ret
channel: .ascii "device/vbd/51712/event-channel\\0"
port:   .byte   0
        .balign 8
header: .fill   4, 4, 0
setup:  .short  0x7ff0, 0
        .long   1, 0, 0
        .quad   0
frame:  .quad   0
unbound: .short 0x7ff0, 0                       # DOMID_SELF, for domain 0
        .long   0
reply:  .fill   64, 1, 0
        .balign 4096
grants: .fill   4096, 1, 0
ring:   .fill   4096, 1, 0
data:   .fill   4096, 1, 0
"""
PLANTED = {
    "registers": REGISTERS, "memory": MEMORY, "frames": FRAMES, "events": EVENTS, "timers": TIMERS, "store": STORE,
    "console": CONSOLE, "disk": DISK,
}  # fmt: skip
#: A guest that takes nothing for granted.
PATIENT = """
        print   "good\\r\\n"
1:      mov     $0, %edi
        mov     $29, %eax
        syscall
        mov     3080(%r12), %eax
        cmp     %eax, 3084(%r12)
        jne     1b
"""


@pytest.fixture
def guest(assemble: Assemble) -> Guest:
    return lambda source: assemble(CLI.PRELUDE + source + ENDING, script=CLI.SCRIPT)


def runs(path: Path, *aspects: str, seeds: Iterable[int] = SEEDS) -> StrictReport:
    disk = path.with_suffix(".img")
    disk.write_bytes(bytes(1 << 20))
    config = DomainConfig(kernel=str(path), memory_mib=8, disks=parse_disk_specs([f"xvda={disk},ro"]))
    return strict_runs(config, seeds, aspects=aspects or ASPECTS, jobs=1, timeout=10.0)


@pytest.mark.parametrize("aspect", PLANTED)
def test_it_fails_under_its_aspect_alone(guest: Guest, aspect: str) -> None:
    path = guest(PLANTED[aspect])
    found = runs(path, aspect)
    assert found.plain.verdict == "success", found.plain.reason
    assert found.failures, f"nothing of {aspect} was seen"
    assert {result.exit_code for result in found.failures} == {6}
    assert found.exit_code == 6
    seed, difference = found.failures[0].seed, found.failures[0].difference
    assert [result.difference for result in runs(path, aspect, seeds=[seed]).results] == [difference]
    others = {
        "events": ("console",), "console": ("events",), "store": (), "timers": ("events",),
    }.get(aspect, ())  # fmt: skip
    rest = runs(path, *(other for other in ASPECTS if other != aspect and other not in others))
    assert (rest.score, rest.exit_code) == ("strict: 4/4", 0)


@pytest.mark.parametrize("aspect", ["registers", "memory", "frames", "disk"])
def test_the_aspect_is_named(guest: Guest, aspect: str) -> None:
    found = runs(guest(PLANTED[aspect]))
    assert found.failures[0].alone == (aspect,)


def test_a_patient_guest_survives(guest: Guest) -> None:
    found = runs(guest(PATIENT))
    assert (found.score, found.exit_code) == ("strict: 4/4", 0)


def test_without_a_success_there_is_nothing_to_compare(guest: Guest) -> None:
    found = runs(guest("jmp bad"))
    assert (found.results, found.plain.verdict, found.exit_code) == ([], "crash", 6)


def test_a_seed_repeats_bit_for_bit(guest: Guest) -> None:
    path = guest('print "one two three four five six seven eight nine ten eleven\\r\\n"' + PATIENT)

    def run(seed: int) -> tuple[bytes, int, dict[str, int], bytes]:
        config = DomainConfig(kernel=str(path), memory_mib=8, strict=StrictConfig(seed))
        machine = Machine.create(config)
        pieces: list[bytes] = []
        session = Session(machine, timeout=10.0, sink=pieces.append)
        verdict = session.run()
        machine.close()
        return b"|".join(pieces), machine.clock.now(), verdict.hypercalls, bytes(machine.ram.bytes[: 1 << 20])

    first = run(3)
    assert run(3) == first
    assert run(4) != first
