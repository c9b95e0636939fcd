"""The block back end: a vbd in the store, and its ring while a front end is connected.

Mirrors Linux' drivers/block/xen-blkback/{xenbus,blkback}.c. :class:`Blkback` is the device for the guest's whole life;
a :class:`BlkifRing` exists from one connection to its end, so nothing can use a ring before there is one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from hypercalls.abi import ABI32, ABI64
from hypercalls.public.io import blkif
from hypercalls.public.io.protocols import XEN_IO_PROTO_ABI_X86_32, XEN_IO_PROTO_ABI_X86_64
from pvemu.devices.backend import (
    BackendError,
    EventError,
    GrantError,
    XenbusBackend,
    scan_unsigned,
)
from pvemu.devices.blkback_request import (
    MAX_INDIRECT_SEGMENTS,
    BlockRequests,
    CompletedRequest,
    DiskStatistics,
    RequestLayout,
)
from pvemu.devices.ring import BackRing, FrontendProtocolError
from pvemu.devices.xenstore.wire import XsError
from pvemu.observers import subscribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercalls.abi import Abi
    from pvemu.devices.backend import Clock, EventBinder, GrantMapper, StoreAccess, Xenstore
    from pvemu.disk.image import Disk

__all__ = ["LOOP_MAJOR", "Blkback", "BlkifRing"]

LOOP_MAJOR: Final = 7  #: the disks stand for dom0's loop devices, number 7:0 and on
MAX_QUEUES: Final = 1
MAX_RING_PAGE_ORDER: Final = 4

#: A loop device's discard granularity is its file system's block; that of the recorded dom0 was 1024.
_DISCARD_GRANULARITY: Final = 1024
#: Slots worked off before the guest goes on; a ring that its own requests refill would keep dom0 busy for ever.
_ROUNDS: Final = 4

_ENOENT, _EINVAL, _ENOSYS = 2, 22, 38
_WORD = re.compile(rb"\s*(\S{1,63})")


class BlkifRing:
    """One connection: the ring in the guest's pages, its event channel, and the requests that come over it.

    Made from what the front end wrote; GrantError or EventError if that cannot be used. ``start`` begins the work.
    """

    def __init__(
        self,
        *,
        refs: list[int],
        port: int,
        abi: Abi,
        requests: BlockRequests,
        pdevice: int,
        grants: GrantMapper,
        events: EventBinder,
        clock: Clock,
        charge: Callable[[int], None],
        log: Callable[[str], None],
    ) -> None:
        self.port = port  #: of the event channel
        self._requests = requests
        self._grants = grants
        self._refs: list[int] = []
        self._pdevice = pdevice
        self._clock = clock
        self._charge = charge
        self._log = log
        self._is_running = False
        try:
            self._ring = BackRing([self._map(ref) for ref in refs], abi, blkif.blkif_sring)
            self._channel = events.bind_backend(port, self.process)
        except (GrantError, EventError):
            self._unmap()
            raise

    @property
    def nr_ents(self) -> int:
        """Slots of the ring."""
        return self._ring.nr_ents

    def start(self) -> None:
        """Begin to work, with what is on the ring already: binding a channel raises dom0's end once."""
        self._is_running = True
        self.process()

    def close(self) -> None:
        """Stop for good: close the event channel, let go of the guest's pages."""
        self._is_running = False
        self._channel.close()
        self._requests.close()
        self._unmap()

    def _map(self, ref: int) -> memoryview:
        page = self._grants.map(ref, False)
        self._refs.append(ref)
        return page

    def _unmap(self) -> None:
        while self._refs:
            self._grants.unmap(self._refs.pop())

    def process(self) -> None:
        """Work off the ring, answer, and notify the guest if it wants that; the guest's notification ends up here."""
        if not self._is_running:
            return
        ring = self._ring
        cost = 0
        notify = False
        budget = _ROUNDS * ring.nr_ents
        try:
            while True:
                for _ in range(ring.pending()):
                    cost += self._one(ring)
                    budget -= 1
                notify |= ring.push_responses_and_check_notify()
                if not ring.final_check_for_requests():
                    break
                if budget <= 0:
                    self._clock.call_at(self._clock.now() + cost, self.process)
                    break
        except FrontendProtocolError as error:
            self._halt(error)
        if cost:
            self._requests.statistics.busy_ns += cost
            self._charge(cost)
        if notify:
            self._channel.notify()

    def _one(self, ring: BackRing) -> int:
        """Take one request, carry it out and answer it; its cost in nanoseconds."""
        cost = self._respond(ring, ring.take_request())
        ring.rsp_prod_pvt = ring.req_cons
        return cost

    def _respond(self, ring: BackRing, request: bytes) -> int:
        """Carry out a request and write its response, in the next slot; padding in the slot stays as it is."""
        identity, operation, status, cost = self._requests.execute(request)
        layout = self._requests.layout
        ring.put(layout.id_at, identity.to_bytes(8, "little") + operation.to_bytes(1, "little"))
        ring.put(layout.status_at, status.to_bytes(2, "little", signed=True))
        return cost

    def _halt(self, error: FrontendProtocolError) -> None:
        """blkback leaves a ring with an impossible producer index alone until the front end reconnects."""
        self._is_running = False
        produced, consumed = error.req_prod, error.rsp_prod_pvt
        self._log(
            f"Frontend provided bogus ring requests ({_s32(produced)} - {_s32(consumed)} = "
            f"{_s32(produced - consumed)}). Halting ring processing on dev={self._pdevice:04x}"
        )


class Blkback:
    """A vbd: ``nodename`` and ``otherend`` are the directories that the toolstack made for it.

    ``read_only`` and ``cdrom`` are what the toolstack said of it; ``loop`` numbers the loop device it stands for.
    ``charge`` is given the virtual nanoseconds that requests took, ``log`` dom0's kernel messages; ``make_ring`` makes
    a BlkifRing, with its arguments.
    """

    def __init__(
        self,
        *,
        vdev: str,
        disk: Disk,
        nodename: str,
        otherend: str,
        store: Xenstore,
        grants: GrantMapper,
        events: EventBinder,
        clock: Clock,
        charge: Callable[[int], None],
        log: Callable[[str], None],
        read_only: bool = False,
        cdrom: bool = False,
        loop: int = 0,
        make_ring: Callable[..., BlkifRing] = BlkifRing,
    ) -> None:
        self.vdev = vdev
        self.statistics = DiskStatistics()
        self.ring: BlkifRing | None = None
        self._disk = disk
        self._nodename = nodename
        self._otherend = otherend
        self._store = store
        self._grants = grants
        self._events = events
        self._clock = clock
        self._charge = charge
        self._log = log
        self._read_only = read_only
        self._cdrom = cdrom
        self._loop = loop
        self._make_ring = make_ring
        self._observers: list[Callable[[CompletedRequest], None]] = []
        self._xenbus = XenbusBackend(
            nodename=nodename, otherend=otherend, store=store, clock=clock, driver=self, log=log
        )

    @property
    def state(self) -> int:
        """The back end's XenbusState."""
        return self._xenbus.state

    @property
    def disk(self) -> Disk:
        """What is behind it."""
        return self._disk

    def probe(self) -> None:
        """Announce the device, go to InitWait, and add what the hotplug script writes once it has the disk."""
        self._write(
            self._store,
            ("feature-max-indirect-segments", MAX_INDIRECT_SEGMENTS),
            ("multi-queue-max-queues", MAX_QUEUES),
            ("max-ring-page-order", MAX_RING_PAGE_ORDER),
        )
        self._xenbus.probe()
        self._write(
            self._store,
            ("physical-device", f"{LOOP_MAJOR:x}:{self._loop:x}"),
            ("physical-device-path", f"/dev/loop{self._loop}"),
            ("hotplug-status", "connected"),
        )

    def remove(self) -> None:
        """The domain is gone: let go of its ring. The disk stays open; it is its owner's to close."""
        self._xenbus.remove()

    def observe(self, observer: Callable[[CompletedRequest], None]) -> Callable[[], None]:
        """Tell ``observer`` of every request; returns how to stop that."""
        return subscribe(self._observers, observer)

    def connect(self) -> None:
        """Read what the front end offers, map its ring and publish the disk (connect_ring, then connect)."""
        abi = self._read_protocol()
        persistent = bool(self._frontend_number("feature-persistent", 0))
        self._check_queues()
        refs = self._read_ring_refs()
        port = self._frontend_number("event-channel", None)
        requests = BlockRequests(
            vdev=self.vdev,
            disk=self._disk,
            read_only=self._read_only,
            layout=RequestLayout(abi),
            grants=self._grants,
            persistent=persistent,
            statistics=self.statistics,
            observers=self._observers,
        )
        try:
            self.ring = self._make_ring(
                refs=refs,
                port=port,
                abi=abi,
                requests=requests,
                pdevice=LOOP_MAJOR << 20 | self._loop,
                grants=self._grants,
                events=self._events,
                clock=self._clock,
                charge=self._charge,
                log=self._log,
            )
        except GrantError:
            raise BackendError(_ENOENT, f"mapping ring-ref port {port}") from None
        except EventError as error:
            raise BackendError(error.errno, f"mapping ring-ref port {port}") from None
        self._publish()

    def connected(self) -> None:
        """The front end sees Connected: begin with the ring."""
        if self.ring is not None:
            self.ring.start()

    def disconnect(self) -> None:
        """Drop the ring, if there is one."""
        if self.ring is not None:
            self.ring.close()
            self.ring = None

    def _publish(self) -> None:
        """The nodes of a connected disk, in blkback's order."""
        sector_size = self._disk.sector_size
        discard: tuple[tuple[str, int], ...] = ()
        if scan_unsigned(self._store, f"{self._nodename}/discard-enable") != 0:
            discard = (
                ("discard-granularity", max(_DISCARD_GRANULARITY, sector_size)),
                ("discard-alignment", 0),
                ("discard-secure", 0),
                ("feature-discard", 1),
            )
        info = (blkif.VDISK_CDROM if self._cdrom else 0) | (blkif.VDISK_READONLY if self._read_only else 0)
        with self._store.transaction() as transaction:
            self._write(
                transaction,
                ("feature-flush-cache", 1),
                *discard,
                ("feature-barrier", 1),
                ("feature-persistent", 1),
                ("sectors", self._disk.sectors),
                ("info", info),
                ("sector-size", sector_size),
                ("physical-sector-size", sector_size),
            )

    def _read_protocol(self) -> Abi:
        """The ring's layout is the one the front end names; without a name it is the 32-bit one, for old guests."""
        try:
            match = _WORD.match(self._store.read(f"{self._otherend}/protocol"))
        except XsError:
            match = None
        protocol = match[1].decode("latin-1") if match else XEN_IO_PROTO_ABI_X86_32
        if protocol == XEN_IO_PROTO_ABI_X86_64:
            return ABI64
        if protocol == XEN_IO_PROTO_ABI_X86_32:
            return ABI32
        raise BackendError(_ENOSYS, f"unknown fe protocol {protocol}")

    def _check_queues(self) -> None:
        queues = self._frontend_number("multi-queue-num-queues", 1)
        if not 0 < queues <= MAX_QUEUES:
            reason = f"guest requested {queues} queues, exceeding the maximum of {MAX_QUEUES}."
            raise BackendError(_ENOSYS, reason)

    def _read_ring_refs(self) -> list[int]:
        """``ring-ref0`` and on, as many as ``ring-page-order`` says; a single page may be called ``ring-ref``."""
        order = self._frontend_number("ring-page-order", 0)
        if order > MAX_RING_PAGE_ORDER:
            raise BackendError(_EINVAL, f"requested ring page order {order} exceed max:{MAX_RING_PAGE_ORDER}")
        if order == 0:
            only = scan_unsigned(self._store, f"{self._otherend}/ring-ref0")
            return [self._frontend_number("ring-ref", None) if only is None else only]
        return [self._frontend_number(f"ring-ref{index}", None) for index in range(1 << order)]

    def _frontend_number(self, name: str, default: int | None) -> int:
        """An unsigned node of the front end's; BackendError if it is not there and there is no default."""
        value = scan_unsigned(self._store, f"{self._otherend}/{name}")
        if value is None:
            value = default
        if value is None:
            raise BackendError(_EINVAL, f"reading {self._otherend}/{name}")
        return value

    def _write(self, store: StoreAccess, *nodes: tuple[str, str | int]) -> None:
        for name, value in nodes:
            store.write(f"{self._nodename}/{name}", str(value).encode())


def _s32(value: int) -> int:
    """A u32 as the kernel's ``%d`` prints it."""
    return (value + 0x80000000 & 0xFFFFFFFF) - 0x80000000
