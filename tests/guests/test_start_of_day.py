"""The state a guest starts in, as itself sees it (public/xen.h "Start-of-day memory layout")."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.guests.conftest import MakeGuest

U64 = 1 << 64
GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")


def test_registers(micro: MakeGuest) -> None:
    guest = micro("start_of_day.S").run_to("poweroff")
    built = guest.machine.built
    registers = {name: guest.quad("boot_registers", i) for i, name in enumerate(GENERAL)}
    expected = dict.fromkeys(GENERAL, 0)
    expected["rsp"] = built.stack_top
    expected["rsi"] = built.start_info_pfn << 12
    assert registers == expected
    flags, cs, ss, ds, es, fs, gs = (guest.quad("boot_registers", 16 + i) for i in range(7))
    assert flags == 0x202
    assert (cs, ss) == (0xE033, 0xE02B)
    assert [ds, es, fs, gs] == [built.registers[name] for name in ("ds", "es", "fs", "gs")]


def test_memory(micro: MakeGuest) -> None:
    guest = micro("start_of_day.S").run_to("poweroff")
    built, values = guest.machine.built, guest.values
    assert values["magic"].to_bytes(8, "little") == b"xen-3.0-"
    assert values["nr_pages"] == 16 << 8
    assert values["pt_base"] == built.pt_base
    assert values["nr_pt_frames"] == len(built.pt_pfns)
    assert values["mfn_list"] == built.mfn_list
    assert values["l4_entry0"] & 5 == 5
    assert values["m2p_mismatches"] == 0
    traps = guest.traps
    first_mfn = built.p2m[0]
    assert [(t.vector, t.error) for t in traps] == [(14, 3), (14, 3), (14, 0), (14, 2), (14, 0x10)]
    assert traps[0].rip == guest.symbols["write_l4"] + 12
    assert guest.quad(guest.symbols["trap_log"] + 128 * 4 + 4 * 8) == 0x400000  # rip of the fetch is its target
    assert first_mfn != 0


def test_shared_info(micro: MakeGuest) -> None:
    guest = micro("start_of_day.S").run_to("poweroff")
    values = guest.values
    assert values["mapped"] == 0
    assert (values["mask0"], values["mask31"]) == (1, 1)
    assert values["pending0"] == 1  # the console took what was shown before
    assert values["pending_ports"] == 1 << guest.machine.console_port
    assert values["wc_version"] % 2 == 0
    assert 1_767_225_600 - 2 <= values["wc_sec"] <= 1_767_225_600


def test_hypercalls(micro: MakeGuest) -> None:
    guest = micro("start_of_day.S").run_to("poweroff")
    values = guest.values
    assert values["version"] == 4 << 16 | 17
    kept = [values[f"kept_{name}"] for name in ("rdi", "rsi", "rdx", "r10", "r8", "rcx", "r11")]
    assert kept == [0, 0x1111, 0x2222, 0x3333, 0x4444, 0x5555, 0x6666]
    assert values["carry"] == 1
    assert values["rcx"] == guest.symbols["after_syscall"]
    assert values["r11"] & 0xFFFF_F3FF & 0x203 == 0x203
    assert values["unknown"] == values["garbage"] == U64 - 38
