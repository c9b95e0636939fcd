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
    assert physdev.iobitmap == (0x1000, 65536)
    refused(e.EINVAL, physdev.set_iobitmap, 0x1000, 65537)
    refused(e.EINVAL, physdev.eoi, 3)
