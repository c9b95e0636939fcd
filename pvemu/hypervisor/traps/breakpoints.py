"""Breakpoints of the guest's debug registers at work, as the CPU would serve them.

The engine has none. A page with a breakpoint is kept out of its TLB, so that an access of the watched kind faults; the
instruction is then run by itself, with its accesses to watched pages seen one by one, and #DB raised behind it (before
it for an instruction breakpoint). Elsewhere guest code runs as ever, and without breakpoints none of this is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hypercalls.errors import XenError
from pvemu.cpu.exits import Access, Exit, ExitKind
from pvemu.frames import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, Mfn
from pvemu.hypervisor.traps.debugreg import DR_STEP
from pvemu.hypervisor.vcpu.current import ServesCurrent

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.address_space import AddressSpace
    from pvemu.hypervisor.guest_access import GuestMemory
    from pvemu.hypervisor.traps.debugreg import Breakpoint
    from pvemu.hypervisor.traps.emulate import CodeReader
    from pvemu.hypervisor.vcpu import Vcpu
    from pvemu.memory.ram import Ram

__all__ = ["Breakpoints"]

_DB = 1
_TF, _RF = 1 << 8, 1 << 16
_FETCH, _WRITE = int(Access.FETCH), int(Access.WRITE)
_NR = 4
_DR7_ACTIVE = 0xFF
_PUSHF, _POPF, _IRET, _SYSCALL = 0x9C, 0x9D, 0xCF, 0x0F05
class Stepped(NamedTuple):
    """One instruction that was run by itself: why guest code was left, and the DR6 bits of what it touched."""

    leaving: Exit
    match: int


class Breakpoints(ServesCurrent):
    """Those of ``vcpu``. ``run`` runs guest code; ``trap_frame(window, read, write)`` serves a page that is not RAM:
    ``windows`` are the addresses of four.
    """

    def __init__(
        self, vcpu: Vcpu, code: CodeReader, guest: GuestMemory, ram: Ram, space: AddressSpace, windows: int,
        trap_frame: Callable[[int, Callable[[int, int], int], Callable[[int, int, int], None]], None],
        run: Callable[[], Exit],
    ) -> None:  # fmt: skip
        self._vcpu = vcpu
        self._code = code
        self._guest = guest
        self._ram = ram
        self._space = space
        self._windows = windows
        self._trap_frame = trap_frame
        self._run = run
        self._armed: list[Breakpoint] = []
        self._pages: dict[int, int] = {}  # watched linear page -> number of its window
        self._behind: list[tuple[int, int]] = []  # by window: linear page, machine address
        self._fetch_pages: set[int] = set()
        self._is_stepping = self._was_tracing = False
        self._match = 0
        vcpu.debugreg.on_change = self.update

    def set_current(self, vcpu: Vcpu) -> None:
        """Another vcpu has other breakpoints."""
        super().set_current(vcpu)
        vcpu.debugreg.on_change = self.update
        if self._armed or vcpu.debugreg.dr7 & _DR7_ACTIVE:
            resumes_at = vcpu.resumes_at
            self.update()
            vcpu.resumes_at = resumes_at

    # -- arming ------------------------------------------------------------------------------------------------------
    def update(self) -> None:
        """Watch what the vcpu's debug registers name now."""
        space = self._space
        for page in self._pages:
            space.unwatch(page)
        self._vcpu.resumes_at = -1
        self._armed = self._vcpu.debugreg.breakpoints
        if self._armed and not self._behind:
            self._make_windows()
        self._fetch_pages = {b.start & ~PAGE_MASK for b in self._armed if b.on_fetch}
        self._pages = {}
        for page in sorted({b.start & ~PAGE_MASK for b in self._armed}):
            self._pages[page] = len(self._pages)
            space.watch(page, self._translate)

    def _make_windows(self) -> None:
        for n in range(_NR):
            self._behind.append((0, 0))
            self._trap_frame(self._windows + n * PAGE_SIZE, self._reader(n), self._writer(n))

    def _reader(self, n: int) -> Callable[[int, int], int]:
        def read(offset: int, size: int) -> int:
            page, maddr = self._behind[n]
            self._touched(page + offset, size, is_write=False)
            return int.from_bytes(self._ram.read(maddr + offset, size), "little")

        return read

    def _writer(self, n: int) -> Callable[[int, int, int], None]:
        def write(offset: int, size: int, value: int) -> None:
            page, maddr = self._behind[n]
            self._touched(page + offset, size, is_write=True)
            mfn = Mfn(maddr >> PAGE_SHIFT)
            if mfn in self._ram.code_frames:
                self._ram.on_code_write(mfn)
            self._ram.write(maddr + offset, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))

        return write

    def _touched(self, address: int, size: int, *, is_write: bool) -> None:
        for b in self._armed:
            if not b.on_fetch and (is_write or b.on_read) and b.start < address + size and address < b.end:
                self._match |= 1 << b.number

    # -- the MMU's question ------------------------------------------------------------------------------------------
    def _translate(self, page: int, access: int, plain: tuple[int, int] | None) -> tuple[int, int] | None:
        """What the TLB may have of a watched page that is mapped as ``plain`` says; None faults."""
        if plain is None:
            return None
        if access == _FETCH:
            if page in self._fetch_pages and not self._is_stepping:
                self._space.refused_page = page
                return None
            return plain[0], 4
        data = any(not b.on_fetch and b.start & ~PAGE_MASK == page for b in self._armed)
        if not data or not self._ram.contains(plain[0] >> PAGE_SHIFT):
            return plain[0], plain[1] & 3
        if not self._is_stepping:
            self._space.refused_page = page
            return None
        n = self._pages[page]
        self._behind[n] = page, plain[0]
        return self._windows + n * PAGE_SIZE, plain[1] & 3

    # -- exits -------------------------------------------------------------------------------------------------------
    def is_watched_fault(self, leaving: Exit) -> bool:
        """Whether a page fault is only due to a watched page."""
        return self._space.refused_page == leaving.address & ~PAGE_MASK and bool(self._pages)

    def serve(self) -> Exit | None:
        """Run the instruction that touched a watched page. The exit that is the guest's to see, if any: a #DB is
        recorded in DR6 already.
        """
        self._space.refused_page = -1
        vcpu, code = self._vcpu, self._code
        regs = vcpu.regs
        linear = code.rip()
        fetched = sum(1 << b.number for b in self._armed if b.on_fetch and b.start == linear)
        is_resumed, vcpu.resumes_at = vcpu.resumes_at == regs.read("rip"), -1
        if fetched and not is_resumed and not regs.read("rflags") & _RF:
            vcpu.debugreg.record(fetched)
            return Exit(ExitKind.EXCEPTION, _DB)
        instruction = code.instruction()
        leaving, match = self._step(-1 if instruction is None else instruction.opcode)
        if leaving.kind == ExitKind.EXCEPTION and (leaving.vector != _DB or leaving.is_software):
            return leaving
        if instruction is not None and instruction.loads_ss and self._has_made_hypercall():
            return None
        return self._raise(match)

    def _has_made_hypercall(self) -> bool:
        """Whether the instruction behind a load of SS, which the CPU runs with it, was a SYSCALL: a #DB that waited for
        its end comes up in Xen, which drops it.
        """
        regs = self._vcpu.regs
        rip = regs.read("rip")
        return regs.read("rcx") == rip and self._code.opcode(rip - 2) == _SYSCALL

    def _raise(self, match: int) -> Exit | None:
        vcpu = self._vcpu
        if self._was_tracing:
            match |= DR_STEP
        if not match or vcpu.resume is not None:
            return None
        vcpu.debugreg.record(match)
        return Exit(ExitKind.EXCEPTION, _DB)

    def _step(self, opcode: int) -> Stepped:
        """The CPU's own single step, which the guest must not notice."""
        regs = self._vcpu.regs
        before = regs.read("rflags")
        self._was_tracing = bool(before & _TF)
        regs.write("rflags", before | _TF)
        self._is_stepping, self._match = True, 0
        self._flush()
        try:
            leaving = self._run()
        finally:
            self._is_stepping = False
            self._flush()
        if not self._was_tracing:
            if opcode not in (_POPF, _IRET):
                regs.write("rflags", regs.read("rflags") & ~_TF)
            if opcode == _PUSHF:
                self._untrace(self._code.rsp() + 1)
            elif opcode == _SYSCALL:
                regs.write("r11", regs.read("r11") & ~_TF)
        return Stepped(leaving, self._match)

    def _untrace(self, address: int) -> None:
        """Take TF out of flags that the guest has just pushed: bit 0 of the byte at ``address``."""
        try:
            flags = self._guest.copy_from_guest(address, 1)[0]
            self._guest.copy_to_guest(address, bytes((flags & ~1,)))
        except XenError:
            pass  # the push itself has faulted

    def _flush(self) -> None:
        for page in self._pages:
            self._space.flush_page(page)
