"""Strictness put into a machine, at the three moments when it can be: populated, built, and about to have a dom0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.devices.dom0 import Dom0Parts
from pvemu.strict import Strictness
from pvemu.strict.disk import UnorderedBlkifRing
from pvemu.strict.events import AwkwardChannels, Later, raise_spurious_upcalls
from pvemu.strict.memory import make_junk, shuffle_frames, spoil_memory
from pvemu.strict.registers import clobber_arguments
from pvemu.strict.rings import SlowConsole, SlowXenstoreRing
from pvemu.strict.scheduling import Slices

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable

    from hypercalls.abi import Abi
    from pvemu.builder.build import BuiltDomain
    from pvemu.config import StrictConfig
    from pvemu.cpu.guest_cpu import GuestCpu
    from pvemu.devices import backend
    from pvemu.devices.blkback import BlkifRing
    from pvemu.devices.console import ConsoleBackend
    from pvemu.devices.xenstore.connection import Connection
    from pvemu.devices.xenstore.ring import XenstoreRing
    from pvemu.devices.xenstore.server import XenStore
    from pvemu.hypervisor.event_channel import EventChannels
    from pvemu.hypervisor.hypercall import HypercallDispatcher
    from pvemu.hypervisor.memory import Reservation
    from pvemu.hypervisor.sched import Sched
    from pvemu.hypervisor.time import VirtualClock
    from pvemu.hypervisor.vcpu import Vcpu
    from pvemu.memory.machine_memory import MachineMemory

__all__ = ["StrictMachine"]

#: How long a dom0 keeps the CPU that has as much to do as ours: a guest that waits yields thousands of times.
_BUSY_DOM0_NS = 50_000


class StrictMachine:
    """What a strict machine does besides."""

    def __init__(self, config: StrictConfig, domid: int, clock: VirtualClock) -> None:
        self._strictness = Strictness(config)
        self._domid = domid  # a domain that comes of a reboot has other luck than the one before
        self._clock = clock

    def populated(self, p2m: array[int]) -> None:
        """The domain has its frames, in ``p2m``, and nothing else yet."""
        if "frames" in self._strictness:
            shuffle_frames(p2m, self._strictness.random("frames", f"{self._domid}"))

    def built(self, built: BuiltDomain, memory: MachineMemory, reservation: Reservation) -> None:
        """Kernel, tables and start_info are in memory."""
        if "memory" in self._strictness:
            junk = make_junk(self._strictness.random("memory", f"{self._domid}"))
            spoil_memory(built, memory.ram, memory.allocator.domain_frames, junk)
            reservation.scrubbed_page = junk

    def entered(
        self, abi: Abi, cpu: GuestCpu, hypercalls: HypercallDispatcher, vcpus: list[Vcpu], sched: Sched
    ) -> None:
        """The guest is about to have hypercalls and timers."""
        sched.yield_ns = _BUSY_DOM0_NS
        if "scheduling" in self._strictness:
            sched.slice_ns = Slices(self._strictness.random("scheduling", f"{self._domid}")).next_ns
        if "registers" in self._strictness:
            clobber_arguments(abi, cpu, hypercalls)
        if "events" in self._strictness:
            rng = self._strictness.random("events", f"{self._domid}/upcalls")
            raise_spurious_upcalls(lambda: sched.current, hypercalls, rng)
        if "timers" in self._strictness:
            later = Later(self._clock, self._strictness.random("timers", f"{self._domid}"))
            for vcpu in vcpus:
                vcpu.timers.lateness = later.delay

    def stopped(self, console: ConsoleBackend) -> None:
        """The domain has shut down. What it wrote before is not lost, however late xenconsoled is."""
        while console.has_output:
            console.kick()

    @property
    def dom0_parts(self) -> Dom0Parts:
        """What dom0 is to be made of."""
        return _AwkwardParts(self._strictness, self._domid, self._clock)


class _AwkwardParts(Dom0Parts):
    def __init__(self, strictness: Strictness, domid: int, clock: VirtualClock) -> None:
        self._strictness = strictness
        self._domid = domid
        self._clock = clock
        self._disks = 0

    def channels(self, events: EventChannels) -> backend.EventBinder:
        if "events" not in self._strictness:
            return super().channels(events)
        return AwkwardChannels(events, self._clock, self._strictness.random("events", f"{self._domid}/channels"))

    def store_ring(
        self, page: memoryview, connection: Connection, notify: Callable[[], None], store: XenStore
    ) -> XenstoreRing:
        if "store" not in self._strictness:
            return super().store_ring(page, connection, notify, store)
        rng = self._strictness.random("store", f"{self._domid}")
        return SlowXenstoreRing(page, connection, notify, store, self._clock, rng)

    def console(
        self, page: memoryview, on_output: Callable[[bytes], None], on_poll: Callable[[], None]
    ) -> ConsoleBackend:
        if "console" not in self._strictness:
            return super().console(page, on_output, on_poll)
        return SlowConsole(page, on_output, on_poll, self._clock, self._strictness.random("console", f"{self._domid}"))

    @property
    def blkif_ring(self) -> Callable[..., BlkifRing]:
        if "disk" not in self._strictness:
            return super().blkif_ring

        def make(**how: object) -> BlkifRing:
            self._disks += 1
            return UnorderedBlkifRing(self._strictness.random("disk", f"{self._domid}/{self._disks}"), **how)

        return make
