"""set_gdt and update_descriptor (xen/arch/x86/pv/descriptor-tables.c), set_trap_table (xen/arch/x86/pv/callback.c)."""

from __future__ import annotations

from hypercalls.public import arch_x86
from hypercalls.public import errno as e
from tests.hypercalls.documented import Case, Family
from tests.hypercalls.documented.world import FREE, NOWHERE, PAGES, World

TSS = 0x0000_8900_0000_0000
RING0_GATE = 0x0000_8C00_0008_0000
CODE = 0x00CF_FA00_0000_FFFF
NON_CANONICAL = 1 << 47


def set_gdt(world: World, mfn: int, entries: int = 512) -> int:
    return world.hypercall("set_gdt", [mfn], entries)


def bad_gdt(world: World) -> int:
    """A frame with a descriptor that no guest may have."""
    world.poke(world.mfns[FREE], 17, TSS)
    return set_gdt(world, world.mfns[FREE])


def update(world: World, maddr: int, desc: int) -> int:
    if world.abi.bits == 64:
        return world.hypercall("update_descriptor", maddr, desc)
    halves = (maddr & 0xFFFF_FFFF, maddr >> 32, desc & 0xFFFF_FFFF, desc >> 32)
    return world.hypercall("update_descriptor", *halves)


def traps(world: World, *addresses: int) -> bytes:
    """Rows of a trap table."""
    rows = [arch_x86.trap_info(vector=i, flags=3, cs=0xE033, address=at) for i, at in enumerate(addresses)]
    return b"".join(map(world.abi.pack, rows))


FAMILY = Family(
    documented={
        ("set_gdt", e.EINVAL): "more than 7168 entries, a frame not the domain's or in use as something else, or a "
        "descriptor that no guest may have; do_set_gdt, pv_set_gdt, validate_segdesc_page",
        ("set_gdt", e.EFAULT): "the list of frames is not mapped; do_set_gdt",
        ("update_descriptor", e.EINVAL): "not aligned, no descriptor for a guest, not the domain's frame, or a table; "
        "do_update_descriptor, check_descriptor",
        ("set_trap_table", e.EFAULT): "a row is not mapped; do_set_trap_table",
        ("set_trap_table", e.EINVAL): "an address that is not canonical, which none of 32 bits is; do_set_trap_table",
    },
    cases=[
        Case("set_gdt", e.EINVAL, lambda w: set_gdt(w, w.mfns[FREE], arch_x86.FIRST_RESERVED_GDT_ENTRY + 1)),
        Case("set_gdt", e.EINVAL, lambda w: set_gdt(w, 0)),
        Case("set_gdt", e.EINVAL, lambda w: set_gdt(w, w.mfn(PAGES.start))),
        Case("set_gdt", e.EINVAL, lambda w: set_gdt(w, w.l1)),
        Case("set_gdt", e.EINVAL, bad_gdt),
        Case("set_gdt", e.EFAULT, lambda w: w.hypercall("set_gdt", NOWHERE, 1)),
        Case("update_descriptor", e.EINVAL, lambda w: update(w, (w.mfns[FREE] << 12) + 4, CODE)),
        Case("update_descriptor", e.EINVAL, lambda w: update(w, w.mfns[FREE] << 12, TSS)),
        Case("update_descriptor", e.EINVAL, lambda w: update(w, w.mfns[FREE] << 12, RING0_GATE | 0xE008 << 16)),
        Case("update_descriptor", e.EINVAL, lambda w: update(w, w.mfns[FREE] << 12, CODE | 1 << 53), 32),
        Case("update_descriptor", e.EINVAL, lambda w: update(w, 0, CODE)),
        Case("update_descriptor", e.EINVAL, lambda w: update(w, w.l1 << 12, CODE)),
        Case("set_trap_table", e.EFAULT, lambda w: w.hypercall("set_trap_table", NOWHERE)),
        Case("set_trap_table", e.EINVAL, lambda w: w.hypercall("set_trap_table", traps(w, NON_CANONICAL, 0)), 64),
    ],
)
