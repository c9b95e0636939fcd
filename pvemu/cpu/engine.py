"""The CPU itself: Unicorn (QEMU's TCG) behind a narrow interface. The only module that knows Unicorn.

The engine's own MMU is off (``UC_TLB_VIRTUAL``): every TLB miss asks the machine, which walks the guest's tables and so
knows the access type, sees 64-bit CR3 and needs no slot in the guest's address space for the hypervisor. The binding's
Python layer is by-passed on hot paths (a hypercall costs 2.3 us instead of 3.7 us); callbacks never let an exception
escape into C: it is kept and raised from :meth:`Engine.run`.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from unicorn import UC_ARCH_X86, UC_MODE_64, Uc, UcError, unicorn_const, x86_const
from unicorn.unicorn_py3.unicorn import uclib

from pvemu.cpu.exits import Access, Exit, ExitHandler, ExitKind
from pvemu.cpu.paging import is_canonical
from pvemu.cpu.registers import GENERAL_64
from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Mfn

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.memory.ram import Ram

__all__ = ["Engine", "EngineError"]

_U64 = ctypes.c_uint64
_VOID = ctypes.c_void_p
_FILL = ctypes.CFUNCTYPE(ctypes.c_bool, _VOID, _U64, ctypes.c_int, ctypes.POINTER(_U64), _VOID)
_INSN = ctypes.CFUNCTYPE(ctypes.c_uint32, _VOID, _VOID)
_IN = ctypes.CFUNCTYPE(ctypes.c_uint32, _VOID, ctypes.c_uint32, ctypes.c_int, _VOID)
_OUT = ctypes.CFUNCTYPE(None, _VOID, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint32, _VOID)
_INTR = ctypes.CFUNCTYPE(None, _VOID, ctypes.c_uint32, _VOID)
_INVALID = ctypes.CFUNCTYPE(ctypes.c_bool, _VOID, _VOID)
_MMIO_READ = ctypes.CFUNCTYPE(_U64, _VOID, _U64, ctypes.c_uint, _VOID)
_MMIO_WRITE = ctypes.CFUNCTYPE(None, _VOID, _U64, ctypes.c_uint, _U64, _VOID)
_REG_WRITE = ctypes.CFUNCTYPE(ctypes.c_int, _VOID, ctypes.c_int, _VOID)
_GET_CPU = ctypes.CFUNCTYPE(_VOID, _VOID, ctypes.c_int)
_FLUSH_PAGE = ctypes.CFUNCTYPE(None, _VOID, _U64)
_REG_BATCH = ctypes.CFUNCTYPE(ctypes.c_int, _VOID, _VOID, _VOID, ctypes.c_int)

#: Engine register numbers by the names of pvemu.cpu.registers.
_REGISTERS: dict[str, int] = {
    name: getattr(x86_const, f"UC_X86_REG_{name.upper()}")
    for name in (*GENERAL_64, "rip", "rflags", "cs", "ss", "ds", "es", "fs", "gs", "fs_base", "gs_base", "cr0")
}

#: A 32-bit guest's names for the same registers: it runs in compatibility mode, where the upper halves are zero.
_REGISTERS |= {"e" + name[1:]: _REGISTERS[name] for name in GENERAL_64[:8]}

#: UC_CTL_WRITE(UC_CTL_TLB_FLUSH, 0): the binding has no name for it.
_CTL_TLB_FLUSH = (unicorn_const.UC_CTL_IO_WRITE << 30) | unicorn_const.UC_CTL_TLB_FLUSH

#: uc_struct of include/uc_priv.h: target_page_size, target_page_align, qemu_host_page_size, qemu_real_host_page_size
#: stand in a row; four flags follow 24 bytes behind them.
_UC_STRUCT_PAGE_SIZES = struct.pack("<IIQQ", PAGE_SIZE, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE)
_UC_STRUCT_FLAGS_AT = 48
_UC_STRUCT_HEAD = 4096

#: Registers read by one call.
_MAX_BATCH = 32
#: The number of the one CPU: Unicorn gives it none.
_UNASSIGNED_CPU_INDEX = -1

_FETCH = int(Access.FETCH)
_VECTOR_UD = 6
_VECTOR_PF = 14
_VECTOR_DB = 1
_VECTOR_GP = 13
_VECTOR_HYPERCALL = 0x82
_HAS_ERROR_CODE = frozenset((8, 10, 11, 12, 13, 14, 17))
_EFLAGS_TF, _EFLAGS_IF = 1 << 8, 1 << 9
_DATA_SELECTORS = frozenset(("ds", "es", "fs", "gs"))
#: Linear address of the page that holds the one ring-0 instruction we need (inside Xen's text, never the guest's).
_ENTRY_VADDR = 0xFFFF_82D0_4000_0000
#: Of QEMU's hflags (target/i386/cpu.h): HF_CPL, HF_CS32, HF_SS32, HF_ADDSEG, HF_CS64.
_HFLAGS_SEGMENTS = 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 15
#: mov %eax, %ds; %es; %fs; %gs; iretq
_LOAD_DATA, _LOAD_DATA_AT = b"\x8e\xd8\x8e\xc0\x8e\xe0\x8e\xe8\x48\xcf", 64
#: Where frames appear, one at a time, while their translations are dropped (Xen's direct map).
_CODE_WINDOW = 0xFFFF_8300_0000_0000


class EngineError(Exception):
    """The engine did something this project has no answer to: always our bug, never the guest's."""


class Engine:
    """One vcpu. ``entry_mfn`` is a hypervisor-owned frame for the ring-0 entry code; ``gdt_vaddr`` the linear address
    at which the handler's ``on_tlb_miss`` serves the GDT.
    """

    def __init__(self, ram: Ram, handler: ExitHandler, entry_mfn: Mfn, gdt_vaddr: int) -> None:
        self._uc = uc = Uc(UC_ARCH_X86, UC_MODE_64)
        uc.ctl_set_cpu_model(x86_const.UC_CPU_X86_SANDYBRIDGE)  # the last without RDRAND, which would ask the host
        self._uch = uc._uch  # noqa: SLF001 - the binding has no public name for the handle its own hooks take
        self._handle = int(self._uch.value or 0)
        self._ram = ram
        self._handler = handler
        self._entry_maddr = entry_mfn << PAGE_SHIFT
        self._gdt_vaddr = gdt_vaddr
        self._entering = self._entry_fetched = False
        self._window = -1
        self._stopped = False
        self._wedged = False
        self._unreported: Exit | None = None  # found while stepping
        self.is_in_handler = False  #: a handler is at work that may take seconds
        self._is_running = False
        self._run_lock = threading.Lock()
        self._no_exit_request = (ctypes.c_ubyte * 1)(0)
        self._fault: int | None = None
        self._vector: int | None = None
        self._error: BaseException | None = None
        self._keep: list[Any] = []
        self._context: Any = None
        self._fields = _ContextFields(-1, -1, -1)
        self._kernel_hflags = 0
        self._is_io_refused = False
        self._io_context: Any = None
        self._fault_address: ctypes.c_uint64 | None = None
        self.exits = 0  #: exits seen so far: a watchdog tells a busy guest from a wedged one by it
        self.tlb_fills = 0
        self._cells = (_U64 * _MAX_BATCH)()
        self._cpu: int | None = None
        self._flush_one: Callable[[int | None, int], object] = lambda cpu, vaddr: self.flush_tlb()
        self._bind_fast_paths()
        uc.mem_map_ptr(ram.base, ram.size, unicorn_const.UC_PROT_ALL, ram.host_address())
        uc.ctl_set_tlb_mode(unicorn_const.UC_TLB_VIRTUAL)
        uc.ctl_exits_enabled(True)
        uc.reg_write(x86_const.UC_X86_REG_GDTR, (0, gdt_vaddr, 0xFFFF, 0))
        self._find_page_flush()
        self._install_hooks()
        self._leave_out_exit_checks()
        ram.on_code_write = self._drop_translations

    # -- registers ---------------------------------------------------------------------------------------------------
    def _bind_fast_paths(self) -> None:
        def native(name: str, prototype: Any) -> Any:
            return prototype(ctypes.cast(getattr(uclib, name), _VOID).value)

        self._reg_write = native("uc_reg_write", _REG_WRITE)
        self._reg_read_batch = native("uc_reg_read_batch", _REG_BATCH)
        self._control = native("uc_ctl", ctypes.CFUNCTYPE(ctypes.c_int, _VOID, ctypes.c_int))
        self._cell_address = ctypes.addressof(self._cells)
        self._cell_pointers = (_VOID * _MAX_BATCH)(*(self._cell_address + 8 * i for i in range(_MAX_BATCH)))

    def read(self, name: str) -> int:
        """One register by name."""
        return int(self._uc.reg_read(_REGISTERS[name]))

    def write(self, name: str, value: int) -> None:
        """Set one register by name. In a hook ``rip`` may not be written: stop first. A data selector that the CPU
        would refuse becomes 0: its fault would jump out of the engine, through Python's own frames.
        """
        if name in _DATA_SELECTORS and not self._is_data_selector(value & 0xFFFF):
            value = 0
        self._cells[0] = value & 0xFFFF_FFFF_FFFF_FFFF
        self._reg_write(self._handle, _REGISTERS[name], self._cell_address)

    def _is_data_selector(self, selector: int) -> bool:
        """Whether ring 3 may load this selector of the GDT (the engine has no LDT) into ds, es, fs or gs."""
        if selector < 4 or selector & 4:
            return False
        vaddr = self._gdt_vaddr + (selector & ~7)
        found = self._handler.on_tlb_miss(vaddr & -PAGE_SIZE, Access.READ)
        if found is None:
            return False
        access = self._ram.read_u64(found[0] | vaddr & (PAGE_SIZE - 1)) >> 40 & 0xFF
        is_data, is_conforming = not access & 8, access & 0xC == 0xC
        return access & 0x90 == 0x90 and (is_data or bool(access & 2)) and (access & 0x60 == 0x60 or is_conforming)

    def reader(self, *names: str) -> Callable[[], list[int]]:
        """A fast reader of up to 32 registers at once."""
        count = len(names)
        if count > _MAX_BATCH:
            raise ValueError(f"{count} registers at once")
        ids = (ctypes.c_int * count)(*(_REGISTERS[n] for n in names))
        id_address, pointers = ctypes.addressof(ids), ctypes.addressof(self._cell_pointers)
        self._keep.append(ids)
        batch, handle, cells = self._reg_read_batch, self._handle, self._cells

        def read() -> list[int]:
            batch(handle, id_address, pointers, count)
            return cells[:count]

        return read

    def writer(self, name: str) -> Callable[[int], None]:
        """A fast writer of one register."""
        write, handle, number, cells, address = (
            self._reg_write, self._handle, _REGISTERS[name], self._cells, self._cell_address,
        )  # fmt: skip

        def set_register(value: int) -> None:
            cells[0] = value
            write(handle, number, address)

        return set_register

    def _leave_out_exit_checks(self) -> None:
        """Set uc_struct.no_exit_request: no call after each memory access to ask whether to stop (that takes 40 % of
        the time of memory-bound code). A stop then takes effect at the end of the translated block. The field has no
        name in the API; it is found by its neighbours, and left alone when they are not where 2.1.4 has them.
        """
        head = (ctypes.c_ubyte * _UC_STRUCT_HEAD).from_address(self._handle)
        anchor = bytes(head).find(_UC_STRUCT_PAGE_SIZES)
        flags = head[anchor + _UC_STRUCT_FLAGS_AT : anchor + _UC_STRUCT_FLAGS_AT + 4]
        if anchor >= 0 and flags == [0, 0, 0, 1]:  # hook_insert, first_tb, no_exit_request, init_done
            self._no_exit_request = (ctypes.c_ubyte * 1).from_address(self._handle + anchor + _UC_STRUCT_FLAGS_AT + 2)
            self._no_exit_request[0] = 1

    # -- running -----------------------------------------------------------------------------------------------------
    def enter_from_ring0(
        self, rip: int, rsp: int, cs: int, ss: int, rflags: int = 0x202, data: int | None = None
    ) -> Exit | None:
        """``enter`` for a guest whose privilege level or code width may be another than the CPU is at. ``data`` is
        loaded into ds, es, fs and gs, descriptor and all.
        """
        self._load_context()
        raw = _context_bytes(self._context)
        hflags = raw[self._fields.hflags]
        raw[self._fields.hflags] = hflags & ~_HFLAGS_SEGMENTS | self._kernel_hflags & _HFLAGS_SEGMENTS
        self._uc.context_restore(self._context)
        if data is None:
            return self.enter(rip, rsp, cs, ss, rflags)
        rax = self.read("rax")
        self.write("rax", data)
        refusal = self.enter(rip, rsp, cs, ss, rflags, _LOAD_DATA_AT)
        self.write("rax", rax)
        return refusal

    def enter(
        self, rip: int, rsp: int, cs: int, ss: int, rflags: int = 0x202, entry_offset: int = 0
    ) -> Exit | None:
        """Load ``cs``/``ss`` with their privilege level by an IRETQ from ring 0 (a register write sets no CPL), then
        stand at ``rip``. All other registers keep their values. The exception, where the CPU refuses the selectors: it
        stays in ring 0 then, and has to be entered with better ones.
        """
        frame = struct.pack("<5Q", rip, cs, rflags & ~_EFLAGS_TF, rsp, ss)
        self._ram.write(self._entry_maddr, b"\x48\xcf".ljust(16, b"\xcc") + frame)
        self._ram.write(self._entry_maddr + _LOAD_DATA_AT, _LOAD_DATA)
        self._uc.reg_write(x86_const.UC_X86_REG_RSP, _ENTRY_VADDR + 16)
        self.write("rflags", _EFLAGS_IF | 2)  # without the NT that the guest may have set: it makes the IRETQ a fault
        self._entering, self._entry_fetched = True, False
        self.flush_page(_ENTRY_VADDR)
        self.flush_page(rip)
        self._start(_ENTRY_VADDR + entry_offset)  # ends when the guest's first instruction is fetched
        self._entering = False
        self.flush_page(_ENTRY_VADDR)
        if self._vector is not None:
            vector, self._vector = self._vector, None
            return self._exception(vector)
        if self._fault is not None:
            return self._memory_fault()
        if rflags & _EFLAGS_TF:
            self.write("rflags", rflags)
        return None

    def run(self) -> Exit:
        """Run guest code until a handler stops it or it raises an exception."""
        if self._unreported is not None:
            leaving, self._unreported = self._unreported, None
            return leaving
        self._stopped = False
        if not self._wedged:
            with self._run_lock:
                self._is_running = True
            try:
                self._start(self.read("rip"))
            finally:
                with self._run_lock:
                    self._is_running = False
            known = self._why_left()
            if known is not None:
                return known
        if self._wedged:
            self._wedged = False
            return Exit(ExitKind.WEDGED)
        raise EngineError(f"the CPU stopped without a reason at rip {self.read('rip'):#x}")

    def _why_left(self) -> Exit | None:
        """What the hooks have noted of the reason why guest code was left; None when it was an interrupt."""
        if self._is_io_refused:
            self._is_io_refused = False
            self._uc.context_restore(self._io_context)
            self.flush_tlb()
            return Exit(ExitKind.EXCEPTION, _VECTOR_GP, 0)
        if self._stopped:
            return Exit(ExitKind.STOPPED)
        if self._vector is not None:
            vector, self._vector = self._vector, None
            return self._exception(vector)
        if self._fault is not None:
            return self._memory_fault()
        return None

    def _start(self, rip: int, count: int = 0) -> None:
        self._fault = self._vector = None
        try:
            self._uc.emu_start(rip, 0, 0, count)
        except UcError as error:
            is_known = self._fault is not None or self._vector is not None or self._is_io_refused or self._entering
            if self._error is None and not is_known:
                raise EngineError(f"{error} at rip {self.read('rip'):#x}") from error
        if self._error is not None:
            kept, self._error = self._error, None
            raise kept

    def _step(self, rip: int) -> None:
        """Run the one instruction at ``rip``: with exit checks, or the whole block would run."""
        self._no_exit_request[0], kept = 0, self._no_exit_request[0]
        try:
            self._start(rip, count=1)
        finally:
            self._no_exit_request[0] = kept

    def _memory_fault(self) -> Exit:
        page, self._fault = self._fault, None
        if self._fault_address is None:
            self._fault_address = _U64.from_address(self._handle + _find_fault_address())
        address = self._fault_address.value
        if page is None or address >> PAGE_SHIFT != page >> PAGE_SHIFT:
            raise EngineError(f"a fault at {address:#x} was refused at {page}: this Unicorn keeps it elsewhere")
        if not is_canonical(address):
            return Exit(ExitKind.EXCEPTION, _VECTOR_GP, 0)
        return Exit(ExitKind.EXCEPTION, _VECTOR_PF, self._handler.fault_error_code(), address)

    def _exception(self, vector: int) -> Exit:
        if vector in (_VECTOR_DB, _VECTOR_UD):
            return Exit(ExitKind.EXCEPTION, vector)
        error_code, is_software = self._take_error_code()
        if is_software:
            return Exit(ExitKind.EXCEPTION, vector, is_software=True)
        if vector not in _HAS_ERROR_CODE:
            error_code = -1
        return Exit(ExitKind.EXCEPTION, vector, error_code)

    def stop(self) -> None:
        """Leave guest code when the current hook returns."""
        self._stopped = True
        self._uc.emu_stop()

    def interrupt(self) -> None:
        """Leave guest code from another thread: only for a guest that has made no exit for a long time. Repeat it until
        ``run`` has returned: one that comes just when guest code is being entered is lost.
        """
        with self._run_lock:
            if self.is_in_handler:
                return  # it is we who take long
            self._wedged = True
            if self._is_running:
                self._uc.emu_stop()

    def find_loop(self, max_steps: int = 4096) -> list[int]:
        """Instruction addresses of the loop that the guest provably repeats for ever, empty when it is none: the same
        registers come back and nothing was stored or left guest code meanwhile. Steps through the guest for real.
        """
        stores = 0

        def on_store(*_args: object) -> None:
            nonlocal stores
            stores += 1

        self._stopped = False
        hook = self._uc.hook_add(unicorn_const.UC_HOOK_MEM_WRITE, on_store)
        self.drop_all_code()  # hooks are seen by code that is translated after them only
        seen: dict[tuple[int, ...], int] = {}
        path: list[int] = []
        try:
            exits = self.exits
            for step in range(max_steps):
                state = (self.read("rip"), self.read("rflags"), *map(self.read, GENERAL_64), *self._vector_registers())
                if state in seen:
                    return path[seen[state] :]
                seen[state] = step
                path.append(state[0])
                self._step(state[0])
                self._unreported = self._why_left()
                if stores or self.exits != exits or self._unreported is not None:
                    return []
            return []
        finally:
            self._uc.hook_del(hook)
            self.drop_all_code()

    def step_to(self, rip: int, max_steps: int) -> None:
        """Run single instructions until ``rip`` is next."""
        for _ in range(max_steps):
            here = self.read("rip")
            if here == rip:
                return
            self._step(here)

    def _vector_registers(self) -> list[int]:
        return [int(self._uc.reg_read(x86_const.UC_X86_REG_XMM0 + i)) for i in range(16)]

    def _take_error_code(self) -> tuple[int, bool]:
        """The error code of an exception, and whether it is an ``int n``. Also forgets QEMU's pending exception: it is
        delivered by us, so the engine never clears it, and the next one would arrive as a double fault.
        """
        self._load_context()
        error_at = self._fields.error_code
        raw = _context_bytes(self._context)
        error_code, is_software = int(raw[error_at]), bool(raw[error_at + 1])  # error_code, exception_is_int
        raw[self._fields.pending] = -1
        self._uc.context_restore(self._context)
        return error_code, is_software

    def _load_context(self) -> None:
        """Bring ``_context`` up to date with the CPU; find out first where it keeps what."""
        if self._context is None:
            self._context = self._uc.context_save()
            self._fields, self._kernel_hflags = _find_context_fields()
        else:
            self._uc.context_update(self._context)

    # -- TLB ---------------------------------------------------------------------------------------------------------
    def flush_tlb(self) -> None:
        """Forget every translation the CPU holds."""
        self._control(self._handle, _CTL_TLB_FLUSH)

    def flush_page(self, vaddr: int) -> None:
        """Forget the translations of the page at ``vaddr``."""
        self._flush_one(self._cpu, vaddr)

    def _find_page_flush(self) -> None:
        """QEMU's tlb_flush_page, which the library exports but its API has no name for; else all is flushed."""
        try:
            address = ctypes.cast(uclib.qemu_get_cpu_x86_64, _VOID).value or 0
            flush = _FLUSH_PAGE(ctypes.cast(uclib.tlb_flush_page_x86_64, _VOID).value or 0)
        except AttributeError:
            return
        self._cpu = _GET_CPU(address)(self._handle, _UNASSIGNED_CPU_INDEX)
        if self._cpu:
            self._flush_one = flush

    def drop_all_code(self) -> None:
        """Forget all translated code (a new kernel took over, or a tracer was attached)."""
        self._ram.code_frames.clear()
        self._uc.ctl_flush_tb()
        self.flush_tlb()

    def _drop_translations(self, mfn: Mfn) -> None:
        """Forget code translated from one frame. The engine wants a linear address, which it translates by a fetch: it
        gets one of the hypervisor's own for the occasion.
        """
        self._window = _CODE_WINDOW + (mfn << PAGE_SHIFT)
        self._uc.ctl_remove_cache(self._window, self._window + PAGE_SIZE)
        self.flush_page(self._window)
        self._window = -1

    def trap_frame(
        self, window_maddr: int, read: Callable[[int, int], int], write: Callable[[int, int, int], None]
    ) -> None:
        """Serve every access to the page at ``window_maddr`` (not RAM) by ``read(offset, size)`` and
        ``write(offset, size, value)``: how polling of a shared page is seen. 0.5 us an access.
        """

        def on_read(_uc: int, offset: int, size: int, _data: int) -> int:
            self.exits += 1
            try:
                return read(offset, size)
            except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
                self._keep_error(error)
                return 0

        def on_write(_uc: int, offset: int, size: int, value: int, _data: int) -> None:
            self.exits += 1
            try:
                write(offset, size, value)
            except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
                self._keep_error(error)

        read_c, write_c = _MMIO_READ(on_read), _MMIO_WRITE(on_write)
        self._keep += [read_c, write_c]
        status = uclib.uc_mmio_map(
            self._uch, _U64(window_maddr), ctypes.c_size_t(PAGE_SIZE),
            ctypes.cast(read_c, _VOID), None, ctypes.cast(write_c, _VOID), None,
        )  # fmt: skip
        if status != 0:
            raise EngineError(f"mmio_map of {window_maddr:#x} failed: {status}")

    # -- hooks -------------------------------------------------------------------------------------------------------
    def _keep_error(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._uc.emu_stop()

    def _hook(self, kind: int, callback: Any, *args: Any) -> None:
        self._keep.append(callback)
        hook = ctypes.c_size_t()
        status = uclib.uc_hook_add(
            self._uch, ctypes.byref(hook), kind, ctypes.cast(callback, _VOID), None, _U64(1), _U64(0), *args
        )
        if status != 0:
            raise EngineError(f"hook {kind} refused: {status}")

    def _install_hooks(self) -> None:
        self._hook(unicorn_const.UC_HOOK_TLB_FILL, _FILL(self._make_fill()))
        for number, hook in (
            (x86_const.UC_X86_INS_SYSCALL, self._make_syscall()),
            (x86_const.UC_X86_INS_RDTSC, self._make_rdtsc()),
            (x86_const.UC_X86_INS_RDTSCP, self._make_rdtsc()),
            (x86_const.UC_X86_INS_CPUID, self._make_cpuid()),
        ):
            self._hook(unicorn_const.UC_HOOK_INSN, _INSN(hook), ctypes.c_int(number))
        self._hook(unicorn_const.UC_HOOK_INSN, _IN(self._on_in), ctypes.c_int(x86_const.UC_X86_INS_IN))
        self._hook(unicorn_const.UC_HOOK_INSN, _OUT(self._on_out), ctypes.c_int(x86_const.UC_X86_INS_OUT))
        self._hook(unicorn_const.UC_HOOK_INTR, _INTR(self._on_interrupt))
        self._hook(unicorn_const.UC_HOOK_INSN_INVALID, _INVALID(self._on_invalid))

    def _make_fill(self) -> Callable[[int, int, int, Any, int], bool]:
        miss, entry_page = self._handler.on_tlb_miss, _ENTRY_VADDR

        def fill(_uc: int, vaddr: int, access: int, entry: Any, _data: int) -> bool:
            self.tlb_fills += 1
            if self._is_io_refused:
                return False
            try:
                if vaddr == self._window:
                    entry[0], entry[1] = vaddr - _CODE_WINDOW, 4
                    return True
                if self._entering and access == _FETCH:
                    entry[0], entry[1] = self._entry_maddr, 7
                    is_first, self._entry_fetched = not self._entry_fetched, True
                    return is_first
                if self._entering and vaddr == entry_page:
                    entry[0], entry[1] = self._entry_maddr, 3
                    return True
                found = miss(vaddr, access)
                if found is None:
                    self._fault = vaddr
                    return False
                entry[0], entry[1] = found
                return True
            except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
                self._keep_error(error)
                return False

        return fill

    def _make_syscall(self) -> Callable[[int, int], int]:
        on_syscall = self._handler.on_syscall

        def syscall(_uc: int, _data: int) -> int:
            self.exits += 1
            self.is_in_handler = True
            try:
                if not self._is_io_refused:
                    on_syscall()
            except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
                self._keep_error(error)
            self.is_in_handler = False
            return 1

        return syscall

    def _make_rdtsc(self) -> Callable[[int, int], int]:
        on_rdtsc, cells, write = self._handler.on_rdtsc, self._cells, self._reg_write
        handle, address = self._handle, self._cell_address
        rax, rdx = _REGISTERS["rax"], _REGISTERS["rdx"]

        def rdtsc(_uc: int, _data: int) -> int:
            self.exits += 1
            try:
                value = on_rdtsc()
                cells[0] = value & 0xFFFF_FFFF
                write(handle, rax, address)
                cells[0] = value >> 32
                write(handle, rdx, address)
            except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
                self._keep_error(error)
            return 1

        return rdtsc

    def _make_cpuid(self) -> Callable[[int, int], int]:
        read = self.reader("rax", "rcx")
        set_all = [self.writer(n) for n in ("rax", "rbx", "rcx", "rdx")]

        def cpuid(_uc: int, _data: int) -> int:
            self.exits += 1
            try:
                leaf, subleaf = read()
                for write, value in zip(
                    set_all, self._handler.on_cpuid(leaf & 0xFFFF_FFFF, subleaf & 0xFFFF_FFFF), strict=True
                ):
                    write(value)
            except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
                self._keep_error(error)
            return 1

        return cpuid

    def _on_in(self, _uc: int, port: int, size: int, _data: int) -> int:
        self.exits += 1
        try:
            value = None if self._is_io_refused else self._handler.on_port_read(port, size)
            if value is not None:
                return value
            self._refuse_io()
        except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
            self._keep_error(error)
        return 0

    def _on_out(self, _uc: int, port: int, size: int, value: int, _data: int) -> None:
        self.exits += 1
        try:
            if self._is_io_refused or not self._handler.on_port_write(port, size, value):
                self._refuse_io()
        except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
            self._keep_error(error)

    def _refuse_io(self) -> None:
        """Make an I/O instruction a #GP, which the engine never does: what runs of its block behind it is undone, and
        stopped by the first access to memory.
        """
        if self._is_io_refused:
            return
        if self._io_context is None:
            self._io_context = self._uc.context_save()
        else:
            self._uc.context_update(self._io_context)
        self._is_io_refused = True
        self.flush_tlb()
        self._uc.emu_stop()

    def _on_interrupt(self, _uc: int, vector: int, _data: int) -> None:
        self.exits += 1
        if vector == _VECTOR_HYPERCALL and not self._is_io_refused:
            try:
                if self._handler.on_int82():
                    return
            except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
                self._keep_error(error)
        self._vector = vector
        self._uc.emu_stop()

    def _on_invalid(self, _uc: int, _data: int) -> bool:
        self.exits += 1
        self._vector = _VECTOR_UD
        return False


def _find_fault_address() -> int:
    """Where uc_struct keeps the exact address of a refused access (``invalid_addr``; hooks are told the page only):
    found by provoking one on a scratch CPU.
    """
    uc = Uc(UC_ARCH_X86, UC_MODE_64)
    code, address = 0x1000, 0x5A5A_1234_5678
    uc.mem_map(code, PAGE_SIZE)
    uc.mem_write(code, b"\x48\xa1" + address.to_bytes(8, "little"))  # movabs address, %rax
    with contextlib.suppress(UcError):  # the very point
        uc.emu_start(code, 0)
    head = bytes((ctypes.c_ubyte * _UC_STRUCT_HEAD).from_address(int(uc._uch.value or 0)))  # noqa: SLF001 - as above
    offset = head.find(address.to_bytes(8, "little"))
    if offset < 0 or head.count(address.to_bytes(8, "little")) != 1:
        raise EngineError("this Unicorn keeps the address of a fault elsewhere: use 2.1.4")
    return offset


def _context_bytes(context: Any) -> Any:
    """The saved context as an array of int32, writable in place."""
    address = ctypes.cast(context.context, _VOID).value
    return (ctypes.c_int32 * (context.size // 4)).from_address(address)


class _ContextFields(NamedTuple):
    """int32 indices into a saved context. ``exception_is_int`` follows ``error_code``."""

    error_code: int
    pending: int
    hflags: int


def _find_context_fields() -> tuple[_ContextFields, int]:
    """Where a saved context holds the error code, the pending exception and QEMU's hflags, and the hflags of 64-bit
    code in ring 0. Found by going to ring 3 on a scratch CPU and provoking a #GP with a known error code there, since
    the engine's API names none of them.
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
    before = list(_context_bytes(context))
    uc.emu_start(_SCRATCH, 0)
    uc.context_update(context)
    after = list(_context_bytes(context))
    long_mode = 1 << 14 | 1 << 15  # HF_LMA, HF_CS64
    fields = _ContextFields(
        _one_field(before, after, lambda old, new: new == 0x1230 != old),
        _one_field(before, after, lambda old, new: (old, new) == (-1, 13)),
        _one_field(before, after, lambda old, new: old & (long_mode | 3) == long_mode and new == old | 3),
    )
    return fields, before[fields.hflags]


_IRETQ = b"\x48\xcf"
#: mov $0x07771230, %eax; mov %eax, %ds: no descriptor is there.
_GP_1230 = b"\xb8\x30\x12\x77\x07\x8e\xd8"
_SCRATCH, _SCRATCH_STACK, _SCRATCH_GDT = 0x1000, 0x1100, 0x1200


def _one_field(before: list[int], after: list[int], is_change: Callable[[int, int], bool]) -> int:
    found = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if is_change(old, new)]
    if len(found) != 1:
        raise EngineError(f"this Unicorn keeps its state elsewhere (candidates {found}): use 2.1.4")
    return found[0]
