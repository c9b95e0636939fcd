"""The closed set of reasons why the CPU leaves guest code, as the engine reports them.

The engine calls :class:`ExitHandler` and :class:`Mmu`; handlers of resumable exits (hypercall, RDTSC, CPUID, a trapped
frame) run inside the engine's own hook and the guest simply goes on. A handler that changes the control flow asks the
engine to :meth:`~pvemu.cpu.unicorn.engine.Engine.stop`; the run loop then sees one :class:`Exit`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, Protocol

__all__ = ["PF_INSTR", "PF_PRESENT", "PF_USER", "PF_WRITE", "Access", "Exit", "ExitHandler", "ExitKind",
           "MemoryAccess", "Mmu"]  # fmt: skip

#: Page-fault error code bits (Intel SDM 3A 4.7).
PF_PRESENT = 1
PF_WRITE = 2
PF_USER = 4
PF_INSTR = 16


class Access(IntEnum):
    """What an instruction wanted of a page (the engine's own numbers)."""

    READ = 16
    WRITE = 17
    FETCH = 18


class ExitKind(IntEnum):
    """Why :meth:`Engine.run` returned."""

    STOPPED = 0  #: somebody called ``stop``
    EXCEPTION = 1  #: an exception for the guest: ``vector``, ``error_code``, ``address``
    BUDGET = 2  #: the instruction budget is used up
    WEDGED = 3  #: the watchdog saw no exit for too long
    PAUSED = 4  #: somebody who only looks on asked for it: the guest goes on as if nothing had been
    BREAKPOINT = 5  #: stands before an instruction, or behind an access to memory, that is watched for


class Exit(NamedTuple):
    """One return from guest code. ``error_code`` is -1 where the exception pushes none."""

    kind: ExitKind
    vector: int = -1
    error_code: int = -1
    address: int = 0  #: faulting linear address of a page fault, or of a #GP for one that is not canonical
    is_software: bool = False  #: an ``int n``: rip is behind it


class MemoryAccess(NamedTuple):
    """One access of an instruction's: ``read`` or ``write`` of ``size`` bytes at a machine address; ``value`` is what a
    write stores.
    """

    kind: str
    maddr: int
    size: int
    value: int


class ExitHandler(Protocol):
    """What the engine asks of the machine while guest code runs."""

    def on_syscall(self) -> None:
        """SYSCALL (64-bit hypercall): registers are live, rip is the instruction's own address."""

    def on_int82(self) -> bool:
        """``int $0x82`` (32-bit hypercall): registers are live, rip is behind it. False: it is no hypercall here."""

    def on_rdtsc(self) -> int:
        """RDTSC or RDTSCP: the 64-bit counter the guest reads."""

    def on_tsc_aux(self) -> int:
        """RDTSCP: what it reads beside the counter."""

    def on_cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """CPUID: eax, ebx, ecx, edx."""

    def on_pause(self) -> None:
        """PAUSE, where it is an exit (``Engine.exit_on_pause``): rip is behind it."""

    def on_port_read(self, port: int, size: int) -> int | None:
        """IN (or one step of INS): the value, None for #GP."""

    def on_port_write(self, port: int, size: int, value: int) -> bool:
        """OUT (or one step of OUTS); False for #GP."""


class Mmu(Protocol):
    """Who walks page tables for the engine."""

    def on_tlb_miss(self, vaddr: int, access: int) -> tuple[int, int] | None:
        """Walk the page tables for one page: its machine address and permissions (1 read, 2 write, 4 execute); None
        raises the page fault (see ``fault_error_code``).
        """

    def fault_error_code(self) -> int:
        """Error code of the access that ``on_tlb_miss`` refused last."""
