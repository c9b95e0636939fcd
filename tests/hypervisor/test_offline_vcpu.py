"""Vcpus that exist beside the first: what their context must be, and what they hold."""

from __future__ import annotations

import re

from hypercalls.abi import ABI64
from hypercalls.errors import XenError
from hypercalls.public import arch_x86
from hypercalls.public import errno as e
from hypercalls.public import vcpu as vc
from pvemu.hypervisor.domain_page import DomainPages
from pvemu.hypervisor.event_channel import EventChannels
from pvemu.hypervisor.shared_info import SharedInfo
from pvemu.hypervisor.time import VirtualClock
from pvemu.hypervisor.vcpu.areas import VcpuAreas
from pvemu.hypervisor.vcpu.guest_context import OfflineVcpu
from pvemu.hypervisor.vcpu.timers import VcpuTimers
from tests.hypervisor.world import DOMID, World, refused


class Second:
    """Vcpu 1 of a domain with page tables at ``tree``, and a GDT's frame."""

    def __init__(self) -> None:
        self.world = world = World()
        self.tree = world.tree({})
        shared = SharedInfo(ABI64, memoryview(bytearray(4096)))
        infos = [shared.vcpu_info(i) for i in range(2)]
        clock, pages = VirtualClock(), DomainPages(world.ram, world.types)
        self.events = EventChannels(DOMID, shared, infos, pages, lambda line: None)
        areas = VcpuAreas(ABI64, 1, infos, clock, world.guest, pages, vc.RUNSTATE_offline)
        self.log: list[str] = []
        timers = VcpuTimers(1, clock, self.events, 0)
        self.vcpu = OfflineVcpu(ABI64, DOMID, 1, areas, timers, world.types, self.log.append)
        self.clock = clock

    def initialise(self, wanted: arch_x86.vcpu_guest_context) -> int:
        try:
            self.vcpu.initialise(ABI64.pack(wanted))
        except XenError as error:
            return error.errno
        return 0


def context(second: Second, **fields: int) -> arch_x86.vcpu_guest_context:
    made = arch_x86.vcpu_guest_context(flags=arch_x86.VGCF_in_kernel)
    made.ctrlreg[3] = second.tree[0] << 12
    made.gdt_frames[0] = second.world.mfns[30]
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def set_field(made: arch_x86.vcpu_guest_context, path: str, value: int) -> None:
    """As in ``trap_ctxt[3].address``."""
    target: object = made
    steps = re.findall(r"\w+", path)
    for step in steps[:-1]:
        target = target[int(step)] if isinstance(target, list) else getattr(target, step)
    if isinstance(target, list):
        target[int(steps[-1])] = value
    else:
        setattr(target, steps[-1], value)


def test_a_context_holds_its_tables() -> None:
    second = Second()
    world = second.world
    assert second.initialise(context(second, gdt_ents=8)) == 0
    refused(e.EINVAL, world.mm.pin_table, 1, second.tree[0])
    refused(e.EINVAL, world.mm.pin_table, 1, world.mfns[30])
    assert second.initialise(context(second)) == e.EEXIST
    refused(e.EOPNOTSUPP, second.vcpu.up)
    assert second.log == [f"d{DOMID}v1: VCPUOP_up: pvemu runs one vcpu, this one stays down"]


def test_user_mode_needs_its_own_tables() -> None:
    second = Second()
    wanted = context(second, flags=0)
    wanted.ctrlreg[1] = second.tree[0] << 12
    assert second.initialise(wanted) == 0


def test_a_context_that_is_online_is_refused() -> None:
    second = Second()
    before = second.world.counts()
    flags = arch_x86.VGCF_in_kernel | arch_x86.VGCF_online
    assert second.initialise(context(second, flags=flags)) == e.EOPNOTSUPP
    assert second.log == [f"d{DOMID}v1: VGCF_online: pvemu runs one vcpu, this one stays down"]
    assert second.world.counts() == before
    refused(e.EINVAL, second.vcpu.up)


def test_its_timer_ticks_only_when_asked() -> None:
    second = Second()
    port = second.events.bind_virq(0, 1)
    due = [second.clock.next_due]
    second.vcpu.timers.set_periodic_timer(2_000_000)
    due.append(second.clock.next_due)
    assert due == [None, second.clock.start + 2_000_000]
    assert second.clock.skip_to_next(second.clock.start + 5_000_000)
    assert second.events.is_pending(port)
