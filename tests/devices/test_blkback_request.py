from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from hypercalls.abi import ABI32, ABI64
from hypercalls.public.io import blkif
from hypercalls.public.io.blkif import (
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_INDIRECT,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
)
from pvemu.devices.blkback_request import (
    BACK_OFF_NS,
    FLUSH_NS,
    MAX_PERSISTENT_GRANTS,
    REQUEST_NS,
    SECTOR_NS,
    SEEK_NS,
    CompletedRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hypercalls.abi import Abi
    from tests.devices.conftest import Guest


def indirect(
    guest: Guest, operation: int, sector: int, segments: list[tuple[int, int, int]], nr_segments: int | None = None
) -> list[tuple[int, int, int]]:
    """An indirect request whose segments lie in the page with reference 500."""
    page = guest.page(500)
    for index, (gref, first, last) in enumerate(segments):
        segment = blkif.blkif_request_segment(gref=gref, first_sect=first, last_sect=last)
        page[index * 8 : index * 8 + 8] = guest.abi.pack(segment)
    guest.put(
        blkif.blkif_request_indirect(
            operation=BLKIF_OP_INDIRECT,
            indirect_op=operation,
            nr_segments=len(segments) if nr_segments is None else nr_segments,
            id=9,
            sector_number=sector,
            indirect_grefs=[500],
        )
    )
    return guest.push()


def discard(guest: Guest, sector: int, count: int) -> int:
    guest.put(blkif.blkif_request_discard(operation=BLKIF_OP_DISCARD, id=5, sector_number=sector, nr_sectors=count))
    ((identity, operation, status),) = guest.push()
    assert (identity, operation) == (5, BLKIF_OP_DISCARD)
    return status


def status_of(responses: list[tuple[int, int, int]]) -> int:
    ((_, _, status),) = responses
    return status


def test_read_fills_the_sectors_of_each_segment(make_guest: Callable[..., Guest], abi: Abi) -> None:
    guest = make_guest()
    guest.connect(abi)
    first, second = guest.page(8, b"x"), guest.page(9, b"y")
    assert guest.rw(BLKIF_OP_READ, 100, (8, 0, 7), (9, 2, 3), id=1 << 63 | 5) == [(1 << 63 | 5, 0, 0)]
    assert bytes(first) == guest.disk.read(100, 8)
    assert bytes(second) == b"y" * 1024 + guest.disk.read(108, 2) + b"y" * 2048
    assert guest.events.channels[-1].raised == 1


def test_the_response_leaves_the_rest_of_its_slot_alone(make_guest: Callable[..., Guest], abi: Abi) -> None:
    guest = make_guest()
    guest.connect(abi)
    guest.page(8)
    guest.rw(BLKIF_OP_READ, 0, (8, 0, 7), id=0x0102030405060708)
    slot = bytes(guest.grants.pages[1000][64 : 64 + guest.entry_size])
    sent = guest.abi.pack(
        blkif.blkif_request(
            nr_segments=1,
            handle=51712,
            id=0x0102030405060708,
            seg=[blkif.blkif_request_segment(gref=8, last_sect=7)],
        )
    )
    assert slot[:9] == bytes([8, 7, 6, 5, 4, 3, 2, 1, 0])
    assert slot[9:10] + slot[12:] == sent[9:10] + sent[12:]


def test_writes_go_to_the_overlay_and_are_read_back(
    make_guest: Callable[..., Guest], image: Path, abi: Abi
) -> None:
    before = image.read_bytes()
    image.chmod(0o444)
    guest = make_guest()
    guest.connect(abi)
    guest.page(8, b"new data")
    page = guest.page(9)
    assert status_of(guest.rw(BLKIF_OP_WRITE, 2047, (8, 1, 1))) == BLKIF_RSP_OKAY
    assert status_of(guest.rw(BLKIF_OP_WRITE_BARRIER, 11, (8, 0, 2))) == BLKIF_RSP_OKAY
    assert discard(guest, 40, 100) == BLKIF_RSP_OKAY
    assert status_of(guest.rw(BLKIF_OP_READ, 10, (9, 0, 4))) == BLKIF_RSP_OKAY
    assert bytes(page[:2560]) == guest.disk.read(10, 5)
    assert bytes(page[512:2048]) == b"new data" * 192
    assert guest.disk.read(39, 102) == before[39 * 512 : 40 * 512] + bytes(51200) + before[140 * 512 : 141 * 512]
    assert image.read_bytes() == before


def test_writes_reach_a_file_opened_for_writing(make_guest: Callable[..., Guest], image: Path) -> None:
    guest = make_guest(writable=True)
    guest.connect()
    guest.page(8, b"new data")
    assert status_of(guest.rw(BLKIF_OP_WRITE, 5, (8, 0, 0))) == BLKIF_RSP_OKAY
    assert status_of(guest.rw(BLKIF_OP_FLUSH_DISKCACHE, 0)) == BLKIF_RSP_OKAY
    assert image.read_bytes()[5 * 512 : 6 * 512] == b"new data" * 64


@pytest.mark.parametrize("operation", [BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER, BLKIF_OP_FLUSH_DISKCACHE])
@pytest.mark.parametrize(
    ("sector", "segment"),
    [
        (0, (8, 1, 0)),  # first after last
        (0, (8, 0, 8)),  # beyond the page
        (0, (8, 255, 255)),
        (2048, (8, 0, 0)),  # off the end
        (2041, (8, 0, 7)),
        ((1 << 64) - 1, (8, 0, 0)),  # wraps
        ((1 << 64) - 8, (8, 0, 7)),
        (0, (77, 0, 0)),  # no such grant
        (0, (0xFFFFFFFF, 0, 0)),
    ],
)
def test_bad_segments_are_refused(
    make_guest: Callable[..., Guest], abi: Abi, operation: int, sector: int, segment: tuple[int, int, int]
) -> None:
    guest = make_guest()
    guest.connect(abi)
    good = guest.page(8, b"z")
    page = guest.page(9, b"z")
    assert guest.rw(operation, sector, segment) == [(7, operation, BLKIF_RSP_ERROR)]
    assert guest.rw(operation, sector, (9, 0, 0), segment) == [(7, operation, BLKIF_RSP_ERROR)]
    assert bytes(good) + bytes(page) == b"z" * 8192  # all or nothing
    assert guest.disk.read(0, 8) != b"z" * 4096
    assert status_of(guest.rw(BLKIF_OP_READ, 0, (8, 0, 7))) == BLKIF_RSP_OKAY


@pytest.mark.parametrize(("operation", "status"), [(0, -1), (1, -1), (2, 0), (3, 0)])
def test_only_flushes_may_have_no_segments(make_guest: Callable[..., Guest], operation: int, status: int) -> None:
    guest = make_guest()
    guest.connect()
    assert guest.rw(operation, 1 << 60) == [(7, operation, status)]


@pytest.mark.parametrize("nr_segments", [12, 255])
def test_more_than_eleven_segments_are_refused(make_guest: Callable[..., Guest], abi: Abi, nr_segments: int) -> None:
    guest = make_guest()
    guest.connect(abi)
    guest.page(8)
    assert guest.rw(0, 0, *[(8, 0, 0)] * 11) == [(7, 0, BLKIF_RSP_OKAY)]
    assert guest.rw(0, 0, *[(8, 0, 0)] * 11, nr_segments=nr_segments) == [(7, 0, BLKIF_RSP_ERROR)]


@pytest.mark.parametrize("operation", [BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER, BLKIF_OP_FLUSH_DISKCACHE])
def test_a_read_only_disk_is_not_written(make_guest: Callable[..., Guest], operation: int) -> None:
    guest = make_guest(read_only=True)
    guest.connect()
    guest.page(8)
    before = guest.disk.read(0, 2048)
    assert guest.rw(operation, 0, (8, 0, 0)) == [(7, operation, BLKIF_RSP_ERROR)]
    assert guest.rw(operation, 0) == [(7, operation, BLKIF_RSP_ERROR)]
    assert discard(guest, 0, 8) == BLKIF_RSP_ERROR
    assert guest.rw(BLKIF_OP_READ, 0, (8, 0, 0)) == [(7, 0, BLKIF_RSP_OKAY)]
    assert guest.disk.read(0, 2048) == before


@pytest.mark.parametrize(
    ("sector", "last", "status"), [(0, 7, 0), (8, 7, 0), (1, 7, -1), (4, 7, -1), (0, 0, -1), (0, 6, -1)]
)
def test_4096_byte_sectors_must_be_whole(
    make_guest: Callable[..., Guest], sector: int, last: int, status: int
) -> None:
    guest = make_guest(sector_size=4096)
    guest.connect()
    page = guest.page(8)
    assert guest.rw(BLKIF_OP_READ, sector, (8, 0, last)) == [(7, 0, status)]
    if status == 0:
        assert bytes(page) == guest.disk.read(sector, 8)


def test_grants_are_mapped_for_what_is_done_with_them(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.connect()
    guest.page(8)
    guest.page(9)
    guest.grants.readonly.add(9)
    guest.grants.maps.clear()
    assert status_of(guest.rw(BLKIF_OP_WRITE, 0, (9, 0, 0))) == BLKIF_RSP_OKAY
    assert status_of(guest.rw(BLKIF_OP_READ, 0, (8, 0, 0))) == BLKIF_RSP_OKAY
    assert status_of(guest.rw(BLKIF_OP_READ, 0, (9, 0, 0))) == BLKIF_RSP_ERROR
    assert guest.grants.maps == [(9, True), (8, False), (9, False)]
    assert guest.grants.mapped[8] == guest.grants.mapped[9] == 0


def test_persistent_grants_are_mapped_once_and_writable(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.connect(feature_persistent=1)
    guest.page(8)
    guest.grants.maps.clear()
    for _ in range(3):
        assert status_of(guest.rw(BLKIF_OP_WRITE, 0, (8, 0, 0), (8, 1, 1))) == BLKIF_RSP_OKAY
    assert guest.grants.maps == [(8, False)]
    guest.connect()  # the next connection starts afresh
    guest.grants.pages.pop(8)
    guest.write("state", 6)
    guest.clock.run()
    guest.write("state", 1)
    guest.clock.run()
    guest.connect(feature_persistent=1)
    assert status_of(guest.rw(BLKIF_OP_WRITE, 0, (8, 0, 0))) == BLKIF_RSP_ERROR


def test_persistent_grants_are_bounded(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.connect(feature_persistent=1)
    for ref in range(2000, 2000 + MAX_PERSISTENT_GRANTS + 50):
        guest.page(ref)
        assert status_of(guest.rw(BLKIF_OP_READ, 0, (ref, 0, 0))) == BLKIF_RSP_OKAY
    guest.grants.maps.clear()
    guest.rw(BLKIF_OP_READ, 0, (2000 + MAX_PERSISTENT_GRANTS + 49, 0, 0))
    guest.rw(BLKIF_OP_READ, 0, (2000, 0, 0))
    assert guest.grants.maps == [(2000, False)]


def test_indirect_requests(make_guest: Callable[..., Guest], abi: Abi) -> None:
    guest = make_guest()
    guest.connect(abi)
    pages = [guest.page(ref) for ref in range(600, 856)]
    segments = [(ref, 0, 7) for ref in range(600, 856)]
    assert indirect(guest, BLKIF_OP_READ, 0, segments) == [(9, BLKIF_OP_READ, BLKIF_RSP_OKAY)]
    assert b"".join(pages) == guest.disk.read(0, 2048)
    for page in pages:
        page.reverse()
    assert indirect(guest, BLKIF_OP_WRITE, 0, segments) == [(9, BLKIF_OP_WRITE, BLKIF_RSP_OKAY)]
    assert b"".join(pages) == guest.disk.read(0, 2048)


@pytest.mark.parametrize(
    ("operation", "segments", "nr_segments"),
    [
        (BLKIF_OP_READ, [(8, 0, 7)], 0),
        (BLKIF_OP_READ, [(8, 0, 0)] * 257, None),
        (BLKIF_OP_READ, [(8, 0, 0)], 65535),
        (BLKIF_OP_READ, [(8, 0, 8)], None),
        (BLKIF_OP_READ, [(8, 0, 0), (8, 3, 2)], None),
        (BLKIF_OP_WRITE, [(77, 0, 0)], None),
        (BLKIF_OP_WRITE_BARRIER, [(8, 0, 0)], None),
        (BLKIF_OP_INDIRECT, [(8, 0, 0)], None),
        (255, [(8, 0, 0)], None),
    ],
)
def test_bad_indirect_requests_are_refused(
    make_guest: Callable[..., Guest],
    abi: Abi,
    operation: int,
    segments: list[tuple[int, int, int]],
    nr_segments: int | None,
) -> None:
    guest = make_guest()
    guest.connect(abi)
    guest.page(8)
    assert indirect(guest, operation, 0, segments, nr_segments) == [(9, operation, BLKIF_RSP_ERROR)]


def test_indirect_page_that_cannot_be_mapped(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.connect()
    guest.put(blkif.blkif_request_indirect(operation=6, nr_segments=1, id=9, indirect_grefs=[12345]))
    assert guest.push() == [(9, 0, BLKIF_RSP_ERROR)]


@pytest.mark.parametrize(
    ("sector_size", "sector", "count", "status"),
    [
        (512, 0, 2048, 0),
        (512, 3, 5, 0),
        (512, 0, 0, 0),
        (512, 2048, 1, -1),
        (512, 1, 2048, -1),
        (512, 1, (1 << 64) - 1, -1),
        (512, (1 << 64) - 1, 1, -1),
        (4096, 8, 16, 0),
        (4096, 8, 15, -1),
        (4096, 4, 8, -1),
    ],
)
def test_discard(
    make_guest: Callable[..., Guest], abi: Abi, sector_size: int, sector: int, count: int, status: int
) -> None:
    guest = make_guest(sector_size=sector_size)
    guest.connect(abi)
    before = guest.disk.read(0, 2048)
    assert discard(guest, sector, count) == status
    expected = bytearray(before)
    if status == 0:
        expected[sector * 512 : (sector + count) * 512] = bytes(count * 512)
    assert guest.disk.read(0, 2048) == expected


def test_discard_that_the_host_cannot_do(make_guest: Callable[..., Guest], monkeypatch: pytest.MonkeyPatch) -> None:
    guest = make_guest()
    guest.connect()
    for error, status in ((errno.EOPNOTSUPP, BLKIF_RSP_EOPNOTSUPP), (errno.EIO, BLKIF_RSP_ERROR)):

        def fail(sector: int, count: int, error: int = error) -> None:
            raise OSError(error, "no")

        monkeypatch.setattr(guest.disk, "discard", fail)
        assert discard(guest, 0, 8) == status


@pytest.mark.parametrize("operation", [4, 7, 128, 255])
def test_unknown_operations_are_not_supported(make_guest: Callable[..., Guest], abi: Abi, operation: int) -> None:
    guest = make_guest()
    guest.connect(abi)
    assert guest.rw(operation, 0, id=1 << 50) == [(1 << 50, operation, BLKIF_RSP_EOPNOTSUPP)]


def test_an_image_that_shrinks_gives_errors(make_guest: Callable[..., Guest], image: Path) -> None:
    guest = make_guest()
    guest.connect()
    guest.page(8)
    with image.open("r+b") as file:
        file.truncate(512 * 100)
    assert status_of(guest.rw(BLKIF_OP_READ, 99, (8, 0, 0))) == BLKIF_RSP_OKAY
    assert status_of(guest.rw(BLKIF_OP_READ, 99, (8, 0, 1))) == BLKIF_RSP_ERROR
    assert status_of(guest.rw(BLKIF_OP_READ, 1000, (8, 0, 0))) == BLKIF_RSP_ERROR


def test_several_requests_at_once_and_one_notification(make_guest: Callable[..., Guest], abi: Abi) -> None:
    guest = make_guest()
    guest.connect(abi)
    pages = [guest.page(ref) for ref in range(32)]
    for ref in range(32):
        guest.put_read(ref * 3, ref, id=ref)
    assert guest.push() == [(ref, 0, 0) for ref in range(32)]
    assert [bytes(page[:8]) for page in pages] == [b"%08d" % (ref * 3) for ref in range(32)]
    assert guest.events.channels[-1].raised == 1
    assert guest.peek("req_event") == 33


def test_no_notification_that_the_guest_did_not_ask_for(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.connect()
    guest.page(8)
    guest.poke("rsp_event", 3)
    for expected in (0, 0, 1):
        guest.put_read(0, 8)
        guest.poke("req_prod", guest.req_prod)
        guest.events.channels[-1].send()
        assert guest.events.channels[-1].raised == expected
    assert len(guest.responses()) == 3


def test_indices_wrap_around_32_bits(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.connect()
    page = guest.page(8)
    assert guest.blkback.ring is not None
    ring = guest.blkback.ring._ring
    ring.req_cons = ring.rsp_prod_pvt = 0xFFFFFFF0
    guest.req_prod = guest.rsp_cons = 0xFFFFFFF0
    guest.poke("rsp_prod", 0xFFFFFFF0)
    guest.poke("rsp_event", 0xFFFFFFF1)
    for index in range(40):
        guest.put_read(index, 8)
        guest.poke("req_prod", guest.req_prod)
        guest.events.channels[-1].send()
        assert bytes(page[:8]) == b"%08d" % index
        assert guest.peek("rsp_prod") == guest.req_prod & 0xFFFFFFFF
        guest.poke("rsp_event", guest.req_prod + 1)
    assert guest.events.channels[-1].raised == 40


@pytest.mark.parametrize(
    ("req_prod", "text"),
    [(33, "33 - 0 = 33"), (0xFFFFFFFF, "-1 - 0 = -1"), (0x80000000, "-2147483648 - 0 = -2147483648")],
)
def test_a_bogus_producer_index_halts_the_ring(make_guest: Callable[..., Guest], req_prod: int, text: str) -> None:
    guest = make_guest()
    guest.connect()
    guest.page(8)
    guest.poke("req_prod", req_prod)
    guest.events.channels[-1].send()
    assert guest.klog == [
        f"Frontend provided bogus ring requests ({text}). Halting ring processing on dev=700000"
    ]
    assert guest.peek("rsp_prod") == 0
    assert guest.rw(BLKIF_OP_READ, 0, (8, 0, 0)) == []  # it stays halted
    assert guest.state == "4"
    guest.write("state", 6)
    guest.clock.run()
    guest.write("state", 1)
    guest.clock.run()
    guest.connect()
    assert guest.rw(BLKIF_OP_READ, 0, (8, 0, 0)) == [(7, 0, 0)]


def test_a_ring_that_refills_itself_does_not_hold_dom0(make_guest: Callable[..., Guest], abi: Abi) -> None:
    """A guest can let the disk be read into the ring itself; each pass must be bounded and the guest must go on."""
    guest = make_guest()
    guest.connect(abi)
    ring = guest.grants.pages[1000]
    # Every request reads the next page of the disk over the ring, which says that 32 requests wait.
    pages = []
    for step in range(1, 257):
        segment = blkif.blkif_request_segment(gref=1000, first_sect=0, last_sect=7)
        request = blkif.blkif_request(operation=0, nr_segments=1, sector_number=step % 256 * 8, seg=[segment])
        slots = abi.pack(request) * 32
        pages.append((step + 31).to_bytes(4, "little") + bytes(60) + slots.ljust(4032, b"\0"))
    guest.disk.write(0, b"".join(pages))
    ring[:] = pages[0]
    guest.events.channels[-1].send()
    assert guest.blkback.statistics.reads == 4 * 32
    guest.clock.run(10**9)
    assert guest.blkback.statistics.reads == 256  # then the disk says less than has been done
    assert len(guest.klog) == 1


@pytest.mark.parametrize("seed", range(20))
def test_random_slots_never_raise(make_guest: Callable[..., Guest], abi: Abi, seed: int) -> None:
    import random

    rng = random.Random(seed)
    guest = make_guest(sector_size=rng.choice([512, 4096]), read_only=rng.random() < 0.3)
    guest.connect(abi, feature_persistent=rng.randrange(2))
    for ref in (0, 1, 2):
        guest.page(ref)
    for _ in range(40):
        slot = bytearray(rng.randbytes(guest.entry_size))
        slot[0] = rng.choice([0, 1, 2, 3, 4, 5, 6, rng.randrange(256)])
        if rng.random() < 0.7:
            slot[1] = rng.randrange(13)
        if rng.random() < 0.5:
            slot[12:24] = bytes(12)
            for at in range(20, len(slot) - 8, 4):
                slot[at : at + 4] = bytes([rng.randrange(3), 0, 0, 0])
        at = 64 + guest.req_prod % 32 * guest.entry_size
        guest.grants.pages[1000][at : at + guest.entry_size] = slot
        guest.req_prod += 1
        ((_, _, status),) = guest.push()
        assert status in (0, -1, -2)


def test_statistics_count_as_blkback_does(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.connect()
    guest.page(8)
    guest.rw(BLKIF_OP_READ, 0, (8, 0, 7))
    guest.rw(BLKIF_OP_READ, 9999, (8, 0, 7))
    guest.rw(BLKIF_OP_WRITE, 0, (8, 0, 1), (8, 2, 2))
    guest.rw(BLKIF_OP_WRITE_BARRIER, 0, (8, 0, 0))
    guest.rw(BLKIF_OP_FLUSH_DISKCACHE, 0)
    discard(guest, 0, 8)
    guest.rw(99, 0)
    statistics = guest.blkback.statistics
    assert (statistics.reads, statistics.writes, statistics.flushes, statistics.discards) == (2, 1, 2, 1)
    assert (statistics.sectors, statistics.errors) == (8 + 3 + 1, 2)
    assert statistics.busy_ns == sum(guest.charged)


def test_costs_are_charged(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    guest.connect()
    guest.page(8)
    guest.rw(BLKIF_OP_READ, 0, (8, 0, 7))
    guest.rw(BLKIF_OP_READ, 8, (8, 0, 0))
    guest.rw(BLKIF_OP_READ, 100, (8, 0, 7))
    guest.rw(BLKIF_OP_FLUSH_DISKCACHE, 0)
    guest.rw(BLKIF_OP_READ, 9999, (8, 0, 7))
    assert guest.charged == [
        REQUEST_NS + 8 * SECTOR_NS,
        REQUEST_NS + SECTOR_NS,
        REQUEST_NS + 8 * SECTOR_NS + SEEK_NS,
        REQUEST_NS + FLUSH_NS,
        REQUEST_NS + BACK_OFF_NS,
    ]


def test_observers_see_every_request_until_undone(make_guest: Callable[..., Guest]) -> None:
    guest = make_guest()
    seen: list[CompletedRequest] = []
    data: list[bytes] = []

    def observer(done: CompletedRequest) -> None:
        seen.append(done)
        data.append(b"".join(done.data))

    undo = guest.blkback.observe(observer)
    guest.connect()
    guest.page(8, b"a")
    guest.rw(BLKIF_OP_WRITE, 4, (8, 0, 1))
    guest.rw(BLKIF_OP_READ, 2, (8, 0, 7))
    guest.rw(BLKIF_OP_READ, 9999, (8, 0, 7))
    discard(guest, 1, 3)
    undo()
    undo()
    guest.rw(BLKIF_OP_READ, 2, (8, 0, 7))
    assert [done[:5] for done in seen] == [
        ("xvda", BLKIF_OP_WRITE, 4, 2, 0),
        ("xvda", BLKIF_OP_READ, 2, 8, 0),
        ("xvda", BLKIF_OP_READ, 9999, 8, -1),
        ("xvda", BLKIF_OP_DISCARD, 1, 3, 0),
    ]
    assert data[0] == b"a" * 1024
    assert len(data[1]) == 4096
    assert data[2:] == [b"", b""]


def test_layouts_differ_between_the_widths() -> None:
    assert (ABI64.sizeof(blkif.blkif_request), ABI32.sizeof(blkif.blkif_request)) == (112, 108)
    assert (ABI64.offsetof(blkif.blkif_request, "id"), ABI32.offsetof(blkif.blkif_request, "id")) == (8, 4)
