"""What the arguments of each hypercall mean, for people: which is a command, which points to which structures.

Names of the arguments themselves are those of the handlers. Used by traces and reports; the handlers read what they
need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from hypercalls.public import arch_x86, callback, event_channel, memory, nmi, physdev, sched, vcpu, version, xen
from hypercalls.public import grant_table as gt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

__all__ = ["FIELD_NAMES", "SIGNATURES", "Signature", "operation_name"]


class Signature(NamedTuple):
    """``commands`` names the values of the first argument, ``structures`` says what the argument number ``pointer``
    points to, by command (or, by None, for all); ``length`` is the number of the argument that says to how many.
    ``constants`` names the values of further arguments, by their names.
    """

    commands: Mapping[int, str]
    structures: Mapping[int | None, type]
    pointer: int | None = None
    length: int | None = None
    constants: Mapping[str, Mapping[int, str]] = {}


def _names(module: ModuleType, prefix: str, *without: str) -> dict[int, str]:
    """The constants of a header that begin with ``prefix``, by value; the first of equal ones."""
    found: dict[int, str] = {}
    for name, value in vars(module).items():
        if name.startswith(prefix) and not name.startswith(without) and isinstance(value, int):
            found.setdefault(value, name)
    return found


def _by_name(commands: Mapping[int, str], module: ModuleType, structure_prefix: str) -> dict[int | None, type]:
    """Structures that are called as their commands are: EVTCHNOP_send takes an evtchn_send."""
    found: dict[int | None, type] = {}
    for value, name in commands.items():
        cls = vars(module).get(structure_prefix + name.partition("_")[2])
        if isinstance(cls, type):
            found[value] = cls
    return found


_EVTCHNOP: Final = _names(event_channel, "EVTCHNOP_")
_GNTTABOP: Final = _names(gt, "GNTTABOP_")
_SCHEDOP: Final = _names(sched, "SCHEDOP_")
_XENMEM: Final = _names(memory, "XENMEM_", "XENMEM_resource")
_VCPUOP: Final = _names(vcpu, "VCPUOP_")
_XENVER: Final = _names(version, "XENVER_")
_PHYSDEVOP: Final = _names(physdev, "PHYSDEVOP_")

SIGNATURES: Final[Mapping[str, Signature]] = {
    "event_channel_op": Signature(_EVTCHNOP, _by_name(_EVTCHNOP, event_channel, "evtchn_"), 1),
    "event_channel_op_compat": Signature({}, {None: event_channel.evtchn_op}, 0),
    "grant_table_op": Signature(_GNTTABOP, _by_name(_GNTTABOP, gt, "gnttab_"), 1, 2),
    "sched_op": Signature(
        _SCHEDOP,
        {
            sched.SCHEDOP_shutdown: sched.sched_shutdown,
            sched.SCHEDOP_shutdown_code: sched.sched_shutdown,
            sched.SCHEDOP_poll: sched.sched_poll,
            sched.SCHEDOP_remote_shutdown: sched.sched_remote_shutdown,
            sched.SCHEDOP_watchdog: sched.sched_watchdog,
            sched.SCHEDOP_pin_override: sched.sched_pin_override,
        },
        1,
    ),
    "sched_op_compat": Signature(_SCHEDOP, {}),
    "memory_op": Signature(
        _XENMEM,
        _by_name(_XENMEM, memory, "xen_")
        | {
            memory.XENMEM_increase_reservation: memory.xen_memory_reservation,
            memory.XENMEM_decrease_reservation: memory.xen_memory_reservation,
            memory.XENMEM_populate_physmap: memory.xen_memory_reservation,
            memory.XENMEM_exchange: memory.xen_memory_exchange,
            memory.XENMEM_current_reservation: memory.xen_memory_domain,
            memory.XENMEM_maximum_reservation: memory.xen_memory_domain,
            memory.XENMEM_maximum_gpfn: memory.xen_memory_domain,
            memory.XENMEM_memory_map: memory.xen_memory_map,
            memory.XENMEM_machine_memory_map: memory.xen_memory_map,
            memory.XENMEM_set_memory_map: memory.xen_foreign_memory_map,
            memory.XENMEM_acquire_resource: memory.xen_mem_acquire_resource,
            memory.XENMEM_get_vnumainfo: memory.xen_vnuma_topology_info,
        },
        1,
    ),
    "vcpu_op": Signature(
        _VCPUOP,
        _by_name(_VCPUOP, vcpu, "vcpu_")
        | {
            vcpu.VCPUOP_get_runstate_info: vcpu.vcpu_runstate_info,
            vcpu.VCPUOP_register_vcpu_time_memory_area: vcpu.vcpu_register_time_memory_area,
            vcpu.VCPUOP_initialise: arch_x86.vcpu_guest_context,
        },
        2,
    ),
    "xen_version": Signature(
        _XENVER,
        {
            version.XENVER_get_features: version.xen_feature_info,
            version.XENVER_platform_parameters: version.xen_platform_parameters,
            version.XENVER_compile_info: version.xen_compile_info,
        },
        1,
    ),
    "physdev_op": Signature(_PHYSDEVOP, _by_name(_PHYSDEVOP, physdev, "physdev_"), 1),
    "physdev_op_compat": Signature({}, {None: physdev.physdev_op}, 0),
    "callback_op": Signature(
        _names(callback, "CALLBACKOP_"),
        {
            callback.CALLBACKOP_register: callback.callback_register,
            callback.CALLBACKOP_unregister: callback.callback_unregister,
        },
        1,
    ),
    "nmi_op": Signature(_names(nmi, "XENNMI_"), {nmi.XENNMI_register_callback: nmi.xennmi_callback}, 1),
    "console_io": Signature(_names(xen, "CONSOLEIO_"), {}),
    "vm_assist": Signature(_names(xen, "VMASST_CMD_"), {}, constants={"type_": _names(xen, "VMASST_TYPE_")}),
    "mmu_update": Signature({}, {None: xen.mmu_update}, 0, 1),
    "mmuext_op": Signature({}, {None: xen.mmuext_op}, 0, 1),
    "multicall": Signature({}, {}),  # each call of the list is one by itself
}

#: Names of values of structures' fields, by the field's name.
FIELD_NAMES: Final[Mapping[str, Mapping[int, str]]] = {
    "mmuext_op.cmd": _names(xen, "MMUEXT_"),
    "sched_shutdown.reason": _names(sched, "SHUTDOWN_"),
    "evtchn_bind_virq.virq": _names(xen, "VIRQ_"),
    "callback_register.type": _names(callback, "CALLBACKTYPE_"),
    "callback_unregister.type": _names(callback, "CALLBACKTYPE_"),
    "status": _names(gt, "GNTST_"),
    "dom": _names(xen, "DOMID_", "DOMID_FIRST", "DOMID_MASK"),
}


def operation_name(call: str, args: Sequence[int]) -> str | None:
    """The operation that a hypercall asks for, as the public headers name it; that of the hypercall where it has none,
    None where no header knows the number.
    """
    commands = SIGNATURES[call].commands if call in SIGNATURES else {}
    return commands.get(args[0]) if commands and args else call
