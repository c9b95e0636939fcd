"""What the engine calls back, and what these calls note of why guest code is to be left.

A callback never lets an exception escape into C: it is kept in ``error`` and raised from ``Engine.run``.
"""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, Any

from unicorn import Uc, unicorn_const, x86_const

from pvemu.cpu.exits import Access, ExitHandler, ExitKind, Mmu
from pvemu.cpu.unicorn.errata import Errata
from pvemu.cpu.unicorn.native import FILL, IN, INSN, INTR, INVALID, OUT, REGISTERS, UNMAPPED, Native
from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Mfn
from pvemu.observers import subscribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.cpu.unicorn.register_file import RegisterFile
    from pvemu.memory.ram import Ram

__all__ = ["CODE_WINDOW", "ENTRY_VADDR", "Hooks"]

#: Linear address of the page that holds the one ring-0 instruction we need (inside Xen's text, never the guest's).
ENTRY_VADDR = 0xFFFF_82D0_4000_0000
#: Where frames appear, one at a time, while their translations are dropped (Xen's direct map).
CODE_WINDOW = 0xFFFF_8300_0000_0000

_FETCH = int(Access.FETCH)
_PROT_X = 4
_VECTOR_UD, _VECTOR_GP = 6, 13
_VECTOR_HYPERCALL = 0x82


class Hooks:
    """The callbacks of one CPU, which run ``handler`` and ``mmu``; ``entry_maddr`` is the frame of the entry page."""

    def __init__(
        self, uc: Uc, native: Native, registers: RegisterFile, handler: ExitHandler, mmu: Mmu, ram: Ram,
        entry_maddr: int,
    ) -> None:
        self._uc = uc
        self._native = native
        self._handler = handler
        self._entry_maddr = entry_maddr
        self.exits = 0
        self.tlb_fills = 0
        self.is_in_handler = False
        self.is_entering = self.is_entry_fetched = False
        self.window = -1  #: the page in the code window, while there is one
        self.fault: int | None = None  #: page of a refused access
        self.vector: int | None = None  #: an exception or interrupt
        self.restart_at: int | None = None  #: where its frame shows rip, if not where the CPU is by then
        self.error: BaseException | None = None  #: what one of our own handlers raised
        self.undo_for: ExitKind | None = None  #: why what runs is taken back, to ``undo_context``
        self.undo_context: Any = None
        self.undo_vector = _VECTOR_GP  #: of an EXCEPTION
        self.pause_requested = False  #: by one who only looks on
        self.alarm: float = math.inf  #: from this exit on, ``on_alarm`` is told of each
        self.on_alarm: Callable[[bool], None] = lambda ends_block: None
        self.errata = Errata(native, ram, lambda: self.undo(ExitKind.EXCEPTION, _VECTOR_UD), self.keep_error)
        self._plain_miss = mmu.on_tlb_miss
        self._fill_watches: list[Callable[[int, int, tuple[int, int] | None], None]] = []
        self._use_miss: Callable[[Callable[[int, int], tuple[int, int] | None]], None]
        native.hook(unicorn_const.UC_HOOK_TLB_FILL, FILL(self._make_fill(self._plain_miss)))
        rdtsc = self._make_rdtsc()
        for number, hook in (
            (x86_const.UC_X86_INS_SYSCALL, self._make_syscall()),
            (x86_const.UC_X86_INS_SYSENTER, self._make_sysenter(registers)),
            (x86_const.UC_X86_INS_RDTSC, rdtsc),
            (x86_const.UC_X86_INS_RDTSCP, self._make_rdtscp(rdtsc, registers)),
            (x86_const.UC_X86_INS_CPUID, self._make_cpuid(registers)),
        ):
            native.hook(unicorn_const.UC_HOOK_INSN, INSN(hook), ctypes.c_int(number))
        native.hook(unicorn_const.UC_HOOK_INSN, IN(self._on_in), ctypes.c_int(x86_const.UC_X86_INS_IN))
        native.hook(unicorn_const.UC_HOOK_INSN, OUT(self._on_out), ctypes.c_int(x86_const.UC_X86_INS_OUT))
        native.hook(unicorn_const.UC_HOOK_INTR, INTR(self._on_interrupt))
        native.hook(unicorn_const.UC_HOOK_INSN_INVALID, INVALID(self._on_invalid))

    def note_exit(self, *, ends_block: bool) -> None:
        """One more exit. ``ends_block``: it is the last thing that the translated block does."""
        self.exits += 1
        if self.exits >= self.alarm:
            self.on_alarm(ends_block)

    def keep_error(self, error: BaseException) -> None:
        """One of our own handlers failed: leave guest code, the run raises it."""
        if self.error is None:
            self.error = error
        self._uc.emu_stop()

    def _make_fill(
        self, miss: Callable[[int, int], tuple[int, int] | None]
    ) -> Callable[[int, int, int, Any, int], bool]:
        entry_page = ENTRY_VADDR
        places, pages = self.errata.found, self.errata.pages

        def fill(_uc: int, vaddr: int, access: int, entry: Any, _data: int) -> bool:
            self.tlb_fills += 1
            if self.undo_for is not None:
                return False
            try:
                if vaddr == self.window:
                    entry[0], entry[1] = vaddr - CODE_WINDOW, 4
                    return True
                if self.is_entering and access == _FETCH:
                    entry[0], entry[1] = self._entry_maddr, 7
                    is_first, self.is_entry_fetched = not self.is_entry_fetched, True
                    return is_first
                if self.is_entering and vaddr == entry_page:
                    entry[0], entry[1] = self._entry_maddr, 3
                    return True
                found = miss(vaddr, access)
                if found is None:
                    self.fault = vaddr
                    return False
                maddr, prot = found
                if prot & _PROT_X and (places.get(maddr) != () or vaddr in pages):
                    self.errata.look_at(vaddr, maddr)
                entry[0], entry[1] = maddr, prot
                return True
            except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
                self.keep_error(error)
                return False

        def use(other: Callable[[int, int], tuple[int, int] | None]) -> None:
            nonlocal miss
            miss = other

        self._use_miss = use
        return fill

    def monitor_fills(self, watch: Callable[[int, int, tuple[int, int] | None], None]) -> Callable[[], None]:
        """As ``Engine.monitor_fills``."""
        self._use_miss(self._watched_miss)
        remove = subscribe(self._fill_watches, watch)

        def undo() -> None:
            remove()
            if not self._fill_watches:
                self._use_miss(self._plain_miss)

        return undo

    def _watched_miss(self, vaddr: int, access: int) -> tuple[int, int] | None:
        found = self._plain_miss(vaddr, access)
        for watch in tuple(self._fill_watches):
            watch(vaddr, access, found)
        return found

    def _make_syscall(self) -> Callable[[int, int], int]:
        on_syscall = self._handler.on_syscall

        def syscall(_uc: int, _data: int) -> int:
            if self.undo_for is not None:
                return 1
            self.exits += 1
            if self.exits >= self.alarm:
                self.on_alarm(True)
            self.is_in_handler = True
            try:
                on_syscall()
            except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
                self.keep_error(error)
            self.is_in_handler = False
            return 1

        return syscall

    def _make_sysenter(self, registers: RegisterFile) -> Callable[[int, int], int]:
        """SYSENTER, which AMD's CPUs do not have in long mode: #UD."""
        read = registers.reader("rip")

        def sysenter(_uc: int, _data: int) -> int:
            self.exits += 1
            self.vector, self.restart_at = _VECTOR_UD, read()[0]
            self._uc.emu_stop()
            return 1

        return sysenter

    def _make_rdtsc(self) -> Callable[[int, int], int]:
        native = self._native
        on_rdtsc, cells, write = self._handler.on_rdtsc, native.cells, native.write
        handle, address = native.handle, native.cell_address
        rax, rdx = REGISTERS["rax"], REGISTERS["rdx"]

        def rdtsc(_uc: int, _data: int) -> int:
            if self.undo_for is not None:
                return 1
            self.exits += 1
            if self.exits >= self.alarm:
                self.on_alarm(False)
            try:
                value = on_rdtsc()
                cells[0] = value & 0xFFFF_FFFF
                write(handle, rax, address)
                cells[0] = value >> 32
                write(handle, rdx, address)
            except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
                self.keep_error(error)
            return 1

        return rdtsc

    def _make_rdtscp(
        self, rdtsc: Callable[[int, int], int], registers: RegisterFile
    ) -> Callable[[int, int], int]:
        write_rcx = registers.writer("rcx")

        def rdtscp(uc: int, data: int) -> int:
            done = rdtsc(uc, data)
            if self.undo_for is None:
                write_rcx(self._handler.on_tsc_aux())
            return done

        return rdtscp

    def _make_cpuid(self, registers: RegisterFile) -> Callable[[int, int], int]:
        read = registers.reader("rax", "rcx")
        set_all = [registers.writer(n) for n in ("rax", "rbx", "rcx", "rdx")]

        def cpuid(_uc: int, _data: int) -> int:
            if self.undo_for is not None:
                return 1
            self.note_exit(ends_block=False)
            try:
                leaf, subleaf = read()
                for write, value in zip(
                    set_all, self._handler.on_cpuid(leaf & 0xFFFF_FFFF, subleaf & 0xFFFF_FFFF), strict=True
                ):
                    write(value)
            except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
                self.keep_error(error)
            return 1

        return cpuid

    def _on_in(self, _uc: int, port: int, size: int, _data: int) -> int:
        if self.undo_for is not None:
            return 0
        self.note_exit(ends_block=False)
        try:
            value = self._handler.on_port_read(port, size)
            if value is not None:
                return value
            self.undo(ExitKind.EXCEPTION)
        except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
            self.keep_error(error)
        return 0

    def _on_out(self, _uc: int, port: int, size: int, value: int, _data: int) -> None:
        if self.undo_for is not None:
            return
        self.note_exit(ends_block=False)
        try:
            if not self._handler.on_port_write(port, size, value):
                self.undo(ExitKind.EXCEPTION)
        except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
            self.keep_error(error)

    def undo(self, why: ExitKind, vector: int = _VECTOR_GP) -> None:
        """Stand before the instruction whose hook this is: what runs of its block from here on is taken back, and
        stopped by the first access to memory. EXCEPTION makes the instruction a #GP or #UD, which the engine does not.
        """
        if self.undo_for is not None:
            return
        if self.undo_context is None:
            self.undo_context = self._uc.context_save()
        else:
            self._uc.context_update(self.undo_context)
        self.undo_for, self.undo_vector = why, vector
        self._native.flush_tlb()
        self._uc.emu_stop()

    def _on_interrupt(self, _uc: int, vector: int, _data: int) -> None:
        if self.undo_for is not None:
            self._uc.emu_stop()
            return
        self.note_exit(ends_block=True)
        if vector == _VECTOR_HYPERCALL:
            try:
                if self._handler.on_int82():
                    return
            except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
                self.keep_error(error)
        self.vector = vector
        self._uc.emu_stop()

    def _on_invalid(self, _uc: int, _data: int) -> bool:
        if self.undo_for is None:
            self.note_exit(ends_block=True)
        self.vector = _VECTOR_UD
        return False

    # -- memory ------------------------------------------------------------------------------------------------------
    def leave_out_dirty_scans(self, ram_start: int, ram_end: int) -> None:
        """After translating a block, Unicorn looks through its whole TLB for entries through which a store to that
        block would go unnoticed (a fifth of the time of a Linux boot). Here there are none: the walker grants writing
        without execution to no frame that was fetched from. Unicorn skips the search where a memory hook stands at the
        block's *linear* address, and takes every store the slow way where one stands at its *physical* address; so two
        hooks that are never called stand at all addresses but those that are RAM.
        """
        never = UNMAPPED(lambda *_args: False)
        for first, last in ((0, ram_start - 1), (ram_end, (1 << 64) - 1)):
            self._native.hook(unicorn_const.UC_HOOK_MEM_FETCH_UNMAPPED, never, first=first, last=last)

    def drop_translations(self, mfn: Mfn) -> None:
        """Forget code translated from one frame. The engine wants a linear address, which it translates by a fetch: it
        gets one of the hypervisor's own for the occasion.
        """
        self.errata.found.pop(mfn << PAGE_SHIFT, None)
        self.window = CODE_WINDOW + (mfn << PAGE_SHIFT)
        self._uc.ctl_remove_cache(self.window, self.window + PAGE_SIZE)
        self._native.flush_page(self.window)
        self.window = -1

    def trap_frame(
        self, window_maddr: int, read: Callable[[int, int], int], write: Callable[[int, int, int], None]
    ) -> None:
        """As ``Engine.trap_frame``."""

        def on_read(_uc: int, offset: int, size: int, _data: int) -> int:
            self.exits += 1
            if self.exits >= self.alarm:
                self.on_alarm(False)
            try:
                return read(offset, size)
            except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
                self.keep_error(error)
                return 0

        def on_write(_uc: int, offset: int, size: int, value: int, _data: int) -> None:
            self.exits += 1
            if self.exits >= self.alarm:
                self.on_alarm(False)
            try:
                write(offset, size, value)
            except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
                self.keep_error(error)

        self._native.map_io(window_maddr, on_read, on_write)
