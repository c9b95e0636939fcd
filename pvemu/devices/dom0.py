"""dom0 for one domain: xenstored, xenconsoled and a blkback for each disk; and the guest as back-ends want it, its
grants mapped and its event channels bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from pvemu.devices.backend import EventError, GrantError
from pvemu.devices.blkback import Blkback
from pvemu.devices.console import ConsoleBackend
from pvemu.devices.xenstore.ring import XenstoreRing
from pvemu.devices.xenstore.server import XenStore
from pvemu.devices.xenstore.toolstack import PvDomain, Vbd, create_domain
from pvemu.hypervisor.grant_table import GrantRefusedError, GrantTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.config import DomainConfig
    from pvemu.disk.image import Disk
    from pvemu.frames import Mfn
    from pvemu.hypervisor.event_channel import BackendChannel, EventChannels
    from pvemu.hypervisor.time import VirtualClock
    from pvemu.memory.ram import Ram

__all__ = ["CONSOLE_GRANT", "STORE_GRANT", "Dom0", "EventBinder", "GrantMapper"]

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

    def __init__(self, events: EventChannels) -> None:
        self._events = events

    def bind_backend(self, port: int, notify: Callable[[], None]) -> BackendChannel:
        """Bind a port that the guest offers; EventError with Xen's errno."""
        try:
            return self._events.bind_backend(port, notify)
        except XenError as error:
            raise EventError(error.errno) from None


class Dom0:
    """What serves the guest from outside. ``store_mfn`` and ``console_mfn`` are the rings' frames, ``store_port`` and
    ``console_port`` their channels at the guest. Console bytes go to ``on_output``; ``on_poll`` hears that the guest
    looked for input; ``charge`` is told how long a disk took, in nanoseconds; ``log`` takes lines of dom0's log.
    """

    def __init__(
        self, config: DomainConfig, uuid: str, protocol: str, disks: list[Disk], ram: Ram, grants: GrantTable,
        events: EventChannels, clock: VirtualClock, store: tuple[Mfn, int], console: tuple[Mfn, int],
        on_output: Callable[[bytes], None], on_poll: Callable[[], None], charge: Callable[[int], None],
        log: Callable[[str], None],
    ) -> None:  # fmt: skip
        vbds = tuple(
            Vbd(disk.number, disk.vdev, f"/dev/loop{i}", "r" if disk.read_only else "w", disk.cdrom, f"7:{i:x}")
            for i, disk in enumerate(config.disks)
        )
        kib = config.memory_mib << 10
        (store_mfn, store_port), (console_mfn, console_port) = store, console
        self.domain = domain = PvDomain(
            name=config.name, kernel=config.kernel, domid=config.domid, ramdisk=config.ramdisk,
            cmdline=config.cmdline or None, static_max=kib, target=kib, disks=vbds, store_port=store_port,
            store_ring_ref=store_mfn, console_port=console_port, console_ring_ref=console_mfn, uuid=uuid,
            protocol=protocol, vcpus=config.vcpus,
        )  # fmt: skip
        for ref in (CONSOLE_GRANT, STORE_GRANT):  # xenconsoled and xenstored map their rings before the guest runs
            grants.map_for_backend(ref, readonly=False)
        self.xenstore = XenStore()
        connection = create_domain(self.xenstore, domain)
        self.store_ring = XenstoreRing(ram.frame(store_mfn), connection, self._notify_store, self.xenstore)
        self._store_channel = events.bind_backend(store_port, self.store_ring.kick)
        self.console = ConsoleBackend(ram.frame(console_mfn), on_output, on_poll)
        channel = events.bind_backend(console_port, self.console.kick)
        self.console.notify = channel.notify
        mapper, binder, client = GrantMapper(ram, grants), EventBinder(events), self.xenstore.client()
        self._client = client
        self.backends: dict[str, Blkback] = {}  #: by vdev
        for i, (disk, vbd) in enumerate(zip(disks, vbds, strict=True)):
            self.backends[vbd.name] = backend = Blkback(
                vdev=vbd.name, disk=disk, nodename=f"/local/domain/0/backend/vbd/{domain.domid}/{vbd.vdev}",
                otherend=f"{domain.home}/device/vbd/{vbd.vdev}", store=client, grants=mapper, events=binder,
                clock=clock, charge=charge, log=log, read_only=vbd.mode == "r", cdrom=vbd.is_cdrom, loop=i,
            )  # fmt: skip
            backend.probe()

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
