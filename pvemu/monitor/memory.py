"""Guest memory by linear address, as far as it is mapped, and by machine address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.errors import ConfigError
from pvemu.frames import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from pvemu.machine import Machine

__all__ = ["hexdump", "machine_address", "read_linear", "read_machine", "write_linear"]

_M2P_START, _M2P_END = 0xFFFF_8000_0000_0000, 0xFFFF_8080_0000_0000


def machine_address(machine: Machine, vaddr: int) -> int | None:
    """Where a linear address of the guest's is; None where nothing is mapped. Xen's tables that it may read count."""
    if _M2P_START <= vaddr < _M2P_END:
        page = machine.m2p.page_at((vaddr & ~PAGE_MASK) - _M2P_START)
        return None if page is None else page | vaddr & PAGE_MASK
    maddr = machine.walker.lookup(vaddr)
    return maddr if maddr is not None and machine.ram.contains(maddr >> PAGE_SHIFT) else None


def read_linear(machine: Machine, vaddr: int, size: int) -> bytes:
    """``size`` bytes, or those before the first page that is not mapped."""
    data = bytearray()
    while len(data) < size:
        at = (vaddr + len(data)) & 0xFFFF_FFFF_FFFF_FFFF
        maddr = machine_address(machine, at)
        if maddr is None:
            break
        data += machine.ram.read(maddr, min(size - len(data), PAGE_SIZE - (at & PAGE_MASK)))
    return bytes(data)


def write_linear(machine: Machine, vaddr: int, data: bytes) -> None:
    """Change guest memory, whatever the guest itself may write. ConfigError where nothing is mapped."""
    pieces, done = [], 0
    while done < len(data):
        maddr = machine_address(machine, vaddr + done)
        if maddr is None:
            raise ConfigError(f"{vaddr + done:#x}: nothing is mapped there")
        size = min(len(data) - done, PAGE_SIZE - (vaddr + done & PAGE_MASK))
        pieces.append((maddr, data[done : done + size]))
        done += size
    for maddr, piece in pieces:
        machine.ram.write(maddr, piece)


def read_machine(machine: Machine, maddr: int, size: int) -> bytes:
    """``size`` bytes at a machine address. ConfigError where there is no RAM."""
    for frame in range(maddr >> PAGE_SHIFT, (maddr + size - 1 >> PAGE_SHIFT) + 1):
        if not machine.ram.contains(frame):
            first, last = machine.ram.first_mfn, machine.ram.first_mfn + machine.ram.nr_frames - 1
            raise ConfigError(f"mfn {frame:#x}: this machine has {first:#x} to {last:#x}")
    return machine.ram.read(maddr, size)


def hexdump(address: int, data: bytes) -> str:
    """16 bytes a line, with their text."""
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        words = " ".join(f"{byte:02x}" for byte in row)
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{address + at:016x}  {words:<47}  |{text}|")
    return "\n".join(lines)
