"""One vcpu: callbacks, registers it keeps, its info and areas, frames on its stack; descriptor tables; dispatch."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from hypercalls.abi import ABI64
from hypercalls.context import TrapEntry
from hypercalls.errors import XenError
from hypercalls.public import arch_x86, xen
from hypercalls.public import callback as cb
from hypercalls.public import errno as e
from hypercalls.public import vcpu as vc
from hypercalls.table import Row
from pvemu.cpu.exits import Access
from pvemu.frames import Mfn
from pvemu.hypervisor.descriptor_tables import GDT_VADDR, LDT_VADDR, check_descriptor
from pvemu.hypervisor.domain import Domain, DomainCrashError
from pvemu.hypervisor.domain_page import DomainPages
from pvemu.hypervisor.event_channel import EventChannels
from pvemu.hypervisor.hypercall import HypercallDispatcher
from pvemu.hypervisor.shared_info import SharedInfo
from pvemu.hypervisor.time import VirtualClock
from pvemu.hypervisor.traps.traps import Traps
from pvemu.hypervisor.vcpu import Vcpu
from tests.hypervisor.world import DOMID, END, RWX, FakePages, P, World, pte, refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KERNEL_CS, KERNEL_SS = arch_x86.FLAT_KERNEL_CS64, arch_x86.FLAT_KERNEL_SS64
STACK_TOP = 0x2000
IF, IOPL3, TF, NT, AC = 0x200, 0x3000, 0x100, 0x4000, 1 << 18


class Registers:
    def __init__(self) -> None:
        self.values = {"cs": KERNEL_CS, "ss": KERNEL_SS, "rsp": STACK_TOP - 8, "rip": 0x1234, "rflags": 0x202}

    def read(self, name: str) -> int:
        return self.values.get(name, 0)

    def write(self, name: str, value: int) -> None:
        self.values[name] = value


class Cpu:
    """A vcpu on the small machine: pages 0 and 1 are mapped, page 0 the stack's."""

    def __init__(self) -> None:
        self.world = world = World()
        world.boot({0: pte(world.mfns[20], RWX), 1: pte(world.mfns[21], RWX)})
        self.clock = VirtualClock()
        self.shared = SharedInfo(ABI64, world.ram.frame(world.alloc_shared()))
        infos = [self.shared.vcpu_info(0)]
        self.events = EventChannels(DOMID, self.shared, infos, FakePages(), lambda line: None)
        self.regs = Registers()
        self.entered: list[tuple[int, ...]] = []
        self.left = 0
        self.domain = Domain(DOMID, self.clock, lambda: None)
        self.vcpu = Vcpu(
            ABI64, 0, self.regs, self.clock, world.guest, DomainPages(world.ram, world.types), self.events, infos,
            self._leave, self._enter, self._toggle,
        )  # fmt: skip
        self.traps = Traps(self.domain, self.vcpu, world.guest)
        self.user_tables = True

    def _leave(self) -> None:
        self.left += 1

    def _enter(self, rip: int, rsp: int, cs: int, ss: int, rflags: int) -> None:
        self.entered.append((rip, rsp, cs, ss, rflags))
        for name, value in zip(("rip", "rsp", "cs", "ss", "rflags"), self.entered[-1], strict=True):
            self.regs.write(name, value)

    def _toggle(self) -> bool:
        if self.user_tables:
            self.vcpu.kernel_mode = not self.vcpu.kernel_mode
        return self.user_tables

    def stack(self, count: int) -> list[int]:
        return list(struct.unpack(f"<{count}Q", self.world.guest.copy_from_guest(self.regs.read("rsp"), 8 * count)))


@pytest.fixture
def cpu() -> Cpu:
    return Cpu()


# -- frames ------------------------------------------------------------------------------------------------------------
def test_the_frame_of_an_exception_with_an_error_code(cpu: Cpu) -> None:
    cpu.vcpu.set_trap_table([TrapEntry(14, 4, KERNEL_CS, 0x5000)])
    cpu.vcpu.info.upcall_mask = 0
    cpu.regs.values.update(rcx=0xC, r11=0xB)
    cpu.regs.write("rflags", 0x202 | TF | NT | AC | IOPL3)
    cpu.traps.inject_exception(14, 6, 0xDEAD_B000)
    assert cpu.stack(8) == [0xC, 0xB, 2, 0x1234, KERNEL_CS & ~3, 0x202 | TF | NT | AC, STACK_TOP - 8, KERNEL_SS]
    assert cpu.regs.read("rsp") == STACK_TOP - 16 - 64
    assert cpu.regs.read("rip") == 0x5000
    assert cpu.regs.read("rflags") == 0x202 | IOPL3
    assert cpu.vcpu.info.upcall_mask == 1
    assert int.from_bytes(cpu.vcpu.info.raw()[16:24], "little") == 0xDEAD_B000  # arch.cr2


def test_the_frame_without_error_code_and_with_a_saved_mask(cpu: Cpu) -> None:
    cpu.vcpu.set_trap_table([TrapEntry(6, 0, KERNEL_CS, 0x5000)])
    cpu.vcpu.info.upcall_mask = 1
    cpu.vcpu.iopl = IOPL3
    cpu.domain.vm_assist(xen.VMASST_TYPE_architectural_iopl, True)
    cpu.traps.inject_exception(6, -1)
    assert cpu.stack(7) == [0, 0, 0x1234, 1 << 32 | KERNEL_CS & ~3, 0x002 | IOPL3, STACK_TOP - 8, KERNEL_SS]
    assert cpu.vcpu.info.upcall_mask == 1


def test_frames_from_user_mode_go_to_the_kernels_stack(cpu: Cpu) -> None:
    cpu.vcpu.kernel_mode = False
    cpu.vcpu.stack_switch(KERNEL_SS, 0x1000)
    cpu.vcpu.info.upcall_mask = 0
    cpu.regs.values.update(rsp=0x7777_0000)
    cpu.regs.write("cs", 0xE033)
    cpu.vcpu.set_trap_table([TrapEntry(14, 0, KERNEL_CS, 0x5000)])
    cpu.traps.inject_exception(14, 0, 0x1000)
    assert cpu.vcpu.kernel_mode
    assert cpu.stack(8)[2:] == [4, 0x1234, 0xE033, 0x202, 0x7777_0000, KERNEL_SS]
    assert cpu.regs.read("rsp") == 0x1000 - 64


def test_upcalls(cpu: Cpu) -> None:
    cpu.vcpu.register_callback(cb.CALLBACKTYPE_event, 0, 0, 0x6000)
    cpu.vcpu.info.upcall_mask = 0
    assert not cpu.traps.deliver_events()
    cpu.events.send(cpu.events.bind_ipi(0))
    cpu.vcpu.info.upcall_mask = 1
    assert not cpu.traps.deliver_events()
    cpu.vcpu.info.upcall_mask = 0
    assert cpu.traps.deliver_events()
    assert (cpu.regs.read("rip"), cpu.vcpu.info.upcall_mask, cpu.vcpu.info.upcall_pending) == (0x6000, 1, 1)
    assert cpu.stack(5)[3] == KERNEL_CS & ~3
    assert not cpu.traps.deliver_events()


def test_system_calls_of_user_mode(cpu: Cpu) -> None:
    cpu.vcpu.register_callback(cb.CALLBACKTYPE_syscall, cb.CALLBACKF_mask_events, 0, 0x7000)
    cpu.vcpu.kernel_mode = False
    cpu.vcpu.kernel_sp = 0x1000
    cpu.vcpu.info.upcall_mask = 0
    cpu.traps.inject_syscall()
    assert (cpu.regs.read("rip"), cpu.vcpu.info.upcall_mask) == (0x7000, 1)
    assert cpu.stack(3)[:2] == [cpu.regs.read("rcx"), cpu.regs.read("r11")]


def test_nmis(cpu: Cpu) -> None:
    cpu.vcpu.send_nmi(0)
    assert not cpu.traps.deliver_events()  # no handler
    cpu.vcpu.register_nmi_callback(0x8000)
    assert cpu.traps.deliver_events()
    assert cpu.regs.read("rip") == 0x8000
    cpu.vcpu.send_nmi(0)
    assert not cpu.traps.deliver_events()  # not inside its handler
    cpu.vcpu.unregister_callback(cb.CALLBACKTYPE_nmi)
    assert cpu.vcpu.trap_table[2].address == 0
    refused(e.ENOENT, cpu.vcpu.send_nmi, 1)


@pytest.mark.parametrize(
    ("rsp", "handler"), [(0x3000_0000, 0x5000), (0xFFFF_8800_0000_0000, 0x5000), (1 << 47, 0x5000), (STACK_TOP, 0)]
)
def test_a_frame_that_cannot_be_built_crashes_the_domain(cpu: Cpu, rsp: int, handler: int) -> None:
    cpu.vcpu.set_trap_table([TrapEntry(13, 0, KERNEL_CS, handler)])
    cpu.regs.write("rsp", rsp)
    with pytest.raises(DomainCrashError) as caught:
        cpu.traps.inject_exception(13, 0)
    assert caught.value.lines


def test_an_exception_without_handler_is_named(cpu: Cpu) -> None:
    with pytest.raises(DomainCrashError) as caught:
        cpu.traps.inject_exception(13, 0x10)
    assert "Unhandled: vec 13, #GP[0010]" in caught.value.lines[0]
    cpu.vcpu.set_trap_table([TrapEntry(13, 0, KERNEL_CS, 0x5000)])
    cpu.vcpu.set_trap_table([])
    assert cpu.vcpu.trap_table[13].address == 0


# -- iret --------------------------------------------------------------------------------------------------------------
def iret_frame(cpu: Cpu, *, cs: int = KERNEL_CS & ~3, rflags: int = IF, flags: int = 0) -> None:
    fields = {"rax": 1, "r11": 2, "rcx": 3, "flags": flags, "rip": 0x9000, "cs": cs, "rflags": rflags, "rsp": 0x1800,
              "ss": KERNEL_SS & ~3}  # fmt: skip
    cpu.regs.write("rsp", 0x1000)
    cpu.world.guest.copy_to_guest(0x1000, ABI64.pack(arch_x86.iret_context(**fields)))


def test_iret_takes_the_frame_when_the_engine_has_left(cpu: Cpu) -> None:
    iret_frame(cpu, rflags=IF | IOPL3 | 1 << 17)
    cpu.vcpu.has_architectural_iopl = lambda: True
    cpu.vcpu.iret()
    assert (cpu.left, cpu.regs.read("rax")) == (1, 0)
    assert cpu.vcpu.resume is not None
    cpu.vcpu.resume()
    assert [cpu.regs.read(n) for n in ("rax", "r11", "rcx", "rip", "rsp")] == [1, 2, 3, 0x9000, 0x1800]
    assert cpu.regs.read("rflags") == IF | 2
    assert cpu.vcpu.iopl == IOPL3
    assert (cpu.vcpu.info.upcall_mask, cpu.vcpu.kernel_mode) == (0, True)


def test_iret_to_user_mode_and_with_events_masked(cpu: Cpu) -> None:
    iret_frame(cpu, cs=0xE033, rflags=0, flags=arch_x86.VGCF_in_syscall)
    cpu.vcpu._take_iret_frame()
    assert not cpu.vcpu.kernel_mode
    assert cpu.regs.read("rflags") == IF | 2  # the real flag is Xen's
    assert cpu.vcpu.info.upcall_mask == 1
    assert (cpu.regs.read("rcx"), cpu.regs.read("r11"), cpu.regs.read("cs")) == (0, 0, 0xE033)


def test_irets_that_crash(cpu: Cpu) -> None:
    iret_frame(cpu, cs=0xE033)
    cpu.user_tables = False
    with pytest.raises(DomainCrashError, match="no user page tables"):
        cpu.vcpu._take_iret_frame()
    cpu.regs.write("rsp", 0x1FF8)
    with pytest.raises(DomainCrashError, match="IRET context"):
        cpu.vcpu._take_iret_frame()


# -- what it keeps -----------------------------------------------------------------------------------------------------
def test_callbacks(cpu: Cpu) -> None:
    vcpu = cpu.vcpu
    refused(e.EINVAL, vcpu.register_callback, cb.CALLBACKTYPE_event, 0, 0, 1 << 47)
    refused(e.ENOSYS, vcpu.register_callback, 99, 0, 0, 0x1000)
    refused(e.ENOSYS, vcpu.unregister_callback, 99)
    refused(e.EINVAL, vcpu.unregister_callback, cb.CALLBACKTYPE_event)
    refused(e.EINVAL, vcpu.unregister_callback, cb.CALLBACKTYPE_sysenter)


def test_debug_registers(cpu: Cpu) -> None:
    vcpu = cpu.vcpu
    assert (vcpu.get_debugreg(6), vcpu.get_debugreg(7)) == (0xFFFF_0FF0, 0x400)
    vcpu.set_debugreg(0, 0xFFFF_8800_0000_0000)
    assert vcpu.get_debugreg(0) == 0xFFFF_8800_0000_0000
    for bad in (0xFFFF_8000_0000_0000, 1 << 47, 0xFFFF_87FF_FFFF_FFFF):
        refused(e.EPERM, vcpu.set_debugreg, 3, bad)
    vcpu.set_debugreg(6, 0xFFFF_FFFF)
    assert (vcpu.get_debugreg(6), vcpu.get_debugreg(4)) == (0xFFFF_EFFF, 0xFFFF_EFFF)
    vcpu.set_debugreg(4, 0)
    assert vcpu.get_debugreg(6) == 0xFFFF_0FF0
    vcpu.set_debugreg(7, 0xD801)
    assert (vcpu.get_debugreg(7), vcpu.get_debugreg(5)) == (0x401, 0x401)
    refused(e.EINVAL, vcpu.set_debugreg, 7, 1 << 32)
    refused(e.EINVAL, vcpu.set_debugreg, 6, 1 << 63)
    refused(e.EPERM, vcpu.set_debugreg, 7, 1 << 13)
    refused(e.EPERM, vcpu.set_debugreg, 5, 0x0002_0001)  # an I/O breakpoint
    vcpu.set_debugreg(7, 0x0002_0000)  # not in force
    refused(e.ENODEV, vcpu.set_debugreg, 8, 0)
    refused(e.ENODEV, vcpu.get_debugreg, 8)


def test_segment_bases(cpu: Cpu) -> None:
    vcpu = cpu.vcpu
    for which in (arch_x86.SEGBASE_FS, arch_x86.SEGBASE_GS_USER, arch_x86.SEGBASE_GS_KERNEL):
        vcpu.set_segment_base(which, 0xFFFF_8000_0000_1000 + which)
        refused(e.EINVAL, vcpu.set_segment_base, which, 1 << 47)
    refused(e.EINVAL, vcpu.set_segment_base, 9, 0)
    assert cpu.regs.read("fs_base") == 0xFFFF_8000_0000_1000 + arch_x86.SEGBASE_FS
    assert cpu.regs.read("gs_base") == 0xFFFF_8000_0000_1000 + arch_x86.SEGBASE_GS_KERNEL
    assert vcpu.gs_base_user == 0xFFFF_8000_0000_1000 + arch_x86.SEGBASE_GS_USER


# -- vcpu_op -----------------------------------------------------------------------------------------------------------
def test_vcpu_info_moves_once_and_loses_nothing(cpu: Cpu) -> None:
    vcpu, world = cpu.vcpu, cpu.world
    mfn = Mfn(world.mfns[22])
    port = cpu.events.bind_ipi(0)
    cpu.events.send(port)
    for offset in (4096 - 63, 1, 4, 4096, 1 << 31):
        refused(e.ENXIO, vcpu.register_vcpu_info, 0, mfn, offset)
    for bad in (END, 0, world.mfns[0]):
        refused(e.EINVAL, vcpu.register_vcpu_info, 0, bad, 0)
    refused(e.ENOENT, vcpu.register_vcpu_info, 1, mfn, 0)
    world.audit()
    vcpu.info.upcall_mask = 1
    vcpu.info.upcall_pending = 0
    vcpu.register_vcpu_info(0, mfn, 4096 - 64)
    info = bytes(world.ram.frame(mfn))[-64:]
    assert info[:16] == b"\1\1" + bytes(6) + b"\xff" * 8
    refused(e.EINVAL, vcpu.register_vcpu_info, 0, mfn, 0)
    cpu.events.close(port)
    vcpu.info.pending_sel = vcpu.info.upcall_pending = 0
    cpu.events.send(cpu.events.bind_ipi(0))
    assert bytes(world.ram.frame(mfn))[-64:][0] == 1  # events use the new place
    refused(e.EINVAL, world.mm.pin_table, 1, mfn)
    vcpu.update_time()
    assert int.from_bytes(bytes(world.ram.frame(mfn))[-24:-16], "little") == cpu.clock.now()


def test_areas_follow_the_clock_while_they_are_mapped(cpu: Cpu) -> None:
    vcpu, guest = cpu.vcpu, cpu.world.guest
    vcpu.register_time_area(0, 0x100)
    vcpu.register_runstate_area(0, 0x200)
    start = cpu.clock.now()
    offline = vcpu.runstate(0)[2][vc.RUNSTATE_offline]
    assert offline > 0, "it was while the domain was built"
    cpu.clock.charge(1000)
    vcpu.slept(400)
    vcpu.update_time()
    state = ABI64.unpack(vc.vcpu_runstate_info, guest.copy_from_guest(0x200, ABI64.sizeof(vc.vcpu_runstate_info)))
    assert (state.state, state.state_entry_time, list(state.time)) == (0, start + 1000, [600, 0, 400, offline])
    assert vcpu.runstate(0) == (0, start + 1000, (600, 0, 400, offline))
    version, _, tsc, system_time = struct.unpack("<IIQQ", guest.copy_from_guest(0x100, 24))
    assert (version % 2, tsc, system_time) == (0, start + 1000, start + 1000)
    vcpu.register_time_area(0, 0x5000)  # not mapped: nobody minds
    vcpu.register_runstate_area(0, 0x5000)
    vcpu.update_time()
    vcpu.slept(1)


def test_ups_and_downs(cpu: Cpu) -> None:
    vcpu = cpu.vcpu
    downs: list[str] = []
    vcpu.on_last_down = lambda: downs.append("down")
    vcpu.up(0)
    assert vcpu.is_up(0)
    assert [vcpu.exists(i) for i in (0, 1, 31)] == [True, False, False]
    vcpu.down(0)
    assert downs == ["down"]
    refused(e.EEXIST, vcpu.initialise, 0, b"")
    refused(e.ENOENT, vcpu.up, 1)
    refused(e.ENOENT, vcpu.runstate, 1)


# -- descriptor tables -------------------------------------------------------------------------------------------------
DATA3, DATA0 = 0x00CF_F300_0000_FFFF, 0x00CF_9300_0000_FFFF


@pytest.mark.parametrize(
    ("desc", "result"),
    [
        (0, 0),
        (0xFFFF_7FFF_FFFF_FFFF, 0xFFFF_7FFF_FFFF_FFFF),  # not present
        (DATA3, DATA3),
        (DATA0, DATA3),  # the only ring is 3
        (0x0000_8000_1234_5678, 0x0000_8000_1234_5678),  # type 0: half of a call gate
        (0x0000_8900_0000_0067, None),  # a TSS
        (0x0000_8E00_0010_0000, None),  # an interrupt gate
        (0x0000_EC00_E033_1234, 0x0000_8C00_E033_1234),  # a call gate to Xen's flat segment: DPL 0 makes it fault
        (0x0000_8C00_0010_1234, 0x0000_8C00_0013_1234),  # to one of the guest's; its DPL of 3 moves to the RPL
        (0x0000_8C00_E008_1234, None),  # to Xen's own
        (0x0000_8C00_FFFC_1234, 0x0000_8C00_FFFF_1234),  # in the LDT
        (0x0000_8C01_0010_1234, None),  # reserved bits
    ],
)
def test_check_descriptor(desc: int, result: int | None) -> None:
    assert check_descriptor(desc) == result


def test_set_gdt(cpu: Cpu) -> None:
    world = cpu.world
    tables = world.tables
    a, b, bad = world.mfns[30:33]
    world.poke(a, 2, DATA0)
    world.poke(bad, 511, 0x0000_8900_0000_0067)
    before = world.counts()
    for frames in ([a, bad], [a, END], [a, world.mfns[0]], [a, world.mfns[20]], [a, 0]):
        refused(e.EINVAL, tables.set_gdt, frames, 1024)
        assert world.counts() == before
    refused(e.EINVAL, tables.set_gdt, [a] * 15, 14 * 512 + 1)
    tables.set_gdt([a, b, bad], 1024)  # the third is not needed
    world.audit()
    assert world.entry(a, 2) == DATA3
    assert tables.page_at(GDT_VADDR, Access.READ) == a << 12
    assert tables.page_at(GDT_VADDR + 0x2000, Access.READ) is None
    assert tables.page_at(GDT_VADDR + 0xE000, Access.READ) is not None  # Xen's own
    refused(e.EBUSY, world.update, world.mfns[3], 5, pte(a, RWX))
    world.update(world.mfns[3], 5, pte(a, P))
    tables.set_gdt([a, a], 600)
    world.audit()
    tables.set_gdt([], 0)
    world.audit()
    assert world.frames.type_of(a).name == "NONE"


def test_update_descriptor(cpu: Cpu) -> None:
    world = cpu.world
    a, plain = world.mfns[30:32]
    world.tables.set_gdt([a], 512)
    world.tables.update_descriptor(a << 12 | 24, DATA0)
    assert world.entry(a, 3) == DATA3
    world.tables.update_descriptor(plain << 12, DATA0)
    for at, desc in ((a << 12 | 4, DATA0), (a << 12, 0x0000_8900_0000_0067), (END << 12, DATA0),
                     (world.mfns[3] << 12, DATA0), (1 << 63, 0)):  # fmt: skip
        refused(e.EINVAL, world.tables.update_descriptor, at, desc)
    world.audit()


def test_the_ldt_is_looked_up_when_used_and_dropped_with_the_root(cpu: Cpu) -> None:
    world = cpu.world
    ldt = world.mfns[30]
    world.update(world.mfns[3], 6, pte(ldt, P))
    world.mm.set_ldt(0x6000, 1024)
    assert world.tables.page_at(LDT_VADDR, Access.FETCH) is None
    assert world.frames.type_of(ldt).name == "NONE"
    assert world.tables.page_at(LDT_VADDR, Access.READ) == ldt << 12
    assert world.frames.type_of(ldt).name == "SEG_DESC"
    assert world.tables.page_at(LDT_VADDR + 0x1000, Access.READ) is None  # not mapped
    assert world.tables.page_at(LDT_VADDR + 0x2000, Access.READ) is None  # beyond its end
    world.audit()
    refused(e.EBUSY, world.update, world.mfns[3], 7, pte(ldt, RWX))
    other, *_ = world.tree({}, first=8)
    world.mm.new_baseptr(other)
    world.audit()
    assert world.frames.type_of(ldt).name == "NONE"
    assert world.tables.page_at(LDT_VADDR, Access.READ) is None
    refused(e.EINVAL, world.mm.set_ldt, 0x6001, 1)
    refused(e.EINVAL, world.mm.set_ldt, 0x6000, 8193)


# -- dispatch ----------------------------------------------------------------------------------------------------------
class Context:
    dispatch: object = None


def test_dispatch_counts_translates_and_is_watched() -> None:
    def add(ctx: object, a: int, b: int) -> int:
        return a + b

    def refuse(ctx: object) -> int:
        raise XenError(e.EBUSY, "no")

    def absent(ctx: object) -> int:
        return -e.ENOSYS

    def broken(ctx: object) -> int:
        raise ZeroDivisionError

    rows = {
        1: Row("add", add, 2, 2),
        2: Row("refuse", refuse, 0, 0),
        3: Row("absent", absent, 0, 0),
        4: Row("bug", broken, 0, 0),
    }
    dispatcher = HypercallDispatcher(rows, Context())  # type: ignore[arg-type] # none of the handlers looks at it
    log: list[str] = []

    def watch(name: str) -> tuple[Callable[[Row, Sequence[int]], None], Callable[[Row, Sequence[int], int], None]]:
        def before(row: Row, args: Sequence[int]) -> None:
            log.append(f"{name} {row.name}")

        def after(row: Row, args: Sequence[int], result: int) -> None:
            log.append(f"{name} = {result}")

        return before, after

    assert dispatcher.call(1, [2, 3, 99, 99]) == 5
    assert dispatcher.call(2, []) == -e.EBUSY
    assert dispatcher.call(3, []) == -e.ENOSYS
    assert dispatcher.call(63, []) == -e.ENOSYS
    with pytest.raises(ZeroDivisionError):
        dispatcher.call(4, [])
    assert dispatcher.counts == {"add": 1, "refuse": 1, "absent": 1, "hypercall 63": 1, "bug": 1}
    assert (dispatcher.unknown, dispatcher.absent) == ({"hypercall 63": 1}, {"absent": 1})
    undo_a, undo_b = dispatcher.monitor(*watch("a")), dispatcher.monitor(*watch("b"))
    dispatcher.call(2, [])
    assert log == ["a refuse", "b refuse", f"b = {-e.EBUSY}", f"a = {-e.EBUSY}"]
    log.clear()
    undo_a()  # not the last one on
    undo_a()
    dispatcher.call(1, [1, 1])
    assert log == ["b add", "b = 2"]
    undo_b()
    dispatcher.call(1, [1, 1])
    assert len(log) == 2
