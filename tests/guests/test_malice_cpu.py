"""Random code full of instructions that trap, with random breakpoints and single steps: it ends, and nothing breaks."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest

#: The handler goes on one byte behind each exception.
SOURCE = {
    64: """
main:   call    install_traps
        movq    $skip, trap_hook
        movq    $1, trap_return
        {setup}
        jmp     code
skip:   incq    8 + 3*8 + 4*8(%rsp)
        ret
        .balign 4096
code:   .skip   4096, 0xcc
""",
    32: """
main:   call    install_traps
        movl    $code, trap_resume
        movl    $skip, trap_hook
        {setup}
        jmp     code
skip:   mov     trap_count, %eax
        imul    $64, %eax
        mov     trap_log - 64 + 8(%eax), %eax
        inc     %eax
        mov     %eax, trap_resume
        ret
        .balign 4096
code:   .skip   4096, 0xcc
""",
}
TRAPPING_CODE = """
0f05 cd82 0f34 9c 9d cf 48cf 8ed0 17 0f31 0f01f9 f30faec0 f3480faed0 0fa2 e480 e680 6c f36c 6e cc ce f1 0f0b
9a000000000900 ff1c24 ff2c24 8ee0 8ed8 0f21c0 0f23f8 0f22e0 0f20c0 0f22c0 0f06 50 58 c3 cb 68010100009d 669d
c8100000 60 61 0fc70f f00fb10c24 0fae0424 dd3424 a4 f3a4 f3ab ea0000100023e0 0f00d8 0f02c0 0f03c0 f4 0f30 0f32
"""
TRAPPING = [bytes.fromhex(code) for code in TRAPPING_CODE.split()]
PLACES = ("code", "code + 16", "stack_top - 64", "stack_top - 4096", "trap_log", "trap_count")
GUEST_NS = 3_000_000


def breakpoints(choice: random.Random, width: str) -> str:
    """Code that sets all debug registers to something, and perhaps EFLAGS.TF."""
    lines = []
    for n in range(4):
        lines.append(f"mov ${choice.choice(PLACES)} + {choice.randrange(64)}, %{width}ax")
        lines.append(f"mov %{width}ax, %db{n}")
    control = sum(
        (choice.random() < 0.7) << 2 * n | choice.choice((0, 1, 3)) << 16 + 4 * n | choice.randrange(4) << 18 + 4 * n
        for n in range(4)
    )
    lines += [f"mov ${control}, %eax", f"mov %{width}ax, %db7"]
    if choice.random() < 0.3:
        lines += ["pushf", f"orl $0x100, (%{width}sp)", "popf"]
    return "\n".join(lines)


@pytest.mark.parametrize("seed", [2, 5, 9, 12, 16, 18, 21, 25])
def test_random_code_with_breakpoints(micro: MakeGuest, seed: int) -> None:
    choice = random.Random(seed)
    bits = 64 if seed % 3 else 32
    setup = breakpoints(choice, "r" if bits == 64 else "e")
    guest = micro(SOURCE[bits].replace("{setup}", setup), bits=bits)
    code = b""
    while len(code) < 4000:
        code += choice.choice(TRAPPING) if choice.random() < 0.6 else choice.randbytes(choice.randrange(1, 5))
    guest.poke("code", code[:4000])
    machine = guest.machine
    machine.clock.call_at(machine.clock.now() + GUEST_NS, lambda: machine.stop("enough"))
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.3):
            machine.engine.interrupt()

    watchdog = threading.Thread(target=watch)
    watchdog.start()
    try:
        guest.run()
    finally:
        is_over.set()
        watchdog.join()
    assert guest.ending in ("crash", "hang", "stuck", "poweroff", "reboot", "enough")
