"""The CPUID policy a PV guest sees: the engine's CPU, levelled to what a PV guest may use, and Xen's own leaves.

Mirrors xen/arch/x86/cpuid.c (guest_cpuid), cpu-policy.c (recalculate_cpuid_policy) and public/arch-x86/cpuid.h.
Everything is fixed: a host's CPU never shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CpuPolicy", "CpuidLeaf"]

CpuidLeaf = tuple[int, int, int, int]

XEN_CPUID_FIRST_LEAF = 0x4000_0000
_XEN_LEAVES = 5
_XEN_MAJOR, _XEN_MINOR = 4, 17


def _text(text: str) -> list[int]:
    raw = text.encode()
    return [int.from_bytes(raw[i : i + 4], "little") for i in range(0, len(raw), 4)]


_VENDOR = _text("AuthenticAMD")
_SIGNATURE = 0x663  #: family, model and stepping of QEMU's AMD CPU
_BRAND = _text("pvemu virtual CPU".ljust(48, "\0"))

#: Leaf 1 EDX: FPU DE TSC MSR PAE MCE CX8 APIC MCA CMOV PAT CLFLUSH MMX FXSR SSE SSE2 SS (no PSE, PGE, MTRR, VME, SEP
#: for PV64). Linux has no emulated APIC under Xen, but misses the bit.
_1D = (1 << 0 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 14 | 1 << 15 | 1 << 16 | 1 << 19
       | 1 << 23 | 1 << 24 | 1 << 25 | 1 << 26 | 1 << 27)  # fmt: skip
#: Leaf 1 ECX: SSE3 PCLMULQDQ SSSE3 CX16 SSE4.1 SSE4.2 POPCNT AES, HYPERVISOR. No RDRAND: a run must repeat, and the
#: engine's CPU has none either. No XSAVE: the engine has no AVX.
_1C = 1 << 0 | 1 << 1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23 | 1 << 25 | 1 << 31
#: Leaf 0x80000001 EDX: SYSCALL NX RDTSCP LM, and what AMD repeats of leaf 1; ECX: LAHF CMP_LEGACY.
_E1D = 1 << 11 | 1 << 20 | 1 << 27 | 1 << 29 | _1D & 0x0183_F3FF
_E1C = 1 << 0 | 1 << 1

_BASIC: dict[int, CpuidLeaf] = {
    0x0: (0x7, _VENDOR[0], _VENDOR[2], _VENDOR[1]),
    0x1: (_SIGNATURE, 0x0000_0800, _1C, _1D),
    0x7: (0, 1 << 0, 0, 0),  # FSGSBASE
    0x8000_0000: (0x8000_0008, _VENDOR[0], _VENDOR[2], _VENDOR[1]),
    0x8000_0001: (_SIGNATURE, 0, _E1C, _E1D),
    0x8000_0002: (_BRAND[0], _BRAND[1], _BRAND[2], _BRAND[3]),
    0x8000_0003: (_BRAND[4], _BRAND[5], _BRAND[6], _BRAND[7]),
    0x8000_0004: (_BRAND[8], _BRAND[9], _BRAND[10], _BRAND[11]),
    0x8000_0005: (0x01FF_01FF, 0x01FF_01FF, 0x4002_0140, 0x4002_0140),  # 64 KiB first-level caches of 64-byte lines
    0x8000_0006: (0, 0x4200_4200, 0x0200_8140, 0),  # 512 KiB second-level cache
    0x8000_0008: (0x0000_3028, 0, 0, 0),  # 48-bit linear, 40-bit physical addresses
}
#: A 32-bit domain's: without LM and what depends on it (CX16, LAHF, the width of linear addresses).
_COMPAT: dict[int, CpuidLeaf] = {
    0x1: (_SIGNATURE, 0x0000_0800, _1C & ~(1 << 13), _1D),
    0x8000_0001: (_SIGNATURE, 0, _E1C & ~1, _E1D & ~(1 << 29)),
    0x8000_0008: (0x0000_2028, 0, 0, 0),
}
_WITH_SUBLEAVES = frozenset((0x7,))
_POWER = 0x8000_0007
_ITSC = 1 << 8
_XEN_SIGNATURE = _text("XenVMMXenVMM")


class CpuPolicy:
    """What CPUID tells a domain of ``bits``. ``time_leaf(subleaf)`` is Xen's leaf 3, ``nr_frames`` the machine's size
    in frames; ``has_itsc`` says that the TSC never changes its rate.
    """

    def __init__(
        self, bits: int = 64, time_leaf: Callable[[int], CpuidLeaf] = lambda subleaf: (0, 0, 0, 0),
        nr_frames: int = 0, *, has_itsc: bool = False,
    ) -> None:  # fmt: skip
        self._leaves = _BASIC | (_COMPAT if bits == 32 else {})
        self._leaves[_POWER] = (0, 0, 0, _ITSC if has_itsc else 0)
        self._time_leaf = time_leaf
        self._address_bits = max(nr_frames - 1, 0).bit_length() + 12 if nr_frames else 0

    def cpuid(self, leaf: int, subleaf: int) -> CpuidLeaf:
        """(eax, ebx, ecx, edx) of one leaf; unknown ones are zero."""
        if XEN_CPUID_FIRST_LEAF <= leaf < XEN_CPUID_FIRST_LEAF + 0x100:
            return self._xen_leaf(leaf - XEN_CPUID_FIRST_LEAF, subleaf)
        if subleaf and leaf in _WITH_SUBLEAVES:
            return 0, 0, 0, 0
        return self._leaves.get(leaf, (0, 0, 0, 0))

    def _xen_leaf(self, leaf: int, subleaf: int) -> CpuidLeaf:
        """cpuid_hypervisor_leaves; leaf 4 is for HVM alone."""
        if leaf == 0:
            return XEN_CPUID_FIRST_LEAF + _XEN_LEAVES, _XEN_SIGNATURE[0], _XEN_SIGNATURE[1], _XEN_SIGNATURE[2]
        if leaf == 1:
            return _XEN_MAJOR << 16 | _XEN_MINOR, 0, 0, 0
        if leaf == 2:
            return 1, 0x4000_0000, 1, 0  # one hypercall page, its MSR, XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD
        if leaf == 3:
            return self._time_leaf(subleaf)
        if leaf == 5 and subleaf == 0:
            return 0, self._address_bits, 0, 0
        return 0, 0, 0, 0
