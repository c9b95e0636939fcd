"""The engine by itself: one CPU, a handler that maps what a test says, no hypervisor."""

from __future__ import annotations

import pytest

from pvemu.cpu.exits import Access, Exit, ExitKind
from pvemu.cpu.unicorn.engine import Engine
from pvemu.cpu.unicorn.hidden_state import find_context_fields
from pvemu.frames import Mfn
from pvemu.memory.ram import Ram

FIRST = Mfn(0x400)
GDT, CODE, DATA = 0xFFFF_8200_0000_0000, 0x10000, 0x20000
FLAT = {
    0x8: 0x00AF9B000000FFFF, 0x18: 0x00CFBB000000FFFF, 0x20: 0x00CFB3000000FFFF, 0x28: 0x00CFF3000000FFFF,
    0x30: 0x00AFFB000000FFFF, 0x38: 0x00CFFB000000FFFF, 0x40: 0,
}  # fmt: skip
CS, SS = 0x33, 0x2B
RING1_CS, RING1_SS, RING3_CS32 = 0x19, 0x21, 0x3B


class Handler:
    """Identity of three pages: code at FIRST + 1, data at FIRST + 2, the GDT at FIRST + 3; logs everything."""

    def __init__(self) -> None:
        self.pages = {CODE: (FIRST + 1, 5), DATA: (FIRST + 2, 3)}
        self.engine: Engine | None = None
        self.fills: list[tuple[int, int]] = []
        self.syscalls: list[int] = []
        self.int82s: list[tuple[int, int]] = []
        self.is_int82_known = True
        self.raises: BaseException | None = None
        self.port: int | None = 0x5A
        self.stops_at_rdtsc = False
        self.pauses = 0

    def on_syscall(self) -> None:
        assert self.engine is not None
        if self.raises is not None:
            raise self.raises
        self.syscalls.append(self.engine.read("rax"))
        if self.engine.read("rax") == 99:
            self.engine.stop()

    def on_int82(self) -> bool:
        assert self.engine is not None
        self.int82s.append((self.engine.read("rip"), self.engine.read("eax")))
        self.engine.write("eax", 7)
        return self.is_int82_known

    def on_rdtsc(self) -> int:
        assert self.engine is not None
        if self.stops_at_rdtsc:
            self.engine.stop()
        return 0x1_2345_6789

    def on_tsc_aux(self) -> int:
        return 0x7_6543

    def on_cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        return leaf + 1, subleaf + 2, 3, 4

    def on_pause(self) -> None:
        self.pauses += 1

    def on_port_read(self, port: int, size: int) -> int | None:
        return self.port

    def on_port_write(self, port: int, size: int, value: int) -> bool:
        return self.port is not None

    def on_tlb_miss(self, vaddr: int, access: int) -> tuple[int, int] | None:
        self.fills.append((vaddr, access))
        if vaddr == GDT:
            return (FIRST + 3) << 12, 1
        mfn, prot = self.pages.get(vaddr, (0, 0))
        needed = {Access.READ: 1, Access.WRITE: 2, Access.FETCH: 4}[Access(access)]
        return (mfn << 12, prot) if prot & needed else None

    def fault_error_code(self) -> int:
        return 4


class Cpu:
    """An engine that stands at CODE in ring 3."""

    def __init__(self, code: str) -> None:
        self.ram = Ram(FIRST, 8)
        for selector, descriptor in FLAT.items():
            self.ram.write_u64(((FIRST + 3) << 12) + selector, descriptor)
        self.ram.write((FIRST + 1) << 12, bytes.fromhex(code))
        self.handler = Handler()
        self.engine = self.handler.engine = Engine(self.ram, FIRST, GDT)
        self.engine.attach(self.handler, self.handler)
        assert self.engine.enter(CODE, DATA + 0x800, CS, SS) is None

    def run(self) -> Exit:
        return self.engine.run()


STOP = "b863000000 0f05"  # mov $99, %eax; syscall


def test_enter_sets_privilege_and_keeps_registers() -> None:
    cpu = Cpu("8cc8" + "f4")  # mov %cs, %eax; hlt
    cpu.engine.write("rbx", 0x1122334455667788)
    assert cpu.engine.enter(CODE, DATA + 0x800, CS, SS, 0x246) is None
    frame = [cpu.engine.read(name) for name in ("rip", "rsp", "cs", "ss", "rflags")]
    assert frame == [CODE, DATA + 0x800, CS, SS, 0x246]
    leaving = cpu.run()
    assert (leaving.kind, leaving.vector, leaving.error_code) == (ExitKind.EXCEPTION, 13, 0)  # ring 3: HLT is refused
    assert (cpu.engine.read("rax"), cpu.engine.read("rbx")) == (CS, 0x1122334455667788)


CODE32 = "b802000000 cd82 4089c3 f4"  # mov $2, %eax; int $0x82; inc %eax (REX in 64 bits); mov %eax, %ebx; hlt


def test_between_widths_and_rings() -> None:
    cpu = Cpu(CODE32)
    for cs, ss in ((RING1_CS, RING1_SS), (RING3_CS32, SS), (RING1_CS, RING1_SS)):
        assert cpu.engine.enter_from_ring0(CODE, DATA + 0x800, cs, ss, 0x202, (ss, ss, ss, ss)) is None
        assert cpu.engine.read("rflags") == 0x202
        assert [cpu.engine.read(name) & 0xFFFF for name in ("cs", "ss", "ds", "es", "fs", "gs")] == [cs, *[ss] * 5]
        leaving = cpu.run()
        assert (leaving.vector, leaving.error_code, cpu.engine.read("rip")) == (13, 0, CODE + 10)
        assert cpu.engine.read("ebx") == 8, "32-bit code, and the answer of int $0x82 in it"
    assert cpu.handler.int82s == [(CODE + 7, 2)] * 3
    assert cpu.engine.enter_from_ring0(CODE, DATA + 0x800, CS, SS) is None
    assert cpu.run().vector == 13
    assert cpu.engine.read("rbx") == 7, "64-bit code again: the INC was a prefix"


def test_what_comes_behind_a_stop_in_its_block_is_served_as_ever() -> None:
    cpu = Cpu("0f31 89c3 0f31 89c6 31c0 0fa2 eb00" + STOP)  # rdtsc, ebx; rdtsc, esi; cpuid; jmp
    cpu.handler.stops_at_rdtsc = True
    assert cpu.run().kind == ExitKind.STOPPED
    assert cpu.engine.read("rsi") == 0x2345_6789, "not the host's"
    assert [cpu.engine.read(name) for name in ("rax", "rcx", "rdx")] == [1, 3, 4]


def test_int82_that_is_no_hypercall_is_an_interrupt() -> None:
    cpu = Cpu(CODE32)
    cpu.handler.is_int82_known = False
    assert cpu.run() == Exit(ExitKind.EXCEPTION, 0x82, is_software=True)


def test_a_refused_selector_leaves_ring_0_enterable() -> None:
    cpu = Cpu(CODE32)
    refusal = cpu.engine.enter_from_ring0(CODE, DATA, 0x41, RING1_SS)
    assert refusal is not None
    assert (refusal.vector, refusal.error_code) == (13, 0x40)
    assert cpu.engine.enter_from_ring0(CODE, DATA, RING1_CS, RING1_SS) is None
    assert cpu.engine.read("rip") == CODE


@pytest.mark.parametrize(("cs", "ss", "vector", "error"), [
    (0, SS, 13, 0), (0x43, SS, 13, 0x40), (CS, 0, 13, 0), (CS, CS, 13, 0x30), (0x2B, SS, 13, 0x28),
])  # fmt: skip
def test_enter_reports_selectors_that_the_cpu_refuses(cs: int, ss: int, vector: int, error: int) -> None:
    cpu = Cpu(STOP)
    refusal = cpu.engine.enter(CODE, DATA, cs, ss)
    assert refusal is not None
    assert (refusal.vector, refusal.error_code) == (vector, error)
    assert cpu.engine.enter(CODE, DATA, CS, SS) is None
    assert cpu.run().kind == ExitKind.STOPPED


def test_hooks_of_instructions() -> None:
    cpu = Cpu("0f31 4889c6 0f01f9 4889c7 b807000000 b909000000 0fa2" + "89c5" + "e460 4889c2" + STOP)
    assert cpu.run() == Exit(ExitKind.STOPPED)
    read = cpu.engine.read
    assert read("rsi") == read("rdi") == 0x2345_6789
    assert (read("rbp"), read("rbx"), read("rcx")) == (8, 11, 3)
    assert read("rdx") & 0xFF == 0x5A
    assert cpu.handler.syscalls == [99]


def test_refused_port_is_a_fault_at_the_instruction() -> None:
    cpu = Cpu("b801000000 e460 c70425 00000200 07000000" + STOP)  # in; then a store that must not happen
    cpu.handler.port = None
    leaving = cpu.run()
    assert (leaving.vector, leaving.error_code) == (13, 0)
    assert (cpu.engine.read("rip"), cpu.engine.read("rax")) == (CODE + 5, 1)
    assert cpu.ram.read_u64((FIRST + 2) << 12) == 0
    assert cpu.handler.syscalls == []


def test_fault_has_its_exact_address_and_can_be_mended() -> None:
    cpu = Cpu("8b0425 34120300" + STOP)  # mov 0x31234, %eax
    leaving = cpu.run()
    assert leaving == Exit(ExitKind.EXCEPTION, 14, 4, 0x31234)
    assert cpu.engine.read("rip") == CODE
    cpu.handler.pages[0x31000] = FIRST + 2, 1
    assert cpu.run().kind == ExitKind.STOPPED


def test_software_interrupts_are_told_from_faults() -> None:
    cpu = Cpu("cd0d f4 f4")
    software = cpu.run()
    assert (software.vector, software.is_software, cpu.engine.read("rip")) == (13, True, CODE + 2)
    for _ in range(3):  # contributory exceptions in a row never become a double fault
        fault = cpu.run()
        assert (fault.vector, fault.is_software, fault.error_code) == (13, False, 0)
        assert cpu.engine.read("rip") == CODE + 2


def test_exception_fields_are_found() -> None:
    fields, kernel_hflags = find_context_fields()
    assert len({*fields}) == 3
    assert min(fields) >= 0
    assert kernel_hflags & 0xC083 == 0xC080  # long mode, 64-bit code, protection, ring 0


def test_exit_checks_are_off() -> None:
    cpu = Cpu(STOP)
    assert cpu.engine._no_exit_request[0] == 1


def test_handler_errors_come_out_of_run() -> None:
    cpu = Cpu(STOP)
    cpu.handler.raises = ZeroDivisionError("ours")
    with pytest.raises(ZeroDivisionError, match="ours"):
        cpu.run()


def test_flush_forgets_translations() -> None:
    cpu = Cpu("a1 0000020000000000 0f05 ebf3")  # load, syscall, again
    seen = []
    for flush in (False, False, True):
        cpu.handler.fills.clear()
        cpu.engine.write("rip", CODE)
        cpu.ram.write_u64((FIRST + 2) << 12, 99)
        if flush:
            cpu.engine.flush_tlb()
        assert cpu.run().kind == ExitKind.STOPPED
        seen.append((DATA, Access.READ) in cpu.handler.fills)
    assert seen == [True, False, True]


def test_bad_data_selectors_become_null() -> None:
    cpu = Cpu(STOP)
    for selector, expected in ((0x2B, 0x2B), (0x8, 0), (0x43, 0), (0x7, 0), (0xFFFF, 0), (0x33, 0x33)):
        cpu.engine.write("gs", selector)
        assert cpu.engine.read("gs") == expected, hex(selector)
