"""Random calls of event_channel_op, sched_op and vcpu_op, by seed: nothing is refused with an error that is not
documented, nothing but a refusal comes out of bad arguments, and a reset takes everything back.
"""

from __future__ import annotations

import random
from typing import Final

import pytest

from hypercalls.public import event_channel as ec
from hypercalls.public import sched, vcpu, xen
from tests.hypercalls.documented import event_channel_op, sched_op, vcpu_op
from tests.hypercalls.documented.world import DOM0, DOMID, FREE, NOBODY, NOWHERE, PAGES, WIDTHS, World
from tests.hypercalls.operations import declared

SELF = xen.DOMID_SELF
CALLS: Final = 2500
FAMILIES = {
    "event_channel_op": event_channel_op.FAMILY, "sched_op": sched_op.FAMILY, "vcpu_op": vcpu_op.FAMILY,
}  # fmt: skip
#: What does not come back, or ends the domain.
NOT_TRIED = {"SCHEDOP_block", "SCHEDOP_shutdown", "SCHEDOP_shutdown_code", "VCPUOP_down", "VCPUOP_initialise"}
NUMBERS = (0, 1, 2, 3, 5, 8, 31, 60, 63, 64, 129, 1023, 1024, 1 << 20, 0x7FFF_FFFF, 0x8000_0003, 0xFFFF_FFFF)
DOMIDS = (SELF, SELF, SELF, DOMID, DOM0, NOBODY, xen.DOMID_IO)


class Caller:
    """Makes calls of one world, and remembers what became of them."""

    def __init__(self, bits: int, seed: int) -> None:
        self.world = World(WIDTHS[bits])
        self.random = random.Random(seed)
        self.pins = self._counts()
        self.seen: set[tuple[str, int]] = set()

    def _counts(self) -> bytes:
        """References and types of all frames, a frame without a type like any other such."""
        frames = self.world.frames
        return frames.type_count.tobytes() + frames.refs.tobytes()

    def _number(self) -> int:
        return self.random.choice(NUMBERS) if self.random.random() < 0.3 else self.random.randrange(1, 24)

    def _frame(self) -> int:
        world = self.world
        return self.random.choice([*world.mfns[FREE : FREE + 3], world.root, 0, 1 << 40])

    def _event_channel_op(self, name: str) -> object:
        kind = getattr(ec, name.replace("EVTCHNOP", "evtchn"))
        fields = {field: self._number() for field in ("port", "remote_port", "pirq", "flags", "priority")}
        choose = self.random.choice
        fields |= {
            "dom": choose(DOMIDS), "remote_dom": choose(DOMIDS), "vcpu": choose([0, 0, 1, 2, 0xFFFF_FFFF]),
            "virq": choose([*range(26), 0xFFFF_FFFF]), "control_gfn": self._frame(), "array_gfn": self._frame(),
            "offset": choose([0, 8, 4, 4024, 4032]),
        }  # fmt: skip
        known = vars(kind())
        return kind(**{field: value for field, value in fields.items() if field in known})

    def _sched_op(self, name: str) -> object:
        number = self._number
        match name:
            case "SCHEDOP_poll":
                ports = self.world.put(b"".join(number().to_bytes(4, "little") for _ in range(4)))
                return sched.sched_poll(ports=ports, nr_ports=self.random.choice([0, 1, 2, 4, 129]), timeout=1)
            case "SCHEDOP_watchdog":
                return sched.sched_watchdog(id=self.random.randrange(4), timeout=1 << 20)
            case "SCHEDOP_remote_shutdown":
                return sched.sched_remote_shutdown(domain_id=self.random.choice(DOMIDS))
        return bytes(64)

    def _vcpu_op(self, name: str) -> object:
        match name:
            case "VCPUOP_set_periodic_timer":
                return vcpu.vcpu_set_periodic_timer(period_ns=self.random.choice([0, 1, 10**6, 1 << 40, 1 << 62]))
            case "VCPUOP_set_singleshot_timer":
                return vcpu.vcpu_set_singleshot_timer(timeout_abs_ns=self.random.choice([0, 1, 1 << 50, 1 << 63]))
            case "VCPUOP_register_vcpu_info":
                return vcpu.vcpu_register_vcpu_info(mfn=self.random.choice([0, 1 << 40]), offset=self._number())
            case "VCPUOP_register_runstate_memory_area" | "VCPUOP_register_vcpu_time_memory_area":
                return self.random.choice([NOWHERE, PAGES.stop - 512, self.world.xen]).to_bytes(8, "little")
            case "VCPUOP_send_nmi":
                return NOWHERE
        return bytes(64)

    def call(self) -> None:
        """One hypercall, which is done or refused as documented."""
        world, rng = self.world, self.random
        world._next_put = PAGES.start
        hypercall = rng.choice(["event_channel_op", "event_channel_op", "event_channel_op", "sched_op", "vcpu_op"])
        operations = declared(hypercall)
        name = rng.choice([name for name in sorted(operations) if name not in NOT_TRIED])
        argument = getattr(self, f"_{hypercall}")(name) if rng.random() < 0.95 else NOWHERE
        vcpuid = [rng.choice([0, 0, 0, 1, 2, 0xFFFF_FFFF])] if hypercall == "vcpu_op" else []
        answer = world.hypercall(hypercall, operations[name], *vcpuid, argument)
        if answer < 0 or answer >> 31:
            key = name, (1 << 32) - answer if answer > 0 else -answer
            assert key in FAMILIES[hypercall].documented, f"{key} is not documented"
            self.seen.add(key)

    def check_reset(self) -> None:
        """Nothing is left of the channels, nor of the pages that they were given."""
        reset = ec.evtchn_reset(dom=SELF)
        assert self.world.hypercall("event_channel_op", ec.EVTCHNOP_reset, reset) == 0
        for port in range(1, 64):
            assert self.world.event_channels.status(SELF, port).status == ec.EVTCHNSTAT_closed
        assert self.world.event_channels.bind_ipi(0) == 1
        assert self._counts() == self.pins


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bits", [64, 32])
def test_random_calls(bits: int, seed: int) -> None:
    caller = Caller(bits, seed)
    for _ in range(CALLS):
        caller.call()
    caller.check_reset()
    assert len(caller.seen) > 50
    assert not caller.world.is_stuck
