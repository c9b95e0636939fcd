"""Arrays of grant_table_op on a domain with a real table: what is read when, what is written back, and what a copy
leaves to the next (each seen on Xen 4.17; xen/common/grant_table.c, xen/common/compat/grant_table.c).
"""

from __future__ import annotations

import pytest

from hypercalls.public import errno as e
from hypercalls.public import grant_table as gt
from hypercalls.public.xen import DOMID_SELF
from tests.hypercalls.documented.world import DOM0, DOMID, FREE, NOBODY, NOWHERE, PAGES, READ_ONLY, WIDTHS, World

HOST, DEVICE, RO = gt.GNTMAP_host_map, gt.GNTMAP_device_map, gt.GNTMAP_readonly
SELF = DOMID_SELF
REF, READONLY_REF = 8, 9
A, B, C = PAGES.start + 0x8000, PAGES.start + 0x9000, PAGES.start + 0xA000  #: pages to copy between


@pytest.fixture(params=[64, 32])
def world(request: pytest.FixtureRequest) -> World:
    """Entry REF grants the domain itself page A, READONLY_REF page B."""
    world = World(WIDTHS[request.param])
    for page in (A, B, C):
        world.put(bytes((page >> 12) + i & 0xFF for i in range(4096)), page)
    put = world.grants.shared.put_reserved
    put(REF, (gt.GTF_permit_access, DOMID, world.mfn(A)))
    put(READONLY_REF, (gt.GTF_permit_access | gt.GTF_readonly, DOMID, world.mfn(B)))
    return world


def op(world: World, name: str, at: int, count: int = 1) -> int:
    return world.hypercall("grant_table_op", getattr(gt, f"GNTTABOP_{name}"), at, count)


def flags(world: World, ref: int = REF) -> int:
    return world.grants.shared.header(ref)[0]


def request(
    source: tuple[int, int], dest: tuple[int, int], *, length: int = 8, grefs: str = "", offset: int = 0
) -> gt.gnttab_copy:
    """Sides are (frame or entry, domain); ``grefs``: "s" and "d" for those that are entries; ``offset`` is dest's."""
    found = gt.gnttab_copy(len=length, flags=("s" in grefs) | ("d" in grefs) << 1, status=77)
    found.source.u.gmfn, found.source.domid = source
    found.dest.u.gmfn, found.dest.domid = dest
    found.dest.offset = offset
    return found


def copy(world: World, *requests: gt.gnttab_copy) -> list[int]:
    size = world.abi.sizeof(gt.gnttab_copy)
    at = world.put(b"".join(map(world.abi.pack, requests)))
    assert op(world, "copy", at, len(requests)) == 0
    return [world.get(gt.gnttab_copy, at + i * size).status for i in range(len(requests))]


# -- what is written back ----------------------------------------------------------------------------------------------
def test_a_refused_map_keeps_handle_and_bus_address(world: World) -> None:
    asked = gt.gnttab_map_grant_ref(
        host_addr=FREE << 12, flags=HOST, ref=READONLY_REF, dom=DOMID, handle=0x1234, dev_bus_addr=1 << 40
    )
    at = world.put(asked)
    assert op(world, "map_grant_ref", at) == 0
    got = world.get(gt.gnttab_map_grant_ref, at)
    assert (got.status, got.handle, got.dev_bus_addr) == (gt.GNTST_general_error, 0x1234, 1 << 40)
    asked.flags |= RO
    assert op(world, "map_grant_ref", world.put(asked, at)) == 0
    got = world.get(gt.gnttab_map_grant_ref, at)
    # the refused one's handle went back to the end of the list
    assert (got.status, got.handle, got.dev_bus_addr) == (gt.GNTST_okay, 1, world.mfn(B) << 12)


@pytest.mark.parametrize(("dom", "status"), [
    (SELF, gt.GNTST_okay), (DOM0, gt.GNTST_permission_denied), (NOBODY, gt.GNTST_bad_domain),
])  # fmt: skip
def test_query_size_keeps_padding_and_unanswered_fields(world: World, dom: int, status: int) -> None:
    at = world.put(dom.to_bytes(2, "little") + b"\xaa" * 14)
    assert op(world, "query_size", at) == 0
    data = world.guest.copy_from_guest(at, 16)
    sizes = bytes([1, 0, 0, 0, 64, 0, 0, 0]) if status == gt.GNTST_okay else b"\xaa" * 8
    assert data[2:] == b"\xaa\xaa" + sizes + (status & 0xFFFF).to_bytes(2, "little") + b"\xaa\xaa"


def test_a_frame_list_is_written_wherever_it_can_be(world: World) -> None:
    """32-bit guests are not told of what could not be (XLAT_gnttab_setup_table stores the status first)."""
    for page, pfn in ((FREE, FREE), (FREE + 2, FREE + 2)):
        world.mm.update_va_mapping(page << 12, world.mfns[pfn] << 12 | 7, 0)
    size = world.abi.long_size
    in_a_page = 4096 // size
    world.grants.max_frames = in_a_page + 4
    world.grants.table += world.grants.table * (in_a_page + 3)  # as many as go over a whole page
    first = (FREE + 1 << 12) - 2 * size
    at = world.put(gt.gnttab_setup_table(dom=SELF, nr_frames=in_a_page + 4, frame_list=first, status=77))
    assert op(world, "setup_table", at) == 0
    table = world.grants.table[0]
    if in_a_page + 4 > 1021 and world.abi.bits == 32:  # more than Xen's translation area has room for
        assert world.get(gt.gnttab_setup_table, at).status == gt.GNTST_general_error
        return
    assert world.get(gt.gnttab_setup_table, at).status == gt.GNTST_bad_virt_addr
    assert world.longs(first, 2) == [table] * 2
    assert world.longs(FREE + 2 << 12, 3) == [table, table, 0]


@pytest.mark.parametrize("operation", ["setup_table", "get_status_frames"])
def test_what_a_guest_hears_of_a_list_that_is_nowhere(world: World, operation: str) -> None:
    world.grants.set_version(2)
    cls = getattr(gt, f"gnttab_{operation}")
    at = world.put(cls(dom=SELF, nr_frames=1, frame_list=NOWHERE, status=77))
    assert op(world, operation, at) == 0
    assert world.get(cls, at).status == (gt.GNTST_okay if world.abi.bits == 32 else gt.GNTST_bad_virt_addr)


# -- what is read, and when --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("is_copy", [True, False])
def test_an_array_that_ends_too_early(world: World, is_copy: bool) -> None:
    """Natively all before the end is done; in 32 bits, transfers and copies are read first, and none is."""
    if is_copy:
        each: object = request((world.mfn(A), SELF), (world.mfn(C), SELF))
        cls: type = gt.gnttab_copy
    else:
        each, cls = gt.gnttab_transfer(mfn=world.mfns[FREE], domid=NOBODY, status=77), gt.gnttab_transfer
    size = world.abi.sizeof(cls)
    at = world.put(world.abi.pack(each) * 2, PAGES.stop - 2 * size)
    world.mm.update_va_mapping(PAGES.stop, 0, 0)
    before = world.guest.copy_from_guest(C, 8)
    assert op(world, "copy" if is_copy else "transfer", at, 3) == -e.EFAULT
    done = world.abi.bits == 64
    statuses = [world.get(cls, at + i * size).status for i in range(2)]
    assert statuses == ([[gt.GNTST_bad_domain, gt.GNTST_bad_page], [0, 0]][is_copy] if done else [77, 77])
    assert (world.guest.copy_from_guest(C, 8) != before) == (done and is_copy)
    assert world.frames.is_guest(world.mfns[FREE]) == (is_copy or not done)


def test_statuses_that_cannot_be_written(world: World) -> None:
    """Natively the first fault is the end; in 32 bits everything is done by then."""
    requests = [request((world.mfn(A), SELF), (world.mfn(C), SELF), length=1, offset=i) for i in range(3)]
    world.put(bytes(3), C)
    at = world.put_read_only(b"".join(map(world.abi.pack, requests)))
    assert op(world, "copy", at, 3) == -e.EFAULT
    first = world.guest.copy_from_guest(A, 1)
    assert world.guest.copy_from_guest(C, 3) == (first + bytes(2) if world.abi.bits == 64 else first * 3)


def test_an_operation_may_change_the_next(world: World) -> None:
    """In 32 bits the next has been read already."""
    at = PAGES.start + 0x100
    size, length = world.abi.sizeof(gt.gnttab_copy), world.abi.offsetof(gt.gnttab_copy, "len")
    world.put((3).to_bytes(2, "little"), A)
    world.put(bytes(8), C)
    requests = [
        request((world.mfn(A), SELF), (world.mfn(at), SELF), length=2, offset=(at & 0xFFF) + size + length),
        request((world.mfn(B), SELF), (world.mfn(C), SELF), length=1),
    ]
    assert op(world, "copy", world.put(b"".join(map(world.abi.pack, requests)), at), 2) == 0
    copied = 3 if world.abi.bits == 64 else 1
    assert world.guest.copy_from_guest(C, 4) == world.guest.copy_from_guest(B, copied) + bytes(4 - copied)


def test_a_map_that_cannot_be_reported_is_made(world: World) -> None:
    asked = gt.gnttab_map_grant_ref(flags=DEVICE, ref=REF, dom=DOMID)
    at = world.put_read_only(asked)
    assert op(world, "map_grant_ref", at) == -e.EFAULT
    assert flags(world) == gt.GTF_permit_access | gt.GTF_reading | gt.GTF_writing
    gone = gt.gnttab_unmap_grant_ref(dev_bus_addr=world.mfn(A) << 12)
    assert op(world, "unmap_grant_ref", world.put_read_only(gone)) == -e.EFAULT
    assert flags(world) == gt.GTF_permit_access


@pytest.mark.parametrize("is_high", [True, False])
def test_what_a_failed_replacement_takes_away(world: World, is_high: bool) -> None:
    """replace_grant_pv_mapping takes the new address's entry before it looks for the old one's, and does not give it
    back; of 32 bits, addresses beyond 4 GiB are refused before that.
    """
    asked = gt.gnttab_map_grant_ref(host_addr=FREE << 12, flags=HOST, ref=REF, dom=DOMID)
    assert op(world, "map_grant_ref", world.put(asked)) == 0
    far = 1 << 32 if is_high else 1 << 31
    at = world.put(gt.gnttab_unmap_and_replace(host_addr=far | FREE << 12, new_addr=B, handle=0, status=77))
    assert op(world, "unmap_and_replace", at) == 0
    assert world.get(gt.gnttab_unmap_and_replace, at).status == gt.GNTST_general_error
    assert (world.entry(world.l1, B >> 12) != 0) == (is_high and world.abi.bits == 32)
    assert world.entry(world.l1, FREE) >> 12 & 0xFFFFFFFF == world.mfn(A)


def test_a_long_array_is_translated_in_portions(world: World) -> None:
    """More copies than two pages hold: those of the first portion are done before the second is read."""
    at = READ_ONLY.start - 300 * world.abi.sizeof(gt.gnttab_copy)
    world.put(bytes(512), C)
    requests = [request((world.mfn(A), SELF), (world.mfn(C), SELF), length=1, offset=i) for i in range(300)]
    world.put(b"".join(map(world.abi.pack, requests)), at)
    world.mm.update_va_mapping(READ_ONLY.start, 0, 0)
    assert op(world, "copy", at, 301) == -e.EFAULT
    done = 300 if world.abi.bits == 64 else 204
    first = world.guest.copy_from_guest(A, 1)
    assert world.guest.copy_from_guest(C, 301) == first * done + bytes(301 - done)


def test_no_elements_at_all(world: World) -> None:
    """Of 32 bits, every address is fine for code that both widths share (guest_handle_okay)."""
    for name in ("map_grant_ref", "unmap_grant_ref", "unmap_and_replace", "transfer", "copy", "swap_grant_ref",
                 "cache_flush"):  # fmt: skip
        assert op(world, name, NOWHERE, 0) == 0
        assert op(world, name, world.xen, 0) == (-e.EFAULT if world.abi.bits == 64 else 0)


# -- what a copy leaves to the next ------------------------------------------------------------------------------------
def test_permission_is_asked_when_a_domain_changes(world: World) -> None:
    a, b, c = world.mfn(A), world.mfn(B), world.mfn(C)
    entry = request((REF, DOMID), (c, SELF), grefs="s")
    assert copy(world, request((b, DOMID), (c, SELF))) == [gt.GNTST_permission_denied]
    assert copy(world, entry, request((b, DOMID), (c, SELF))) == [0, 0]
    again = [entry, request((b, SELF), (c, SELF)), request((b, DOMID), (c, SELF))]
    assert copy(world, *again) == [0, 0, gt.GNTST_permission_denied]
    refused = [request((17, DOMID), (c, SELF), grefs="s"), request((a, DOMID), (c, SELF))]
    assert copy(world, *refused) == [gt.GNTST_general_error, 0]
    nobody = [entry, request((b, NOBODY), (c, SELF), grefs="s"), request((b, DOMID), (c, SELF))]
    assert copy(world, *nobody) == [0, gt.GNTST_bad_domain, gt.GNTST_permission_denied]
    assert copy(world, request((5, DOM0), (c, SELF), grefs="s"), request((a, DOM0), (c, SELF))) == [
        gt.GNTST_general_error, gt.GNTST_bad_page,
    ]  # fmt: skip
    assert flags(world) == gt.GTF_permit_access


def test_a_frame_number_finds_the_entry_that_is_held(world: World) -> None:
    c = world.mfn(C)
    held = request((REF, SELF), (c, SELF), grefs="s")
    number = request((REF, SELF), (c, SELF), offset=8)
    assert copy(world, number) == [gt.GNTST_bad_page]
    assert copy(world, held, number) == [0, 0]
    assert world.guest.copy_from_guest(C, 16) == world.guest.copy_from_guest(A, 8) * 2
    frame = request((world.mfn(B), SELF), (c, SELF))
    assert copy(world, frame, held, number, frame, number) == [0, 0, 0, 0, gt.GNTST_bad_page]


def test_an_entry_is_looked_at_once(world: World) -> None:
    """The first copy wipes it out in the table's own frame; it stays pinned until the array is done."""
    table = int(world.grants.table[0])
    world.put(bytes(8), A)
    wipe = request((REF, SELF), (table, SELF), grefs="s", offset=REF * 8)
    more = request((REF, SELF), (world.mfn(C), SELF), grefs="s")
    assert copy(world, wipe, more, more) == [0, 0, 0]
    assert flags(world) == 0
    assert copy(world, more) == [gt.GNTST_general_error]
    assert not world.grants._entries.is_pinned(REF)


def test_everything_is_released(world: World) -> None:
    before = world.frames.refs.tobytes(), world.frames.type_count.tobytes()
    c = world.mfn(C)
    requests = [
        request((REF, SELF), (c, SELF), grefs="s"), request((READONLY_REF, SELF), (REF, SELF), grefs="sd"),
        request((REF, SELF), (READONLY_REF, SELF), grefs="sd"), request((c, SELF), (world.mfn(A), SELF)),
        request((c, SELF), (0, SELF)), request((REF, DOMID), (world.l1, SELF), grefs="s"),
        request((REF, DOMID), (c, SELF), grefs="s", length=5000), request((REF, DOMID), (c, SELF), grefs="s"),
    ]  # fmt: skip
    assert copy(world, *requests) == [
        0, 0, gt.GNTST_general_error, 0, gt.GNTST_bad_page, gt.GNTST_general_error, gt.GNTST_bad_copy_arg, 0,
    ]  # fmt: skip
    assert (world.frames.refs.tobytes(), world.frames.type_count.tobytes()) == before
    assert (flags(world), flags(world, READONLY_REF)) == (1, 5)


@pytest.mark.parametrize("distance", [1, 4, 7, 8, 10, 31, 61])
def test_overlapping_copies_go_forward_by_words(world: World, distance: int) -> None:
    """memcpy is REP MOVSQ, then REP MOVSB: what it has just written, it reads again."""
    expected = bytearray(world.guest.copy_from_guest(A, 256))
    for i in range(0, 56, 8):
        expected[distance + i : distance + i + 8] = bytes(expected[i : i + 8])
    for i in range(56, 61):
        expected[distance + i] = expected[i]
    a = world.mfn(A)
    assert copy(world, request((a, SELF), (a, SELF), length=61, offset=distance)) == [0]
    assert world.guest.copy_from_guest(A, 256) == bytes(expected)
