"""Descriptors of a 32-bit guest (the ``is_pv_32bit_domain`` branches of xen/arch/x86/pv/descriptor-tables.c)."""

from __future__ import annotations

from hypercalls.public import arch_x86
from pvemu.cpu.paging_pae import HYPERVISOR_COMPAT_VIRT_START
from pvemu.hypervisor.descriptor_tables import FIRST_RESERVED_GDT_ENTRY, DescriptorTables

__all__ = ["CompatDescriptorTables", "check_compat_descriptor", "fixup_guest_selector"]

_P, _S, _L, _G = 1 << 15, 1 << 12, 1 << 21, 1 << 23
_TYPE, _DPL, _CALL_GATE = 0xF00, 3 << 13, 0xC00
_GATE_RESERVED = 0xE0

#: Xen's flat segments by byte offset in the reserved page (boot_compat_gdt of xen/arch/x86/desc.c), accessed bit set.
_FLAT = {
    0x008: 0x00AF_9B00_0000_FFFF,  # ring 0 code, 64 bit
    0x010: 0x00CF_9300_0000_FFFF,  # ring 0 data
    0x018: 0x00CF_BB00_0000_FFFF,  # ring 1 code, compatibility
    0x020: 0x00CF_B300_0000_FFFF,  # ring 1 data
    0x028: 0x00CF_FB00_0000_FFFF,  # ring 3 code, compatibility
    0x030: 0x00CF_F300_0000_FFFF,  # ring 3 data
}  # fmt: skip


def fixup_guest_selector(selector: int) -> int:
    """__fixup_guest_selector: a privilege level of at least 1."""
    return selector if selector & 3 else selector | 1


def check_compat_descriptor(desc: int) -> int | None:
    """The descriptor as a 32-bit guest may have it; None where Xen refuses it."""
    a, b = desc & 0xFFFF_FFFF, desc >> 32
    if not b & _P:
        return desc
    dpl = fixup_guest_selector(b >> 13 & 3)
    b = (b & ~_DPL) | (dpl << 13)
    if b & _S:
        if b & _L:
            return None
        base = b & 0xFF00_0000 | (b & 0xFF) << 16 | a >> 16
        limit = ((b & 0xF_0000 | a & 0xFFFF) + 1) << (12 if b & _G else 0)
        if base == 0 and limit > HYPERVISOR_COMPAT_VIRT_START:  # room for the larger M2P of a 64-bit Xen
            a, b = a | 0xFFFF, b | 0xF_0000
        return b << 32 | a
    if b & _TYPE == 0:
        return desc
    if b & _TYPE != _CALL_GATE:
        return None
    selector = a >> 16
    if selector >> 3 >= FIRST_RESERVED_GDT_ENTRY and selector != arch_x86.FLAT_RING1_CS and not selector & 4:
        return None
    b &= ~_DPL
    if b & _GATE_RESERVED:
        return None
    return b << 32 | (a & 0xFFFF) | ((selector & ~3 | dpl) << 16)


class CompatDescriptorTables(DescriptorTables):
    """As :class:`DescriptorTables`, with rings 1 and 3."""

    flat_segments = _FLAT
    check_descriptor = staticmethod(check_compat_descriptor)
