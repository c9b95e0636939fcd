"""A store with one guest (domain 1), seen by dom0, by the guest's rights, and through the guest's ring."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pvemu.devices.xenstore.ring import XenstoreRing
from pvemu.devices.xenstore.server import XenStore

if TYPE_CHECKING:
    from pvemu.devices.xenstore.client import Client

RING = 1024
REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, FEATURES, CONNECTION, ERROR = range(2048, 2076, 4)


class Received(NamedTuple):
    type: int
    req_id: int
    tx_id: int
    payload: bytes


class RingGuest:
    """The guest's side of the shared page: plain loads and stores, and a count of the events it got."""

    def __init__(self, store: XenStore, domid: int = 1) -> None:
        self.page = bytearray(4096)
        self.events = 0
        self.connection = store.introduce(domid)
        self.ring = XenstoreRing(memoryview(self.page), self.connection, self.notify, store)
        self.stream = b""
        self.req_id = 0

    def notify(self) -> None:
        self.events += 1

    def get(self, offset: int) -> int:
        value: int = struct.unpack_from("<I", self.page, offset)[0]
        return value

    def set(self, offset: int, value: int) -> None:
        struct.pack_into("<I", self.page, offset, value & 0xFFFFFFFF)

    def start_at(self, index: int) -> None:
        """Both rings as after a long time of use."""
        for offset in (REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD):
            self.set(offset, index)

    def put(self, data: bytes) -> None:
        """Produce bytes without telling anyone; they must fit."""
        prod = self.get(REQ_PROD)
        assert ((prod - self.get(REQ_CONS)) & 0xFFFFFFFF) + len(data) <= RING
        for byte in data:
            self.page[prod % RING] = byte
            prod = (prod + 1) & 0xFFFFFFFF
        self.set(REQ_PROD, prod)

    def message(self, msg_type: int, payload: bytes, tx_id: int = 0) -> bytes:
        self.req_id += 1
        return struct.pack("<4I", msg_type, self.req_id, tx_id, len(payload)) + payload

    def take(self, limit: int = 1 << 20) -> bytes:
        """Consume at most ``limit`` bytes of what the ring holds."""
        cons, prod = self.get(RSP_CONS), self.get(RSP_PROD)
        taken = b""
        while cons != prod and len(taken) < limit:
            taken += self.page[RING + cons % RING : RING + cons % RING + 1]
            cons = (cons + 1) & 0xFFFFFFFF
        self.set(RSP_CONS, cons)
        return taken

    def received(self) -> list[Received]:
        """Every complete message that has come, emptying the ring and asking for more until nothing comes."""
        while chunk := self.take():
            self.stream += chunk
            self.ring.kick()
        messages = []
        while len(self.stream) >= 16:
            msg_type, req_id, tx_id, length = struct.unpack_from("<4I", self.stream)
            if len(self.stream) < 16 + length:
                break
            messages.append(Received(msg_type, req_id, tx_id, self.stream[16 : 16 + length]))
            self.stream = self.stream[16 + length :]
        return messages

    def send(self, msg_type: int, payload: bytes, tx_id: int = 0) -> list[Received]:
        """One request, in pieces as the ring has room, and all that comes back."""
        data = self.message(msg_type, payload, tx_id)
        while data:
            room = RING - ((self.get(REQ_PROD) - self.get(REQ_CONS)) & 0xFFFFFFFF)
            assert room, "the ring does not move"
            self.put(data[:room])
            data = data[room:]
            self.ring.kick()
        return self.received()

    def ask(self, msg_type: int, payload: bytes, tx_id: int = 0) -> tuple[int, bytes]:
        """One request that is answered by one message."""
        (reply,) = self.send(msg_type, payload, tx_id)
        assert reply.req_id == self.req_id
        assert reply.tx_id == tx_id
        return reply.type, reply.payload


@pytest.fixture
def store() -> XenStore:
    store = XenStore(existing=[1])
    dom0 = store.client()
    dom0.write("/local/domain/1", "")
    dom0.set_perms("/local/domain/1", ["n0", "r1"])
    for name in ("data", "device"):
        dom0.write(f"/local/domain/1/{name}", "")
        dom0.set_perms(f"/local/domain/1/{name}", ["n1"])
    dom0.write("/local/domain/1/name", "guest")
    dom0.write("/secret/inner", "42")
    dom0.close()
    return store


@pytest.fixture
def dom0(store: XenStore) -> Client:
    return store.client()


@pytest.fixture
def guest(store: XenStore) -> Client:
    """The guest's rights without its ring."""
    return store.client(1)


@pytest.fixture
def ring_guest(store: XenStore) -> RingGuest:
    return RingGuest(store)
