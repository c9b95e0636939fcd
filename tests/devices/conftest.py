"""A guest's side of the block protocol without a guest: its memory, grants, channel, clock and store, all in Python."""

from __future__ import annotations

import heapq
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from hypercalls.abi import ABI32, ABI64
from hypercalls.public.io import blkif
from pvemu.devices.backend import EventError, GrantError
from pvemu.devices.blkback import Blkback, BlkifRing
from pvemu.devices.xenstore.wire import XsError
from pvemu.disk.image import open_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hypercalls.abi import Abi
    from pvemu.devices.backend import StoreAccess
    from pvemu.disk.image import Disk

NODENAME = "/local/domain/0/backend/vbd/2/51712"
OTHEREND = "/local/domain/2/device/vbd/51712"


class FakeTimer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    def __init__(self) -> None:
        self.time = 0
        self.calls: list[tuple[int, int, Callable[[], None], FakeTimer]] = []
        self.made = 0

    def now(self) -> int:
        return self.time

    def call_at(self, t_ns: int, fn: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer()
        self.made += 1
        heapq.heappush(self.calls, (max(t_ns, self.time), self.made, fn, timer))
        return timer

    def run(self, duration: int = 10_000_000) -> None:
        """Let time pass."""
        end = self.time + duration
        while self.calls and self.calls[0][0] <= end:
            self.time, _, fn, timer = heapq.heappop(self.calls)
            if not timer.cancelled:
                fn()
        self.time = end


class FakeStore:
    """A store of paths and values with watches; ``log`` has every write in order, with its time."""

    def __init__(self, clock: FakeClock) -> None:
        self.nodes: dict[str, bytes] = {}
        self.log: list[tuple[str, bytes]] = []
        self.times: list[int] = []
        self.watches: list[tuple[str, str, Callable[[str, str], None]]] = []
        self._clock = clock

    def read(self, path: str) -> bytes:
        if path not in self.nodes:
            raise XsError("ENOENT")
        return self.nodes[path]

    def write(self, path: str, value: bytes) -> None:
        self.nodes[path] = value
        self.log.append((path, value))
        self.times.append(self._clock.now())
        self._fire(path)

    def rm(self, path: str) -> None:
        for node in [node for node in self.nodes if node == path or node.startswith(path + "/")]:
            del self.nodes[node]
            self._fire(node)

    def exists(self, path: str) -> bool:
        return path in self.nodes

    @contextmanager
    def transaction(self) -> Iterator[StoreAccess]:
        yield self

    def watch(self, path: str, token: str, callback: Callable[[str, str], None]) -> None:
        self.watches.append((path, token, callback))
        callback(path, token)

    def _fire(self, path: str) -> None:
        for watched, token, callback in self.watches:
            if path == watched or path.startswith(watched + "/"):
                callback(path, token)

    def written(self, directory: str) -> list[tuple[str, str]]:
        """(name, value) of all writes in a directory so far."""
        return [
            (path.removeprefix(directory + "/"), value.decode())
            for path, value in self.log
            if path.startswith(directory + "/")
        ]


class FakeGrants:
    """``pages`` by reference; ``readonly`` holds those granted for reading alone; ``maps`` what was asked for."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.readonly: set[int] = set()
        self.maps: list[tuple[int, bool]] = []
        self.mapped: Counter[int] = Counter()

    def unmap(self, ref: int) -> None:
        assert self.mapped[ref] > 0
        self.mapped[ref] -= 1

    def map(self, ref: int, readonly: bool) -> memoryview:
        self.maps.append((ref, readonly))
        if ref not in self.pages or (ref in self.readonly and not readonly):
            raise GrantError(-3)
        self.mapped[ref] += 1
        view = memoryview(self.pages[ref])
        return view.toreadonly() if readonly else view


class FakeChannel:
    def __init__(self, notify: Callable[[], None]) -> None:
        self.send = notify
        self.raised = 0
        self.closed = False

    def notify(self) -> None:
        assert not self.closed
        self.raised += 1

    def close(self) -> None:
        self.closed = True


class FakeEvents:
    def __init__(self) -> None:
        self.channels: list[FakeChannel] = []
        self.unbound = {3}

    def bind_backend(self, port: int, notify: Callable[[], None]) -> FakeChannel:
        if port not in self.unbound:
            raise EventError(22)
        channel = FakeChannel(notify)
        self.channels.append(channel)
        return channel


class Guest:
    """A guest with one vbd: writes its front end's nodes, fills rings by hand, reads the responses.

    References: 1000 and on are ring pages, others data pages made by :meth:`page`.
    """

    def __init__(self, disk: Disk, make_ring: Callable[..., BlkifRing] = BlkifRing, **options: bool) -> None:
        self.clock = FakeClock()
        self.store = FakeStore(self.clock)
        self.grants = FakeGrants()
        self.events = FakeEvents()
        self.charged: list[int] = []
        self.klog: list[str] = []
        self.store.nodes |= {
            f"{NODENAME}/online": b"1",
            f"{NODENAME}/state": b"1",
            f"{NODENAME}/discard-enable": b"0" if options.get("read_only") else b"1",
            f"{OTHEREND}/state": b"1",
            f"{OTHEREND}/protocol": b"x86_64-abi",
        }
        self.disk = disk
        self.blkback = Blkback(
            vdev="xvda",
            disk=disk,
            nodename=NODENAME,
            otherend=OTHEREND,
            store=self.store,
            grants=self.grants,
            events=self.events,
            clock=self.clock,
            charge=self.charged.append,
            log=self.klog.append,
            read_only=options.get("read_only", False),
            cdrom=options.get("cdrom", False),
            make_ring=make_ring,
        )
        self.abi: Abi = ABI64
        self.ring = bytearray()
        self.order = 0
        self.req_prod = 0
        self.rsp_cons = 0

    @property
    def state(self) -> str:
        return self.store.read(f"{NODENAME}/state").decode()

    def write(self, name: str, value: str | int) -> None:
        self.store.write(f"{OTHEREND}/{name}", str(value).encode())

    def page(self, ref: int, fill: bytes = b"\0") -> bytearray:
        page = self.grants.pages[ref] = bytearray(fill * 4096)[:4096]
        return page

    def connect(self, abi: Abi = ABI64, order: int | None = None, **nodes: str | int) -> None:
        """From Initialising to Connected, as blkfront does it."""
        self.abi = abi
        self.order = order or 0
        self.req_prod = self.rsp_cons = 0
        for index in range(1 << self.order):
            self.page(1000 + index)
        self.poke("req_event", 1)
        self.poke("rsp_event", 1)
        if not self.store.watches:
            self.blkback.probe()
        if order is None:
            self.write("ring-ref", 1000)
        else:
            self.write("ring-page-order", order)
            for index in range(1 << order):
                self.write(f"ring-ref{index}", 1000 + index)
        self.write("event-channel", 3)
        self.write("protocol", "x86_64-abi" if abi is ABI64 else "x86_32-abi")
        for name, value in nodes.items():
            self.write(name.replace("_", "-"), value)
        self.write("state", 3)
        self.clock.run()

    @property
    def entry_size(self) -> int:
        return self.abi.sizeof(blkif.blkif_sring_entry)

    @property
    def nr_ents(self) -> int:
        return {0: 32, 1: 64, 2: 128, 3: 256, 4: 512}[self.order]

    def _copy_out(self) -> bytearray:
        return bytearray(b"".join(self.grants.pages[1000 + index] for index in range(1 << self.order)))

    def _copy_in(self, ring: bytearray) -> None:
        for index in range(1 << self.order):
            self.grants.pages[1000 + index][:] = ring[index * 4096 : index * 4096 + 4096]

    def poke(self, field: str, value: int) -> None:
        at = self.abi.offsetof(blkif.blkif_sring, field)
        self.grants.pages[1000][at : at + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")

    def peek(self, field: str) -> int:
        at = self.abi.offsetof(blkif.blkif_sring, field)
        return int.from_bytes(self.grants.pages[1000][at : at + 4], "little")

    def put(self, request: object) -> None:
        """Put a request on the ring; it is not pushed yet."""
        data = self.abi.pack(request).ljust(self.entry_size, b"\xee")[: self.entry_size]
        at = 64 + self.req_prod % self.nr_ents * self.entry_size
        ring = self._copy_out()
        ring[at : at + len(data)] = data
        self._copy_in(ring)
        self.req_prod += 1

    def put_read(self, sector: int, ref: int, id: int = 1) -> None:
        """Put a read of one sector on the ring."""
        segment = blkif.blkif_request_segment(gref=ref, first_sect=0, last_sect=0)
        self.put(blkif.blkif_request(operation=0, nr_segments=1, id=id, sector_number=sector, seg=[segment]))

    def push(self) -> list[tuple[int, int, int]]:
        """Publish, notify, and take the responses: (id, operation, status)."""
        self.poke("req_prod", self.req_prod)
        self.events.channels[-1].send()
        return self.responses()

    def responses(self) -> list[tuple[int, int, int]]:
        ring = self._copy_out()
        taken = []
        while self.rsp_cons != self.peek("rsp_prod"):
            at = 64 + self.rsp_cons % self.nr_ents * self.entry_size
            response = self.abi.unpack(blkif.blkif_response, ring, at)
            taken.append((response.id, response.operation, response.status))
            self.rsp_cons += 1
        self.poke("rsp_event", self.rsp_cons + 1)
        return taken

    def rw(
        self, operation: int, sector: int, *segments: tuple[int, int, int], nr_segments: int | None = None, id: int = 7
    ) -> list[tuple[int, int, int]]:
        """One request with segments (ref, first, last), pushed: its responses."""
        self.put(
            blkif.blkif_request(
                operation=operation,
                nr_segments=len(segments) if nr_segments is None else nr_segments,
                handle=51712,
                id=id,
                sector_number=sector,
                seg=[
                    blkif.blkif_request_segment(gref=gref, first_sect=first, last_sect=last)
                    for gref, first, last in segments
                ],
            )
        )
        return self.push()


def pattern(sectors: int) -> bytes:
    """Sectors that each say their number."""
    return b"".join(b"%08d" % sector * 64 for sector in range(sectors))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image of 2048 sectors, each with its number all over it."""
    path = tmp_path / "disk.img"
    path.write_bytes(pattern(2048))
    return path


@pytest.fixture
def make_guest(image: Path) -> Iterator[Callable[..., Guest]]:
    """A guest on the image; ``sector_size`` and ``writable`` are the disk's, other options the back end's."""
    guests: list[Guest] = []

    def make(
        *, sector_size: int = 512, writable: bool = False, make_ring: Callable[..., BlkifRing] = BlkifRing,
        **options: bool,
    ) -> Guest:  # fmt: skip
        disk = open_disk(str(image), writable=writable, sector_size=sector_size)
        guests.append(Guest(disk, make_ring, **options))
        return guests[-1]

    yield make
    for guest in guests:
        guest.blkback.remove()
        guest.disk.close()
        assert guest.grants.mapped.total() == 0, "a grant was left mapped"


@pytest.fixture(params=[64, 32])
def abi(request: pytest.FixtureRequest) -> Abi:
    """Both ring layouts."""
    return ABI64 if request.param == 64 else ABI32
