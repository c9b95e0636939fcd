"""mmu_update, mmuext_op, update_va_mapping and update_va_mapping_otherdomain (xen/arch/x86/mm.c,
xen/arch/x86/x86_64/compat/mm.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.public import errno as e
from hypercalls.public import xen
from tests.hypercalls.documented import Case, Family
from tests.hypercalls.documented.world import DOM0, DOMID, FREE, NOBODY, NOWHERE, PAGES, World

if TYPE_CHECKING:
    from collections.abc import Callable

P, RW, US, PCD = 1, 2, 4, 0x10
RWX = P | RW | US
MMIO = 0  #: the machine's first MiB is no memory
SPARE = FREE + 10  #: pfn of a frame that can be made a table


def pte(mfn: int, flags: int) -> int:
    return mfn << 12 | flags


# -- mmu_update ------------------------------------------------------------------------------------------------------
def update(world: World, ptr: int, val: int, domid: int = xen.DOMID_SELF) -> int:
    """One request."""
    request = ptr.to_bytes(8, "little") + val.to_bytes(8, "little")
    return world.hypercall("mmu_update", request, 1, 0, domid)


def l1_slot(world: World) -> int:
    """Machine address of an entry of the level-1 table in use that maps nothing."""
    return (world.l1 << 12) + 8 * 400


def updates_of(name: str) -> list[Case]:
    """What a page-table update is refused for, whichever of the three it is."""
    command = getattr(xen, name)
    return [
        Case(name, e.EINVAL, lambda w: update(w, l1_slot(w) | command, pte(w.mfns[FREE], RWX | PCD))),
        Case(name, e.EINVAL, lambda w: update(w, MMIO | command, 0)),
        Case(name, e.EINVAL, lambda w: update(w, (w.mfns[1] << 12) + 80 | command, pte(w.mfn(PAGES.start), RWX))),
        Case(name, e.EINVAL, lambda w: update(w, (w.root << 12) + 8 * 256 | command, 0), 64),
        Case(name, e.EINVAL, lambda w: update(w, (w.root << 12) + 8 * 3 | command, 0), 32),
        Case(name, e.EINVAL, lambda w: update(w, (w.mfns[1] << 12) + 80 | command, 0, xen.DOMID_IO)),
        Case(name, e.EPERM, lambda w: update(w, l1_slot(w) | command, pte(MMIO, RWX))),
        Case(name, e.EPERM, lambda w: update(w, l1_slot(w) | command, 0, DOM0)),
        Case(name, e.EPERM, lambda w: update(w, l1_slot(w) | command, 0, xen.DOMID_SELF | (DOM0 + 1) << 16)),
        Case(name, e.EPERM, lambda w: update(w, (w.mfns[4] << 12) + 8 * 428 | command, 0), 32),
        Case(name, e.EBUSY, lambda w: update(w, l1_slot(w) | command, pte(w.l1, RWX))),
        Case(name, e.EBUSY, lambda w: update(w, l1_slot(w) | command, pte(w.memory.alloc_xen(), P | US))),
        Case(name, e.EBUSY, lambda w: update(w, l1_slot(w) | command, pte(w.mfns[FREE], RWX), xen.DOMID_IO)),
    ]


def updates_row(name: str) -> dict[tuple[str, int], str]:
    return {
        (name, e.EINVAL): "flags, a table of the wrong level, Xen's slot of a root, a frame that is not the domain's; "
        "mod_l1_entry .. mod_l4_entry, do_mmu_update",
        (name, e.EPERM): "MMIO space, a foreign owner of tables or frames, Xen's slots of a level-2 table; "
        "get_page_from_l1e, xsm_mmu_update, mod_l2_entry",
        (name, e.EBUSY): "a writable mapping of a table, any of a frame of Xen's or another's; get_page_from_l1e",
    }


def unknown_update(command: int) -> Case:
    return Case("mmu_update", e.ENOSYS, lambda w: update(w, l1_slot(w) | command, 0))


UPDATES = ("MMU_NORMAL_PT_UPDATE", "MMU_PT_UPDATE_PRESERVE_AD", "MMU_PT_UPDATE_NO_TRANSLATE")


# -- mmuext_op -------------------------------------------------------------------------------------------------------
def ext(world: World, cmd: int, arg1: int = 0, arg2: int = 0, domid: int = xen.DOMID_SELF) -> int:
    """One operation."""
    size = world.abi.long_size
    fields = [value.to_bytes(size, "little") for value in (cmd, arg1 & world.abi.long_mask, arg2)]
    return world.hypercall("mmuext_op", b"".join(fields), 1, 0, domid)


def table(world: World, *entries: int) -> int:
    """A frame with these entries that nothing maps; its number."""
    mfn = world.mfns[SPARE]
    for slot, entry in enumerate(entries):
        world.poke(mfn, slot, entry)
    return mfn


def chain(world: World, level: int, bad: int) -> int:
    """A table of ``level`` that leads to a level-1 table with the entry ``bad``; its frame."""
    mfn, entry = table(world, bad), 0
    for above in range(2, level + 1):
        entry = pte(mfn, P if world.width.is_compat and above == 3 else RWX)
        mfn = world.mfns[SPARE + above]
        world.poke(mfn, 0, entry)
        if above == 3 and world.width.is_compat:
            world.poke(mfn, 3, pte(world.mfns[SPARE + 9], P))
    return mfn


def pin(name: str, level: int, bits: int) -> list[Case]:
    command = getattr(xen, name)

    def twice(world: World) -> int:
        mfn = chain(world, level, 0)
        assert ext(world, command, mfn) == 0
        return ext(world, command, mfn)

    return [
        Case(name, e.EINVAL, lambda w: ext(w, command, MMIO), bits),
        Case(name, e.EINVAL, lambda w: ext(w, command, w.mfn(PAGES.start)), bits),
        Case(name, e.EINVAL, lambda w: ext(w, command, chain(w, level, pte(w.mfns[FREE], RWX | PCD))), bits),
        Case(name, e.EINVAL, twice, bits),
        Case(name, e.EPERM, lambda w: ext(w, command, chain(w, level, pte(MMIO, RWX))), bits),
        Case(name, e.EBUSY, lambda w: ext(w, command, chain(w, level, pte(w.l1, RWX))), bits),
    ]


def base_pointer(name: str, bits: int) -> list[Case]:
    command = getattr(xen, name)

    def level(world: World) -> int:
        return world.width.root_level

    return [
        Case(name, e.EINVAL, lambda w: ext(w, command, w.l1), bits),
        Case(name, e.EINVAL, lambda w: ext(w, command, -1), bits),
        Case(name, e.EPERM, lambda w: ext(w, command, chain(w, level(w), pte(MMIO, RWX))), bits),
        Case(name, e.EBUSY, lambda w: ext(w, command, chain(w, level(w), pte(w.l1, RWX))), bits),
    ]


def pin_row(name: str, where: str) -> dict[tuple[str, int], str]:
    return {
        (name, e.EINVAL): f"not the domain's, in use as something else, bad entries, pinned before; {where}",
        (name, e.EPERM): f"an entry for MMIO space; get_page_from_l1e under {where}",
        (name, e.EBUSY): f"an entry that would make a table writable; get_page_from_l1e under {where}",
    }


#: What becomes of owners other than DOMID_SELF.
FOREIGN = {NOBODY: e.ESRCH, DOMID: e.ESRCH, DOM0: e.EPERM, xen.DOMID_IO: e.EPERM, xen.DOMID_XEN: e.EPERM}


def foreign_ext(domid: int, errno: int) -> Case:
    return Case("mmuext_op", errno, lambda w: ext(w, xen.MMUEXT_TLB_FLUSH_LOCAL, domid=domid))


def bad_bitmap(name: str) -> Case:
    return Case(name, e.EINVAL, lambda w: ext(w, getattr(xen, name), PAGES.start, NOWHERE))


def gone(call: Callable[[World], int], name: str) -> Case:
    return Case(name, e.EOPNOTSUPP, call)


HYPERVISOR_VIRT_START = 0xFFFF_8000_0000_0000
LDT_CASES = [
    Case("MMUEXT_SET_LDT", e.EINVAL, lambda w: ext(w, xen.MMUEXT_SET_LDT, PAGES.start, 8193)),
    Case("MMUEXT_SET_LDT", e.EINVAL, lambda w: ext(w, xen.MMUEXT_SET_LDT, PAGES.start + 8, 1)),
    Case("MMUEXT_SET_LDT", e.EINVAL, lambda w: ext(w, xen.MMUEXT_SET_LDT, HYPERVISOR_VIRT_START, 1), 64),
]


# -- update_va_mapping -----------------------------------------------------------------------------------------------
def map_page(world: World, vaddr: int, val: int, flags: int = 0) -> int:
    if world.abi.bits == 64:
        return world.hypercall("update_va_mapping", vaddr, val, flags)
    return world.hypercall("update_va_mapping", vaddr, val & 0xFFFF_FFFF, val >> 32, flags)


def map_other(domid: int) -> Callable[..., int]:
    def call(world: World, vaddr: int, val: int, flags: int = 0) -> int:
        name = "update_va_mapping_otherdomain"
        if world.abi.bits == 64:
            return world.hypercall(name, vaddr, val, flags, domid)
        return world.hypercall(name, vaddr, val & 0xFFFF_FFFF, val >> 32, flags, domid)

    return call


def mappings(name: str, call: Callable[..., int]) -> list[Case]:
    unused = 0x60_000
    return [
        Case(name, e.EINVAL, lambda w: call(w, 1 << 30, 0)),
        Case(name, e.EINVAL, lambda w: call(w, w.xen, 0)),
        Case(name, e.EINVAL, lambda w: call(w, 1 << 47, 0), 64),
        Case(name, e.EINVAL, lambda w: call(w, unused, pte(w.mfns[FREE], RWX | PCD))),
        Case(name, e.EINVAL, lambda w: call(w, unused, 0x000F_FFFF_FFFF_F000 | RWX)),
        Case(name, e.EPERM, lambda w: call(w, unused, pte(MMIO, RWX))),
        Case(name, e.EBUSY, lambda w: call(w, unused, pte(w.root, RWX))),
        Case(name, e.EFAULT, lambda w: call(w, unused, 0, NOWHERE | xen.UVMF_TLB_FLUSH)),
        Case(name, e.EFAULT, lambda w: call(w, unused, 0, NOWHERE | xen.UVMF_INVLPG)),
    ]


def foreign_mapping(domid: int, errno: int) -> Case:
    return Case("update_va_mapping_otherdomain", errno, lambda w: map_other(domid)(w, 0x60_000, 0))


def mappings_row(name: str) -> dict[tuple[str, int], str]:
    return {
        (name, e.EINVAL): "no level-1 table of the domain's maps the address, or flags; __do_update_va_mapping",
        (name, e.EPERM): "MMIO space, or a foreign owner of the frame; get_page_from_l1e, xsm_update_va_mapping",
        (name, e.EBUSY): "a writable mapping of a table; get_page_from_l1e",
        (name, e.EFAULT): "the bitmap of vcpus is not mapped, with the entry changed; vcpumask_to_pcpumask",
    }


FAMILY = Family(
    documented={
        ("mmu_update", e.EFAULT): "a request is not mapped, or they start in Xen's part; do_mmu_update",
        ("mmu_update", e.ESRCH): "no such owner of tables or frames, the caller's own number is none; get_pg_owner",
        ("mmu_update", e.ENOSYS): "no such command; do_mmu_update",
        ("MMU_MACHPHYS_UPDATE", e.EINVAL): "the frame is not the domain's; do_mmu_update",
        ("MMU_MACHPHYS_UPDATE", e.EPERM): "a foreign owner; do_mmu_update, xsm_mmu_update",
        **{row: text for name in UPDATES for row, text in updates_row(name).items()},
        ("mmuext_op", e.EFAULT): "an operation is not mapped, or they start in Xen's part; do_mmuext_op",
        ("mmuext_op", e.ESRCH): "no such owner, the caller's own number is none; get_pg_owner",
        ("mmuext_op", e.EPERM): "a foreign owner; xsm_mmuext_op",
        ("mmuext_op", e.ENOSYS): "no such command; do_mmuext_op",
        **{
            row: text
            for level in (1, 2, 3, 4)
            for row, text in pin_row(f"MMUEXT_PIN_L{level}_TABLE", f"promote_l{level}_table").items()
        },
        ("MMUEXT_UNPIN_TABLE", e.EINVAL): "not the domain's, or not pinned; do_mmuext_op",
        **pin_row("MMUEXT_NEW_BASEPTR", "new_guest_cr3"),
        **pin_row("MMUEXT_NEW_USER_BASEPTR", "do_mmuext_op; a 32-bit guest has none at all, compat_mmuext_op"),
        ("MMUEXT_TLB_FLUSH_MULTI", e.EINVAL): "the bitmap of vcpus is not mapped; do_mmuext_op",
        ("MMUEXT_INVLPG_MULTI", e.EINVAL): "the bitmap of vcpus is not mapped; do_mmuext_op",
        ("MMUEXT_FLUSH_CACHE", e.EACCES): "the domain has no devices; do_mmuext_op",
        ("MMUEXT_FLUSH_CACHE_GLOBAL", e.EINVAL): "the domain has no devices; do_mmuext_op",
        ("MMUEXT_SET_LDT", e.EINVAL): "more than 8192 entries, not at a page, in Xen's part; do_mmuext_op",
        ("MMUEXT_CLEAR_PAGE", e.EINVAL): "not the domain's, or no writable memory; do_mmuext_op",
        ("MMUEXT_COPY_PAGE", e.EINVAL): "source or destination not the domain's, or that no writable memory",
        ("MMUEXT_MARK_SUPER", e.EOPNOTSUPP): "superpages are gone; do_mmuext_op",
        ("MMUEXT_UNMARK_SUPER", e.EOPNOTSUPP): "superpages are gone; do_mmuext_op",
        **mappings_row("update_va_mapping"),
        **mappings_row("update_va_mapping_otherdomain"),
        ("update_va_mapping_otherdomain", e.ESRCH): "no such owner, the caller's own number is none; get_pg_owner",
    },
    cases=[
        Case("mmu_update", e.EFAULT, lambda w: w.hypercall("mmu_update", NOWHERE, 1, 0, xen.DOMID_SELF)),
        Case("mmu_update", e.EFAULT, lambda w: w.hypercall("mmu_update", w.xen, 0, 0, xen.DOMID_SELF), 64),
        Case("mmu_update", e.ESRCH, lambda w: update(w, l1_slot(w), 0, NOBODY)),
        Case("mmu_update", e.ESRCH, lambda w: update(w, l1_slot(w), 0, DOMID)),
        Case("mmu_update", e.ESRCH, lambda w: update(w, l1_slot(w), 0, xen.DOMID_SELF | (NOBODY + 1) << 16)),
        *map(unknown_update, (4, 5, 6, 7)),
        Case("MMU_MACHPHYS_UPDATE", e.EINVAL, lambda w: update(w, MMIO | xen.MMU_MACHPHYS_UPDATE, 1)),
        Case("MMU_MACHPHYS_UPDATE", e.EINVAL, lambda w: update(w, w.root << 12 | 1, 1, xen.DOMID_IO)),
        Case("MMU_MACHPHYS_UPDATE", e.EPERM, lambda w: update(w, w.root << 12 | 1, 1, DOM0)),
        Case("MMU_MACHPHYS_UPDATE", e.EPERM, lambda w: update(w, w.root << 12 | 1, 1, xen.DOMID_SELF | 1 << 16)),
        *(case for name in UPDATES for case in updates_of(name)),
        Case("mmuext_op", e.EFAULT, lambda w: w.hypercall("mmuext_op", NOWHERE, 1, 0, xen.DOMID_SELF)),
        Case("mmuext_op", e.EFAULT, lambda w: w.hypercall("mmuext_op", w.xen, 0, 0, xen.DOMID_SELF), 64),
        *(foreign_ext(domid, errno) for domid, errno in FOREIGN.items()),
        Case("mmuext_op", e.ENOSYS, lambda w: ext(w, 14)),
        Case("mmuext_op", e.ENOSYS, lambda w: ext(w, 21)),
        *(case for level in (1, 2, 3) for case in pin(f"MMUEXT_PIN_L{level}_TABLE", level, 0)),
        *pin("MMUEXT_PIN_L4_TABLE", 4, 64),
        Case("MMUEXT_UNPIN_TABLE", e.EINVAL, lambda w: ext(w, xen.MMUEXT_UNPIN_TABLE, MMIO)),
        Case("MMUEXT_UNPIN_TABLE", e.EINVAL, lambda w: ext(w, xen.MMUEXT_UNPIN_TABLE, w.l1)),
        *base_pointer("MMUEXT_NEW_BASEPTR", 0),
        *base_pointer("MMUEXT_NEW_USER_BASEPTR", 64),
        Case("MMUEXT_NEW_USER_BASEPTR", e.EINVAL, lambda w: ext(w, xen.MMUEXT_NEW_USER_BASEPTR, 0), 32),
        *map(bad_bitmap, ("MMUEXT_TLB_FLUSH_MULTI", "MMUEXT_INVLPG_MULTI")),
        Case("MMUEXT_FLUSH_CACHE", e.EACCES, lambda w: ext(w, xen.MMUEXT_FLUSH_CACHE)),
        Case("MMUEXT_FLUSH_CACHE_GLOBAL", e.EINVAL, lambda w: ext(w, xen.MMUEXT_FLUSH_CACHE_GLOBAL)),
        *LDT_CASES,
        Case("MMUEXT_CLEAR_PAGE", e.EINVAL, lambda w: ext(w, xen.MMUEXT_CLEAR_PAGE, MMIO)),
        Case("MMUEXT_CLEAR_PAGE", e.EINVAL, lambda w: ext(w, xen.MMUEXT_CLEAR_PAGE, w.l1)),
        Case("MMUEXT_COPY_PAGE", e.EINVAL, lambda w: ext(w, xen.MMUEXT_COPY_PAGE, MMIO, w.mfn(PAGES.start))),
        Case("MMUEXT_COPY_PAGE", e.EINVAL, lambda w: ext(w, xen.MMUEXT_COPY_PAGE, w.mfn(PAGES.start), MMIO)),
        Case("MMUEXT_COPY_PAGE", e.EINVAL, lambda w: ext(w, xen.MMUEXT_COPY_PAGE, w.l1, w.mfn(PAGES.start))),
        gone(lambda w: ext(w, xen.MMUEXT_MARK_SUPER, w.root), "MMUEXT_MARK_SUPER"),
        gone(lambda w: ext(w, xen.MMUEXT_UNMARK_SUPER, w.root), "MMUEXT_UNMARK_SUPER"),
        *mappings("update_va_mapping", map_page),
        *mappings("update_va_mapping_otherdomain", map_other(xen.DOMID_SELF)),
        *(foreign_mapping(domid, errno) for domid, errno in FOREIGN.items()),
    ],
    unreachable={
        ("MMU_NORMAL_PT_UPDATE", e.EFAULT): "UPDATE_ENTRY fails only under shadow paging",
        ("MMU_NORMAL_PT_UPDATE", e.EACCES): "cache attributes of Xen's frames: flags for them are refused before",
        ("MMU_NORMAL_PT_UPDATE", e.EOPNOTSUPP): "paging_mode_refcounts: the domain is not shadowed",
        ("MMU_NORMAL_PT_UPDATE", e.ENOENT): "a paged-out frame: PV domains have none",
        ("MMU_NORMAL_PT_UPDATE", e.ENOMEM): "a shared frame that cannot be unshared: PV domains have none",
        ("mmuext_op", e.EINVAL): "an owner that is no PV domain: there is none that the caller may name",
    },
    never_fails={
        "MMUEXT_TLB_FLUSH_LOCAL": "the caller is the owner by then",
        "MMUEXT_INVLPG_LOCAL": "any address will do",
        "MMUEXT_TLB_FLUSH_ALL": "the caller is the owner by then",
        "MMUEXT_INVLPG_ALL": "an address in Xen's part is left alone",
    },
)
