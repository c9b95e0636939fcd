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
from pvemu.cpu.registers import GENERAL_64
from pvemu.frames import PAGE_SHIFT
from pvemu.hypervisor.traps import GuestException
from pvemu.observers import subscribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.domain import Domain
    from pvemu.hypervisor.guest_access import GuestMemory
    from pvemu.hypervisor.mm import Mm
    from pvemu.hypervisor.msr import Msrs
    from pvemu.hypervisor.physdev import Physdev
    from pvemu.hypervisor.time import VirtualClock
    from pvemu.hypervisor.vcpu import Vcpu

__all__ = ["MODRM_ORDER", "Instruction", "PortAccess", "PrivilegedOps", "read_instruction"]

#: General registers by their number in instructions.
MODRM_ORDER = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *GENERAL_64[8:])
_U64 = 0xFFFF_FFFF_FFFF_FFFF
_VECTOR_UD, _VECTOR_GP = 6, 13
_MAX_LENGTH = 15
_PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF2, 0xF3))
_PAGE_SIZE = 1 << PAGE_SHIFT
#: CR0 as Xen runs: PG AM WP NE ET MP PE.
_CR0 = 0x8005_0033
_CR0_TS = 8
_CR4_TSD_DE = 0xC  #: what of CR4 a guest of this CPU may change
_CR4_VISIBLE = 0x660  #: PAE MCE OSFXSR OSXMMEXCPT
_PCI_CONFIG_ADDRESS = 0xCF8
_RTC_INDEX = 0x70
_ALL_ONES = 0xFFFF_FFFF


class Instruction(NamedTuple):
    """Prefixes and opcode at the front of an instruction; ``rest`` are the bytes behind, ``length`` its start."""

    opcode: int  #: 0x0f00 and more for two-byte opcodes
    rest: bytes
    length: int
    rex: int
    is_locked: bool


class PortAccess(NamedTuple):
    """One IN or OUT of ``size`` bytes; ``value`` is None where an IN was refused."""

    port: int
    size: int
    value: int | None
    is_write: bool
    is_allowed: bool


def read_instruction(guest: GuestMemory, rip: int, has_rex: bool = True) -> Instruction | None:
    """Decode what stands at ``rip`` as far as its opcode; None where it cannot be read. ``has_rex``: 64-bit code."""
    code = b""
    size = min(_MAX_LENGTH, _PAGE_SIZE - rip % _PAGE_SIZE)
    try:
        code = guest.copy_from_guest(rip, size)
        code += guest.copy_from_guest(rip + size, _MAX_LENGTH - size)
    except XenError:
        pass  # it may well end before the page that is not there
    at, rex, is_locked = 0, 0, False
    while at < len(code):
        byte = code[at]
        at += 1
        if byte == 0xF0:
            is_locked = True
        elif has_rex and byte & 0xF0 == 0x40:
            rex = byte
            continue
        elif byte not in _PREFIXES:
            if byte != 0x0F:
                return Instruction(byte, code[at:], at, rex, is_locked)
            if at < len(code):
                return Instruction(0x0F00 | code[at], code[at + 1 :], at + 1, rex, is_locked)
            return None
        rex = 0  # REX counts only right before the opcode
    return None


class PrivilegedOps:
    """Emulates for one vcpu. ``emulate`` says whether it did; GuestException is what the instruction raises instead."""

    def __init__(
        self, domain: Domain, vcpu: Vcpu, guest: GuestMemory, mm: Mm, clock: VirtualClock,
        physdev: Physdev, msrs: Msrs, has_rex: bool = True,
    ) -> None:  # fmt: skip
        self._domain = domain
        self._vcpu = vcpu
        self._regs = vcpu.regs
        self._guest = guest
        self._mm = mm
        self._clock = clock
        self._physdev = physdev
        self._msrs = msrs
        self._has_rex = has_rex
        self._code_mask = _U64 if has_rex else _ALL_ONES
        self.cr4 = _CR4_VISIBLE
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

    def emulate(self) -> bool:
        """pv_emulate_privileged_op for the instruction at rip. False: the #GP is the guest's."""
        rip = self._regs.read("rip")
        base = 0 if self._has_rex else self._vcpu.segment_base(self._regs.read("cs"))
        instruction = read_instruction(self._guest, (rip + base) & self._code_mask, self._has_rex)
        if instruction is None or instruction.is_locked:
            return False
        opcode = instruction.opcode
        if opcode in (0xFA, 0xFB):
            length = instruction.length if self._iopl_ok() else 0
        elif opcode >= 0x0F00 and self._vcpu.kernel_mode:
            length = self._two_byte(instruction)
        else:
            return False
        if not length:
            return False
        self._regs.write("rip", rip + length)
        for observer in tuple(self._observers):
            observer(rip, instruction)
        return True

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
            case 0x31:
                self._set_edx_eax(self._clock.poll())
            case 0x32:
                number = regs.read("rcx") & _ALL_ONES
                found = self._msrs.read(number)
                if found is None:
                    return 0
                self._set_edx_eax(found)
            case _:
                return 0
        return length

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
                return self.cr4
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
                self.cr4 = value & _CR4_TSD_DE | _CR4_VISIBLE
            case _:
                return False
        return True

    def _read_dr(self, number: int) -> int:
        if number > 7 or (number in (4, 5) and self.cr4 & 8):
            raise GuestException(_VECTOR_UD)
        return self._vcpu.get_debugreg(number)

    def _write_dr(self, number: int, value: int) -> bool:
        if number > 7 or (number in (4, 5) and self.cr4 & 8):
            raise GuestException(_VECTOR_UD)
        try:
            self._vcpu.set_debugreg(number, value)
        except XenError as refusal:
            raise GuestException(_VECTOR_UD if refusal.errno == e.ENODEV else _VECTOR_GP, 0) from refusal
        return True

    # -- ports -------------------------------------------------------------------------------------------------------
    def _iopl_ok(self) -> bool:
        cpl = 3
        if self._vcpu.kernel_mode:
            cpl = 0 if xen.VMASST_TYPE_architectural_iopl in self._domain.assists else 1
        return cpl << 12 <= self._vcpu.iopl

    def port_read(self, port: int, size: int) -> int | None:
        """read_io for IN and INS of ``size`` bytes: the value, None for #GP."""
        value = self._guest_io_read(port, size) if self._guest_io_okay(port, size) else None
        for observer in tuple(self._port_observers):
            observer(PortAccess(port, size, value, is_write=False, is_allowed=value is not None))
        return value

    def port_write(self, port: int, size: int, value: int) -> bool:
        """write_io for OUT and OUTS; False for #GP."""
        is_okay = self._guest_io_okay(port, size)
        if is_okay:
            self._guest_io_write(port, size, value)
        for observer in tuple(self._port_observers):
            observer(PortAccess(port, size, value, is_write=True, is_allowed=is_okay))
        return is_okay

    def _guest_io_okay(self, port: int, size: int) -> bool:
        if self._iopl_ok():
            return True
        bitmap, nr_ports = self._physdev.iobitmap
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
