"""Pieces of strictness by themselves: what is shuffled, spoilt, left alone; what is late; what a spurious upcall is."""

from __future__ import annotations

import random
from array import array
from types import SimpleNamespace
from typing import Any

import pytest

from hypercalls.public.errno import ENOSYS
from pvemu.config import ASPECTS, StrictConfig
from pvemu.errors import ConfigError
from pvemu.hypervisor.time import VirtualClock
from pvemu.strict import Strictness
from pvemu.strict.events import AwkwardChannels, Later, raise_spurious_upcalls
from pvemu.strict.memory import make_junk, shuffle_frames
from pvemu.strict.registers import clobber_arguments


class Hypercalls:
    """What strictness has of the dispatcher: a place to watch from."""

    def __init__(self) -> None:
        self.watches: list[tuple[Any, Any]] = []

    def monitor(self, before: Any, after: Any) -> None:
        self.watches.append((before, after))

    def call(self, nargs: int, result: int, inner: Any = lambda: None) -> None:
        row = SimpleNamespace(nargs_of=lambda bits: nargs)
        for before, _ in self.watches:
            before(row, [])
        inner()
        for _, after in self.watches:
            after(row, [], result)


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_frames_are_the_same_ones(seed: int) -> None:
    p2m = array("Q", range(1000, 3000))
    shuffle_frames(p2m, random.Random(seed))
    assert sorted(p2m) == list(range(1000, 3000))
    assert list(p2m) != list(range(1000, 3000))


def test_junk_is_not_zero() -> None:
    pages = {make_junk(random.Random(seed)) for seed in range(10)}
    assert bytes([0xC2]) * 4096 in pages
    assert len(pages) > 2
    assert bytes(4096) not in pages


@pytest.mark.parametrize(("bits", "pattern"), [(64, 0xDEADBEEFDEADF00D), (32, 0xDEADF00D)])
def test_as_many_registers_as_there_are_arguments(bits: int, pattern: int) -> None:
    written: list[tuple[str, int]] = []
    cpu = SimpleNamespace(writer=lambda name: lambda value: written.append((name, value)))
    abi = SimpleNamespace(bits=bits, arg_registers=("a", "b", "c", "d", "e"))
    hypercalls = Hypercalls()
    clobber_arguments(abi, cpu, hypercalls)  # type: ignore[arg-type]  # as much of them as is used
    hypercalls.call(3, 0)
    assert written == [("a", pattern), ("b", pattern), ("c", pattern)]
    written.clear()
    hypercalls.call(3, -ENOSYS)
    hypercalls.call(0, 0)
    assert written == []
    hypercalls.call(2, 0, inner=lambda: hypercalls.call(5, 0))  # a multicall
    assert written == [("a", pattern), ("b", pattern)]


def test_an_upcall_may_find_nothing_but_only_where_there_is_a_handler() -> None:
    vcpu: Any = SimpleNamespace(callbacks={}, info=SimpleNamespace(upcall_pending=0))
    hypercalls = Hypercalls()
    raise_spurious_upcalls(lambda: vcpu, hypercalls, random.Random(1))  # type: ignore[arg-type]  # as above
    for _ in range(200):
        hypercalls.call(1, 0)
    assert vcpu.info.upcall_pending == 0
    vcpu.callbacks[0] = 0x1000
    seen = 0
    for _ in range(200):
        hypercalls.call(1, 0)
        seen += vcpu.info.upcall_pending
        vcpu.info.upcall_pending = 0
    assert 2 < seen < 60


def test_things_come_late_and_each_at_its_time() -> None:
    clock = VirtualClock()
    later = Later(clock, random.Random(2))
    came: list[int] = []
    for i in range(40):
        later(lambda i=i: came.append(i))  # type: ignore[misc]  # a default that binds the number
    assert 0 < len(came) < 40
    while clock.skip_to_next():
        pass
    assert sorted(came) == list(range(40))
    assert came != list(range(40))


def test_a_closed_channel_hears_nothing_that_was_under_way() -> None:
    raised: list[str] = []
    real = SimpleNamespace(notify=lambda: raised.append("x"), close=lambda: raised.append("closed"))
    clock = VirtualClock()
    channels = AwkwardChannels(SimpleNamespace(bind_backend=lambda port, notify: real), clock, random.Random(0))  # type: ignore[arg-type]  # as above
    channel = channels.bind_backend(1, lambda: None)
    for _ in range(30):
        channel.notify()
    before = raised.count("x")
    assert before < 30
    channel.close()
    while clock.skip_to_next():
        pass
    assert raised.count("x") == before


def test_streams_depend_on_seed_aspect_and_part_alone() -> None:
    one = Strictness(StrictConfig(5))
    other = Strictness(StrictConfig(5, ("disk",)))
    assert one.random("disk", "1").random() == other.random("disk", "1").random()
    assert one.random("disk", "1").random() != one.random("disk", "2").random()
    assert one.random("disk").random() != Strictness(StrictConfig(6)).random("disk").random()
    assert ("store" in one, "store" in other) == (True, False)


def test_an_aspect_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r"--strict-aspects 'luck': no aspect; take some of registers"):
        StrictConfig(1, (*ASPECTS, "luck"))
