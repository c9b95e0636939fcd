"""vcpu_op and set_timer_op (xen/common/domain.c common_vcpu_op, xen/arch/x86/domain.c do_vcpu_op and
arch_set_info_guest, their compat halves; xen/common/sched/core.c do_set_timer_op).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.public import arch_x86
from hypercalls.public import errno as e
from hypercalls.public import vcpu as vc
from pvemu.hypervisor.compat.mm import compat_pfn_to_cr3
from tests.hypercalls.documented import Case, Family
from tests.hypercalls.documented.world import FREE, NOWHERE, NR_VCPUS, World

if TYPE_CHECKING:
    from collections.abc import Callable

MILLISECOND = 1_000_000
NONCANONICAL = 1 << 47


def _op(world: World, name: str, vcpuid: int = 0, argument: object = 0) -> int:
    return world.hypercall("vcpu_op", getattr(vc, f"VCPUOP_{name}"), vcpuid, argument)


def _call(name: str, vcpuid: int = 0, argument: object = 0) -> Callable[[World], int]:
    return lambda world: _op(world, name, vcpuid, argument)


def _no_vcpu(name: str) -> Case:
    return Case(f"VCPUOP_{name}", e.ENOENT, _call(name, NR_VCPUS, NOWHERE))


def _unreadable(name: str) -> Case:
    return Case(f"VCPUOP_{name}", e.EFAULT, _call(name, 0, NOWHERE))


def _area_of_xens(name: str) -> Case:
    return Case(f"VCPUOP_{name}", e.EFAULT, lambda world: _op(world, name, 0, world.xen.to_bytes(8, "little")))


def _context(world: World) -> arch_x86.vcpu_guest_context:
    """A context that vcpu 1 can be given."""
    context = arch_x86.vcpu_guest_context(flags=arch_x86.VGCF_in_kernel)
    context.ctrlreg[3] = world.root << 12 if world.abi.bits == 64 else compat_pfn_to_cr3(world.root)
    return context


def _initialise(change: Callable[[World, arch_x86.vcpu_guest_context], None]) -> Callable[[World], int]:
    """VCPUOP_initialise of vcpu 1 with a good context that was changed."""

    def provoke(world: World) -> int:
        context = _context(world)
        change(world, context)
        answer = _op(world, "initialise", 1, context)
        if answer == -e.EINVAL:
            assert _op(world, "initialise", 1, _context(world)) == 0, "as it stood, the context was good"
        return answer

    return provoke


def _set(path: str, value: int, index: int | None = None) -> Callable[[World, arch_x86.vcpu_guest_context], None]:
    def change(_world: World, context: object) -> None:
        *way, last = path.split(".")
        for name in way:
            context = getattr(context, name)
        if index is None:
            setattr(context, last, value)
        else:
            getattr(context, last)[index] = value

    return change


def _root_that_is_none(world: World, context: arch_x86.vcpu_guest_context) -> None:
    context.ctrlreg[3] = world.l1 << 12 if world.abi.bits == 64 else compat_pfn_to_cr3(world.l1)


def _gdt_that_is_none(world: World, context: arch_x86.vcpu_guest_context) -> None:
    context.gdt_ents, context.gdt_frames[0] = 1, world.root


def _twice(world: World) -> int:
    assert _op(world, "initialise", 1, _context(world)) == 0
    return _op(world, "initialise", 1, _context(world))


def _without_info(world: World) -> int:
    return _op(World(world.width, 34), "initialise", 33, NOWHERE)


def _register_info(world: World, mfn: int, offset: int = 0, vcpuid: int = 0) -> int:
    return _op(world, "register_vcpu_info", vcpuid, vc.vcpu_register_vcpu_info(mfn=mfn, offset=offset))


def _register_info_twice(world: World) -> int:
    assert _register_info(world, world.mfns[FREE]) == 0
    return _register_info(world, world.mfns[FREE + 1])


def _register_info_of_one_that_runs(world: World) -> int:
    assert _op(world, "initialise", 1, _context(world)) == 0
    assert _op(world, "up", 1) == 0
    return _register_info(world, world.mfns[FREE], 0, 1)


def _period(ns: int) -> Callable[[World], int]:
    return _call("set_periodic_timer", 0, vc.vcpu_set_periodic_timer(period_ns=ns))


_NO_VCPU = "no such vcpu, whatever else is wrong; domain_vcpu"
_STRUCT = "the structure is not mapped; common_vcpu_op"
_AREA = "the structure is not mapped, or what it points to lies in Xen's part; do_vcpu_op"
_NAMES = (
    "initialise", "up", "down", "is_up", "get_runstate_info", "register_runstate_memory_area", "set_periodic_timer",
    "stop_periodic_timer", "set_singleshot_timer", "stop_singleshot_timer", "register_vcpu_info", "send_nmi",
    "get_physid", "register_vcpu_time_memory_area",
)  # fmt: skip

FAMILY = Family(
    documented={
        **{(f"VCPUOP_{name}", e.ENOENT): _NO_VCPU for name in _NAMES},
        ("vcpu_op", e.ENOSYS): "no such operation; common_vcpu_op",
        ("vcpu_op", e.ENOENT): "no such vcpu comes first; domain_vcpu",
        ("VCPUOP_initialise", e.EFAULT): "the context is not mapped; default_initialise_vcpu",
        ("VCPUOP_initialise", e.EEXIST): "it is initialised, as the boot vcpu is; default_initialise_vcpu",
        ("VCPUOP_initialise", e.EINVAL): "it has no vcpu_info yet (from 32 on), or the context has an address that is "
        "not canonical, an LDT or GDT that cannot be, roots that are none; common_vcpu_op, arch_set_info_guest",
        ("VCPUOP_up", e.EINVAL): "it is not initialised; common_vcpu_op",
        ("VCPUOP_get_runstate_info", e.EFAULT): "there is nothing to write to; common_vcpu_op",
        ("VCPUOP_register_runstate_memory_area", e.EFAULT): _AREA,
        ("VCPUOP_register_vcpu_time_memory_area", e.EFAULT): _AREA,
        ("VCPUOP_set_periodic_timer", e.EFAULT): _STRUCT,
        ("VCPUOP_set_periodic_timer", e.EINVAL): "less than a millisecond, or more than STIME_DELTA_MAX",
        ("VCPUOP_set_singleshot_timer", e.EFAULT): _STRUCT,
        ("VCPUOP_set_singleshot_timer", e.EINVAL): "not the caller's own; common_vcpu_op",
        ("VCPUOP_stop_singleshot_timer", e.EINVAL): "not the caller's own; common_vcpu_op",
        ("VCPUOP_register_vcpu_info", e.EFAULT): _STRUCT,
        ("VCPUOP_register_vcpu_info", e.ENXIO): "it crosses its page, or is not aligned; map_vcpu_info",
        ("VCPUOP_register_vcpu_info", e.EINVAL): "it was moved before, or another vcpu's that runs, or to a frame that "
        "the guest may not write; map_vcpu_info",
        ("VCPUOP_send_nmi", e.EINVAL): "the argument is not NULL; do_vcpu_op",
        ("VCPUOP_get_physid", e.EINVAL): "only for pinned vcpus of the hardware domain; do_vcpu_op",
    },
    cases=[
        *map(_no_vcpu, _NAMES),
        *map(_unreadable, ("get_runstate_info", "register_runstate_memory_area", "register_vcpu_time_memory_area",
                           "set_periodic_timer", "set_singleshot_timer", "register_vcpu_info", "initialise")),
        *map(_area_of_xens, ("register_runstate_memory_area", "register_vcpu_time_memory_area")),
        Case("vcpu_op", e.ENOSYS, lambda world: world.hypercall("vcpu_op", 14, 0)),
        Case("vcpu_op", e.ENOSYS, lambda world: world.hypercall("vcpu_op", -1, 1)),
        Case("vcpu_op", e.ENOENT, lambda world: world.hypercall("vcpu_op", 99, NR_VCPUS)),
        Case("vcpu_op", e.ENOENT, lambda world: world.hypercall("vcpu_op", 99, -1)),
        Case("VCPUOP_initialise", e.EEXIST, lambda world: _op(world, "initialise", 0, _context(world))),
        Case("VCPUOP_initialise", e.EEXIST, _twice),
        Case("VCPUOP_initialise", e.EINVAL, _without_info),
        Case("VCPUOP_initialise", e.EINVAL, _initialise(_set("user_regs.rip", NONCANONICAL)), bits=64),
        Case("VCPUOP_initialise", e.EINVAL, _initialise(_set("user_regs.rsp", NONCANONICAL)), bits=64),
        Case("VCPUOP_initialise", e.EINVAL, _initialise(_set("kernel_sp", NONCANONICAL)), bits=64),
        Case("VCPUOP_initialise", e.EINVAL, _initialise(_set("fs_base", NONCANONICAL)), bits=64),
        Case("VCPUOP_initialise", e.EINVAL, _initialise(_set("event_callback_eip", NONCANONICAL)), bits=64),
        Case("VCPUOP_initialise", e.EINVAL, _initialise(_set("ldt_base", 8))),
        Case("VCPUOP_initialise", e.EINVAL, _initialise(_set("ldt_ents", 8193))),
        Case("VCPUOP_initialise", e.EINVAL, _initialise(_set("gdt_ents", 8193))),
        Case("VCPUOP_initialise", e.EINVAL, _initialise(_gdt_that_is_none)),
        Case("VCPUOP_initialise", e.EINVAL, _initialise(_set("flags", 0)), bits=64),
        Case("VCPUOP_initialise", e.EINVAL, _initialise(_set("ctrlreg", 0, 3))),
        Case("VCPUOP_initialise", e.EINVAL, _initialise(_root_that_is_none)),
        Case("VCPUOP_up", e.EINVAL, _call("up", 1)),
        Case("VCPUOP_set_periodic_timer", e.EINVAL, _period(0)),
        Case("VCPUOP_set_periodic_timer", e.EINVAL, _period(MILLISECOND - 1)),
        Case("VCPUOP_set_periodic_timer", e.EINVAL, _period(1 << 62)),
        Case("VCPUOP_set_periodic_timer", e.EINVAL, _period((1 << 64) - 1)),
        Case("VCPUOP_set_singleshot_timer", e.EINVAL, _call("set_singleshot_timer", 1, vc.vcpu_set_singleshot_timer())),
        Case("VCPUOP_set_singleshot_timer", e.EINVAL, _call("set_singleshot_timer", 1, NOWHERE), bits=64),
        Case("VCPUOP_set_singleshot_timer", e.EFAULT, _call("set_singleshot_timer", 1, NOWHERE), bits=32),
        Case("VCPUOP_stop_singleshot_timer", e.EINVAL, _call("stop_singleshot_timer", 1)),
        Case("VCPUOP_register_vcpu_info", e.ENXIO, lambda world: _register_info(world, 1 << 40, 4096 - 60)),
        Case("VCPUOP_register_vcpu_info", e.ENXIO, lambda world: _register_info(world, 1 << 40, 2)),
        Case("VCPUOP_register_vcpu_info", e.ENXIO, lambda world: _register_info(world, 1 << 40, 4), bits=64),
        Case("VCPUOP_register_vcpu_info", e.EINVAL, lambda world: _register_info(world, 1 << 40, 4), bits=32),
        Case("VCPUOP_register_vcpu_info", e.EINVAL, lambda world: _register_info(world, world.root)),
        Case("VCPUOP_register_vcpu_info", e.EINVAL, _register_info_twice),
        Case("VCPUOP_register_vcpu_info", e.EINVAL, _register_info_of_one_that_runs),
        Case("VCPUOP_send_nmi", e.EINVAL, _call("send_nmi", 0, NOWHERE)),
        Case("VCPUOP_get_physid", e.EINVAL, _call("get_physid", 0, NOWHERE)),
    ],
    unreachable={
        ("VCPUOP_initialise", e.ENOMEM): "no heap of Xen's to run out of; alloc_vcpu_guest_context",
        ("VCPUOP_register_vcpu_info", e.ENOMEM): "no heap of Xen's to run out of; map_vcpu_info",
        ("VCPUOP_set_singleshot_timer", e.ETIME): "4.17 sends the event instead, and VCPU_SSHOTTMR_future is ignored",
    },
    never_fails={"set_timer_op": "do_set_timer_op: any time will do"},
)  # fmt: skip
