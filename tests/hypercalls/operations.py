"""Which operations each hypercall has: read off the public headers, so that none is forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.public import callback, event_channel, grant_table, memory, nmi, physdev, sched, vcpu, version, xen

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["OPERATIONS", "declared"]

#: hypercall -> where its operations are declared, and how their names begin
OPERATIONS: dict[str, tuple[ModuleType, str]] = {
    "event_channel_op": (event_channel, "EVTCHNOP_"), "grant_table_op": (grant_table, "GNTTABOP_"),
    "memory_op": (memory, "XENMEM_"), "sched_op": (sched, "SCHEDOP_"), "vcpu_op": (vcpu, "VCPUOP_"),
    "physdev_op": (physdev, "PHYSDEVOP_"), "xen_version": (version, "XENVER_"),
    "callback_op": (callback, "CALLBACKOP_"),
    "nmi_op": (nmi, "XENNMI_"), "vm_assist": (xen, "VMASST_TYPE_"), "mmuext_op": (xen, "MMUEXT_"),
    "mmu_update": (xen, "MMU_"),
}  # fmt: skip
#: Names that begin so and are no operations.
NOT_OPERATIONS = ("XENMEM_resource_", "MMU_UPDATE_PREEMPTED")


def declared(call: str) -> dict[str, int]:
    """The operations of a hypercall by name."""
    module, prefix = OPERATIONS[call]
    return {
        name: number
        for name, number in vars(module).items()
        if name.startswith(prefix) and isinstance(number, int) and not name.startswith(NOT_OPERATIONS)
    }
