"""What `xl save` would say of a suspended guest, check by check (tools/libs/guest/xg_sr_save_x86_pv.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hypercalls.public import xen
from pvemu.config import DomainConfig
from pvemu.machine import Machine
from pvemu.testing.save_refusal import save_refusal
from tests.builder.make_elf import make_kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: SCHEDOP_shutdown(SHUTDOWN_suspend), with start_info's frame: by the p2m at mfn_list, at virtual addresses from 0.
SUSPEND = {
    64: bytes.fromhex("488b4668 4889f1 48c1e90c 488b14c8 6a02 4889e6 bf02000000 b81d000000 0f05 ebfe"),
    32: bytes.fromhex("8b4644 89f1 c1e90c 8b1488 6a02 89e1 bb02000000 b81d000000 cd82 ebfe"),
}
LISTS, LIST = 3000, 3001  # pages for the tree: top and middle
L2_SHIFT, L1_SHIFT = 21, 12


class Suspended:
    """A guest that has suspended, with a p2m tree as a kernel would have it."""

    def __init__(self, kernel: Path, bits: int) -> None:
        kernel.write_bytes(make_kernel(bits, SUSPEND[bits]))
        self.machine = machine = Machine.create(DomainConfig(kernel=str(kernel), memory_mib=16))
        self.p2m = machine.built.p2m
        self.width = bits // 8
        machine.start()
        machine.run()
        assert machine.domain.shutdown_reason == 2
        leaves = -(-len(self.p2m) * self.width // 4096)
        first = machine.built.mfn_list >> 12
        self.write(LIST, [self.p2m[first + i] for i in range(leaves)])
        self.write(LISTS, [self.p2m[LIST]])
        self.set("max_pfn", len(self.p2m))
        self.set("pfn_to_mfn_frame_list_list", self.p2m[LISTS])

    def set(self, name: str, value: int) -> None:
        at = self.machine.abi.offsetof(xen.shared_info, f"arch.{name}")
        self.machine.shared_info.page[at : at + self.width] = value.to_bytes(self.width, "little")

    def write(self, pfn: int, words: list[int], at: int = 0) -> None:
        data = b"".join(word.to_bytes(self.width, "little") for word in words)
        self.machine.ram.write((self.p2m[pfn] << 12) + at * self.width, data)

    @property
    def refusal(self) -> str | None:
        return save_refusal(self.machine)


@pytest.fixture(params=[64, 32])
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Suspended]:
    suspended = Suspended(tmp_path / "kernel", request.param)
    yield suspended
    suspended.machine.close()


def test_a_guest_that_has_done_its_part_is_saved(guest: Suspended) -> None:
    assert guest.refusal is None


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("max_pfn", 0, "too large for p2m tree"),
        ("pfn_to_mfn_frame_list_list", 0, "Bad mfn 0x0 for p2m frame list list"),
        ("pfn_to_mfn_frame_list_list", 0x7FFFFFFF, "Bad mfn 0x7fffffff for p2m frame list list"),
        ("pfn_to_mfn_frame_list_list", 1, "Failed to map p2m frame list list at 0x1"),
    ],
)
def test_the_tree_that_shared_info_names(guest: Suspended, name: str, value: int, line: str) -> None:
    guest.set(name, value)
    assert line in (guest.refusal or "")


def test_the_tree_itself(guest: Suspended) -> None:
    guest.write(LIST, [0], at=1)
    assert guest.refusal == f"Bad mfn 0x0 at index 1 (of {4096 * guest.width // 4096}) in p2m frame list"
    guest.write(LIST, [1], at=1)
    assert (guest.refusal or "").startswith("Failed to map p2m frames (mfn 0x1")
    guest.write(LIST, [guest.p2m[LISTS]], at=0)  # a page that is no part of the p2m
    guest.write(LIST, [guest.p2m[guest.machine.built.mfn_list // 4096 + 1]], at=1)
    assert "Bad mfn" in (guest.refusal or "")
    guest.write(LISTS, [0])
    assert guest.refusal == "Bad mfn 0x0 at index 0 (of 1) in p2m frame list list"


def test_the_suspend_record(guest: Suspended) -> None:
    guest.machine.engine.write("rdx", 0)
    assert (guest.refusal or "").startswith("Bad mfn for suspend record (mfn 0x0: ")


def test_a_table_that_maps_what_is_no_page_of_the_p2m(guest: Suspended) -> None:
    machine = guest.machine
    shared_info = machine.shared_info_mfn
    machine.mm.update_va_mapping(0x200000, shared_info << 12 | 7, 0)
    assert (guest.refusal or "").startswith(f"Bad mfn for L1[0] (mfn {shared_info:#x}: ")
    machine.mm.update_va_mapping(0x200000, 0, 0)
    assert guest.refusal is None


def test_a_p2m_that_page_tables_map(guest: Suspended) -> None:
    root, bits = guest.machine.mm.guest_root, guest.width * 8
    guest.set("pfn_to_mfn_frame_list_list", 0)
    guest.set("p2m_cr3", root << 12 if bits == 64 else (root << 12 | root >> 20) & 0xFFFFFFFF)
    guest.set("p2m_vaddr", guest.machine.built.mfn_list)
    assert guest.refusal is None
    hole = 0xFFFF800000000000 if bits == 64 else 0xF5800000
    guest.set("p2m_vaddr", hole)
    assert (guest.refusal or "").startswith(f"Bad virtual p2m address range {hole:#x}-")
    guest.set("p2m_vaddr", 0x3FFF000)
    assert "during page table walk for vaddr 0x" in (guest.refusal or "")
    guest.set("p2m_cr3", 0xFFFFF000)
    assert guest.refusal == "Bad p2m_cr3 value 0xfffff000"
