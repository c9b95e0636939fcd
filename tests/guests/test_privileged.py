"""Privileged instructions of the kernel (xen/arch/x86/pv/emul-priv-op.c, emul-inv-op.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest, MicroGuest

GP, PF, UD, NM = 13, 14, 6, 7


@pytest.fixture
def guest(micro: MakeGuest) -> MicroGuest:
    return micro("privileged.S").run_to("poweroff")


def test_flags_are_not_touched_by_cli_and_sti(guest: MicroGuest) -> None:
    values = guest.values
    assert values["cli_refused"] == values["after_cli"] == 1
    assert (guest.traps[0].vector, guest.traps[0].error) == (GP, 0)
    assert (values["mask_after_cli"], values["mask_after_cli2"]) == (1, 0)
    assert values["flags_after_sti"] & 0x3200 == 0x200


def test_control_and_debug_registers(guest: MicroGuest) -> None:
    values, machine = guest.values, guest.machine
    assert values["cr0"] == 0x8005_0033
    assert values["cr3"] == machine.built.pt_root_mfn << 12
    assert (values["cr4"], values["cr4_changed"]) == (0x660, 0x66C)
    assert values["cr2"] == values["cr2_shared"] == 0x123456789000
    assert values["after_cr"] == 1
    assert (values["db1"], values["db6"]) == (0x100000, 0xFFFF_0FF0)


def test_device_not_available_once(guest: MicroGuest) -> None:
    values = guest.values
    assert values["cr0_ts"] == values["cr0"] | 8
    assert values["cr0_after_nm"] == values["cr0"]
    assert values["after_nm"] == 2
    assert guest.traps[1].vector == NM


def test_msrs(guest: MicroGuest) -> None:
    values = guest.values
    assert values["faked"] == 0
    assert values["efer"] == 0xD01
    assert values["pat"] == 0x0000_0501_0007_0406
    assert values["apic_base"] == 0xFEE0_0900
    assert values["misc_enable"] == 0x0080_1801
    assert values["fs_base"] == 0x2468_1357_9BDF
    assert values["through_gs"] == 0x77
    assert values["shadow_gs"] == 0x5000
    assert values["tsc_goes_on"] == 1
    assert values["after_msr"] == 2
    assert [t.vector for t in guest.traps[2 : values["after_bad_msr"]]] == [GP] * 4


def test_ports(guest: MicroGuest) -> None:
    values = guest.values
    assert values["inb"] == 0x1122334455667788 | 0xFF
    assert values["inw"] == 0x112233445566FFFF
    assert values["inl"] == 0xFFFF_FFFF
    assert values["pci_address"] == 0x80001234
    assert (values["insb_rcx"], values["insb"]) == (0, 0xFFFFFF)
    assert values["outsb_rsi"] == 0x100000 + 10000
    assert values["after_io"] == values["after_bad_msr"]
    page_fault, refused = guest.traps[values["after_io"] : values["after_bad_io"]]
    assert (page_fault.vector, page_fault.error, page_fault.cr2) == (PF, 2, 0x666666666000)
    assert (refused.vector, refused.error) == (GP, 0)


def test_what_xen_does_not_emulate(guest: MicroGuest) -> None:
    values = guest.values
    assert values["after_wbinvd"] == values["after_bad_io"]
    refused = guest.traps[values["after_wbinvd"] : values["after_refused"]]
    assert [(t.vector, t.error) for t in refused] == [(GP, 0)] * 8


def test_forced_emulation(guest: MicroGuest) -> None:
    values = guest.values
    assert values["cpuid_eax"] & 0xFFFF_FF00 == 0x4000_0000
    assert values["cpuid_ebx"] == values["native_ebx"] == int.from_bytes(b"XenV", "little")
    assert values["end"] == values["after_refused"] + 1
    assert guest.traps[-1].vector == UD
