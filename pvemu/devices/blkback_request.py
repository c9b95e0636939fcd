"""Carrying out block requests: what drivers/block/xen-blkback/blkback.c checks, in its order, and then does.

A request is a private copy of a ring slot, so the guest cannot change it between check and use. Everything a guest can
put into it ends in a status; only a bug of ours raises.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from hypercalls.public.io import blkif
from pvemu.devices.backend import GrantError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercalls.abi import Abi
    from pvemu.devices.backend import GrantMapper
    from pvemu.disk.image import Disk

__all__ = ["BlockRequests", "CompletedRequest", "DiskStatistics", "RequestLayout"]

MAX_INDIRECT_SEGMENTS: Final = 256  #: Linux' limit, published as feature-max-indirect-segments
MAX_PERSISTENT_GRANTS: Final = 1056  #: blkback's max_persistent_grants

#: Virtual time of a request: waking dom0's blkback thread, the kernel's block layer and the grant operations ...
REQUEST_NS: Final = 20_000
#: ... moving to another place than behind the last request, as an SSD behind a loop device does it ...
SEEK_NS: Final = 40_000
#: ... 512 bytes at about 1 GB/s ...
SECTOR_NS: Final = 500
#: ... and waiting for the cache to be written.
FLUSH_NS: Final = 200_000
#: blkback sleeps a millisecond after a request it refused.
BACK_OFF_NS: Final = 1_000_000

_LAST_SECTOR_LIMIT: Final = 4096 >> 9
_FLUSHES: Final = (blkif.BLKIF_OP_WRITE_BARRIER, blkif.BLKIF_OP_FLUSH_DISKCACHE)


class RequestLayout:
    """Where things are in a request and a response of one width, derived from the ABI's declaration."""

    def __init__(self, abi: Abi) -> None:
        request, segment = blkif.blkif_request, blkif.blkif_request_segment
        self.rw = abi.reader(request, "operation", "nr_segments", "handle", "id", "sector_number")
        self.segment = abi.reader(segment)
        self.segments_at = abi.offsetof(request, "seg")
        self.indirect = abi.reader(
            blkif.blkif_request_indirect, "indirect_op", "nr_segments", "id", "sector_number", "indirect_grefs"
        )
        self.discard = abi.reader(blkif.blkif_request_discard, "id", "sector_number", "nr_sectors")
        self.segments_per_page = 4096 // self.segment.size
        response = blkif.blkif_response
        self.id_at = abi.offsetof(response, "id")
        self.operation_at = abi.offsetof(response, "operation")
        self.status_at = abi.offsetof(response, "status")


class DiskStatistics:
    """Counters of one disk since the start, as blkback keeps them: requests when they are seen, sectors (512 bytes,
    both directions) when they are handed to the disk. ``busy_ns`` is the virtual time spent.
    """

    def __init__(self) -> None:
        self.reads = 0
        self.writes = 0
        self.flushes = 0  #: flushes and barriers
        self.discards = 0
        self.errors = 0  #: requests that got another status than BLKIF_RSP_OKAY
        self.sectors = 0
        self.busy_ns = 0


class CompletedRequest(NamedTuple):
    """What observers are told: ``operation`` as the response carries it, ``nr_sectors`` of 512 bytes from ``sector``
    on, the status, and the guest pages' pieces (live, for the length of the call; empty for a refused request).
    """

    vdev: str
    operation: int
    sector: int
    nr_sectors: int
    status: int
    data: list[memoryview]


class BlockRequests:
    """Executes the requests of one connection against ``disk``.

    ``read_only`` is what the guest was promised (the disk itself may be writable); ``persistent`` keeps mapped what the
    guest uses again. ``observers`` is shared with the device, so that it can change while connected.
    """

    def __init__(
        self,
        *,
        vdev: str,
        disk: Disk,
        read_only: bool,
        layout: RequestLayout,
        grants: GrantMapper,
        persistent: bool,
        statistics: DiskStatistics,
        observers: list[Callable[[CompletedRequest], None]],
    ) -> None:
        self._vdev = vdev
        self._disk = disk
        self._read_only = read_only
        self.layout = layout
        self._map = self._map_persistent if persistent else grants.map
        self._unmap = self._keep_persistent if persistent else grants.unmap
        self._grants = grants
        self._persistent: dict[int, memoryview] = {}
        self.statistics = statistics
        self._observers = observers
        self._alignment = (disk.sector_size >> 9) - 1
        self._next_sector = 0

    def execute(self, request: bytes) -> tuple[int, int, int, int]:
        """Carry out one request: (id, operation, status) for the response, and its cost in virtual nanoseconds."""
        operation, nr_segments, _, identity, sector = self.layout.rw.unpack_from(request)
        if operation <= blkif.BLKIF_OP_FLUSH_DISKCACHE:
            segments = request[self.layout.segments_at :]
            if nr_segments > blkif.BLKIF_MAX_SEGMENTS_PER_REQUEST:
                segments = b""
            status, cost = self._read_or_write(operation, sector, nr_segments, segments)
            return identity, operation, status, cost
        if operation == blkif.BLKIF_OP_INDIRECT:
            return self._indirect(request)
        if operation == blkif.BLKIF_OP_DISCARD:
            return self._discard(request)
        self.statistics.errors += 1
        return identity, operation, blkif.BLKIF_RSP_EOPNOTSUPP, REQUEST_NS

    def close(self) -> None:
        """Let go of the persistent grants."""
        for ref in self._persistent:
            self._grants.unmap(ref)
        self._persistent.clear()

    def _indirect(self, request: bytes) -> tuple[int, int, int, int]:
        """Segments lie in pages of their own. The response names the inner operation, as blkback's does."""
        operation, nr_segments, identity, sector, *grefs = self.layout.indirect.unpack_from(request)
        segments = b""
        if operation not in (blkif.BLKIF_OP_READ, blkif.BLKIF_OP_WRITE):
            return identity, operation, *self._refuse(operation, sector)
        if 0 < nr_segments <= MAX_INDIRECT_SEGMENTS:
            pages = -(-nr_segments // self.layout.segments_per_page)
            try:
                segments = self._copy_pages(grefs[:pages])
            except GrantError:
                self._count(operation)
                return identity, operation, *self._refuse(operation, sector)
        status, cost = self._read_or_write(operation, sector, nr_segments, segments)
        return identity, operation, status, cost

    def _read_or_write(self, operation: int, sector: int, nr_segments: int, segments: bytes) -> tuple[int, int]:
        """dispatch_rw_block_io: (status, cost). ``segments`` is empty if there are too many of them."""
        self._count(operation)
        unpack, size = self.layout.segment.unpack_from, self.layout.segment.size
        if nr_segments == 0:
            if operation not in _FLUSHES:
                return self._refuse(operation, sector)
        elif not segments:
            return self._refuse(operation, sector)
        pieces: list[tuple[int, int, int]] = []
        misaligned = 0
        count = 0
        for at in range(0, nr_segments * size, size):
            gref, first, last = unpack(segments, at)
            if first > last or last >= _LAST_SECTOR_LIMIT:
                return self._refuse(operation, sector)
            pieces.append((gref, first << 9, last + 1 << 9))
            count += last - first + 1
            misaligned |= last - first + 1
        is_read = operation == blkif.BLKIF_OP_READ
        if (self._read_only and not is_read) or (count and sector + count > self._disk.sectors):
            return self._refuse(operation, sector, count)
        if count and (misaligned | sector) & self._alignment:
            return self._refuse(operation, sector, count)
        views: list[memoryview] = []
        try:
            for gref, start, end in pieces:
                views.append(self._map(gref, not is_read)[start:end])
            self._transfer(operation, sector, views)
            status = blkif.BLKIF_RSP_OKAY
        except GrantError:
            return self._refuse(operation, sector, count)
        except OSError:
            status = blkif.BLKIF_RSP_ERROR
        finally:
            for gref, _, _ in pieces[: len(views)]:
                self._unmap(gref)
        self.statistics.sectors += count
        return self._complete(operation, sector, count, status, views)

    def _transfer(self, operation: int, sector: int, views: list[memoryview]) -> None:
        """Move the data. A barrier or flush makes what was written before it last, then writes its own data."""
        disk = self._disk
        if operation == blkif.BLKIF_OP_READ:
            for view in views:
                disk.readinto(sector, view)
                sector += len(view) >> 9
            return
        if operation in _FLUSHES:
            disk.flush()
        for view in views:
            disk.write(sector, view)
            sector += len(view) >> 9

    def _discard(self, request: bytes) -> tuple[int, int, int, int]:
        """dispatch_discard_io: the range is checked as that of a write; alignment as blkdev_issue_discard does."""
        identity, sector, count = self.layout.discard.unpack_from(request)
        operation = blkif.BLKIF_OP_DISCARD
        self.statistics.discards += 1
        if self._read_only or (count and sector + count > self._disk.sectors) or (sector | count) & self._alignment:
            return identity, operation, *self._refuse(operation, sector, count, back_off=0)
        status = blkif.BLKIF_RSP_OKAY
        try:
            if count:
                self._disk.discard(sector, count)
        except OSError as error:
            unsupported = error.errno in (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)
            status = blkif.BLKIF_RSP_EOPNOTSUPP if unsupported else blkif.BLKIF_RSP_ERROR
        return identity, operation, *self._complete(operation, sector, count, status, [])

    def _count(self, operation: int) -> None:
        statistics = self.statistics
        if operation == blkif.BLKIF_OP_READ:
            statistics.reads += 1
        elif operation == blkif.BLKIF_OP_WRITE:
            statistics.writes += 1
        else:
            statistics.flushes += 1

    def _refuse(self, operation: int, sector: int, count: int = 0, back_off: int = BACK_OFF_NS) -> tuple[int, int]:
        """Answer BLKIF_RSP_ERROR without touching the disk."""
        status, cost = self._complete(operation, sector, count, blkif.BLKIF_RSP_ERROR, [], moved=False)
        return status, cost + back_off

    def _complete(
        self, operation: int, sector: int, count: int, status: int, data: list[memoryview], *, moved: bool = True
    ) -> tuple[int, int]:
        """Tell the observers and work out the cost: (status, nanoseconds)."""
        if status:
            self.statistics.errors += 1
        if self._observers:
            done = CompletedRequest(self._vdev, operation, sector, count, status, data)
            for observer in tuple(self._observers):
                observer(done)
        cost = REQUEST_NS
        if operation in _FLUSHES:
            cost += FLUSH_NS
        if moved and data:
            cost += count * SECTOR_NS
            if sector != self._next_sector:
                cost += SEEK_NS
            self._next_sector = sector + count
        return status, cost

    def _map_persistent(self, ref: int, readonly: bool) -> memoryview:
        """The page of a grant, mapped writable and kept for the next use; at blkback's limit the oldest gives way."""
        page = self._persistent.get(ref)
        if page is None:
            page = self._grants.map(ref, False)
            if len(self._persistent) >= MAX_PERSISTENT_GRANTS:
                oldest = next(iter(self._persistent))
                del self._persistent[oldest]
                self._grants.unmap(oldest)
            self._persistent[ref] = page
        return page

    def _keep_persistent(self, ref: int) -> None:
        """Persistent grants stay mapped."""

    def _copy_pages(self, refs: list[int]) -> bytes:
        """The contents of granted pages, one behind the other."""
        data = b""
        for ref in refs:
            data += self._map(ref, True)
            self._unmap(ref)
        return data
