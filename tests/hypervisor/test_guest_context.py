"""Vcpus beside the first: what their context must be, what they hold, and what is loaded when they run."""

from __future__ import annotations

import re
from functools import partial

from hypercalls.abi import ABI64
from hypercalls.errors import XenError
from hypercalls.public import arch_x86
from hypercalls.public import errno as e
from pvemu.cpu.exits import Exit, ExitKind
from pvemu.hypervisor.domain_page import DomainPages
from pvemu.hypervisor.event_channel import EventChannels
from pvemu.hypervisor.shared_info import SharedInfo
from pvemu.hypervisor.time import VirtualClock
from pvemu.hypervisor.vcpu import Vcpu
from pvemu.hypervisor.vcpu.guest_context import GuestContexts
from pvemu.hypervisor.vcpu.timers import FIRST_PERIOD_NS
from tests.hypervisor.test_vcpu import Registers
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
        self.regs = Registers()
        self.loaded: list[object] = []
        self.refusals: list[Exit | None] = []
        first, self.vcpu = (
            Vcpu(ABI64, i, self.regs, clock, world.guest, pages, self.events, infos, lambda: None, self._enter,
                 lambda: True)
            for i in range(2)
        )  # fmt: skip
        contexts = GuestContexts(
            ABI64, world.types, lambda image: self.loaded.append(image[:2]), self._enter,
            lambda: self.loaded.append("ldt"),
        )  # fmt: skip
        self.vcpu.set_info_guest = partial(contexts.set, self.vcpu)
        first.vcpus = self.vcpu.vcpus = [first, self.vcpu]
        self.first = first
        self.woken: list[int] = []
        self.vcpu.on_wake = lambda: self.woken.append(1)
        self.vcpu.on_sleep = lambda: self.woken.append(-1)
        self.clock = clock

    def _enter(self, *frame: object) -> Exit | None:
        self.loaded.append(frame)
        return self.refusals.pop(0) if self.refusals else None

    def initialise(self, wanted: arch_x86.vcpu_guest_context) -> int:
        try:
            self.first.initialise(1, ABI64.pack(wanted))
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


def test_up_and_down_are_told_once() -> None:
    second = Second()
    first = second.first
    refused(e.EINVAL, first.up, 1)
    refused(e.ENOENT, first.up, 2)
    assert second.initialise(context(second)) == 0
    states = [first.is_up(1)]
    first.up(1)
    first.up(1)
    states.append(first.is_up(1))
    first.down(1)
    first.down(1)
    assert [*states, first.is_up(1)] == [False, True, False]
    assert second.woken == [1, -1]


def test_the_last_one_that_goes_down_powers_off() -> None:
    second = Second()
    ends: list[str] = []
    second.first.on_last_down = lambda: ends.append("poweroff")
    second.first.down(0)
    assert ends == ["poweroff"]
    assert second.first.is_up(0)


def test_what_a_vcpu_begins_with() -> None:
    second = Second()
    wanted = context(second)
    wanted.user_regs.rip, wanted.user_regs.rsp, wanted.user_regs.rdi = 0x1000, 0x2000, 7
    wanted.user_regs.rflags, wanted.user_regs.ds = 0x3000, 0x10
    wanted.gs_base_kernel, wanted.kernel_sp, wanted.ctrlreg[0] = 0x5000, 0x6000, 8
    wanted.trap_ctxt[14] = arch_x86.trap_info(vector=14, flags=4, cs=0xE033, address=0x7000)
    wanted.event_callback_eip, wanted.debugreg[0], wanted.debugreg[1] = 0x8000, 0x9000, 0xFFFF_8000_0000_0000
    assert second.initialise(wanted) == 0
    vcpu = second.vcpu
    assert (vcpu.trap_table[14].address, vcpu.callbacks[0]) == (0x7000, 0x8000)
    assert (vcpu.kernel_sp, vcpu.iopl) == (0x6000, 0x3000)
    assert vcpu.debugreg.dr == [0x9000, 0, 0, 0]
    assert vcpu.parked.guest_root == second.tree[0]
    assert vcpu.resume is not None
    second.refusals = [Exit(ExitKind.EXCEPTION, 13, 0x10)]
    vcpu.resume()
    assert second.loaded == [
        b"\x7f\x03", "ldt", (0x1000, 0x2000, 3, 3, 0x202, (0x10, 0, 0, 0)), (0x1000, 0x2000, 3, 3, 0x202, (0, 0, 0, 0))
    ]  # fmt: skip
    assert (second.regs.values["rdi"], second.regs.values["gs_base"], second.regs.values["cr0"]) == (7, 0x5000, 8)


def test_user_mode_needs_its_own_tables() -> None:
    second = Second()
    wanted = context(second, flags=0)
    wanted.ctrlreg[1] = second.tree[0] << 12
    assert second.initialise(wanted) == 0


def test_a_context_that_is_online_wakes_nobody() -> None:
    second = Second()
    flags = arch_x86.VGCF_in_kernel | arch_x86.VGCF_online
    assert second.initialise(context(second, flags=flags)) == 0
    second.first.up(1)
    assert (second.first.is_up(1), second.woken) == (True, [])


def test_its_timer_ticks_from_when_it_runs() -> None:
    second = Second()
    port = second.events.bind_virq(0, 1)
    second.initialise(context(second))
    assert second.clock.next_due is None
    second.vcpu.timers.take_up()
    assert second.events.is_pending(port)
    assert second.clock.next_due == second.clock.now() + FIRST_PERIOD_NS


def test_a_vcpu_whose_timer_was_stopped_starts_none() -> None:
    second = Second()
    second.events.bind_virq(0, 1)
    second.initialise(context(second))
    second.first.stop_periodic_timer(1)
    second.vcpu.timers.take_up()
    assert second.clock.next_due is None


def test_its_timer_ticks_only_when_asked() -> None:
    second = Second()
    port = second.events.bind_virq(0, 1)
    due = [second.clock.next_due]
    second.first.set_periodic_timer(1, 2_000_000)
    due.append(second.clock.next_due)
    assert due == [None, second.clock.start + 2_000_000]
    assert second.events.is_pending(port)  # the last tick of one that never ran is longer ago
