"""Privileged instructions of the guest kernel, which runs in ring 3: emulated after the #GP(0) they raise.

Mirrors xen/arch/x86/pv/emul-priv-op.c. As there, only the listed instructions are emulated (HLT, INVLPG, LMSW and the
loads of descriptor-table registers are not), CLI and STI change nothing, and no I/O port leads to a device. About IN
and OUT the engine asks by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from hypercalls.public import xen
from pvemu.cpu.exits import PF_WRITE
from pvemu.cpu.paging import access_ok, is_canonical
from pvemu.frames import PAGE_SIZE
from pvemu.hypervisor.traps.emulate import MODRM_ORDER, CodeReader, Instruction
from pvemu.hypervisor.traps.traps import GuestException
from pvemu.hypervisor.vcpu.current import ServesCurrent
from pvemu.observers import subscribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.domain import Domain
    from pvemu.hypervisor.guest_access import GuestMemory
    from pvemu.hypervisor.mm import Mm
    from pvemu.hypervisor.physdev import Physdev
    from pvemu.hypervisor.traps.msr import Msrs
    from pvemu.hypervisor.tsc import Tsc
    from pvemu.hypervisor.vcpu import Vcpu

__all__ = ["NO_STEP", "PortAccess", "PrivilegedOps"]

#: CLI and STI are done before they are emulated, so that no single step traps behind them (X86EMUL_DONE).
NO_STEP = -1

_VECTOR_UD, _VECTOR_SS, _VECTOR_GP, _VECTOR_PF = 6, 12, 13, 14
_EFLAGS_DF = 1 << 10
#: INS, OUTS, IN and OUT.
_PORT_OPCODES = frozenset((*range(0x6C, 0x70), *range(0xE4, 0xE8), *range(0xEC, 0xF0)))
_PORT_STRINGS = (b"\x6c", b"\x6d", b"\x6e", b"\x6f")
#: What may stand before one, and how far that is looked at.
_PORT_PREFIXES, _LOOK_AHEAD = bytes((0x26, 0x2E, 0x36, 0x3E, *range(0x40, 0x50), *range(0x64, 0x68), 0xF2, 0xF3)), 4
#: CR0 as Xen runs: PG AM WP NE ET MP PE.
_CR0 = 0x8005_0033
_CR0_TS = 8
_CR4_FSGSBASE = 1 << 16
_PCI_CONFIG_ADDRESS = 0xCF8
_RTC_INDEX = 0x70
_ALL_ONES = 0xFFFF_FFFF


class PortAccess(NamedTuple):
    """One IN or OUT of ``size`` bytes; ``value`` is None where an IN was refused."""

    port: int
    size: int
    value: int | None
    is_write: bool
    is_allowed: bool


class PrivilegedOps(ServesCurrent):
    """Emulates for one vcpu what ``code`` reads. GuestException is what an instruction raises instead."""

    def __init__(
        self, domain: Domain, vcpu: Vcpu, guest: GuestMemory, mm: Mm, tsc: Tsc,
        physdev: Physdev, msrs: Msrs, code: CodeReader,
    ) -> None:  # fmt: skip
        self._domain = domain
        self._vcpu = vcpu
        self._regs = vcpu.regs
        self._guest = guest
        self._mm = mm
        self._tsc = tsc
        self._physdev = physdev
        self._msrs = msrs
        self._code = code
        self._pci_config_address = 0
        self._rtc_index = 0
        self._observers: list[Callable[[int, Instruction], None]] = []
        self._port_observers: list[Callable[[PortAccess], None]] = []

    def observe(self, observer: Callable[[int, Instruction], None]) -> Callable[[], None]:
        """Tell ``observer(rip, instruction)`` of every instruction that was emulated; returns how to stop that."""
        return subscribe(self._observers, observer)

    def observe_ports(self, observer: Callable[[PortAccess], None]) -> Callable[[], None]:
        """Tell ``observer`` of every IN and OUT, allowed or not; returns how to stop that."""
        return subscribe(self._port_observers, observer)

    def emulate(self) -> int | None:
        """pv_emulate_privileged_op for the instruction at rip: DR6 bits of the breakpoints that it hit, or NO_STEP.
        None: the #GP is the guest's.
        """
        regs = self._regs
        rip = regs.read("rip")
        instruction = self._code.instruction()
        if instruction is None or instruction.is_locked:
            return None
        length: int | None
        opcode, match = instruction.opcode, 0
        if opcode in (0xFA, 0xFB):
            length, match = (instruction.length, NO_STEP) if self._iopl_ok() else (None, 0)
        elif opcode in _PORT_OPCODES:
            length, match = self._port_instruction(instruction)
        elif opcode >= 0x0F00 and self._vcpu.kernel_mode:
            length = self._two_byte(instruction) or None
        else:
            return None
        if length is None:
            return None
        regs.write("rip", rip + length)
        for observer in tuple(self._observers):
            observer(rip, instruction)
        return match

    def is_port_string(self) -> bool:
        """Whether INS or OUTS stands at rip. The engine runs them where they are allowed; what faults is Xen's work,
        with Xen's rights.
        """
        try:
            code = self._guest.copy_from_guest(self._code.rip(), _LOOK_AHEAD)
        except XenError:
            return False
        return code.lstrip(_PORT_PREFIXES)[:1] in _PORT_STRINGS

    # -- 0f xx: only kernel mode may ---------------------------------------------------------------------------------
    def _two_byte(self, instruction: Instruction) -> int:
        """Length of the instruction, 0 where it is not emulated."""
        regs, length = self._regs, instruction.length
        match instruction.opcode & 0xFF:
            case 0x06:
                self._vcpu.fpu_taskswitch(False)
            case 0x09:  # WBINVD of a domain without devices is ignored
                pass
            case 0x20 | 0x21 | 0x22 | 0x23:
                return length + 1 if instruction.rest and self._move(instruction) else 0
            case 0x30:
                value = (regs.read("rdx") & _ALL_ONES) << 32 | regs.read("rax") & _ALL_ONES
                if not self._msrs.write(regs.read("rcx") & _ALL_ONES, value):
                    return 0
            case 0x01 if instruction.rest[:1] == b"\xf9":  # RDTSCP
                self._set_edx_eax(self._tsc.poll())
                regs.write("rcx", self._msrs.tsc_aux)
                return length + 1
            case 0x31:
                self._set_edx_eax(self._tsc.poll())
            case 0x32:
                number = regs.read("rcx") & _ALL_ONES
                found = self._msrs.read(number)
                if found is None:
                    return 0
                self._set_edx_eax(found)
            case _:
                return 0
        return length

    def access_segment_base(self) -> bool:
        """RDFSBASE, RDGSBASE, WRFSBASE or WRGSBASE at rip, which the engine's CPU has not: whether it is one, and the
        guest has CR4.FSGSBASE set.
        """
        instruction = self._code.instruction()
        if instruction is None or not self._vcpu.cr4 & _CR4_FSGSBASE or instruction.bits != 64:
            return False
        modrm = instruction.modrm
        if instruction.opcode != 0x0FAE or instruction.rep != 0xF3 or modrm is None or not 0xC0 <= modrm < 0xE0:
            return False
        regs = self._regs
        name = MODRM_ORDER[modrm & 7 | (instruction.rex & 1) << 3]
        base = "gs_base" if modrm & 8 else "fs_base"
        mask = _ALL_ONES if instruction.operand_size < 8 else (1 << 64) - 1
        if modrm < 0xD0:
            regs.write(name, regs.read(base) & mask)
        else:
            value = regs.read(name) & mask
            if not is_canonical(value):
                raise GuestException(_VECTOR_GP, 0)
            regs.write(base, value)
        regs.write("rip", regs.read("rip") + instruction.length + 1)
        return True

    def _set_edx_eax(self, value: int) -> None:
        self._regs.write("rax", value & _ALL_ONES)
        self._regs.write("rdx", value >> 32)

    def _move(self, instruction: Instruction) -> bool:
        """MOV to and from control (20, 22) and debug (21, 23) registers; the mode bits of ModRM are ignored."""
        modrm = instruction.rest[0]
        number = modrm >> 3 & 7 | (instruction.rex & 4) << 1
        name = MODRM_ORDER[modrm & 7 | (instruction.rex & 1) << 3]
        kind = instruction.opcode & 0xFF
        if kind in (0x20, 0x21):
            value = self._read_cr(number) if kind == 0x20 else self._read_dr(number)
            if value is None:
                return False
            self._regs.write(name, value)
            return True
        value = self._regs.read(name)
        return self._write_cr(number, value) if kind == 0x22 else self._write_dr(number, value)

    def _read_cr(self, number: int) -> int | None:
        match number:
            case 0:
                return _CR0 | (_CR0_TS if self._vcpu.task_switched else 0)
            case 2:
                return self._vcpu.cr2
            case 3:
                return self._mm.read_cr3()
            case 4:
                return self._vcpu.cr4
        return None

    def _write_cr(self, number: int, value: int) -> bool:
        match number:
            case 0:
                if (value ^ _CR0) & ~_CR0_TS:
                    return False
                self._vcpu.fpu_taskswitch(bool(value & _CR0_TS))
            case 2:
                self._vcpu.cr2 = value
                self._vcpu.info.set_cr2(value)
            case 3:
                try:
                    self._mm.write_cr3(value)
                except XenError:
                    return False
            case 4:
                self._vcpu.write_cr4(value)
            case _:
                return False
        return True

    def _read_dr(self, number: int) -> int:
        try:
            return self._vcpu.debugreg.read(number)
        except XenError:
            raise GuestException(_VECTOR_UD) from None

    def _write_dr(self, number: int, value: int) -> bool:
        try:
            self._vcpu.debugreg.write(number, value)
        except XenError as refusal:
            if refusal.errno == e.ENODEV:
                raise GuestException(_VECTOR_UD) from None
            raise GuestException(_VECTOR_GP, 0) from None
        return True

    # -- IN and OUT, which the engine knows but for breakpoints on ports -----------------------------------------------
    def _port_instruction(self, instruction: Instruction) -> tuple[int | None, int]:
        """Length (None where the port is refused) and DR6 bits. A repeated one is done once: a breakpoint stops it."""
        regs, opcode, length = self._regs, instruction.opcode, instruction.length
        size = 1 if not opcode & 1 else min(instruction.operand_size, 4)
        port = regs.read("rdx") & 0xFFFF
        if opcode & 0xF8 == 0xE0:  # the port is an immediate
            if not instruction.rest:
                return None, 0
            port, length = instruction.rest[0], length + 1
        if not self._guest_io_okay(port, size):
            return None, 0
        match = self._vcpu.debugreg.io_match(port, size)
        if opcode < 0x70:
            return self._port_string(instruction, port, size), match
        rax = regs.read("rax")
        mask = (1 << 8 * size) - 1
        if opcode & 2:
            self._guest_io_write(port, size, rax & mask)
        else:
            value = self._guest_io_read(port, size)
            regs.write("rax", value if size == 4 else rax & ~mask | value)
        return length, match

    def _port_string(self, instruction: Instruction, port: int, size: int) -> int:
        """rep_ins and rep_outs, once; the length that rip moves by."""
        regs, code = self._regs, self._code
        mask = (1 << 8 * instruction.address_size) - 1
        if instruction.is_rep and not regs.read("rcx") & mask:
            return instruction.length
        operand = code.memory_operands(instruction)[0]
        address = code.linear(operand.segment, operand.offset, instruction.bits)
        is_out = bool(instruction.opcode & 2)
        self._check_address(instruction, operand.segment, address, size)
        try:
            if is_out:
                self._guest_io_write(port, size, int.from_bytes(self._guest.copy_from_guest(address, size), "little"))
            else:
                self._guest.copy_to_guest(address, self._guest_io_read(port, size).to_bytes(size, "little"))
        except XenError:
            in_first = PAGE_SIZE - address % PAGE_SIZE
            if in_first < size and self._is_there(address, in_first, is_out=is_out):
                address += in_first
            raise GuestException(_VECTOR_PF, 0 if is_out else PF_WRITE, address) from None
        name = "rsi" if is_out else "rdi"
        step = -size if regs.read("rflags") & _EFLAGS_DF else size
        self._advance(name, step, mask)
        if not instruction.is_rep:
            return instruction.length
        self._advance("rcx", -1, mask)
        return 0 if regs.read("rcx") & mask else instruction.length

    def _check_address(self, instruction: Instruction, segment: str, address: int, size: int) -> None:
        """pv_emul_virt_to_linear."""
        if instruction.bits == 64:
            okay = access_ok(address, size)
        else:
            last = address + size - 1
            okay = self._code.is_within_limit(segment, address) and self._code.is_within_limit(segment, last)
        if not okay:
            raise GuestException(_VECTOR_SS if segment == "ss" else _VECTOR_GP, 0)

    def _is_there(self, address: int, size: int, *, is_out: bool) -> bool:
        """Whether so much of an operand can be accessed."""
        try:
            data = self._guest.copy_from_guest(address, size)
            if not is_out:
                self._guest.copy_to_guest(address, data)
        except XenError:
            return False
        return True

    def _advance(self, name: str, step: int, mask: int) -> None:
        """Add to a register as far as the address size goes; a 32-bit one clears the upper half."""
        value = self._regs.read(name)
        kept = value & ~mask if mask == 0xFFFF else 0
        self._regs.write(name, kept | (value + step) & mask)

    # -- ports -------------------------------------------------------------------------------------------------------
    def _iopl_ok(self) -> bool:
        cpl = 3
        if self._vcpu.kernel_mode:
            cpl = 0 if xen.VMASST_TYPE_architectural_iopl in self._domain.assists else 1
        return cpl << 12 <= self._vcpu.iopl

    def port_read(self, port: int, size: int) -> int | None:
        """read_io for IN and INS of ``size`` bytes: the value, None for #GP, which a breakpoint there needs, too."""
        if self._vcpu.debugreg.io_match(port, size):
            return None
        value = self._guest_io_read(port, size) if self._guest_io_okay(port, size) else None
        for observer in tuple(self._port_observers):
            observer(PortAccess(port, size, value, is_write=False, is_allowed=value is not None))
        return value

    def port_write(self, port: int, size: int, value: int) -> bool:
        """write_io for OUT and OUTS; False for #GP, which a breakpoint there needs, too."""
        if self._vcpu.debugreg.io_match(port, size):
            return False
        is_okay = self._guest_io_okay(port, size)
        if is_okay:
            self._guest_io_write(port, size, value)
        for observer in tuple(self._port_observers):
            observer(PortAccess(port, size, value, is_write=True, is_allowed=is_okay))
        return is_okay

    def _guest_io_okay(self, port: int, size: int) -> bool:
        if self._iopl_ok():
            return True
        bitmap, nr_ports = self._vcpu.iobitmap
        if port + size > nr_ports:
            return False
        toggles = not self._vcpu.kernel_mode  # the bitmap lies in the kernel's address space
        if toggles:
            self._vcpu.toggle_guest_mode()
        mask = b""
        try:
            for i in range(2):
                mask += self._guest.copy_from_guest(bitmap + (port >> 3) + i, 1)
        except XenError:
            mask = mask.ljust(2, b"\xff")  # what cannot be read allows nothing
        finally:
            if toggles:
                self._vcpu.toggle_guest_mode()
        return not int.from_bytes(mask, "little") & ((1 << size) - 1) << (port & 7)

    def _guest_io_read(self, port: int, size: int) -> int:
        """guest_io_read: latched addresses are the domain's own, everything else floats."""
        if port == _PCI_CONFIG_ADDRESS and size == 4:
            return self._pci_config_address
        data = bytearray(b"\xff" * size)
        if port <= _RTC_INDEX < port + size:
            data[_RTC_INDEX - port] = self._rtc_index
        return int.from_bytes(data, "little")

    def _guest_io_write(self, port: int, size: int, value: int) -> None:
        if port == _PCI_CONFIG_ADDRESS and size == 4:
            self._pci_config_address = value
        elif port <= _RTC_INDEX < port + size:
            self._rtc_index = value >> 8 * (_RTC_INDEX - port) & 0xFF
