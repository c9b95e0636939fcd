"""The recorder's callbacks as x86-64 machine code: a Python callback takes 0.35 us for each instruction, these 20 ns.

The engine itself writes machine code into executable memory, so where it runs these may run too. Each line has the
bytes and what they mean (Intel syntax); a test disassembles them. They keep to the System V ABI: arguments in rdi, rsi,
rdx, rcx, r8, r9; rax, r10 and r11 are free. All state is in a control block of 64-bit words (see ``recorder.py``):
[0x00] where to write next, [0x08] where the buffer is full, [0x10] whom to call then, [0x18] the guest's registers,
[0x20] instructions so far, [0x28] the number to announce, [0x30] gate, [0x38] whom to call for the announcement, [0x40]
the registers as recorded last.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from typing import NamedTuple

__all__ = ["LISTING", "Line", "NativeCode", "native_code"]


class Line(NamedTuple):
    """One instruction; ``label`` names its address."""

    label: str
    code: str
    text: str


LISTING = (
    # instruction: UC_HOOK_CODE(uc rdi, address rsi, size edx, control rcx): count it; the one asked for is announced
    Line("instruction", "48 ff 41 20", "inc qword ptr [rcx + 0x20]"),
    Line("", "48 8b 41 20", "mov rax, qword ptr [rcx + 0x20]"),
    Line("", "48 3b 41 28", "cmp rax, qword ptr [rcx + 0x28]"),
    Line("", "74 53", "je 0x61"),
    # gate: nothing more while the gate is closed
    Line("gate", "48 83 79 30 00", "cmp qword ptr [rcx + 0x30], 0"),
    Line("", "75 01", "jne 0x16"),
    Line("", "c3", "ret"),
    # record: address, room for the mask
    Line("record", "48 8b 01", "mov rax, qword ptr [rcx]"),
    Line("", "4c 8b 41 18", "mov r8, qword ptr [rcx + 0x18]"),
    Line("", "48 89 30", "mov qword ptr [rax], rsi"),
    Line("", "4c 8d 48 10", "lea r9, [rax + 0x10]"),
    Line("", "31 ff", "xor edi, edi"),
    Line("", "45 31 d2", "xor r10d, r10d"),
    # next_register: each register that changed: remembered, stored, its bit set
    Line("next_register", "4f 8b 1c d0", "mov r11, qword ptr [r8 + r10*8]"),
    Line("", "4e 3b 5c d1 40", "cmp r11, qword ptr [rcx + r10*8 + 0x40]"),
    Line("", "74 10", "je 0x44"),
    Line("", "4e 89 5c d1 40", "mov qword ptr [rcx + r10*8 + 0x40], r11"),
    Line("", "4d 89 19", "mov qword ptr [r9], r11"),
    Line("", "49 83 c1 08", "add r9, 8"),
    Line("", "44 0f ab d7", "bts edi, r10d"),
    # same_register
    Line("same_register", "41 ff c2", "inc r10d"),
    Line("", "41 83 fa 10", "cmp r10d, 0x10"),
    Line("", "75 dc", "jne 0x29"),
    Line("", "48 89 78 08", "mov qword ptr [rax + 8], rdi"),
    Line("", "4c 89 09", "mov qword ptr [rcx], r9"),
    Line("", "4c 3b 49 08", "cmp r9, qword ptr [rcx + 8]"),
    Line("", "73 01", "jae 0x5b"),
    Line("", "c3", "ret"),
    # full_instructions: the Python side empties the buffer
    Line("full_instructions", "48 89 cf", "mov rdi, rcx"),
    Line("", "ff 61 10", "jmp qword ptr [rcx + 0x10]"),
    # notify: the call keeps what the code behind it needs
    Line("notify", "56", "push rsi"),
    Line("", "51", "push rcx"),
    Line("", "48 83 ec 08", "sub rsp, 8"),
    Line("", "48 89 cf", "mov rdi, rcx"),
    Line("", "ff 51 38", "call qword ptr [rcx + 0x38]"),
    Line("", "48 83 c4 08", "add rsp, 8"),
    Line("", "59", "pop rcx"),
    Line("", "5e", "pop rsi"),
    Line("", "eb 99", "jmp 0xe"),
    # memory: UC_HOOK_MEM_*(uc rdi, type esi, address rdx, size ecx, value r8, control r9)
    Line("memory", "49 83 79 30 00", "cmp qword ptr [r9 + 0x30], 0"),
    Line("", "75 01", "jne 0x7d"),
    Line("", "c3", "ret"),
    # record_access: address; bit 63, type and size; value
    Line("record_access", "49 8b 01", "mov rax, qword ptr [r9]"),
    Line("", "48 89 10", "mov qword ptr [rax], rdx"),
    Line("", "89 cf", "mov edi, ecx"),
    Line("", "48 c1 e6 20", "shl rsi, 0x20"),
    Line("", "48 09 fe", "or rsi, rdi"),
    Line("", "48 0f ba ee 3f", "bts rsi, 0x3f"),
    Line("", "48 89 70 08", "mov qword ptr [rax + 8], rsi"),
    Line("", "4c 89 40 10", "mov qword ptr [rax + 0x10], r8"),
    Line("", "48 83 c0 18", "add rax, 0x18"),
    Line("", "49 89 01", "mov qword ptr [r9], rax"),
    Line("", "49 3b 41 08", "cmp rax, qword ptr [r9 + 8]"),
    Line("", "73 01", "jae 0xa7"),
    Line("", "c3", "ret"),
    # full_accesses
    Line("full_accesses", "4c 89 cf", "mov rdi, r9"),
    Line("", "41 ff 61 10", "jmp qword ptr [r9 + 0x10]"),
    # block: UC_HOOK_BLOCK(uc rdi, address rsi, size edx, control rcx): address, size
    Line("block", "48 8b 01", "mov rax, qword ptr [rcx]"),
    Line("", "48 89 30", "mov qword ptr [rax], rsi"),
    Line("", "89 d2", "mov edx, edx"),
    Line("", "48 89 50 08", "mov qword ptr [rax + 8], rdx"),
    Line("", "48 83 c0 10", "add rax, 0x10"),
    Line("", "48 89 01", "mov qword ptr [rcx], rax"),
    Line("", "48 3b 41 08", "cmp rax, qword ptr [rcx + 8]"),
    Line("", "73 01", "jae 0xc8"),
    Line("", "c3", "ret"),
    # full_blocks
    Line("full_blocks", "48 89 cf", "mov rdi, rcx"),
    Line("", "ff 61 10", "jmp qword ptr [rcx + 0x10]"),
)


class NativeCode:
    """The listing in executable memory. OSError where the system allows none."""

    def __init__(self) -> None:
        code = b"".join(bytes.fromhex(line.code) for line in LISTING)
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._page[: len(code)] = code
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self.entry: dict[str, int] = {}  #: address by label
        for line in LISTING:
            if line.label:
                self.entry[line.label] = base
            base += len(bytes.fromhex(line.code))


def native_code() -> NativeCode | None:
    """The callbacks as native code; None on hosts that cannot run them."""
    if platform.machine() not in ("x86_64", "AMD64") or platform.system() == "Windows":
        return None
    try:
        return NativeCode()
    except OSError:
        return None
