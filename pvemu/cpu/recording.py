"""What a recording of guest code consists of (see ``pvemu.cpu.unicorn.recorder``, which makes it)."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["RECORDED", "Chunk"]

#: Bit n of a record's mask stands for this register: the order of QEMU's CPUX86State.regs.
RECORDED = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip


class Chunk(NamedTuple):
    """Records in a row. ``words`` is valid during the call only. An instruction about to run is its address, a mask of
    the registers (RECORDED) that are not as before, and their values; an access to memory is its machine address, bit
    63 with the type (16 or 25 a read, 17 a write) from bit 32 and the size in bytes below, and the value. ``registers``
    is how they stood before, ``first`` the number of the first instruction in it, ``next`` of the first behind it.
    """

    words: memoryview
    registers: tuple[int, ...]
    first: int
    next: int
