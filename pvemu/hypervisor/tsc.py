"""The time stamp counter that a domain sees, native or emulated (xen/arch/x86/time.c tsc_set_info, pv_soft_rdtsc,
gtime_to_gtsc; the time leaf of xen/arch/x86/traps.c cpuid_hypervisor_leaves).

The machine's own counter ticks once a nanosecond, at the same rate whatever happens, so that Xen calls it safe: the
default mode is native here. A domain never leaves the machine, hence an emulated counter has the same rate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.config import TSC_MODES

if TYPE_CHECKING:
    from pvemu.hypervisor.time import VirtualClock

__all__ = ["CPU_KHZ", "TSC_SHIFT", "TSC_TO_SYSTEM_MUL", "Tsc"]

CPU_KHZ = 1_000_000
#: set_time_scale for it, as in vcpu_time_info: ns = (tsc << 1) * 2**31 >> 32.
TSC_TO_SYSTEM_MUL = 0x8000_0000
TSC_SHIFT = 1

_ALL_ONES = 0xFFFF_FFFF_FFFF_FFFF
_MODE_ALWAYS_EMULATE = 1
#: Of the time leaf: the counter is emulated; the machine's is safe; it has RDTSCP.
_FEATURE_VTSC, _FEATURE_SAFE, _FEATURE_RDTSCP = 1, 2, 4
#: How often xen's tsc_set_info has counted, once a domain runs that was made here.
_INCARNATION = 1


class Tsc:
    """``mode`` is xl's ``tsc_mode``. An emulated counter starts at 0 with the domain, and shows no value twice."""

    def __init__(self, clock: VirtualClock, mode: str = TSC_MODES[0]) -> None:
        self._clock = clock
        self._mode = TSC_MODES.index(mode)
        self.vtsc = self._mode == _MODE_ALWAYS_EMULATE
        self._offset = clock.now()
        self._last = 0
        #: RDTSC at a ``place`` (VirtualClock.poll).
        self.poll = self._soft_rdtsc if self.vtsc else clock.poll

    def _soft_rdtsc(self, place: int = 0) -> int:
        """pv_soft_rdtsc."""
        now = self._clock.poll(place)
        self._last = now if now > self._last else self._last + 1
        return self.at(self._last)

    def at(self, stime: int) -> int:
        """What the counter showed at a system time: tsc_timestamp of vcpu_time_info."""
        return (stime - self._offset) & _ALL_ONES if self.vtsc else stime

    def leaf(self, subleaf: int) -> tuple[int, int, int, int]:
        """CPUID leaf 0x40000003: features and mode, scale and offset, the machine's rate."""
        if subleaf == 0:
            features = _FEATURE_SAFE | _FEATURE_RDTSCP | (_FEATURE_VTSC if self.vtsc else 0)
            return features, self._mode, CPU_KHZ, _INCARNATION
        if subleaf == 1:
            offset = 0 if self.vtsc else self._offset
            return offset & 0xFFFF_FFFF, offset >> 32, TSC_TO_SYSTEM_MUL, TSC_SHIFT
        return (CPU_KHZ, 0, 0, 0) if subleaf == 2 else (0, 0, 0, 0)
