"""dom0 for one domain: xenstored, xenconsoled and a blkback for each disk; and the guest as back-ends want it, its
grants mapped and its event channels bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from pvemu.devices.backend import EventError, GrantError
from pvemu.devices.blkback import Blkback, BlkifRing
from pvemu.devices.console import ConsoleBackend
from pvemu.devices.xenstore.ring import XenstoreRing
from pvemu.devices.xenstore.server import XenStore
from pvemu.devices.xenstore.toolstack import PvDomain, Vbd, create_domain
from pvemu.hypervisor.grant_table import GrantRefusedError, GrantTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.config import DomainConfig
    from pvemu.devices import backend
    from pvemu.devices.xenstore.connection import Connection
    from pvemu.disk.image import Disk
    from pvemu.frames import Mfn
    from pvemu.hypervisor.event_channel import EventChannels
    from pvemu.hypervisor.time import VirtualClock
    from pvemu.memory.ram import Ram

__all__ = ["CONSOLE_GRANT", "STORE_GRANT", "Dom0", "Dom0Parts", "EventBinder", "GrantMapper"]

CONSOLE_GRANT, STORE_GRANT = 0, 1  # GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE


class GrantMapper:
    """dom0's view of the guest's grants, as back-ends want it."""

    def __init__(self, ram: Ram, grants: GrantTable) -> None:
        self._ram = ram
        self._grants = grants

    def map(self, ref: int, readonly: bool) -> memoryview:
        """The frame that the guest granted under ``ref``; GrantError with Xen's status."""
        try:
            mfn = self._grants.map_for_backend(ref, readonly)
        except GrantRefusedError as refused:
            raise GrantError(refused.status) from None
        if not readonly and mfn in self._ram.code_frames:
            self._ram.on_code_write(mfn)
        view = self._ram.frame(mfn)
        return view.toreadonly() if readonly else view

    def unmap(self, ref: int) -> None:
        """Undo one ``map``."""
        self._grants.unmap_for_backend(ref)


class EventBinder:
    """dom0's end of event channels, as back-ends want it."""

    def __init__(self, events: backend.EventBinder) -> None:
        self._events = events

    def bind_backend(self, port: int, notify: Callable[[], None]) -> backend.BackendChannel:
        """Bind a port that the guest offers; EventError with Xen's errno."""
        try:
            return self._events.bind_backend(port, notify)
        except XenError as error:
            raise EventError(error.errno) from None


class Dom0Parts:
    """What dom0 is made of: its daemons and back-ends, and the channels by which they hear of the guest."""

    def channels(self, events: EventChannels) -> backend.EventBinder:
        """Event channels, as dom0 hears and raises them."""
        return events

    def store_ring(
        self, page: memoryview, connection: Connection, notify: Callable[[], None], store: XenStore
    ) -> XenstoreRing:
        """xenstored's end of the guest's ring."""
        return XenstoreRing(page, connection, notify, store)

    def console(
        self, page: memoryview, on_output: Callable[[bytes], None], on_poll: Callable[[], None]
    ) -> ConsoleBackend:
        """xenconsoled's end of the guest's console."""
        return ConsoleBackend(page, on_output, on_poll)

    @property
    def blkif_ring(self) -> Callable[..., BlkifRing]:
        """What makes a blkback's ring once a front end connects."""
        return BlkifRing


class Dom0:
    """What serves the guest from outside. ``store_mfn`` and ``console_mfn`` are the rings' frames, ``store_port`` and
    ``console_port`` their channels at the guest. Console bytes go to ``on_output``; ``on_poll`` hears that the guest
    looked for input; ``charge`` is told how long a disk took, in nanoseconds; ``log`` takes lines of dom0's log;
    ``parts`` are what it is made of.
    """

    def __init__(
        self, config: DomainConfig, uuid: str, protocol: str, disks: list[Disk], ram: Ram, grants: GrantTable,
        events: EventChannels, clock: VirtualClock, store: tuple[Mfn, int], console: tuple[Mfn, int],
        on_output: Callable[[bytes], None], on_poll: Callable[[], None], charge: Callable[[int], None],
        log: Callable[[str], None], parts: Dom0Parts,
    ) -> None:  # fmt: skip
        vbds = tuple(
            Vbd(disk.number, disk.vdev, f"/dev/loop{i}", "r" if disk.read_only else "w", disk.cdrom, f"7:{i:x}")
            for i, disk in enumerate(config.disks)
        )
        kib = config.memory_mib << 10
        static_max = max(config.maxmem_mib << 10, kib)
        (store_mfn, store_port), (console_mfn, console_port) = store, console
        self.domain = domain = PvDomain(
            name=config.name, kernel=config.kernel, domid=config.domid, ramdisk=config.ramdisk,
            cmdline=config.cmdline or None, static_max=static_max, target=kib, disks=vbds, store_port=store_port,
            store_ring_ref=store_mfn, console_port=console_port, console_ring_ref=console_mfn, uuid=uuid,
            protocol=protocol, vcpus=config.vcpus, max_vcpus=config.nr_vcpus,
        )  # fmt: skip
        for ref in (CONSOLE_GRANT, STORE_GRANT):  # xenconsoled and xenstored map their rings before the guest runs
            grants.map_for_backend(ref, readonly=False)
        self.xenstore = XenStore()
        connection = create_domain(self.xenstore, domain)
        channels = parts.channels(events)
        self.store_ring = parts.store_ring(ram.frame(store_mfn), connection, self._notify_store, self.xenstore)
        self._store_channel = channels.bind_backend(store_port, self.store_ring.kick)
        self.console = parts.console(ram.frame(console_mfn), on_output, on_poll)
        channel = channels.bind_backend(console_port, self.console.kick)
        self.console.notify = channel.notify
        mapper, binder, client = GrantMapper(ram, grants), EventBinder(channels), self.xenstore.client()
        self._client = client
        self.backends: dict[str, Blkback] = {}  #: by vdev
        for i, (disk, vbd) in enumerate(zip(disks, vbds, strict=True)):
            self.backends[vbd.name] = blkback = Blkback(
                vdev=vbd.name, disk=disk, nodename=f"/local/domain/0/backend/vbd/{domain.domid}/{vbd.vdev}",
                otherend=f"{domain.home}/device/vbd/{vbd.vdev}", store=client, grants=mapper, events=binder,
                clock=clock, charge=charge, log=log, read_only=vbd.mode == "r", cdrom=vbd.is_cdrom, loop=i,
                make_ring=parts.blkif_ring,
            )  # fmt: skip
            blkback.probe()

    def ask_to(self, request: str) -> None:
        """What ``xl shutdown``, ``reboot`` and ``save`` write for the guest: ``poweroff``, ``reboot``, ``suspend``."""
        self._client.write(f"{self.domain.home}/control/shutdown", request)

    def resume(self) -> None:
        """The domain runs again: xenstored tells of its next end as well (xs_resume_domain)."""
        self._client.resume(self.domain.domid)

    def _notify_store(self) -> None:
        self._store_channel.notify()

    def disk_statistics(self) -> dict[str, dict[str, int]]:
        """By vdev: read and write requests, and 512-byte sectors moved."""
        return {
            vdev: {
                "reads": backend.statistics.reads,
                "writes": backend.statistics.writes,
                "sectors": backend.statistics.sectors,
            }
            for vdev, backend in self.backends.items()
        }
