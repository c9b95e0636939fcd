"""The model-specific registers that a PV guest may touch, for the AMD CPU that pvemu.cpu.cpuid describes.

Mirrors xen/arch/x86/msr.c, cpu/mcheck/vmce.c and, of xen/arch/x86/pv/emul-priv-op.c, ``read_msr`` and ``write_msr``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from pvemu.frames import PAGE_MASK, PAGE_SHIFT
from pvemu.memory.frame_table import PageType

if TYPE_CHECKING:
    from pvemu.hypervisor.page_types import PageTypes
    from pvemu.hypervisor.time import VirtualClock
    from pvemu.hypervisor.vcpu import Vcpu
    from pvemu.memory.ram import Ram

__all__ = ["Msrs"]

_VECTOR_GP = 13
_IA32_TSC, _APIC_BASE, _UCODE_REV, _MISC_FEATURES = 0x10, 0x1B, 0x8B, 0x140
_MCG_CAP, _MCG_STATUS, _MISC_ENABLE, _PAT = 0x179, 0x17A, 0x1A0, 0x277
_EFER, _FS_BASE, _GS_BASE, _SHADOW_GS_BASE = 0xC000_0080, 0xC000_0100, 0xC000_0101, 0xC000_0102
_XEN_FIRST, _XEN_END = 0x4000_0000, 0x4000_0300

#: Read-only words.
_CONSTANT = {
    0x0: 0, 0x1: 0,  # P5_MC_ADDR, P5_MC_TYPE
    _APIC_BASE: 0xFEE0_0900,  # enabled, at its default address, boot processor
    _UCODE_REV: 0x0100_0065,  # PATCHLEVEL of QEMU's AMD CPUs
    0xCE: 0,  # PLATFORM_INFO
    _MISC_FEATURES: 0,
    _MCG_CAP: 0x0100_0002, _MCG_STATUS: 0,
    0x198: 0, 0x199: 0, 0x19C: 0,  # PERF_STATUS, PERF_CTL, THERM_STATUS
    _MISC_ENABLE: 0x0080_1801,  # BTS, PEBS and XTPR are not there
    _PAT: 0x0000_0501_0007_0406,  # XEN_MSR_PAT
    0x345: 0,  # PERF_CAPABILITIES
    _EFER: 0xD01,  # SCE LME LMA NXE
    _XEN_FIRST: 0,  # the hypercall page's
}  # fmt: skip
_COMPAT_EFER = 0x801  # guest_efer: SCE NXE; what belongs to long mode is hidden
#: Performance counters, which read as zero and ignore writes while the vpmu is off.
_VPMU = frozenset((*range(0xC1, 0xC9), *range(0x186, 0x18A), *range(0x309, 0x30C), *range(0x38D, 0x391)))
#: MPERF, APERF, PERF_STATUS, PERF_CTL, THERM_CONTROL, ENERGY_PERF_BIAS, MISC_ENABLE: writes are ignored.
_IGNORED_WRITES = frozenset((0xE7, 0xE8, 0x198, 0x199, 0x19A, 0x1B0, _MISC_ENABLE))
_MC_CTL2, _MC_BANKS = range(0x280, 0x2A0), range(0x400, 0x480)


def _is_canonical(address: int) -> bool:
    return address >> 47 in (0, 0x1FFFF)


class Msrs:
    """Reads and writes for one vcpu; ``hypercall_page`` are the bytes that writing Xen's MSR puts into a frame."""

    def __init__(
        self, vcpu: Vcpu, clock: VirtualClock, ram: Ram, types: PageTypes, hypercall_page: bytes,
        is_compat: bool = False,
    ) -> None:  # fmt: skip
        self._vcpu = vcpu
        self._clock = clock
        self._ram = ram
        self._types = types
        self._hypercall_page = hypercall_page
        self._efer = _COMPAT_EFER if is_compat else _CONSTANT[_EFER]
        self._bases = frozenset[int]() if is_compat else frozenset((_FS_BASE, _GS_BASE, _SHADOW_GS_BASE))

    def read(self, number: int) -> int | None:
        """The value of an MSR, None for #GP."""
        value = self._known(number)
        if value is None and not self._vcpu.trap_table[_VECTOR_GP].address and number >> 16 != _XEN_FIRST >> 16:
            return 0  # a kernel that cannot take a #GP yet: "faking RDMSR"
        return value

    def _known(self, number: int) -> int | None:
        vcpu = self._vcpu
        if number == _EFER:
            return self._efer
        if number in _CONSTANT:
            return _CONSTANT[number]
        if number in self._bases:
            if number == _SHADOW_GS_BASE:
                return vcpu.gs_base_user
            return vcpu.regs.read("fs_base" if number == _FS_BASE else "gs_base")
        if number == _IA32_TSC:
            return self._clock.poll()
        if number in _VPMU or number in _MC_CTL2:
            return 0
        if number in _MC_BANKS:
            return 0xFFFF_FFFF_FFFF_FFFF if number in (0x400, 0x404) else 0
        return None

    def write(self, number: int, value: int) -> bool:
        """Write an MSR; False for #GP."""
        if number in self._bases:
            if not _is_canonical(value):
                return False
            if number == _SHADOW_GS_BASE:
                self._vcpu.gs_base_user = value
            else:
                self._vcpu.regs.write("fs_base" if number == _FS_BASE else "gs_base", value)
            return True
        if number == _EFER:
            return value == self._efer
        if number in (_UCODE_REV, _MISC_FEATURES):
            return value == 0
        if number == _XEN_FIRST:
            return self._write_hypercall_page(value)
        return number in _IGNORED_WRITES or number in _VPMU or number in _MC_CTL2 or number in _MC_BANKS

    def _write_hypercall_page(self, value: int) -> bool:
        if value & PAGE_MASK:
            return False
        mfn = value >> PAGE_SHIFT
        try:
            self._types.get_page_and_type(mfn, PageType.WRITABLE)
        except XenError:
            return False
        self._ram.write(value, self._hypercall_page)
        self._types.put_page_and_type(mfn)
        return True
