"""The shared page: framing, wrap-around, full rings, and guests that fill it with garbage."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from hypercalls.public.io import xs_wire as xs

if TYPE_CHECKING:
    from pvemu.devices.xenstore.client import Client
    from pvemu.devices.xenstore.server import XenStore
    from tests.devices.xenstore.conftest import RingGuest

RING = 1024
REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, FEATURES, CONNECTION, ERROR = range(2048, 2076, 4)


def test_a_request_is_answered_and_the_guest_told(ring_guest: RingGuest) -> None:
    before = ring_guest.events
    assert ring_guest.ask(xs.XS_READ, b"name\0") == (xs.XS_READ, b"guest")
    assert ring_guest.events > before
    assert ring_guest.ask(xs.XS_READ, b"data/x\0") == (xs.XS_ERROR, b"ENOENT\0")
    assert ring_guest.ask(xs.XS_WRITE, b"data/x\0v") == (xs.XS_WRITE, b"OK\0")
    assert ring_guest.ask(99, b"") == (xs.XS_ERROR, b"ENOSYS\0")


def test_a_kick_without_news_does_nothing(ring_guest: RingGuest) -> None:
    before = bytes(ring_guest.page), ring_guest.events
    ring_guest.ring.kick()
    assert (bytes(ring_guest.page), ring_guest.events) == before


def test_the_reply_carries_the_ids_of_the_request(ring_guest: RingGuest) -> None:
    ring_guest.req_id = 0xFFFFFFFD
    msg_type, payload = ring_guest.ask(xs.XS_TRANSACTION_START, b"\0")
    tx_id = int(payload[:-1])
    assert msg_type == xs.XS_TRANSACTION_START
    assert ring_guest.ask(xs.XS_WRITE, b"data/x\0v", tx_id) == (xs.XS_WRITE, b"OK\0")


@pytest.mark.parametrize("start", [0, 1000, 1015, 1023, 0xFFFFFFF0, 0xFFFFFFFF])
def test_wrap_around_at_every_place(ring_guest: RingGuest, start: int) -> None:
    ring_guest.start_at(start)
    for _ in range(100):
        assert ring_guest.ask(xs.XS_READ, b"name\0") == (xs.XS_READ, b"guest")


@pytest.mark.parametrize("size", [1, 3, 15, 16, 17])
def test_messages_in_pieces(ring_guest: RingGuest, size: int) -> None:
    stream = ring_guest.message(xs.XS_WRITE, b"data/x\0value") + ring_guest.message(xs.XS_READ, b"data/x\0")
    for at in range(0, len(stream), size):
        ring_guest.put(stream[at : at + size])
        ring_guest.ring.kick()
        assert ring_guest.get(REQ_CONS) == ring_guest.get(REQ_PROD)
    assert [message.payload for message in ring_guest.received()] == [b"OK\0", b"value"]


def test_several_messages_at_once_are_answered_in_order(ring_guest: RingGuest) -> None:
    for name in (b"name\0", b"data\0", b"none\0"):
        ring_guest.put(ring_guest.message(xs.XS_READ, name))
    ring_guest.ring.kick()
    replies = ring_guest.received()
    assert [reply.req_id for reply in replies] == [1, 2, 3]
    assert [reply.payload for reply in replies] == [b"guest", b"", b"ENOENT\0"]


def test_messages_larger_than_the_ring(ring_guest: RingGuest, dom0: Client) -> None:
    assert ring_guest.ask(xs.XS_WRITE, b"data/x\0" + b"v" * 1900) == (xs.XS_WRITE, b"OK\0")
    assert ring_guest.ask(xs.XS_READ, b"data/x\0") == (xs.XS_READ, b"v" * 1900)
    dom0.write("/local/domain/1/data/x", b"w" * 4000)
    assert ring_guest.ask(xs.XS_READ, b"data/x\0") == (xs.XS_READ, b"w" * 4000)
    # 4096 is the most; the node is too big for a guest, but the message is not.
    assert ring_guest.ask(xs.XS_WRITE, b"data/x\0" + b"v" * 4089) == (xs.XS_ERROR, b"ENOSPC\0")


def test_replies_wait_for_room(ring_guest: RingGuest, dom0: Client) -> None:
    dom0.write("/local/domain/1/data/x", b"v" * 500)
    for _ in range(5):
        ring_guest.put(ring_guest.message(xs.XS_READ, b"data/x\0"))
    ring_guest.ring.kick()
    assert (ring_guest.get(RSP_PROD) - ring_guest.get(RSP_CONS)) == RING
    assert len(ring_guest.connection.out) == 4
    events = ring_guest.events
    ring_guest.ring.kick()
    assert ring_guest.events == events
    assert [reply.payload for reply in ring_guest.received()] == [b"v" * 500] * 5
    assert not ring_guest.connection.out
    assert ring_guest.connection.domain is not None
    assert ring_guest.connection.domain.nboutstanding == 0


def test_a_guest_that_does_not_read_is_not_heard_after_20_requests(ring_guest: RingGuest, dom0: Client) -> None:
    dom0.write("/local/domain/1/data/x", b"v" * 1008)
    for number in range(30):
        ring_guest.put(ring_guest.message(xs.XS_READ, b"data/x\0"))
        ring_guest.ring.kick()
        # The first reply fills the ring; 20 more are kept.
        assert (ring_guest.get(REQ_CONS) == ring_guest.get(REQ_PROD)) == (number < 21)
    assert len(ring_guest.received()) == 30


def test_watch_events(ring_guest: RingGuest, dom0: Client) -> None:
    ack, event = ring_guest.send(xs.XS_WATCH, b"data\0tok\0")
    assert (ack.type, ack.payload) == (xs.XS_WATCH, b"OK\0")
    assert event == (xs.XS_WATCH_EVENT, 0, 0, b"data\0tok\0")
    before = ring_guest.events
    dom0.write("/local/domain/1/data/x", "")
    assert ring_guest.events == before + 1
    assert [message.payload for message in ring_guest.received()] == [b"data/x\0tok\0"]
    # What it does itself is told before it is acknowledged.
    event, ack = ring_guest.send(xs.XS_WRITE, b"data/x\0v")
    assert (event.type, ack.type) == (xs.XS_WATCH_EVENT, xs.XS_WRITE)
    assert len(ring_guest.send(xs.XS_UNWATCH, b"data\0tok\0")) == 1
    assert ring_guest.ask(xs.XS_WRITE, b"data/x\0v") == (xs.XS_WRITE, b"OK\0")


def test_an_event_that_waits_is_not_queued_twice(ring_guest: RingGuest, dom0: Client) -> None:
    ring_guest.send(xs.XS_WATCH, b"data\0tok\0")
    ring_guest.set(RSP_PROD, ring_guest.get(RSP_CONS) + RING)  # as if full
    for _ in range(3):
        dom0.write("/local/domain/1/data/x", "")
    dom0.write("/local/domain/1/data/y", "")
    assert len(ring_guest.connection.out) == 2


def test_a_backend_reacts_after_the_answer_and_before_the_next_request(ring_guest: RingGuest, dom0: Client) -> None:
    dom0.write("/local/domain/0/backend", "")
    dom0.set_perms("/local/domain/0/backend", ["n0", "r1"])
    ring_guest.send(xs.XS_WATCH, b"/local/domain/0/backend\0b\0")

    def react(path: str, token: str) -> None:
        state = dom0.read(path) if dom0.exists(path) else b""
        dom0.write("/local/domain/0/backend/state", b"4" if state == b"3" else b"2")

    dom0.watch("/local/domain/1/device/state", "f", react)
    ring_guest.received()
    ring_guest.put(ring_guest.message(xs.XS_WRITE, b"device/state\0003"))
    ring_guest.put(ring_guest.message(xs.XS_READ, b"/local/domain/0/backend/state\0"))
    ring_guest.ring.kick()
    write, event, read = ring_guest.received()
    assert (write.type, write.payload) == (xs.XS_WRITE, b"OK\0")
    assert event.payload == b"/local/domain/0/backend/state\0b\0"
    assert read.payload == b"4"


def test_bad_request_indices_end_the_connection(ring_guest: RingGuest, store: XenStore, dom0: Client) -> None:
    ring_guest.send(xs.XS_WATCH, b"data\0tok\0")
    ring_guest.ask(xs.XS_TRANSACTION_START, b"\0")
    ring_guest.set(REQ_PROD, ring_guest.get(REQ_CONS) + RING + 1)
    ring_guest.ring.kick()
    assert ring_guest.get(ERROR) == xs.XENSTORE_ERROR_RINGIDX
    assert ring_guest.connection.is_ignored
    assert not ring_guest.connection.watches
    assert not ring_guest.connection.transactions
    page = bytes(ring_guest.page)
    ring_guest.ring.kick()
    dom0.write("/local/domain/1/data/x", "")
    assert bytes(ring_guest.page) == page


def test_bad_response_indices_end_the_connection(ring_guest: RingGuest) -> None:
    ring_guest.set(RSP_CONS, ring_guest.get(RSP_PROD) + 5)
    ring_guest.put(ring_guest.message(xs.XS_READ, b"name\0"))
    ring_guest.ring.kick()
    assert ring_guest.get(ERROR) == xs.XENSTORE_ERROR_RINGIDX
    assert ring_guest.connection.is_ignored


def test_a_payload_too_long_ends_the_connection(ring_guest: RingGuest) -> None:
    ring_guest.put(struct.pack("<4I", xs.XS_WRITE, 1, 0, xs.XENSTORE_PAYLOAD_MAX + 1))
    ring_guest.ring.kick()
    assert ring_guest.get(ERROR) == xs.XENSTORE_ERROR_PROTO
    assert ring_guest.connection.is_ignored


def test_an_ignored_domain_can_still_be_released(ring_guest: RingGuest, dom0: Client) -> None:
    ring_guest.set(REQ_PROD, 5000)
    ring_guest.ring.kick()
    seen: list[str] = []
    dom0.watch("@releaseDomain", "r", lambda path, token: seen.append(path))
    dom0.release(1)
    assert len(seen) == 2
    ring_guest.ring.kick()


def test_introducing_again_resets_the_ring(ring_guest: RingGuest, dom0: Client) -> None:
    ring_guest.send(xs.XS_WATCH, b"data\0tok\0")
    ring_guest.put(ring_guest.message(xs.XS_READ, b"name\0")[:10])
    ring_guest.ring.kick()
    ring_guest.set(CONNECTION, xs.XENSTORE_RECONNECT)
    events = ring_guest.events
    dom0.introduce(1, 0, 1)
    assert [ring_guest.get(offset) for offset in (REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD)] == [0] * 4
    assert ring_guest.get(CONNECTION) == xs.XENSTORE_CONNECTED
    assert ring_guest.events == events + 1
    dom0.write("/local/domain/1/data/x", "")
    assert ring_guest.ask(xs.XS_READ, b"name\0") == (xs.XS_READ, b"guest")


def test_no_features_are_advertised_and_a_guests_own_reconnect_is_ignored(ring_guest: RingGuest) -> None:
    assert ring_guest.get(FEATURES) == 0
    ring_guest.set(CONNECTION, xs.XENSTORE_RECONNECT)
    assert ring_guest.ask(xs.XS_READ, b"name\0") == (xs.XS_READ, b"guest")
    assert ring_guest.get(CONNECTION) == xs.XENSTORE_RECONNECT


def test_a_chainloaded_kernel_goes_on_where_the_last_one_stopped(ring_guest: RingGuest, store: XenStore) -> None:
    for _ in range(200):
        ring_guest.ask(xs.XS_READ, b"name\0")
    indices = bytes(ring_guest.page[REQ_CONS : RSP_PROD + 4])
    ring_guest.stream = b""  # another kernel, the same page
    assert ring_guest.ask(xs.XS_DIRECTORY, b"\0") == (xs.XS_ERROR, b"EINVAL\0")
    assert bytes(ring_guest.page[REQ_CONS : RSP_PROD + 4]) != indices


@pytest.mark.parametrize("seed", range(20))
def test_garbage_pages(store: XenStore, ring_guest: RingGuest, seed: int) -> None:
    """Whatever a guest writes anywhere into its page, nothing raises, hangs or harms another client."""
    guest = ring_guest
    chance = random.Random(seed)
    for _ in range(60):
        for _ in range(chance.randrange(4)):
            at = chance.choice([chance.randrange(4096), chance.choice(range(2048, 2076))])
            guest.page[at] = chance.randrange(256)
        if chance.random() < 0.3:
            guest.page[0:2048] = chance.randbytes(2048)
        guest.ring.kick()
        if guest.connection.is_ignored:
            assert guest.get(ERROR) != xs.XENSTORE_ERROR_NONE
            store.client().introduce(1, 0, 1)
            store.daemon.domains.connected(1)
            guest.connection.is_ignored = False
    assert store.client().read("/secret/inner") == b"42"


NAMES = [*b"data data/a data/a/b data/c device name / /local/domain/1/data/a @releaseDomain".split(), b""]
VALUES = [b"", b"n1\0", b"n1\0r0\0", b"x" * 100, b"t\0", b"0\0", b"1\0", b"T\0", b"F\0", b"\xff\0\xff", b"7" * 5000]


@pytest.mark.parametrize("seed", range(20))
def test_garbage_requests(store: XenStore, ring_guest: RingGuest, seed: int) -> None:
    """Well-framed nonsense: each request gets exactly one reply with its id, and the accounts balance in the end."""
    guest = ring_guest
    chance = random.Random(seed)
    answered: list[int] = []
    for _ in range(300):
        msg_type = chance.randrange(25)
        payload = chance.choice(NAMES) + chance.choice([b"\0", b""]) + chance.choice(VALUES)
        if chance.random() < 0.2:
            payload = chance.choice([b"T\0", b"F\0", b"", chance.randbytes(30)])
        tx_id = chance.choice([0, 0, 0, *guest.connection.transactions, 99])
        messages = guest.send(msg_type, payload[: xs.XENSTORE_PAYLOAD_MAX], tx_id)
        answered += [message.req_id for message in messages if message.type != xs.XS_WATCH_EVENT]
    assert not guest.connection.is_ignored
    assert answered == list(range(1, 301))
    assert guest.connection.domain is not None
    assert guest.connection.domain.nboutstanding == 0
    guest.send(xs.XS_RESET_WATCHES, b"\0")
    owned = [(path, node) for path, node in store.daemon.store.nodes.items() if node.perms[0].id == 1]
    assert guest.connection.domain.nbentry == len(owned)
    assert guest.connection.domain.memory == sum(len(path) + node.record_size for path, node in owned)
    assert guest.connection.domain.nbwatch == 0


def test_a_guest_cannot_use_more_memory_than_its_quota(ring_guest: RingGuest, dom0: Client) -> None:
    dom0.control("quota", "set", "memory", "20000")
    replies = [ring_guest.ask(xs.XS_WRITE, b"data/%d\0" % number + b"x" * 1500) for number in range(15)]
    assert (xs.XS_ERROR, b"EIO\0") in replies
    assert replies.index((xs.XS_ERROR, b"EIO\0")) > 8
    assert ring_guest.connection.domain is not None
    assert ring_guest.connection.domain.memory < 20000
