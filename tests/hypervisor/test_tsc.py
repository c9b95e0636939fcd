"""The domain's time stamp counter (xen/arch/x86/time.c tsc_set_info, pv_soft_rdtsc, gtime_to_gtsc)."""

from __future__ import annotations

import pytest

from pvemu.config import DomainConfig
from pvemu.errors import ConfigError
from pvemu.hypervisor.time import SYSTEM_TIME_AT_START as START
from pvemu.hypervisor.time import VirtualClock
from pvemu.hypervisor.tsc import TSC_SHIFT, TSC_TO_SYSTEM_MUL, Tsc


class StandingClock(VirtualClock):
    """Nobody makes time pass by looking."""

    def poll(self, place: int = 0) -> int:
        return self.time


def test_native_is_the_machines_own_counter() -> None:
    for mode in ("default", "native"):
        clock = StandingClock()
        tsc = Tsc(clock, mode)
        assert (tsc.poll(), tsc.poll(), tsc.at(START + 5)) == (START, START, START + 5)
        assert tsc.leaf(1)[:2] == (START & 0xFFFF_FFFF, START >> 32)


def test_an_emulated_counter_starts_at_0_and_never_shows_a_value_twice() -> None:
    clock = StandingClock(time=5 * START)
    tsc = Tsc(clock, "always_emulate")
    clock.time += 1000
    assert [tsc.poll() for _ in range(3)] == [1000, 1001, 1002]
    clock.time += 1
    assert tsc.poll() == 1003
    clock.time += 50
    assert tsc.poll() == 1051
    assert tsc.at(5 * START - 1) == (1 << 64) - 1  # a stamp from before the domain was made
    assert tsc.leaf(1)[:2] == (0, 0)


def test_the_time_leaf() -> None:
    tsc = Tsc(VirtualClock(), "always_emulate")
    assert [tsc.leaf(n) for n in (0, 2, 3)] == [(7, 1, 1_000_000, 1), (1_000_000, 0, 0, 0), (0, 0, 0, 0)]
    assert tsc.leaf(1)[2:] == (TSC_TO_SYSTEM_MUL, TSC_SHIFT)
    assert (10**9 << TSC_SHIFT) * TSC_TO_SYSTEM_MUL >> 32 == 10**9


def test_no_other_mode() -> None:
    with pytest.raises(ConfigError, match=r"--tsc-mode 'pvrdtscp': no mode; take one of default, always_emulate"):
        DomainConfig(kernel="k", tsc_mode="pvrdtscp")
