"""The model-specific registers that a PV guest may touch, for the AMD CPU that pvemu.cpu.cpuid describes.

Mirrors xen/arch/x86/msr.c, cpu/mcheck/vmce.c and, of xen/arch/x86/pv/emul-priv-op.c, ``read_msr`` and ``write_msr``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from pvemu.frames import PAGE_MASK, PAGE_SHIFT
from pvemu.hypervisor.vcpu.current import ServesCurrent
from pvemu.memory.frame_table import PageType

if TYPE_CHECKING:
    from pvemu.hypervisor.page_types import PageTypes
    from pvemu.hypervisor.tsc import Tsc
    from pvemu.hypervisor.vcpu import Vcpu
    from pvemu.memory.ram import Ram

__all__ = ["Msrs"]

_VECTOR_GP = 13
_ALL_ONES = 0xFFFF_FFFF_FFFF_FFFF
_IA32_TSC, _UCODE_REV, _MISC_FEATURES, _MCG_STATUS = 0x10, 0x8B, 0x140, 0x17A
_EFER, _FS_BASE, _GS_BASE, _SHADOW_GS_BASE = 0xC000_0080, 0xC000_0100, 0xC000_0101, 0xC000_0102
_TSC_AUX = 0xC000_0103
_XEN_FIRST = 0x4000_0000

#: Read-only words. What is not here or below is #GP: of the architectural ones PLATFORM_ID, FEATURE_CONTROL, SPEC_CTRL,
#: PRED_CMD, ARCH_CAPABILITIES, PERF_STATUS, THERM_STATUS, DR*_ADDRESS_MASK and others, which are Intel's or go
#: with features that this CPU has not.
_CONSTANT = {
    0x0: 0, 0x1: 0,  # P5_MC_ADDR, P5_MC_TYPE
    0x1B: 0xFEE0_0900,  # APIC_BASE: enabled, at its default address, boot processor
    _UCODE_REV: 0x0100_0065,  # PATCHLEVEL of QEMU's AMD CPUs
    0xCE: 0,  # PLATFORM_INFO
    _MISC_FEATURES: 0,
    0x179: 2, 0x17B: 0,  # MCG_CAP: two banks; MCG_CTL
    0x1A0: 0x0080_1801,  # MISC_ENABLE: BTS, PEBS and XTPR are not there
    0x277: 0x0000_0501_0007_0406,  # PAT: XEN_MSR_PAT
    0x345: 0,  # PERF_CAPABILITIES
    _EFER: 0xD01,  # SCE LME LMA NXE
    _XEN_FIRST: 0,  # the hypercall page's
    0xC001_1029: 2,  # DE_CFG: LFENCE serialises
}  # fmt: skip
_COMPAT_EFER = 0x801  # guest_efer: SCE NXE; what belongs to long mode is hidden
#: Read as zero, writes are ignored: the performance counters of AMD's CPUs while the vpmu is off (K7 and family 15h),
#: frequency control (FID_VID, PSTATE), HWCR, NB_CFG, MCx_CTL2.
_ZERO = frozenset((
    *range(0xC001_0000, 0xC001_0008), *range(0xC001_0200, 0xC001_020C), 0xC001_0041, 0xC001_0042,
    *range(0xC001_0061, 0xC001_006C), 0xC001_0015, 0xC001_001F, *range(0x280, 0x2A0),
))  # fmt: skip
#: MPERF, APERF, MCG_CAP, MCG_CTL, MISC_ENABLE, DE_CFG: writes are ignored.
_IGNORED_WRITES = frozenset((0xE7, 0xE8, 0x179, 0x17B, 0x1A0, 0xC001_1029))
_MC_BANKS, _MC_BANKS_USED, _MC_CTL = range(0x400, 0x480), range(0x400, 0x408), 0


def _is_canonical(address: int) -> bool:
    return address >> 47 in (0, 0x1FFFF)


class Msrs(ServesCurrent):
    """Reads and writes for one vcpu; ``hypercall_page`` are the bytes that writing Xen's MSR puts into a frame."""

    def __init__(
        self, vcpu: Vcpu, tsc: Tsc, ram: Ram, types: PageTypes, hypercall_page: bytes,
        is_compat: bool = False,
    ) -> None:  # fmt: skip
        self._vcpu = vcpu
        self._tsc = tsc
        self.tsc_aux = 0
        self._ram = ram
        self._types = types
        self._hypercall_page = hypercall_page
        self._efer = _COMPAT_EFER if is_compat else _CONSTANT[_EFER]
        self._mcg_status = 0
        self._parked: dict[int, tuple[int, int]] = {}  # TSC_AUX and MCG_STATUS of those that do not run
        self._bases = frozenset[int]() if is_compat else frozenset((_FS_BASE, _GS_BASE, _SHADOW_GS_BASE))

    def set_current(self, vcpu: Vcpu) -> None:
        """Another vcpu has other values in those that it may write."""
        self._parked[self._vcpu.vcpu_id] = self.tsc_aux, self._mcg_status
        super().set_current(vcpu)
        self.tsc_aux, self._mcg_status = self._parked.get(vcpu.vcpu_id, (0, 0))

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
            return self._tsc.poll()
        if number == _TSC_AUX:
            return self.tsc_aux
        if number == _MCG_STATUS:
            return self._mcg_status
        if number in _ZERO:
            return 0
        if number in _MC_BANKS:
            return _ALL_ONES if number in _MC_BANKS_USED and number & 3 == _MC_CTL else 0
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
        if number == _MISC_FEATURES:
            return value == 0
        if number == _XEN_FIRST:
            return self._write_hypercall_page(value)
        if number == _TSC_AUX and value >> 32 == 0:
            self.tsc_aux = value
            return True
        if number == _MCG_STATUS:
            self._mcg_status = value
            return True
        if number in _MC_BANKS_USED and number & 3 != _MC_CTL:
            return value == 0
        return number in _IGNORED_WRITES or number in _ZERO or number in _MC_BANKS

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
