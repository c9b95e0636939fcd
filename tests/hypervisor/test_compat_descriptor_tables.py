"""Which descriptors a 32-bit guest may have (check_descriptor of xen/arch/x86/pv/descriptor-tables.c)."""

from __future__ import annotations

import pytest

from pvemu.hypervisor.compat.descriptor_tables import check_compat_descriptor, fixup_guest_selector

RING1_CODE, RING3_DATA = 0x00CF_BB00_0000_FFFF, 0x00CF_F300_0000_FFFF


@pytest.mark.parametrize(
    ("desc", "expected"),
    [
        (0, 0),
        (RING1_CODE, RING1_CODE),
        (RING3_DATA, RING3_DATA),
        (RING1_CODE & ~(3 << 45), RING1_CODE),  # no ring 0
        (RING1_CODE | 1 << 53, None),  # no 64-bit code
        (0x00CF_BB00_0000_67FF & ~(0xF << 48) | 0xF << 48, RING1_CODE),  # an old guest's limit, up to the hole
        (0x00C0_B300_0000_FFFF, 0x00C0_B300_0000_FFFF),
        (0x0000_8900_0000_0067, None),  # a TSS
        (0x0000_EC00_E019_1234, 0x0000_8C00_E01B_1234),  # a call gate for ring 3, kept for emulation
        (0x0000_8C00_E010_1234, None),  # into Xen
        (0x0000_8C20_E019_1234, None),  # reserved bits
    ],
)
def test_check(desc: int, expected: int | None) -> None:
    assert check_compat_descriptor(desc) == expected


def test_selectors_never_name_ring_0() -> None:
    assert [fixup_guest_selector(s) for s in (0, 0xE019, 0x20, 0x22, 0x2B)] == [1, 0xE019, 0x21, 0x22, 0x2B]
