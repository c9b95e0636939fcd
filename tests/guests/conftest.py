"""Micro-guests: assembled with the prelude `pv64.S`, run on the real engine, and looked into afterwards."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from pvemu.config import DomainConfig
from pvemu.hypervisor.domain import SHUTDOWN_NAMES
from pvemu.machine import Machine, Outcome
from tests.micro_guests import SCRIPT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Assemble

HERE = Path(__file__).parent


class Trap(NamedTuple):
    """One entry of the guest's trap log: the frame, and what held in the handler. ``error`` is -1 without one."""

    vector: int
    rcx: int
    r11: int
    error: int
    rip: int
    cs: int  #: low 32 bits of the slot
    saved_mask: int  #: its upper half
    rflags: int
    rsp: int
    ss: int
    entry_rsp: int
    handler_rflags: int
    handler_mask: int
    cr2: int
    handler_cs: int
    handler_ss: int


class Trap32(NamedTuple):
    """One entry of a 32-bit guest's trap log. ``esp`` and ``ss`` are in the frame of a trap from user mode only."""

    vector: int
    error: int  #: -1 without one
    eip: int
    cs: int
    saved_mask: int
    eflags: int
    esp: int
    ss: int
    entry_esp: int
    handler_eflags: int
    handler_mask: int
    cr2: int
    handler_cs: int
    handler_ss: int


class Upcall(NamedTuple):
    """One event upcall: pending ports 0..63, the upcall mask in the handler, cs and saved mask of the frame, TSC."""

    pending: int
    mask: int
    cs: int
    saved_mask: int
    tsc: int


class MicroGuest:
    """A machine made from a source, its console lines, and its memory by symbol."""

    def __init__(
        self, path: Path, memory_mib: int = 16, cmdline: str = "", vcpus: int = 1, tsc_mode: str = "default"
    ) -> None:
        self.path = path
        self.machine = Machine.create(
            DomainConfig(
                kernel=str(path), memory_mib=memory_mib, cmdline=cmdline, vcpus=vcpus, tsc_mode=tsc_mode
            )
        )
        self.console = b""
        self.machine.on_console_output = self._on_output
        with path.open("rb") as stream:
            table = ELFFile(stream).get_section_by_name(".symtab")
            assert isinstance(table, SymbolTableSection)
            self.symbols = {symbol.name: int(symbol["st_value"]) for symbol in table.iter_symbols()}
        self.machine.start()

    def _on_output(self, data: bytes) -> None:
        self.console += data

    def run(self) -> Outcome:
        """Until the guest ends."""
        return self.machine.run()

    def run_to(self, ending: str = "poweroff") -> MicroGuest:
        """Run, and insist on how it ends."""
        self.run()
        log = self.traps if self.machine.abi.bits == 64 else self.traps32
        assert self.ending == ending, (self.machine.crash_lines, self.console, log[-3:])
        return self

    @property
    def ending(self) -> str:
        """Shutdown reason by name, or what else ended the run."""
        reason = self.machine.domain.shutdown_reason
        if reason is None:
            return self.machine.outcome.kind if self.machine.outcome else "running"
        return SHUTDOWN_NAMES[reason]

    @property
    def values(self) -> dict[str, int]:
        """What ``show`` printed; the last of a name."""
        pairs = (line.split("=") for line in self.console.decode().splitlines())
        return {name: int(value, 16) for name, value in pairs}

    def maddr(self, vaddr: int) -> int:
        """Machine address of the guest's own memory (by its pfn, whatever is mapped there now)."""
        return (self.machine.built.p2m[vaddr >> 12] << 12) | vaddr & 4095

    def at(self, symbol: str | int) -> int:
        """Address of a symbol."""
        return self.symbols[symbol] if isinstance(symbol, str) else symbol

    def read(self, symbol: str | int, size: int = 8) -> bytes:
        """Bytes of the guest's memory."""
        vaddr, out = self.at(symbol), b""
        while len(out) < size:
            chunk = min(size - len(out), 4096 - (vaddr + len(out)) % 4096)
            out += self.machine.ram.read(self.maddr(vaddr + len(out)), chunk)
        return out

    def poke(self, symbol: str | int, data: bytes) -> None:
        """Write within one page of the guest's memory."""
        self.machine.ram.write(self.maddr(self.at(symbol)), data)

    def quad(self, symbol: str | int, index: int = 0) -> int:
        """One u64."""
        return int.from_bytes(self.read(self.at(symbol) + 8 * index), "little")

    @property
    def traps(self) -> list[Trap]:
        """The trap log."""
        found = []
        for i in range(self.quad("trap_count")):
            q = struct.unpack("<3Qq12Q", self.read(self.at("trap_log") + 128 * i, 128))
            found.append(
                Trap._make((*q[:5], q[5] & 0xFFFF_FFFF, q[5] >> 32, *q[6:13], q[13] & 0xFFFF, q[14] & 0xFFFF))
            )
        return found

    def word(self, symbol: str | int, index: int = 0) -> int:
        """One u32."""
        return int.from_bytes(self.read(self.at(symbol) + 4 * index, 4), "little")

    @property
    def traps32(self) -> list[Trap32]:
        """The trap log of a 32-bit guest."""
        found = []
        for i in range(self.word("trap_count")):
            w = struct.unpack("<Ii11I", self.read(self.at("trap_log") + 64 * i, 52))
            found.append(
                Trap32._make((*w[:3], w[3] & 0xFFFF, w[3] >> 16, *w[4:11], w[11] & 0xFFFF, w[12] & 0xFFFF))
            )
        return found

    @property
    def upcalls(self) -> list[Upcall]:
        """The upcall log."""
        found = []
        for i in range(min(self.quad("upcall_count"), 32)):
            pending, mask, cs, tsc = struct.unpack("<4Q", self.read(self.at("upcall_log") + 32 * i, 32))
            found.append(Upcall(pending, mask, cs & 0xFFFF_FFFF, cs >> 32, tsc))
        return found


class MakeGuest(Protocol):
    """What the `micro` fixture is: a source, or the name of a `.S` file here, and the guest made from it."""

    def __call__(
        self, source: str, *, memory_mib: int = 16, cmdline: str = "", bits: int = 64, vcpus: int = 1,
        tsc_mode: str = "default",
    ) -> MicroGuest: ...


@pytest.fixture
def micro(assemble: Assemble) -> Iterator[MakeGuest]:
    """Makes micro-guests, and closes them."""
    made: list[MicroGuest] = []

    def make(
        source: str, *, memory_mib: int = 16, cmdline: str = "", bits: int = 64, vcpus: int = 1,
        tsc_mode: str = "default",
    ) -> MicroGuest:
        text = (HERE / source).read_text() if source.endswith(".S") else source
        path = assemble((HERE / f"pv{bits}.S").read_text() + text + "\n", bits=bits, script=SCRIPT)
        made.append(MicroGuest(path, memory_mib, cmdline, vcpus, tsc_mode))
        return made[-1]

    yield make
    for guest in made:
        guest.machine.close()
