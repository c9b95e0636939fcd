"""vm_assist (xen/common/domain.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.public import errno as e
from hypercalls.public import xen
from tests.hypercalls.documented import Case, Family

if TYPE_CHECKING:
    from tests.hypercalls.documented.world import World

_TYPES = {name: number for name, number in vars(xen).items() if name.startswith("VMASST_TYPE_")}
_NO_COMMAND = 2


def _assist(world: World, command: int, type_: int) -> int:
    return world.hypercall("vm_assist", command, type_)


def _case(name: str, error: int, command: int, type_: int, bits: int = 0) -> Case:
    return Case(name, error, lambda world: _assist(world, command, type_), bits)


FAMILY = Family(
    documented={
        ("vm_assist", e.EINVAL): "no such assist, or bit; do_vm_assist",
        **{(name, e.ENOSYS): "neither enable nor disable; do_vm_assist" for name in _TYPES},
        ("VMASST_TYPE_m2p_strict", e.EINVAL): "not for 32-bit domains; do_vm_assist",
    },
    cases=[
        *(_case("vm_assist", e.EINVAL, xen.VMASST_CMD_enable, type_) for type_ in (6, 31, 33, 63, 64, -1)),
        _case("vm_assist", e.EINVAL, _NO_COMMAND, 6),
        *(_case(name, e.ENOSYS, _NO_COMMAND, type_, 64 if type_ == xen.VMASST_TYPE_m2p_strict else 0)
          for name, type_ in _TYPES.items()),
        _case("VMASST_TYPE_m2p_strict", e.EINVAL, xen.VMASST_CMD_enable, xen.VMASST_TYPE_m2p_strict, 32),
        _case("VMASST_TYPE_m2p_strict", e.EINVAL, xen.VMASST_CMD_disable, xen.VMASST_TYPE_m2p_strict, 32),
    ],
)  # fmt: skip
