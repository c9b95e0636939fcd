"""One vcpu on Unicorn: entering guest code, running it, and telling why it was left."""

from __future__ import annotations

import math
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from unicorn import UC_ARCH_X86, UC_MODE_64, Uc, UcError, unicorn_const, x86_const

from pvemu.cpu.exits import Access, Exit, ExitHandler, ExitKind, Mmu
from pvemu.cpu.paging import is_canonical
from pvemu.cpu.unicorn.contexts import CpuContexts
from pvemu.cpu.unicorn.entry import Entry
from pvemu.cpu.unicorn.hidden_state import CpuState, EngineError, find_cpu_state, find_no_exit_request, show_paging
from pvemu.cpu.unicorn.hooks import Hooks
from pvemu.cpu.unicorn.loops import Loops
from pvemu.cpu.unicorn.native import U64, Native
from pvemu.cpu.unicorn.pause_exits import exit_on_pause
from pvemu.cpu.unicorn.register_file import RegisterFile
from pvemu.cpu.unicorn.stepper import UNLIMITED, Stepper, is_block_end
from pvemu.cpu.unicorn.watch import Watch
from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Mfn

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.cpu.recording import Chunk
    from pvemu.cpu.unicorn.recorder import BlockRecorder, InstructionRecorder
    from pvemu.memory.ram import Ram

__all__ = ["Engine", "EngineError"]

_VECTOR_UD, _VECTOR_GP, _VECTOR_PF = 6, 13, 14
_HAS_ERROR_CODE = frozenset((8, 10, 11, 12, 13, 14, 17))
#: What SIDT, STR, SLDT and SMSW show under Xen: its tables end where they do; CR0 with AM WP NE ET MP, of which NE also
#: makes an error of the x87 an exception.
_IDT_LIMIT, _IDT_VADDR = 0xFFF, 0xFFFF_82D0_4000_2000
_TSS_SELECTOR, _LDT_SELECTOR, _CR0, _CR4_OSXSAVE = 0xE040, 0xE050, 0x5_0032, 1 << 18


class Engine:
    """``entry_mfn`` is a hypervisor-owned frame for the ring-0 entry code; ``gdt_vaddr`` the linear address at which
    the MMU serves the GDT. Registers can be used at once, guest code runs after :meth:`attach`.
    """

    def __init__(self, ram: Ram, entry_mfn: Mfn, gdt_vaddr: int) -> None:
        self._uc = uc = Uc(UC_ARCH_X86, UC_MODE_64)
        uc.ctl_set_cpu_model(x86_const.UC_CPU_X86_SANDYBRIDGE)  # the last without RDRAND, which would ask the host
        self._native = native = Native(uc)
        self._ram = ram
        self._entry_maddr = entry_mfn << PAGE_SHIFT
        self._stopped = False
        self._wedged = False
        self._stop_due = False  # the guest is to be left at the end of its block, and stands in the midst of it
        self._stepper: Stepper | None = None
        self._is_running = self._is_stepping = False
        self._run_lock = threading.Lock()
        self._no_exit_request: Any = None
        #: Asked about an address whose access was refused: True has the instruction run again. That is no exit and
        #: takes no time, as it hinges on what the TLB has kept, and its size on the host's clock.
        self.may_try_again: Callable[[int], bool] = lambda address: False
        self._state: CpuState | None = None
        uc.mem_map_ptr(ram.base, ram.size, unicorn_const.UC_PROT_ALL, ram.host_address())
        uc.ctl_set_tlb_mode(unicorn_const.UC_TLB_VIRTUAL)
        uc.ctl_exits_enabled(True)
        uc.reg_write(x86_const.UC_X86_REG_IDTR, (0, _IDT_VADDR, _IDT_LIMIT, 0))
        uc.reg_write(x86_const.UC_X86_REG_TR, (_TSS_SELECTOR, 0, 0, 0))
        native.find_page_flush()
        self.registers = RegisterFile(uc, native, self._read_quad, gdt_vaddr)
        self.contexts = CpuContexts(uc, self.registers)
        self.contexts.set_gdt(gdt_vaddr)
        self.read, self.write = self.registers.read, self.registers.write
        self.reader, self.writer = self.registers.reader, self.registers.writer
        self.flush_tlb, self.flush_page = native.flush_tlb, native.flush_page
        self.write("cr0", self.read("cr0") | _CR0)
        self.write("cr4", self.read("cr4") & ~_CR4_OSXSAVE)
        show_paging(uc, native.cpu)

    def attach(self, handler: ExitHandler, mmu: Mmu) -> None:
        """Who serves exits, and who walks page tables: once, before anything runs."""
        self._mmu = mmu
        self._hooks = Hooks(self._uc, self._native, self.registers, handler, mmu, self._ram, self._entry_maddr)
        self.watch = Watch(self._uc, self._native, self._hooks)
        self.watch.stop_soon = self.stop
        self._leave_out_exit_checks()
        # The page behind the RAM may be one that is not RAM (trap_frame).
        self._hooks.leave_out_dirty_scans(self._ram.base, self._ram.base + self._ram.size + PAGE_SIZE)
        self._ram.on_code_write = self._hooks.drop_translations
        self._entry = Entry(
            self._uc, self._native, self._ram, self.registers, self._hooks, self._entry_maddr, self._start,
            self._raised, self._cpu_state,
        )  # fmt: skip
        self.loops = Loops(self._uc, self._ram, self.registers, self._hooks, self._run_one)
        self.exit_on_pause = partial(exit_on_pause, self._native, self._hooks, handler)

    def enter(self, rip: int, rsp: int, cs: int, ss: int, rflags: int = 0x202) -> Exit | None:
        """As ``Entry.enter``."""
        return self._entry.enter(rip, rsp, cs, ss, rflags)

    def enter_from_ring0(
        self, rip: int, rsp: int, cs: int, ss: int, rflags: int = 0x202,
        data: tuple[int, int, int, int] | None = None,
    ) -> Exit | None:  # fmt: skip
        """As ``Entry.enter_from_ring0``."""
        return self._entry.enter_from_ring0(rip, rsp, cs, ss, rflags, data)

    @property
    def exits(self) -> int:
        """Exits seen so far: a watchdog tells a busy guest from a wedged one by it."""
        return self._hooks.exits

    @property
    def tlb_fills(self) -> int:
        """TLB misses served so far."""
        return self._hooks.tlb_fills

    @property
    def is_in_handler(self) -> bool:
        """Whether a handler is at work that may take seconds."""
        return self._hooks.is_in_handler

    @is_in_handler.setter
    def is_in_handler(self, value: bool) -> None:
        self._hooks.is_in_handler = value

    def _read_quad(self, vaddr: int) -> int | None:
        found = self._mmu.on_tlb_miss(vaddr & -PAGE_SIZE, Access.READ)
        return None if found is None else self._ram.read_u64(found[0] | vaddr & (PAGE_SIZE - 1))

    def _leave_out_exit_checks(self) -> None:
        """Set uc_struct.no_exit_request: no call after each memory access to ask whether to stop (that takes 40 % of
        the time of memory-bound code). A stop then takes effect at the end of the translated block.
        """
        self._no_exit_request = find_no_exit_request(self._native.handle)
        if self._no_exit_request is None:
            self._no_exit_request = [0]
        else:
            self._no_exit_request[0] = 1

    def load_ldt(self, vaddr: int, entries: int) -> None:
        """Have selectors of the LDT looked up at ``vaddr``."""
        selector = _LDT_SELECTOR if entries else 0
        self._uc.reg_write(x86_const.UC_X86_REG_LDTR, (selector, vaddr, 8 * entries - 1 if entries else 0, 0))

    @property
    def is_loading_descriptors(self) -> bool:
        """Whether the CPU looks for a descriptor on behalf of Xen, which enters guest code or writes a selector."""
        return self._hooks.is_entering or self.registers.is_loading_selector

    # -- running -----------------------------------------------------------------------------------------------------
    def run(self) -> Exit:
        """Run guest code until a handler stops it or it raises an exception, or somebody who looks on wants it to pause
        or stand at a breakpoint: then the next call goes on as if nothing had been.
        """
        if self.loops.unreported is not None:
            leaving, self.loops.unreported = self.loops.unreported, None
            return leaving
        self._stopped = False
        stop_due, self._stop_due = self._stop_due, False
        if not self._wedged:
            with self._run_lock:
                self._is_running = True
            try:
                known = self._run_counted(stop_due) if self.is_counting else self._run_plain(stop_due)
            finally:
                self.watch.passes = -1
                with self._run_lock:
                    self._is_running = False
            if known is not None:
                return known
        if self._wedged:
            self._wedged = False
            return Exit(ExitKind.WEDGED)
        if self._hooks.pause_requested:
            return Exit(ExitKind.PAUSED)
        raise EngineError(f"the CPU stopped without a reason at rip {self.read('rip'):#x}")

    def run_inner(self) -> Exit:
        """``run`` for an instruction that Xen has done in the guest's place: nobody watches it."""
        self._stopped = False
        self.watch.is_off = True
        try:
            self._start(self.read("rip"))
        finally:
            self.watch.is_off = False
        known = self._why_left()
        if known is None:
            raise EngineError(f"the CPU stopped without a reason at rip {self.read('rip'):#x}")
        self._forget_insns()
        return known

    def _run_plain(self, stop_due: bool) -> Exit | None:
        rip, watched = self.read("rip"), self.watch.code_addresses
        if stop_due:
            self.watch.set_code([*watched, rip])
            self.watch.passes, self.watch.stops_behind = rip, True
        self._start(rip)
        if stop_due:
            self.watch.set_code(watched)
        known = self._why_left()
        if known is not None and known.kind == ExitKind.BREAKPOINT:
            self._stop_due = self._stopped
        return known

    def _run_counted(self, stop_due: bool) -> Exit | None:
        known, self._stop_due = self.stepper.run(stop_due=stop_due)
        if self._wedged and known.kind == ExitKind.PAUSED:
            self.forget_pause()
            return None
        return known

    # -- counted runs ------------------------------------------------------------------------------------------------
    @property
    def stepper(self) -> Stepper:
        """What counts instructions: made when it is first wanted."""
        if self._stepper is None:
            self._stepper = Stepper(
                self._uc, self._native, self._hooks, self.watch, self._start, self._why_left, self._no_exit_request
            )
        return self._stepper

    @property
    def is_counting(self) -> bool:
        """Whether every instruction is counted."""
        return self._stepper is not None and self._stepper.is_on

    @property
    def is_pause_requested(self) -> bool:
        """Whether one who looks on wants the guest to pause."""
        return self._hooks.pause_requested

    def pause(self) -> None:
        """Leave guest code soon, at a place that the guest cannot tell from any other; from a hook."""
        if self.is_counting:
            self.stepper.pause_soon()
        else:
            self._hooks.pause_requested = True
            self._native.leave_soon()

    def pause_at(self, exits: float) -> None:
        """Pause at exit number ``exits`` or the first after it; ``math.inf`` takes that back. From any thread."""
        if self.is_counting:
            self.stepper.target_exit = None if exits == math.inf else int(exits)
            return
        self._hooks.on_alarm = lambda ends_block: self.pause()
        self._hooks.alarm = exits

    def at_exit(self, exits: int, callback: Callable[[], None]) -> None:
        """Call back at exit number ``exits``, before it is served, or at the first after it."""

        def alarm(_ends_block: bool) -> None:
            self._hooks.alarm = math.inf
            callback()

        self._hooks.on_alarm, self._hooks.alarm = alarm, exits

    def pause_now(self) -> None:
        """Pause wherever the guest is; from another thread, and only where no exit comes."""
        with self._run_lock:
            if self.is_in_handler or not self._is_running:
                return
            if self.is_counting:
                self.stepper.interrupt()
            else:
                self._hooks.pause_requested = True
                self._native.leave_soon()

    def forget_pause(self) -> None:
        """The pause has been seen: run on."""
        self._hooks.pause_requested = False

    def _why_left(self) -> Exit | None:
        """What the hooks have noted of the reason why guest code was left; None when it was an interrupt."""
        hooks = self._hooks
        if hooks.undo_for is not None:
            kind, hooks.undo_for = hooks.undo_for, None
            self._uc.context_restore(hooks.undo_context)
            self.flush_tlb()
            self._forget_insns()
            if kind != ExitKind.EXCEPTION:
                return Exit(kind)
            return Exit(kind, _VECTOR_GP, 0) if hooks.undo_vector == _VECTOR_GP else Exit(kind, hooks.undo_vector)
        if self._stopped:
            return Exit(ExitKind.STOPPED)
        return self._raised()

    def _forget_insns(self) -> None:
        """An exit was the last thing that happened."""
        if self._stepper is not None:
            self._stepper.insns = 0

    def _raised(self) -> Exit | None:
        hooks = self._hooks
        if hooks.restart_at is not None:
            self.write("rip", hooks.restart_at)
            hooks.restart_at = None
        if hooks.vector is not None:
            vector, hooks.vector = hooks.vector, None
            return self._exception(vector)
        if hooks.fault is not None:
            hooks.note_exit(ends_block=True)
            self._forget_insns()
            return self._memory_fault()
        return None

    def _start(self, rip: int, count: int = 0) -> None:
        hooks = self._hooks
        count = count or (UNLIMITED if self.is_counting else 0)
        self._emulate(rip, count)
        while hooks.fault is not None and self.may_try_again(self._fault_address()):
            if self.is_counting:
                count = self.stepper.try_again()
                if not count:
                    hooks.fault = None
                    return  # it was to stop here
            rip = self.read("rip")
            self.watch.passes = rip
            if (self._stopped or hooks.pause_requested) and not self.is_counting:
                self._emulate_to_block_end(rip)
            else:
                self._emulate(rip, count)

    def _emulate_to_block_end(self, rip: int) -> None:
        """Guest code was to be left at the end of the block that the instruction at ``rip`` is in."""
        watch = self.watch
        watched = watch.code_addresses
        watch.set_code([*watched, rip])
        watch.stops_behind, watch.stop_soon = True, self._native.leave_soon
        self._emulate(rip, 0)
        watch.stop_soon = self.stop
        watch.set_code(watched)

    def _emulate(self, rip: int, count: int) -> None:
        hooks = self._hooks
        hooks.fault = hooks.vector = None
        try:
            self._uc.emu_start(rip, 0, 0, count)
        except UcError as error:
            is_known = hooks.fault is not None or hooks.vector is not None or hooks.undo_for or hooks.is_entering
            is_wanted = self._stopped or self._wedged or hooks.pause_requested
            if hooks.error is None and not is_known and not is_wanted:
                raise EngineError(f"{error} at rip {self.read('rip'):#x}") from error
        if hooks.error is not None:
            kept, hooks.error = hooks.error, None
            raise kept

    def _run_one(self, rip: int) -> Exit | None:
        """Run the one instruction at ``rip``, and say what came of it, if anything did. A stop from the midst of a
        block is due in the next run, at the block's end, as it would be had the block been run.
        """
        hooks, ends_block = self._hooks, True
        alarm, on_alarm = hooks.alarm, hooks.on_alarm

        def note(ends: bool) -> None:
            nonlocal ends_block, alarm
            ends_block = ends
            if hooks.exits >= alarm:
                on_alarm(ends)
                if hooks.alarm:  # set by whom it was for
                    alarm, hooks.alarm = hooks.alarm, 0

        self._stopped = False
        self._is_stepping = True
        hooks.alarm, hooks.on_alarm = 0, note
        try:
            if self.is_counting:
                self.stepper.count(rip, 1)
            else:
                self._run_checked(rip)
        finally:
            self._is_stepping = False
            hooks.alarm, hooks.on_alarm = alarm, on_alarm
        known = self._why_left()
        if known == Exit(ExitKind.STOPPED) and not ends_block and not is_block_end(self._uc, rip):
            self._stop_due = True
            return None
        return known

    def _run_checked(self, rip: int) -> None:
        """Run one instruction with exit checks, or the whole block would run."""
        self._no_exit_request[0], kept = 0, self._no_exit_request[0]
        try:
            self._start(rip, count=1)
        finally:
            self._no_exit_request[0] = kept

    def _fault_address(self) -> int:
        return U64.from_address(self._native.handle + self._native.fault_address).value

    def _memory_fault(self) -> Exit:
        hooks = self._hooks
        page, hooks.fault = hooks.fault, None
        address = self._fault_address()
        if page is None or address >> PAGE_SHIFT != page >> PAGE_SHIFT:
            raise EngineError(f"a fault at {address:#x} was refused at {page}: this Unicorn keeps it elsewhere")
        if not is_canonical(address):
            return Exit(ExitKind.EXCEPTION, _VECTOR_GP, 0, address)
        return Exit(ExitKind.EXCEPTION, _VECTOR_PF, self._mmu.fault_error_code(), address)

    def _exception(self, vector: int) -> Exit:
        if vector == _VECTOR_UD:
            return Exit(ExitKind.EXCEPTION, vector)
        error_code, is_software = self._cpu_state().take_error_code()
        if is_software:
            return Exit(ExitKind.EXCEPTION, vector, is_software=True)
        if vector not in _HAS_ERROR_CODE:
            error_code = -1
        return Exit(ExitKind.EXCEPTION, vector, error_code)

    def _cpu_state(self) -> CpuState:
        """Where the CPU keeps what has no name; found when it is needed first."""
        if self._state is None:
            self._state = CpuState(find_cpu_state(self._uc, self._native.cpu))
        return self._state

    def stop(self) -> None:
        """Leave guest code when the current hook returns, or at the end of the block."""
        if self._is_running and self.is_counting and self.stepper.request_stop(self.read("rip")):
            return
        self._stopped = True
        self._native.leave_soon()

    def leave(self) -> None:
        """``stop``, where guest code runs at all."""
        if self._is_running or self._is_stepping:
            self.stop()

    def interrupt(self) -> None:
        """Leave guest code from another thread: only for a guest that has made no exit for a long time. Repeat it until
        ``run`` has returned: one that comes just when guest code is being entered is lost.
        """
        with self._run_lock:
            if self.is_in_handler:
                return  # it is we who take long
            self._wedged = True
            if self._is_running and self.is_counting:
                self.stepper.interrupt()
            elif self._is_running:
                self._native.leave_soon()

    # -- code and memory ---------------------------------------------------------------------------------------------
    def retranslate(self) -> None:
        """Translate code anew from now on: hooks that came since are seen by it. The guest does not notice."""
        self._uc.ctl_flush_tb()

    def drop_all_code(self) -> None:
        """Forget all translated code (a new kernel took over, or a tracer was attached)."""
        self._ram.code_frames.clear()
        self._hooks.errata.found.clear()
        self._uc.ctl_flush_tb()
        self.flush_tlb()

    def trap_frame(
        self, window_maddr: int, read: Callable[[int, int], int], write: Callable[[int, int, int], None]
    ) -> None:
        """Serve every access to the page at ``window_maddr`` (not RAM) by ``read(offset, size)`` and
        ``write(offset, size, value)``: how polling of a shared page is seen. 0.5 us an access.
        """
        self._hooks.trap_frame(window_maddr, read, write)

    def record_instructions(
        self, sink: Callable[[Chunk], None], *, with_memory: bool = False, is_open: bool = True, is_native: bool = True,
        on_code: Callable[[int, int], None] | None = None,
    ) -> InstructionRecorder:  # fmt: skip
        """Have every instruction recorded from now on; see :class:`InstructionRecorder`. Not while guest code runs."""
        from pvemu.cpu.unicorn.recorder import InstructionRecorder

        return InstructionRecorder(
            self._native, self.registers, self.retranslate, self._hooks.keep_error, sink, with_memory=with_memory,
            is_open=is_open, is_native=is_native, on_code=on_code,
        )  # fmt: skip

    def record_blocks(
        self, sink: Callable[[memoryview], None] | None, *, is_native: bool = True,
        on_code: Callable[[int, int], None] | None = None,
    ) -> BlockRecorder:  # fmt: skip
        """Have every block recorded from now on; see :class:`BlockRecorder`."""
        from pvemu.cpu.unicorn.recorder import BlockRecorder

        return BlockRecorder(
            self._native, self.retranslate, self._hooks.keep_error, sink, is_native=is_native, on_code=on_code
        )

    def monitor_fills(self, watch: Callable[[int, int, tuple[int, int] | None], None]) -> Callable[[], None]:
        """``watch(page, access, what the MMU answered)`` after each TLB miss; the returned callable takes it off."""
        return self._hooks.monitor_fills(watch)
