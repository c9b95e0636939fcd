"""Argument casts and address checks: what C's parameter types do to a register (xen/include/xen/hypercall.h), and which
addresses Xen takes from a PV guest (xen/arch/x86/include/asm/x86_64/uaccess.h, page.h).
"""

from __future__ import annotations

from hypercalls.public.arch_x86 import HYPERVISOR_VIRT_END_X86_64

__all__ = ["addr_ok", "is_canonical_address", "s32", "s64", "u8", "u16", "u32"]


def u8(value: int) -> int:
    """``(uint8_t)value``."""
    return value & 0xFF


def u16(value: int) -> int:
    """``(uint16_t)value``."""
    return value & 0xFFFF


def u32(value: int) -> int:
    """``(unsigned int)value``."""
    return value & 0xFFFFFFFF


def s32(value: int) -> int:
    """``(int)value``."""
    return ((value & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def s64(value: int) -> int:
    """``(int64_t)value``."""
    return ((value & 0xFFFFFFFFFFFFFFFF) ^ (1 << 63)) - (1 << 63)


def is_canonical_address(address: int) -> bool:
    """Whether bits 63-47 of a 64-bit address are all equal."""
    return address >> 47 in (0, 0x1FFFF)


def addr_ok(address: int) -> bool:
    """Whether an address is outside Xen's part of the address space (``__addr_ok``)."""
    return address < 1 << 47 or address >= HYPERVISOR_VIRT_END_X86_64
