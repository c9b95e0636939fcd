"""What a domain without devices has of physdev_op."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from hypercalls.public import errno as e
from pvemu.hypervisor.physdev import Physdev
from tests.hypervisor.world import RWX, World, pte, refused

if TYPE_CHECKING:
    from pvemu.hypervisor.vcpu import Vcpu


class FakeVcpu:
    iopl = 0
    iobitmap = (0, 0)


@pytest.fixture
def world() -> World:
    return World()


def test_the_pirq_eoi_map_is_one_writable_frame(world: World) -> None:
    tables = world.boot({0: pte(world.mfns[20], RWX)})
    physdev = Physdev(cast("Vcpu", FakeVcpu()), world.types)
    for mfn in (tables[3], 0, 1 << 40):
        refused(e.EINVAL, physdev.set_pirq_eoi_map, mfn)
    world.audit()
    frame = world.mfns[30]
    before = world.counts()
    physdev.set_pirq_eoi_map(frame)
    assert world.counts() != before
    after = world.counts()
    refused(e.EBUSY, physdev.set_pirq_eoi_map, world.mfns[31])
    assert world.counts() == after


def test_privilege_levels_and_bitmaps(world: World) -> None:
    vcpu = FakeVcpu()
    physdev = Physdev(cast("Vcpu", vcpu), world.types)
    physdev.set_iopl(3)
    assert vcpu.iopl == 0x3000
    refused(e.EINVAL, physdev.set_iopl, 4)
    physdev.set_iobitmap(0x1000, 65536)
    assert vcpu.iobitmap == (0x1000, 65536)
    refused(e.EINVAL, physdev.set_iobitmap, 0x1000, 65537)
    refused(e.EINVAL, physdev.eoi, 3)


def test_pirqs_are_given_out_until_there_are_none(world: World) -> None:
    physdev = Physdev(cast("Vcpu", FakeVcpu()), world.types)
    assert [physdev.get_free_pirq(0) for _ in range(3)] == [55, 54, 53]
    assert [physdev.get_free_pirq(1) for _ in range(9)] == [*range(16, 24), 52]
    physdev.eoi(55)
    refused(e.EINVAL, physdev.eoi, 51)
    assert [physdev.get_free_pirq(3) for _ in range(28)] == list(range(51, 23, -1))
    refused(e.ENOSPC, physdev.get_free_pirq, 0)
    refused(e.ENOSPC, physdev.get_free_pirq, 1)
