"""The grant table: entries, pins and flags, dom0's mappings, the guest's mappings of its own grants, copies."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from hypercalls.public import errno as e
from hypercalls.public import grant_table as gt
from hypercalls.public import xen
from pvemu.cpu.exits import Access
from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Mfn
from pvemu.hypervisor.grant_table import GrantRefusedError
from tests.hypervisor.world import DOMID, END, FIRST, RWX, US, P, World, pte, refused

if TYPE_CHECKING:
    from hypercalls.context import CopySide

DOM0, NOBODY, SELF = 0, 99, xen.DOMID_SELF
READING, WRITING = gt.GTF_reading, gt.GTF_writing
HOST, DEVICE, RO, APP, PTE = (gt.GNTMAP_host_map, gt.GNTMAP_device_map, gt.GNTMAP_readonly,
                              gt.GNTMAP_application_map, gt.GNTMAP_contains_pte)  # fmt: skip
REF = 9


@pytest.fixture
def world() -> World:
    world = World()
    world.boot({0: pte(world.mfns[20], RWX), 1: pte(world.mfns[21], P | US)})
    return world


def grant(world: World, ref: int, mfn: int, domid: int = DOM0, flags: int = gt.GTF_permit_access) -> None:
    world.grants.shared.put_reserved(ref, (flags, domid, mfn))


def copy_one(world: World, source: CopySide, dest: CopySide, length: int) -> int:
    copies = world.grants.begin_copy()
    status = copies.copy(source, dest, length)
    copies.release()
    return status


def flags(world: World, ref: int = REF) -> int:
    return world.grants.shared.header(ref)[0]


def denied(world: World, ref: int, readonly: bool) -> int:
    before = world.counts(), flags(world, ref) if ref < 512 else 0
    with pytest.raises(GrantRefusedError) as caught:
        world.grants.map_for_backend(ref, readonly)
    assert (world.counts(), flags(world, ref) if ref < 512 else 0) == before
    return caught.value.status


# -- dom0's mappings ---------------------------------------------------------------------------------------------------
def test_a_mapping_marks_the_entry_and_holds_the_frame(world: World) -> None:
    data = world.mfns[22]
    grant(world, REF, data)
    assert world.grants.map_for_backend(REF, readonly=True) == data
    assert flags(world) == gt.GTF_permit_access | READING
    assert world.grants.map_for_backend(REF, readonly=False) == data
    assert flags(world) == gt.GTF_permit_access | READING | WRITING
    world.audit()
    world.mm.decrease_reservation(data, 0)
    grant(world, REF, world.mfns[23], flags=gt.GTF_permit_access | READING | WRITING)  # the pins remember the frame
    assert world.grants.map_for_backend(REF, readonly=True) == data
    assert world.frames.is_guest(data)
    refused(e.EINVAL, world.mm.pin_table, 1, data)
    for expected in (WRITING | READING, WRITING | READING, 0):  # writable until the last
        world.grants.unmap_for_backend(REF)
        assert flags(world) & (READING | WRITING) == expected
        world.audit()
    assert not world.frames.is_guest(data)


def test_what_dom0_may_not_map(world: World) -> None:
    data = world.mfns[22]
    grant(world, REF, data, domid=DOMID)
    assert denied(world, REF, True) == gt.GNTST_general_error
    for bad in (gt.GTF_invalid, gt.GTF_accept_transfer, gt.GTF_permit_access | gt.GTF_sub_page, gt.GTF_transitive):
        grant(world, REF, data, flags=bad)
        assert denied(world, REF, True) == gt.GNTST_general_error
    grant(world, REF, data, flags=gt.GTF_permit_access | gt.GTF_readonly)
    assert denied(world, REF, False) == gt.GNTST_general_error
    world.grants.map_for_backend(REF, True)
    assert denied(world, REF, False) == gt.GNTST_general_error
    for frame in (END, 3, FIRST, world.m2p.table_mfn):
        grant(world, REF + 1, frame)
        assert denied(world, REF + 1, True) == gt.GNTST_bad_page
    grant(world, REF + 1, world.mfns[0])  # a page table: only to read
    assert denied(world, REF + 1, False) == gt.GNTST_general_error
    world.grants.map_for_backend(REF + 1, True)
    assert denied(world, 512, True) == gt.GNTST_bad_gntref
    assert denied(world, 0xFFFF_FFFF, True) == gt.GNTST_bad_gntref
    world.audit()


def test_a_counter_of_pins_stops_at_its_top_bit(world: World) -> None:
    grant(world, REF, world.mfns[22])
    for _ in range(128):
        world.grants.map_for_backend(REF, True)
    assert denied(world, REF, True) == gt.GNTST_general_error
    for _ in range(128):
        world.grants.unmap_for_backend(REF)
    assert flags(world) == gt.GTF_permit_access
    world.audit()


# -- the guest's own mappings ------------------------------------------------------------------------------------------
def test_host_map_at_an_address(world: World) -> None:
    data = world.mfns[22]
    l1 = world.mfns[3]
    grant(world, REF, data, DOMID)
    before = world.counts()
    status, handle, bus = world.grants.map_grant_ref(0x5000, HOST, REF, DOMID)
    assert (status, handle, bus) == (gt.GNTST_okay, 0, data << PAGE_SHIFT)
    assert world.entry(l1, 5) == pte(data, RWX | 0x60) | 1 << 63 | 1 << 52
    assert flags(world) == gt.GTF_permit_access | READING | WRITING
    world.audit()
    assert world.touch(0x5000, Access.WRITE)
    assert not world.touch(0x5000, Access.FETCH)
    assert world.grants.unmap_grant_ref(0x5000, 0, handle) == gt.GNTST_okay
    assert (world.entry(l1, 5), flags(world)) == (0, gt.GTF_permit_access)
    assert world.counts() == before
    world.audit()
    assert world.grants.unmap_grant_ref(0x5000, 0, handle) == gt.GNTST_bad_handle


def test_host_map_in_place_of_a_mapping_and_by_entry(world: World) -> None:
    l1 = world.mfns[3]
    grant(world, REF, world.mfns[22], DOMID)
    status, handle, _ = world.grants.map_grant_ref(0, HOST | RO | APP | 3 << 16, REF, DOMID)
    assert status == gt.GNTST_okay
    assert world.entry(l1, 0) == pte(world.mfns[22], P | US | 0x60 | 3 << 9 | 0x100) | 1 << 63
    world.audit()
    at = (l1 << PAGE_SHIFT) + 8 * 7
    status, second, _ = world.grants.map_grant_ref(at, HOST | PTE, REF, DOMID)
    assert (status, second) == (gt.GNTST_okay, 1)
    assert world.entry(l1, 7) & 3 == 3
    world.audit()
    assert world.grants.unmap_grant_ref(0x7000, 0, handle) == gt.GNTST_general_error  # that one is writable
    assert world.grants.unmap_grant_ref(0x1000, 0, handle) == gt.GNTST_general_error  # another frame
    assert world.grants.unmap_grant_ref(0, 0, handle) == gt.GNTST_okay  # address 0 is no address: nothing is done
    assert world.entry(l1, 0) & 1
    assert world.grants.unmap_grant_ref(at, 0, second) == gt.GNTST_okay
    assert flags(world) & (READING | WRITING) == READING
    world.audit()


@pytest.mark.parametrize("addr", [1 << 21, 1 << 39, 0xFFFF_8000_0000_0000, 1 << 62])
def test_host_map_where_no_table_leads(world: World, addr: int) -> None:
    grant(world, REF, world.mfns[22], DOMID)
    before = world.counts()
    for extra in (0, RO, DEVICE):
        assert world.grants.map_grant_ref(addr, HOST | extra, REF, DOMID)[0] == gt.GNTST_general_error
    assert (world.counts(), flags(world)) == (before, gt.GTF_permit_access)


def test_host_map_by_entry_refusals(world: World) -> None:
    grant(world, REF, world.mfns[22], DOMID)
    for at in (world.mfns[3] << 12 | 4, world.mfns[2] << 12, world.mfns[30] << 12, END << 12, 1 << 63):
        assert world.grants.map_grant_ref(at, HOST | PTE, REF, DOMID)[0] == gt.GNTST_general_error
    world.audit()


def test_device_map(world: World) -> None:
    data = world.mfns[22]
    grant(world, REF, data, DOMID)
    before = world.counts()
    status, handle, bus = world.grants.map_grant_ref(0x5000, DEVICE | HOST, REF, DOMID)
    assert status == gt.GNTST_okay
    world.audit()
    assert world.grants.unmap_grant_ref(0x5000, bus + 4096, handle) == gt.GNTST_bad_dev_addr
    assert world.grants.unmap_grant_ref(0, bus, handle) == gt.GNTST_okay
    world.audit()
    assert flags(world) == gt.GTF_permit_access | READING | WRITING
    assert world.grants.unmap_grant_ref(0x5000, bus + 4096, handle) == gt.GNTST_okay
    assert world.counts() == before
    status, handle, bus = world.grants.map_grant_ref(0, DEVICE | RO, REF, DOMID)
    assert (status, flags(world)) == (gt.GNTST_okay, gt.GTF_permit_access | READING)
    world.mm.pin_table(1, data)  # only read: it may become a table
    world.audit()
    assert world.grants.map_grant_ref(0, DEVICE, REF, DOMID)[0] == gt.GNTST_general_error
    assert world.grants.unmap_grant_ref(0, bus, handle) == gt.GNTST_okay
    world.audit()


def test_a_guest_that_overwrites_the_mapping_cannot_unmap_it(world: World) -> None:
    grant(world, REF, world.mfns[22], DOMID)
    _, handle, _ = world.grants.map_grant_ref(0x5000, HOST, REF, DOMID)
    world.update(world.mfns[3], 5, 0)
    world.audit()
    assert world.grants.unmap_grant_ref(0x5000, 0, handle) == gt.GNTST_general_error
    assert flags(world) & WRITING
    world.mm.decrease_reservation(world.mfns[22], 0)
    assert world.grants.map_grant_ref(0x5000, HOST, REF, DOMID)[0] == gt.GNTST_general_error
    world.audit()


def test_a_frame_that_went_away_under_its_pin_is_not_marked_as_written(world: World) -> None:
    """map_grant_ref's undo_out: GTF_writing was set before the frame turned out to be nobody's."""
    grant(world, REF, world.mfns[22], DOMID)
    assert world.grants.map_grant_ref(0x5000, HOST | RO, REF, DOMID)[0] == gt.GNTST_okay
    world.update(world.mfns[3], 5, 0)
    world.mm.decrease_reservation(world.mfns[22], 0)
    for how in (HOST, HOST | RO, DEVICE):
        assert world.grants.map_grant_ref(0x5000, how, REF, DOMID)[0] == gt.GNTST_general_error
        assert flags(world) == gt.GTF_permit_access | READING
    world.audit()


def test_unmap_and_replace(world: World) -> None:
    l1 = world.mfns[3]
    grant(world, REF, world.mfns[22], DOMID)
    _, handle, _ = world.grants.map_grant_ref(0x5000, HOST, REF, DOMID)
    was = world.entry(l1, 1)
    assert world.grants.unmap_and_replace(0x5000, 1 << 21, handle) == gt.GNTST_general_error
    assert world.grants.unmap_and_replace(0x5000, 0x1000, handle) == gt.GNTST_okay
    assert (world.entry(l1, 5), world.entry(l1, 1)) == (was, 0)
    world.audit()
    at = (l1 << PAGE_SHIFT) + 8 * 7
    _, handle, _ = world.grants.map_grant_ref(at, HOST | PTE, REF, DOMID)
    assert world.grants.unmap_and_replace(at, 0x5000, handle) == gt.GNTST_general_error
    world.audit()


def test_map_refusals(world: World) -> None:
    grant(world, REF, world.mfns[22], DOMID)
    ask = world.grants.map_grant_ref
    assert ask(0x5000, RO, REF, DOMID)[0] == gt.GNTST_bad_gntref
    assert ask(0x5000, HOST, 512, DOMID)[0] == gt.GNTST_bad_gntref
    assert ask(0x5000, HOST, REF, NOBODY)[0] == gt.GNTST_bad_domain
    assert ask(0x5000, HOST, REF, SELF)[0] == gt.GNTST_bad_domain
    assert ask(0x5000, HOST, REF, DOM0)[0] == gt.GNTST_general_error
    assert ask(0x5000, HOST, REF + 1, DOMID)[0] == gt.GNTST_general_error
    grant(world, REF + 1, world.mfns[22], DOM0)
    world.grants.map_for_backend(REF + 1, True)
    assert ask(0x5000, HOST, REF + 1, DOMID)[0] == gt.GNTST_general_error
    assert world.grants.unmap_grant_ref(0, 0, 0xFFFF_FFFF) == gt.GNTST_bad_handle
    assert world.grants.unmap_and_replace(0, 0, 3) == gt.GNTST_bad_handle
    world.audit()


# -- copy, swap, transfer ----------------------------------------------------------------------------------------------
def test_copy_between_frames_and_grants(world: World) -> None:
    a, b = world.mfns[22:24]
    world.ram.frame(Mfn(a))[:] = bytes(range(256)) * 16
    grant(world, REF, a, DOMID, gt.GTF_permit_access | gt.GTF_readonly)
    grant(world, REF + 1, b, DOMID)
    before = world.counts()
    copy = partial(copy_one, world)
    assert copy((False, a, SELF, 10), (False, b, SELF, 4086), 10) == gt.GNTST_okay
    assert bytes(world.ram.frame(Mfn(b)))[4085:] == b"\0" + bytes(range(10, 20))
    assert copy((True, REF, DOMID, 0), (True, REF + 1, SELF, 0), PAGE_SIZE) == gt.GNTST_okay
    assert bytes(world.ram.frame(Mfn(b))) == bytes(range(256)) * 16
    assert flags(world) == gt.GTF_permit_access | gt.GTF_readonly
    assert flags(world, REF + 1) == gt.GTF_permit_access
    assert world.counts()[2] == before[2]
    world.audit()


@pytest.mark.parametrize(
    ("source", "dest", "length", "status"),
    [
        ((False, 22, DOMID, 0), (False, 23, SELF, 0), 1, gt.GNTST_permission_denied),
        ((False, 22, SELF, 0), (False, 23, DOM0, 0), 1, gt.GNTST_permission_denied),
        ((True, 8, NOBODY, 0), (False, 23, SELF, 0), 1, gt.GNTST_bad_domain),
        ((True, 8, DOM0, 0), (False, 23, SELF, 0), 1, gt.GNTST_general_error),
        ((True, 600, DOM0, 0), (False, 23, SELF, 0), 1, gt.GNTST_bad_gntref),
        ((True, 600, SELF, 0), (False, 23, SELF, 0), 1, gt.GNTST_bad_gntref),
        ((True, 8, SELF, 0), (False, 23, SELF, 0), 1, gt.GNTST_general_error),
        ((False, -1, SELF, 0), (False, 23, SELF, 0), 1, gt.GNTST_bad_page),
        ((False, 22, SELF, 0), (False, -1, SELF, 0), 1, gt.GNTST_bad_page),
        ((False, 22, SELF, 0), (False, 0, SELF, 0), 1, gt.GNTST_general_error),  # a page table
        ((False, 22, SELF, 1), (False, 23, SELF, 0), 4096, gt.GNTST_bad_copy_arg),
        ((False, 22, SELF, 0), (False, 23, SELF, 4096), 1, gt.GNTST_bad_copy_arg),
        ((False, 22, SELF, 5000), (False, -1, SELF, 0), 1, gt.GNTST_bad_page),  # lengths are looked at last
        ((False, 0, SELF, 0), (False, 23, SELF, 0), 8, gt.GNTST_okay),  # reading a page table
    ],
)
def test_copy_refusals(
    world: World, source: tuple[bool, int, int, int], dest: tuple[bool, int, int, int], length: int, status: int
) -> None:
    def place(side: tuple[bool, int, int, int]) -> tuple[bool, int, int, int]:
        is_gref, number, dom, offset = side
        return is_gref, number if is_gref else END if number < 0 else world.mfns[number], dom, offset

    before = world.counts()
    assert copy_one(world, place(source), place(dest), length) == status
    assert world.counts()[1:] == before[1:]
    world.audit()


def test_a_refused_copy_leaves_the_domains_of_its_array_settled(world: World) -> None:
    """gnttab_copy_one: a refusal releases frames, not domains, so whoever may name frames is not asked again; a fresh
    array (as after a preemption) asks.
    """
    grant(world, REF, world.mfns[22], DOMID)
    grant(world, REF + 1, world.mfns[23], DOMID)
    granted, named = ((True, REF, DOMID, 0), (False, END, DOMID, 0))
    dest = (True, REF + 1, DOMID, 0)
    before = world.counts()
    copies = world.grants.begin_copy()
    assert copies.copy(granted, dest, 4) == gt.GNTST_okay
    assert copies.copy(named, dest, 4) == gt.GNTST_bad_page
    assert copies.copy(named, dest, 4) == gt.GNTST_bad_page
    copies.release()
    assert copy_one(world, named, dest, 4) == gt.GNTST_permission_denied
    assert world.counts()[1:] == before[1:]


def test_swap(world: World) -> None:
    grant(world, 8, world.mfns[22])
    grant(world, 9, world.mfns[23])
    swap = world.grants.swap_grant_ref
    assert swap(8, 9) == gt.GNTST_okay
    assert world.grants.map_for_backend(8, True) == world.mfns[23]
    assert swap(8, 9) == gt.GNTST_eagain
    assert swap(9, 8) == gt.GNTST_eagain
    assert swap(8, 8) == gt.GNTST_okay
    assert swap(8, 512) == gt.GNTST_bad_gntref
    assert swap(1 << 31, 8) == gt.GNTST_bad_gntref


def test_transfer(world: World) -> None:
    a, b, c, used = world.mfns[24], world.mfns[25], world.mfns[26], world.mfns[20]
    transfer = world.grants.transfer
    for bad in (END, 0, used, world.mfns[0], world.shared_info):
        assert transfer(bad, DOMID, 8) == gt.GNTST_bad_page
    total = world.frames.tot_pages
    assert transfer(a, NOBODY, 8) == gt.GNTST_bad_domain
    assert transfer(b, DOM0, 8) == gt.GNTST_general_error
    assert not world.frames.is_guest(a)
    assert world.frames.tot_pages == total - 2
    assert world.m2p.get(b) == (1 << 64) - 1
    grant(world, 10, 0x77, DOMID, gt.GTF_accept_transfer)
    world.ram.write_u64(c << 12, 0x1234)
    assert transfer(c, DOMID, 10) == gt.GNTST_okay
    assert flags(world, 10) == gt.GTF_accept_transfer | gt.GTF_transfer_committed | gt.GTF_transfer_completed
    assert (world.m2p.get(c), world.ram.read_u64(c << 12)) == (0x77, 0x1234)
    assert transfer(c, DOMID, 10) == gt.GNTST_general_error  # done already; this time it is lost
    world.audit()


# -- the table itself --------------------------------------------------------------------------------------------------
def test_setup_and_sizes(world: World) -> None:
    grants = world.grants
    assert grants.query_size(SELF) == (gt.GNTST_okay, 1, 64)
    assert grants.setup_table(DOMID, 0) == (gt.GNTST_okay, [])
    status, frames = grants.setup_table(SELF, 3)
    assert (status, len(frames), grants.query_size(DOMID)[1]) == (gt.GNTST_okay, 3, 3)
    assert grants.setup_table(SELF, 2) == (gt.GNTST_okay, frames[:2])
    assert grants.setup_table(SELF, 65) == (gt.GNTST_general_error, [])
    for dom, status in ((DOM0, gt.GNTST_permission_denied), (NOBODY, gt.GNTST_bad_domain)):
        assert grants.setup_table(dom, 1) == (status, [])
        assert grants.query_size(dom) == (status, 0, 0)
        assert grants.get_status_frames(dom, 1) == (status, [])
    assert grants.get_status_frames(SELF, 1) == (gt.GNTST_general_error, [])
    assert grants.get_status_frames(SELF, 0) == (gt.GNTST_okay, [])
    grant(world, 1535, world.mfns[22])
    assert grants.map_for_backend(1535, True) == world.mfns[22]
    world.update(world.mfns[3], 9, pte(frames[2], RWX))
    world.audit()


def test_versions(world: World) -> None:
    assert world.grants.set_version(1) == 1
    assert world.grants.get_version(SELF) == 1
    refused(e.EINVAL, world.grants.set_version, 3)
    refused(e.EINVAL, world.grants.set_version, 0)
    refused(e.EPERM, world.grants.get_version, DOM0)
    refused(e.ESRCH, world.grants.get_version, NOBODY)


def test_cache_flush(world: World) -> None:
    flush = world.grants.cache_flush
    at = world.mfns[22] << 12
    flush(at, 0, 4096, gt.GNTTAB_CACHE_CLEAN)
    flush(at, 5, 1, gt.GNTTAB_CACHE_CLEAN | gt.GNTTAB_CACHE_INVAL)
    flush(END << 12, 0, 0, gt.GNTTAB_CACHE_CLEAN)
    refused(e.EOPNOTSUPP, flush, at, 0, 1, gt.GNTTAB_CACHE_INVAL)
    refused(e.EINVAL, flush, at, 1, 4096, 1)
    refused(e.EINVAL, flush, at, 4096, 0, 1)
    refused(e.EINVAL, flush, at, 0, 1, 4)
    refused(e.EINVAL, flush, END << 12, 0, 1, 1)
    refused(e.EPERM, flush, FIRST << 12, 0, 1, 1)
    world.audit()


def test_handles_are_used_in_turn_and_one_stays_behind(world: World) -> None:
    grant(world, REF, world.mfns[22], DOMID)
    ask, give = world.grants.map_grant_ref, world.grants.unmap_grant_ref
    bus = world.mfns[22] << PAGE_SHIFT
    grant(world, REF + 1, world.mfns[23], DOMID)
    grant(world, REF + 2, world.mfns[24], DOMID)
    refs = (REF, REF + 1, REF + 2)
    handles = [ask(0, DEVICE | RO, refs[i % 3], DOMID)[1] for i in range(255)]
    assert handles == list(range(255))
    assert ask(0, DEVICE | RO, REF, DOMID)[1] == 256  # 255 is the last of its page
    assert give(0, bus, 3) == gt.GNTST_okay
    assert ask(0, DEVICE | RO, REF, DOM0)[0] == gt.GNTST_general_error  # takes a handle, and gives it back
    assert ask(0, DEVICE | RO, REF, DOMID)[1] == 258


# -- version 2 ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def second(world: World) -> World:
    """A world whose grant table is of version 2."""
    assert world.grants.set_version(2) == 2
    return world


def entry_v2(world: World, ref: int, domid: int, kind: int, word: int, frame: int) -> None:
    """An entry of version 2: flags, domain, the word behind them, the last 64 bits."""
    page, index = divmod(ref, 256)
    at = (world.grants.table[page] << PAGE_SHIFT) + 16 * index
    world.ram.write_u64(at, word << 32 | domid << 16 | kind)
    world.ram.write_u64(at + 8, frame)


def status(world: World, ref: int = REF) -> int:
    page, index = divmod(ref, 2048)
    return int.from_bytes(world.ram.frame(world.grants.status[page])[2 * index : 2 * index + 2], "little")


def test_version_2_and_back(world: World) -> None:
    grants = world.grants
    a, b = world.mfns[22:24]
    grant(world, 0, a)
    grants.map_for_backend(0, readonly=False)  # xenconsoled's stays mapped
    grant(world, 1, b, flags=gt.GTF_permit_access | gt.GTF_readonly)
    grant(world, REF, b)
    before = world.counts()
    assert grants.set_version(2) == 2
    assert (grants.get_version(SELF), len(grants.status)) == (2, 1)
    assert grants.get_status_frames(SELF, 1) == (gt.GNTST_okay, [grants.status[0]])
    assert grants.get_status_frames(SELF, 2) == (gt.GNTST_general_error, [])
    shared = grants.shared
    assert (shared.header(0), shared.frame(0), status(world, 0)) == ((1, 0), a, READING | WRITING)
    assert (shared.header(1), shared.frame(1), status(world, 1)) == ((5, 0), b, 0)
    assert shared.header(REF) == (0, 0)  # only the toolstack's are kept
    assert shared.count == 256
    world.audit()
    assert grants.set_version(1) == 1
    assert flags(world, 0) == gt.GTF_permit_access | READING | WRITING
    assert grants.get_status_frames(SELF, 1) == (gt.GNTST_general_error, [])
    grants.unmap_for_backend(0)
    assert flags(world, 0) == gt.GTF_permit_access
    world.audit()
    used = world.grants.set_version(2), grants.status[0]
    assert grants.set_version(1) == 1
    assert (world.grants.set_version(2), grants.status[0]) == used  # the same frame again: no heap is used up
    assert before[3] == world.counts()[3]


def test_version_changes_that_are_refused(world: World) -> None:
    grants = world.grants
    grant(world, REF, world.mfns[22])
    grants.map_for_backend(REF, readonly=True)
    refused(e.EBUSY, grants.set_version, 2)
    grants.unmap_for_backend(REF)
    grants.set_version(2)
    world.update(world.mfns[3], 9, pte(grants.status[0], P | US))
    refused(e.EBUSY, grants.set_version, 1)
    world.audit()
    world.update(world.mfns[3], 9, 0)
    entry_v2(world, 3, DOMID, gt.GTF_permit_access, 0, 1 << 32)
    refused(e.ERANGE, grants.set_version, 1)
    entry_v2(world, 3, DOMID, gt.GTF_transitive, 0, 0)
    refused(e.ERANGE, grants.set_version, 1)
    entry_v2(world, 3, DOMID, gt.GTF_accept_transfer, 0, 7)
    assert grants.set_version(1) == 1
    assert grants.shared.get_reserved(3) == (0, 0, 0)
    world.audit()


def test_status_frames_grow_with_the_table(second: World) -> None:
    grants = second.grants
    assert grants.setup_table(SELF, 9)[0] == gt.GNTST_okay
    assert len(grants.status) == 2
    entry_v2(second, 2100, DOM0, gt.GTF_permit_access, 0, second.mfns[22])
    grants.map_for_backend(2100, readonly=True)
    assert status(second, 2100) == READING
    second.audit()
    grants.unmap_for_backend(2100)
    assert grants.set_version(1) == 1
    assert grants.setup_table(SELF, 10)[0] == gt.GNTST_okay
    second.audit()


def test_full_pages_of_version_2(second: World) -> None:
    grants = second.grants
    data = second.mfns[22]
    entry_v2(second, REF, DOM0, gt.GTF_permit_access, 0, data)
    assert grants.map_for_backend(REF, readonly=False) == data
    assert (status(second), flags(second)) == (READING | WRITING, gt.GTF_permit_access)
    grants.map_for_backend(REF, readonly=True)
    grants.unmap_for_backend(REF)
    grants.unmap_for_backend(REF)
    assert status(second) == 0
    entry_v2(second, REF, DOM0, gt.GTF_permit_access | gt.GTF_readonly, 0, data)
    assert denied_v2(second, False) == gt.GNTST_general_error
    entry_v2(second, REF, DOM0, gt.GTF_permit_access, 0, data | 1 << 40)
    assert denied_v2(second, True) == gt.GNTST_bad_page
    for kind in (gt.GTF_invalid, gt.GTF_permit_access | gt.GTF_sub_page, gt.GTF_transitive, gt.GTF_accept_transfer):
        entry_v2(second, REF, DOM0, kind, 0, data)
        assert denied_v2(second, True) == gt.GNTST_general_error
    with pytest.raises(GrantRefusedError):
        grants.map_for_backend(256, True)  # beyond a table of one frame
    second.audit()


def denied_v2(world: World, readonly: bool) -> int:
    with pytest.raises(GrantRefusedError) as caught:
        world.grants.map_for_backend(REF, readonly)
    assert status(world) == 0
    return caught.value.status


def test_parts_of_pages_can_only_be_copied(second: World) -> None:
    grants = second.grants
    data, other = second.mfns[22:24]
    second.ram.frame(Mfn(data))[:] = bytes(range(256)) * 16
    entry_v2(second, REF, DOMID, gt.GTF_permit_access | gt.GTF_sub_page, 300 << 16 | 100, data)
    assert grants.map_grant_ref(0x5000, HOST, REF, DOMID)[0] == gt.GNTST_general_error

    def copy(offset: int, length: int) -> int:
        return copy_one(second, (True, REF, SELF, offset), (False, other, SELF, 0), length)

    assert copy(100, 300) == gt.GNTST_okay
    assert bytes(second.ram.frame(Mfn(other)))[:3] == bytes([100, 101, 102])
    for offset, length in ((99, 1), (100, 301), (400, 1), (0, 4096)):
        assert copy(offset, length) == gt.GNTST_general_error
    assert copy(400, 0) == gt.GNTST_okay
    assert copy(4000, 97) == gt.GNTST_bad_copy_arg
    assert copy_one(second, (False, other, SELF, 0), (True, REF, SELF, 399), 1) == gt.GNTST_okay
    assert copy_one(second, (False, other, SELF, 0), (True, REF, SELF, 399), 2) == gt.GNTST_general_error
    assert status(second) == 0
    second.audit()


def test_an_entry_in_use_cannot_change_its_meaning(second: World) -> None:
    grants = second.grants
    data, other = second.mfns[22:24]
    entry_v2(second, REF, DOMID, gt.GTF_permit_access, 0, data)
    _, handle, bus = grants.map_grant_ref(0, DEVICE | RO, REF, DOMID)
    entry_v2(second, REF, DOMID, gt.GTF_permit_access, 0, other)
    copy_to = (True, REF, SELF, 0)  # the first to write reads the entry again
    assert copy_one(second, (False, other, SELF, 0), copy_to, 8) == gt.GNTST_general_error
    assert status(second) == READING
    assert copy_one(second, (True, REF, SELF, 0), (False, other, SELF, 0), 8) == gt.GNTST_okay  # the old one
    entry_v2(second, REF, DOMID, gt.GTF_permit_access, 0, END)
    assert copy_one(second, (False, other, SELF, 0), copy_to, 8) == gt.GNTST_bad_page
    assert grants.unmap_grant_ref(0, bus, handle) == gt.GNTST_okay
    assert status(second) == 0
    second.audit()


def test_transitive_grants_lead_nowhere(second: World) -> None:
    for trans_domid, gref, expected in (
        (DOMID, 5, gt.GNTST_general_error), (NOBODY, 5, gt.GNTST_general_error),
        (DOM0, 5, gt.GNTST_general_error), (DOM0, 700, gt.GNTST_bad_gntref),
    ):  # fmt: skip
        entry_v2(second, REF, DOMID, gt.GTF_transitive, trans_domid, gref)
        assert copy_one(second, (True, REF, SELF, 0), (False, second.mfns[22], SELF, 0), 1) == expected
        assert status(second) == 0
    entry_v2(second, REF, NOBODY, gt.GTF_transitive, DOM0, 5)
    assert copy_one(second, (True, REF, SELF, 0), (False, second.mfns[22], SELF, 0), 1) == gt.GNTST_general_error


def test_swap_and_transfer_in_version_2(second: World) -> None:
    grants = second.grants
    a, b = second.mfns[24:26]
    entry_v2(second, 8, DOM0, gt.GTF_permit_access, 0, a)
    entry_v2(second, 255, DOMID, gt.GTF_accept_transfer, 0, 0x1_0000_0077)
    assert grants.swap_grant_ref(8, 255) == gt.GNTST_okay
    assert grants.swap_grant_ref(8, 256) == gt.GNTST_bad_gntref
    assert grants.map_for_backend(255, True) == a
    assert grants.transfer(b, DOMID, 8) == gt.GNTST_okay
    assert (second.m2p.get(b), grants.shared.frame(8)) == (0x1_0000_0077, b)
    assert flags(second, 8) == gt.GTF_accept_transfer | gt.GTF_transfer_committed | gt.GTF_transfer_completed
    second.audit()
