"""The debug registers of one vcpu (xen/arch/x86/pv/misc-hypercalls.c set_debugreg, x86_emulate.c x86emul_read_dr,
asm/debugreg.h).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from pvemu.cpu.paging import access_ok

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DR_STEP", "X86_DR6_DEFAULT", "Breakpoint", "DebugRegisters"]

X86_DR6_DEFAULT, X86_DR7_DEFAULT = 0xFFFF_0FF0, 0x400
DR_STEP = 1 << 14
_DR6_ZERO, _DR7_ZERO = 1 << 12, 0xD800
_DR7_ACTIVE, _DR7_GENERAL_DETECT = 0xFF, 1 << 13
_DR_RW_EXECUTE, _DR_RW_WRITE, _DR_IO = 0, 1, 2
#: DR_LEN_1, 2, 8 and 4 in the order of their encoding.
_WIDTHS = (1, 2, 8, 4)


class Breakpoint(NamedTuple):
    """An enabled breakpoint on memory: DR ``number`` over [``start``, ``end``); ``on_fetch`` or data, where reads
    count only if ``on_read``.
    """

    number: int
    start: int
    end: int
    on_fetch: bool
    on_read: bool


class DebugRegisters:
    """``on_change`` is called when the set of breakpoints may be another."""

    def __init__(self) -> None:
        self.dr = [0, 0, 0, 0]
        self.dr6 = X86_DR6_DEFAULT
        self.dr7 = X86_DR7_DEFAULT
        self.dr7_emul = 0  #: enable bits of I/O breakpoints, which Xen emulates
        self.has_extensions = False  #: CR4.DE
        self.on_change: Callable[[], None] = lambda: None

    def write(self, reg: int, value: int) -> None:
        """set_debugreg: ENODEV is what the emulator turns into #UD, EINVAL a reserved bit, EPERM one that a guest may
        not have.
        """
        if reg not in range(8) or (reg in (4, 5) and self.has_extensions):
            raise XenError(e.ENODEV, f"debug register {reg}")
        if reg < 4:
            if not access_ok(value, 1):
                raise XenError(e.EPERM, f"breakpoint in Xen's area at {value:#x}")
            self.dr[reg] = value
            self.on_change()
            return
        if value >> 32:
            raise XenError(e.EINVAL, f"debug register {reg}: {value:#x}")
        if reg in (4, 6):
            self.dr6 = value & ~_DR6_ZERO | X86_DR6_DEFAULT
        else:
            self._write_dr7(value & ~_DR7_ZERO | X86_DR7_DEFAULT)

    def _write_dr7(self, value: int) -> None:
        if value & _DR7_GENERAL_DETECT:
            raise XenError(e.EPERM, f"debug register 7: {value:#x}")
        io_enable = 0
        if value & _DR7_ACTIVE:
            for n in range(4):
                if value >> 16 + 4 * n & 3 == _DR_IO:
                    if not self.has_extensions:
                        raise XenError(e.EPERM, f"I/O breakpoint without CR4.DE: {value:#x}")
                    io_enable |= value & 3 << 2 * n
        self.dr7_emul = io_enable
        self.dr7 = value & ~io_enable
        self.on_change()

    def read(self, reg: int) -> int:
        """x86emul_read_dr: XenError(ENODEV) where there is none."""
        if reg not in range(8) or (reg in (4, 5) and self.has_extensions):
            raise XenError(e.ENODEV, f"debug register {reg}")
        if reg < 4:
            return self.dr[reg]
        return self.dr6 if reg in (4, 6) else self.dr7 | self.dr7_emul

    def record(self, dr6: int) -> None:
        """do_debug: show the guest what the CPU's DR6 said (``dr6``: only the bits that are set by an event)."""
        self.dr6 |= dr6

    @property
    def breakpoints(self) -> list[Breakpoint]:
        """Those on memory that are enabled."""
        found = []
        for n in range(4):
            if self.dr7 >> 2 * n & 3:
                control = self.dr7 >> 16 + 4 * n
                kind, width = control & 3, _WIDTHS[control >> 2 & 3]
                start = self.dr[n] & -width
                found.append(Breakpoint(n, start, start + width, kind == _DR_RW_EXECUTE, kind != _DR_RW_WRITE))
        return found

    def io_match(self, port: int, size: int) -> int:
        """check_guest_io_breakpoint: DR6 bits for an access to ``size`` ports."""
        if not self.dr7_emul or not self.has_extensions:
            return 0
        match = 0
        for n in range(4):
            if self.dr7_emul >> 2 * n & 3:
                width = _WIDTHS[self.dr7 >> 18 + 4 * n & 3]
                start = self.dr[n] & -width
                if start < port + size and start + width > port:
                    match |= 1 << n
        return match
