from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hypercalls.abi import ABI32, ABI64
from hypercalls.public.io.blkif import blkif_sring
from pvemu.devices.ring import BackRing, FrontendProtocolError

if TYPE_CHECKING:
    from hypercalls.abi import Abi


def make(abi: Abi = ABI64, pages: int = 1) -> tuple[BackRing, list[bytearray]]:
    memory = [bytearray(4096) for _ in range(pages)]
    return BackRing([memoryview(page) for page in memory], abi, blkif_sring), memory


def u32(value: int) -> bytes:
    return (value & 0xFFFFFFFF).to_bytes(4, "little")


@pytest.mark.parametrize("abi", [ABI64, ABI32])
@pytest.mark.parametrize(("pages", "nr_ents"), [(1, 32), (2, 64), (4, 128), (8, 256), (16, 512)])
def test_sizes_are_powers_of_two(abi: Abi, pages: int, nr_ents: int) -> None:
    assert make(abi, pages)[0].nr_ents == nr_ents


@pytest.mark.parametrize("start", [0, 5, 0xFFFFFFE0, 0xFFFFFFFF])
def test_pending_counts_and_refuses_what_cannot_be(start: int) -> None:
    ring, (page,) = make()
    ring.req_cons = ring.rsp_prod_pvt = start
    for waiting in range(33):
        page[0:4] = u32(start + waiting)
        assert ring.pending() == waiting
    for bad in (33, 1000, 1 << 31, (1 << 32) - 1):
        page[0:4] = u32(start + bad)
        with pytest.raises(FrontendProtocolError) as caught:
            ring.pending()
        assert (caught.value.req_prod, caught.value.rsp_prod_pvt) == ((start + bad) & 0xFFFFFFFF, start)


@pytest.mark.parametrize("start", [0, 0xFFFFFFFE])
@pytest.mark.parametrize(
    ("answered", "event", "notify"),
    [(1, 1, True), (1, 2, False), (3, 1, True), (3, 3, True), (3, 4, False), (3, 0, False)],
)
def test_notification_when_the_event_index_is_passed(start: int, answered: int, event: int, notify: bool) -> None:
    ring, (page,) = make()
    page[8:12] = u32(start)
    page[12:16] = u32(start + event)
    ring.rsp_prod_pvt = (start + answered) & 0xFFFFFFFF
    assert ring.push_responses_and_check_notify() is notify
    assert page[8:12] == u32(start + answered)


def test_final_check_arms_the_notification_only_when_idle() -> None:
    ring, (page,) = make()
    ring.req_cons = ring.rsp_prod_pvt = 0xFFFFFFFF
    page[0:4] = u32(0)
    assert ring.final_check_for_requests()
    assert page[4:8] == bytes(4)
    page[0:4] = u32(0xFFFFFFFF)
    assert not ring.final_check_for_requests()
    assert page[4:8] == u32(0)  # req_cons + 1


def test_final_check_waits_for_free_slots() -> None:
    ring, (page,) = make()
    ring.req_cons = 32  # nothing is answered yet
    page[0:4] = u32(40)
    assert not ring.final_check_for_requests()


@pytest.mark.parametrize("abi", [ABI64, ABI32])
@pytest.mark.parametrize("pages", [1, 2, 16])
def test_slots_lie_one_behind_the_other_across_pages(abi: Abi, pages: int) -> None:
    ring, memory = make(abi, pages)
    size = ring.entry_size
    for slot in range(ring.nr_ents):
        data = bytes([slot % 251]) * size
        for index, byte in enumerate(data):
            at = 64 + slot * size + index
            memory[at >> 12][at & 4095] = byte
    for turn in range(2):
        for slot in range(ring.nr_ents):
            assert ring.req_cons == turn * ring.nr_ents + slot
            assert ring.take_request() == bytes([slot % 251]) * size
    for slot in range(ring.nr_ents):
        ring.put(3, b"\xff\xfe" * 4)
        ring.rsp_prod_pvt += 1
        whole = b"".join(memory)[64 + slot * size :][:size]
        assert whole == bytes([slot % 251]) * 3 + b"\xff\xfe" * 4 + bytes([slot % 251]) * (size - 11)


def test_a_request_is_a_copy() -> None:
    ring, (page,) = make()
    page[64] = 1
    request = ring.take_request()
    page[64] = 2
    assert request[0] == 1
