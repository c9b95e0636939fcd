"""CPUID as a PV guest sees it: fixed, with Xen's own leaves."""

from __future__ import annotations

import struct

import pytest

from pvemu.cpu.cpuid import CpuPolicy
from pvemu.cpu.exits import PF_INSTR, PF_PRESENT, PF_USER, PF_WRITE, Access, Exit, ExitKind
from pvemu.cpu.registers import GENERAL_64

cpuid = CpuPolicy(time_leaf=lambda subleaf: (subleaf, 1, 2, 3), nr_frames=0x48000).cpuid


def text(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)


def test_xens_leaves() -> None:
    top, b, c, d = cpuid(0x4000_0000, 0)
    assert text(b, c, d) == b"XenVMMXenVMM"
    assert 0x4000_0002 <= top < 0x4000_0100
    assert cpuid(0x4000_0001, 0)[0] == 4 << 16 | 17
    pages, msr, features, _ = cpuid(0x4000_0002, 0)
    assert (pages, msr, features & 1) == (1, 0x4000_0000, 1)
    assert [cpuid(0x4000_0003, n) for n in (0, 2)] == [(0, 1, 2, 3), (2, 1, 2, 3)]
    assert cpuid(0x4000_0004, 0) == (0, 0, 0, 0)  # HVM's
    assert [cpuid(0x4000_0005, n)[1] for n in (0, 1)] == [19 + 12, 0]
    assert cpuid(0x4000_00FF, 0) == (0, 0, 0, 0)


def test_what_amds_cpus_say_twice() -> None:
    """recalculate_misc and recalculate_cpuid_policy of xen/arch/x86/cpu-policy.c."""
    assert cpuid(0x8000_0000, 0)[1:] == cpuid(0, 0)[1:]
    assert cpuid(0x8000_0001, 0)[0] == cpuid(1, 0)[0]
    assert [CpuPolicy(bits).cpuid(0x8000_0008, 0)[0] for bits in (64, 32)] == [0x3028, 0x2028]  # maxlinaddr


def test_an_invariant_tsc_is_told_where_the_domain_cannot_leave_it() -> None:
    assert [CpuPolicy(has_itsc=has).cpuid(0x8000_0007, 0)[3] for has in (False, True)] == [0, 1 << 8]


def test_the_vendor_and_brand_are_texts() -> None:
    _, b, c, d = cpuid(0, 0)
    assert text(b, d, c) == b"AuthenticAMD"
    brand = b"".join(text(*cpuid(leaf, 0)) for leaf in (0x8000_0002, 0x8000_0003, 0x8000_0004))
    assert brand.rstrip(b"\0").decode().isprintable()


HIDDEN = [("VME", 1), ("PSE", 3), ("SEP", 11), ("MTRR", 12), ("PGE", 13), ("PSE36", 17)]


@pytest.mark.parametrize(("name", "bit"), HIDDEN)
def test_what_a_pv_guest_may_not_use_is_hidden(name: str, bit: int) -> None:
    assert not cpuid(1, 0)[3] >> bit & 1


def test_what_every_64_bit_kernel_needs_is_there() -> None:
    _, _, ecx, edx = cpuid(1, 0)
    assert all(edx >> bit & 1 for bit in (0, 4, 5, 6, 8, 15, 24, 25, 26))  # FPU TSC MSR PAE CX8 CMOV FXSR SSE SSE2
    assert ecx >> 31  # HYPERVISOR
    assert all(cpuid(0x8000_0001, 0)[3] >> bit & 1 for bit in (11, 20, 27, 29))  # SYSCALL NX RDTSCP LM


def test_nothing_that_would_bring_the_hosts_randomness_or_state_we_do_not_keep_is_there() -> None:
    _, _, ecx, _ = cpuid(1, 0)
    assert not any(ecx >> bit & 1 for bit in (26, 27, 28, 30))  # XSAVE OSXSAVE AVX RDRAND
    assert cpuid(7, 0) == (0, 1, 0, 0)  # FSGSBASE; no RDSEED


def test_unknown_leaves_are_zero() -> None:
    for leaf in (0x15, 0x8000_00FF, 0xFFFF_FFFF, 0x4000_0100):
        assert cpuid(leaf, 0) == (0, 0, 0, 0)


def test_names_and_numbers_of_exits() -> None:
    assert (PF_PRESENT, PF_WRITE, PF_USER, PF_INSTR) == (1, 2, 4, 16)
    assert [int(a) for a in Access] == [16, 17, 18]
    assert Exit(ExitKind.STOPPED).error_code == -1
    assert len(set(GENERAL_64)) == 16
