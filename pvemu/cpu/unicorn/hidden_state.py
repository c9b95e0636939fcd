"""State of the engine's that its API does not name, and where it is: found at run time, never assumed.

Four places: where uc_struct keeps the exact address of a refused access, where its flag is that leaves out a check
after every memory access, where it counts instructions, and where the CPU keeps a pending exception and its modes.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from unicorn import UC_ARCH_X86, UC_MODE_64, Uc, UcError, unicorn_const, x86_const

from pvemu.frames import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CpuState", "EngineError", "find_context_fields", "find_count_limit", "find_cpu_state",
           "find_fault_address", "find_no_exit_request", "find_requests", "show_paging"]  # fmt: skip

#: uc_struct of include/uc_priv.h: target_page_size, target_page_align, qemu_host_page_size, qemu_real_host_page_size
#: stand in a row; four flags follow 24 bytes behind them.
_UC_STRUCT_PAGE_SIZES = struct.pack("<IIQQ", PAGE_SIZE, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE)
_UC_STRUCT_FLAGS_AT = 48
_UC_STRUCT_HEAD = 4096

#: The order in which CPUX86State keeps the general registers, with which it begins.
_FIRST_REGISTERS = (
    x86_const.UC_X86_REG_RAX, x86_const.UC_X86_REG_RCX, x86_const.UC_X86_REG_RDX, x86_const.UC_X86_REG_RBX,
)  # fmt: skip
#: Where in CPUState, in quads, a pointer to CPUX86State is looked for, and how far that may be away.
_CPU_STATE_HEAD, _CPU_STATE_REACH = 128, 1 << 17

#: Registers stand within so many quads of CPUX86State.
_FIRST_QUADS = 256
_CR0_PG = 1 << 31

_IRETQ = b"\x48\xcf"
#: mov $0x07771230, %eax; mov %eax, %ds: no descriptor is there.
_GP_1230 = b"\xb8\x30\x12\x77\x07\x8e\xd8"
_SCRATCH, _SCRATCH_STACK, _SCRATCH_GDT = 0x1000, 0x1100, 0x1200


class EngineError(Exception):
    """The engine did something this project has no answer to: always our bug, never the guest's."""


def find_no_exit_request(handle: int) -> Any:
    """uc_struct.no_exit_request of the CPU at ``handle``, one byte; None where its neighbours are not where 2.1.4 has
    them.
    """
    head = (ctypes.c_ubyte * _UC_STRUCT_HEAD).from_address(handle)
    anchor = bytes(head).find(_UC_STRUCT_PAGE_SIZES)
    flags = head[anchor + _UC_STRUCT_FLAGS_AT : anchor + _UC_STRUCT_FLAGS_AT + 4]
    if anchor < 0 or flags != [0, 0, 0, 1]:  # hook_insert, first_tb, no_exit_request, init_done
        return None
    return (ctypes.c_ubyte * 1).from_address(handle + anchor + _UC_STRUCT_FLAGS_AT + 2)


def find_count_limit() -> int:
    """Where uc_struct keeps the number of instructions to run (``emu_count``); how many were begun (``emu_counter``)
    stands in the 8 bytes before it.
    """
    uc = Uc(UC_ARCH_X86, UC_MODE_64)
    code, count = 0x1000, 0x5A5A_8765_4321
    uc.mem_map(code, PAGE_SIZE)
    uc.mem_write(code, b"\x90\x90")  # two times nop
    uc.emu_start(code, code + 2, 0, count)
    handle = int(uc._uch.value or 0)  # noqa: SLF001 - as below
    head = bytes((ctypes.c_ubyte * _UC_STRUCT_HEAD).from_address(handle))
    wanted = struct.pack("<QQ", 2, count)
    if head.count(wanted) != 1:
        raise EngineError("this Unicorn counts instructions elsewhere: use 2.1.4")
    return head.find(wanted) + 8


def find_fault_address() -> int:
    """Where uc_struct keeps the exact address of a refused access (``invalid_addr``; hooks are told the page only):
    found by provoking one on a scratch CPU.
    """
    uc = Uc(UC_ARCH_X86, UC_MODE_64)
    code, address = 0x1000, 0x5A5A_1234_5678
    uc.mem_map(code, PAGE_SIZE)
    uc.mem_write(code, b"\x48\xa1" + address.to_bytes(8, "little"))  # movabs address, %rax
    with contextlib.suppress(UcError):  # the very point
        uc.emu_start(code, 0)
    handle = int(uc._uch.value or 0)  # noqa: SLF001 - the binding has no public name for the handle
    head = bytes((ctypes.c_ubyte * _UC_STRUCT_HEAD).from_address(handle))
    offset = head.find(address.to_bytes(8, "little"))
    if offset < 0 or head.count(address.to_bytes(8, "little")) != 1:
        raise EngineError("this Unicorn keeps the address of a fault elsewhere: use 2.1.4")
    return offset


def find_requests() -> tuple[int, int]:
    """Where uc_struct keeps its flags ``stop_request`` and ``quit_request``: found by asking for each on a scratch
    CPU.
    """
    uc = Uc(UC_ARCH_X86, UC_MODE_64)
    code = 0x1000
    uc.mem_map(code, PAGE_SIZE)
    uc.mem_write(code, b"\x90\x90\x90")  # three times nop
    head = (ctypes.c_ubyte * _UC_STRUCT_HEAD).from_address(int(uc._uch.value or 0))  # noqa: SLF001 - as above
    changed: list[list[int]] = []

    def ask(uc: Uc, address: int, _size: int, _data: object) -> None:
        before = bytes(head)
        if address == code:
            uc.reg_write(x86_const.UC_X86_REG_RIP, code + 1)
        else:
            uc.emu_stop()
        pairs = zip(before, bytes(head), strict=True)
        changed.append([i for i, (old, new) in enumerate(pairs) if (old, new) == (0, 1)])

    uc.hook_add(unicorn_const.UC_HOOK_CODE, ask)
    uc.emu_start(code, code + 3)
    if [len(places) for places in changed] != [1, 1]:
        raise EngineError("this Unicorn keeps its requests elsewhere: use 2.1.4")
    (quit_at,), (stop_at,) = changed
    return stop_at, quit_at


def _context_words(context: Any) -> Any:
    """The saved context as an array of int32, writable in place."""
    address = ctypes.cast(context.context, ctypes.c_void_p).value
    return (ctypes.c_int32 * (context.size // 4)).from_address(address)


class ContextFields(NamedTuple):
    """int32 indices into the CPU's state. ``exception_is_int`` follows ``error_code``."""

    error_code: int
    pending: int
    hflags: int


def find_context_fields() -> tuple[ContextFields, int]:
    """Where the CPU's state has the error code, the pending exception and QEMU's hflags, and the hflags of 64-bit code
    in ring 0. Found by going to ring 3 on a scratch CPU and provoking a #GP with a known error code there.
    """
    uc = Uc(UC_ARCH_X86, UC_MODE_64)
    uc.mem_map(_SCRATCH, PAGE_SIZE)
    uc.mem_write(_SCRATCH, _IRETQ.ljust(16, b"\xcc") + _GP_1230)
    uc.mem_write(_SCRATCH_STACK, struct.pack("<5Q", _SCRATCH + 16, 0x23, 0x2, _SCRATCH_STACK, 0x2B))
    uc.mem_write(_SCRATCH_GDT, struct.pack("<6Q", 0, 0, 0, 0, 0x00AF_FB00_0000_FFFF, 0x00CF_F300_0000_FFFF))
    uc.reg_write(x86_const.UC_X86_REG_GDTR, (0, _SCRATCH_GDT, 0x2F, 0))
    uc.reg_write(x86_const.UC_X86_REG_RSP, _SCRATCH_STACK)
    uc.hook_add(unicorn_const.UC_HOOK_INTR, lambda uc, vector, _data: uc.emu_stop())
    context = uc.context_save()
    before = list(_context_words(context))
    uc.emu_start(_SCRATCH, 0)
    uc.context_update(context)
    after = list(_context_words(context))
    long_mode = 1 << 14 | 1 << 15  # HF_LMA, HF_CS64
    fields = ContextFields(
        _one_field(before, after, lambda old, new: new == 0x1230 != old),
        _one_field(before, after, lambda old, new: (old, new) == (-1, 13)),
        _one_field(before, after, lambda old, new: old & (long_mode | 3) == long_mode and new == old | 3),
    )
    registers = struct.pack("<4Q", *(uc.reg_read(number) for number in _FIRST_REGISTERS))
    start = bytes((ctypes.c_ubyte * 128).from_buffer_copy(_context_words(context))).find(registers) // 4
    if start < 0:
        raise EngineError("this Unicorn saves its registers elsewhere: use 2.1.4")
    return ContextFields(*(field - start for field in fields)), before[fields.hflags]


class CpuState:
    """QEMU's CPUX86State in place. ``words`` are its int32, ``fields`` tells those of interest, ``kernel_hflags`` the
    hflags of 64-bit code in ring 0.
    """

    def __init__(self, address: int) -> None:
        self.fields, self.kernel_hflags = find_context_fields()
        self.words = (ctypes.c_int32 * (max(self.fields) + 2)).from_address(address)

    def take_error_code(self) -> tuple[int, bool]:
        """The error code of an exception, and whether it is an ``int n``. Also forgets QEMU's pending exception: it is
        delivered by us, so the engine never clears it, and the next one would arrive as a double fault.
        """
        words, error_at = self.words, self.fields.error_code
        error_code, is_software = words[error_at], bool(words[error_at + 1])  # error_code, exception_is_int
        words[self.fields.pending] = -1
        return error_code, is_software


def find_cpu_state(uc: Uc, cpu: int | None) -> int:
    """Address of CPUX86State: what CPUState, at ``cpu``, points to and what begins with the general registers."""
    if cpu is not None:
        kept = [uc.reg_read(number) for number in _FIRST_REGISTERS]
        marks = [0x5A5A_0000_1234_0000 + n for n in range(len(kept))]
        for number, mark in zip(_FIRST_REGISTERS, marks, strict=True):
            uc.reg_write(number, mark)
        found = 0
        for pointer in (ctypes.c_uint64 * _CPU_STATE_HEAD).from_address(cpu):
            if cpu < pointer < cpu + _CPU_STATE_REACH and [*(ctypes.c_uint64 * 4).from_address(pointer)] == marks:
                found = pointer
        for number, value in zip(_FIRST_REGISTERS, kept, strict=True):
            uc.reg_write(number, value)
        if found:
            return found
    raise EngineError("this Unicorn keeps its CPU elsewhere: use 2.1.4")


def show_paging(uc: Uc, cpu: int | None) -> None:
    """Have SMSW show CR0.PG, although the engine's own paging is off: set where CPUX86State keeps CR0, two words before
    CR2, as nothing but that is to change. Without effect where they are not where 2.1.4 has them.
    """
    mark, number = 0x5A5A_8765_4321_0000, x86_const.UC_X86_REG_CR2
    kept = uc.reg_read(number)
    uc.reg_write(number, mark)
    quads = (ctypes.c_uint64 * _FIRST_QUADS).from_address(find_cpu_state(uc, cpu))
    at = [i for i, quad in enumerate(quads) if quad == mark]
    if len(at) == 1 and quads[at[0] - 2] == uc.reg_read(x86_const.UC_X86_REG_CR0):
        quads[at[0] - 2] |= _CR0_PG
    uc.reg_write(number, kept)


def _one_field(before: list[int], after: list[int], is_change: Callable[[int, int], bool]) -> int:
    found = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if is_change(old, new)]
    if len(found) != 1:
        raise EngineError(f"this Unicorn keeps its state elsewhere (candidates {found}): use 2.1.4")
    return found[0]
