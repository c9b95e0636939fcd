"""multicall (xen/common/multicall.c, xen/common/compat/multicall.c)."""

from __future__ import annotations

from hypercalls.public import errno as e
from hypercalls.public import xen
from tests.hypercalls.documented import Case, Family
from tests.hypercalls.documented.world import NOWHERE, PAGES, READ_ONLY, World


def _entry(world: World, op: int) -> bytes:
    return world.abi.pack(xen.multicall_entry(op=op))


def _result(world: World, place: int) -> int:
    value = world.get(xen.multicall_entry, place).result
    return int(value - (1 << world.abi.long_size * 8) if value >> world.abi.long_size * 8 - 1 else value)


def _nested(world: World) -> int:
    """The list goes on behind the one that is refused."""
    version = _entry(world, xen.__HYPERVISOR_xen_version)
    place = world.put(_entry(world, xen.__HYPERVISOR_multicall) + version)
    assert world.hypercall("multicall", place, 2) == 0
    assert _result(world, place + len(version)) == 4 << 16 | 17
    return _result(world, place)


def _behind_the_end(world: World) -> int:
    """The last entry is not mapped; the others are done."""
    entry = _entry(world, xen.__HYPERVISOR_xen_version)
    world.ram.write((world.mfn(READ_ONLY.stop - 1) << 12) + 4096 - 2 * len(entry), entry * 2)
    return world.hypercall("multicall", READ_ONLY.stop - 2 * len(entry), 3)


def _result_in_vain(world: World) -> int:
    """A call whose result cannot be written is done; those behind it are not."""
    enable = xen.multicall_entry(op=xen.__HYPERVISOR_vm_assist)
    enable.args = [xen.VMASST_CMD_enable, xen.VMASST_TYPE_architectural_iopl, 0, 0, 0, 0]
    disable = xen.multicall_entry(op=xen.__HYPERVISOR_vm_assist)
    disable.args = [xen.VMASST_CMD_disable, xen.VMASST_TYPE_architectural_iopl, 0, 0, 0, 0]
    place = world.put_read_only(world.abi.pack(enable) + world.abi.pack(disable))
    result = world.hypercall("multicall", place, 2)
    assert xen.VMASST_TYPE_architectural_iopl in world.domain.assists
    return result


def _list_of_xens(world: World) -> int:
    """In 32 bits any address will do while nothing is there to be read."""
    assert world.hypercall("multicall", world.xen, 0) == (-e.EFAULT if world.abi.bits == 64 else 0)
    return world.hypercall("multicall", world.xen, 1)


FAMILY = Family(
    documented={
        ("multicall", e.EFAULT): "an entry is not mapped, or its result cannot be written; do_multicall",
        ("multicall", e.EINVAL): "the result of a multicall in a multicall; do_multicall",
    },
    cases=[
        Case("multicall", e.EFAULT, lambda world: world.hypercall("multicall", NOWHERE, 1)),
        Case("multicall", e.EFAULT, lambda world: world.hypercall("multicall", NOWHERE, 0xFFFF_FFFF)),
        Case("multicall", e.EFAULT, _behind_the_end),
        Case("multicall", e.EFAULT, _result_in_vain),
        Case("multicall", e.EFAULT, _list_of_xens),
        Case("multicall", e.EFAULT, lambda world: world.hypercall("multicall", PAGES.start, 0x10_0000)),
        Case("multicall", e.EINVAL, _nested),
    ],
)
