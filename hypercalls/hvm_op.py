"""hvm_op: operations of HVM guests, as a PV guest has them (xen/arch/x86/hvm/hvm.c do_hvm_op).

What is about a domain's HVM side finds none. A few are not: the time, a trace record, a note to introspection tools.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypercalls.domid import check_target_domain
from hypercalls.errors import XenError
from hypercalls.public.errno import EINVAL, ENOSYS, EOPNOTSUPP, ESRCH
from hypercalls.public.xen import DOMID_SELF

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["do_hvm_op"]

HVMOP_set_param: Final = 0
HVMOP_get_param: Final = 1
HVMOP_flush_tlbs: Final = 5
HVMOP_pagetable_dying: Final = 9
HVMOP_get_time: Final = 10
HVMOP_xentrace: Final = 11
HVMOP_get_mem_type: Final = 15
HVMOP_set_evtchn_upcall_vector: Final = 23
HVMOP_guest_request_vm_event: Final = 24
HVMOP_altp2m: Final = 25
HVM_NR_PARAMS: Final = 39
#: struct xen_hvm_param, xen_hvm_pagetable_dying, xen_hvm_get_mem_type: a domid first, 16 bytes in all
DOMAIN_ARGUMENT_SIZE: Final = 16
#: struct xen_hvm_xentrace: event, number of bytes, and room for 28 of them
XENTRACE_SIZE, XENTRACE_BYTES, TRACE_EVENTS = 32, 28, 1 << 12
_OF_A_DOMAIN: Final = (HVMOP_set_param, HVMOP_get_param, HVMOP_pagetable_dying, HVMOP_get_mem_type)


def do_hvm_op(ctx: Context, op: int, arg: int) -> int:
    """``op``: an HVMOP_*; ``arg``: its structure."""
    if op in _OF_A_DOMAIN:
        return _of_domain(ctx, op, arg)
    if op in (HVMOP_flush_tlbs, HVMOP_set_evtchn_upcall_vector):
        return -EINVAL
    if op == HVMOP_get_time:
        ctx.guest.copy_to_guest(arg, ctx.domain.now().to_bytes(8, "little"))
        return 0
    if op == HVMOP_xentrace:
        return _xentrace(ctx, arg)
    if op == HVMOP_guest_request_vm_event:  # nobody listens
        return -EINVAL if arg else 0
    return -EOPNOTSUPP if op == HVMOP_altp2m else -ENOSYS  # this CPU has no such page tables


def _of_domain(ctx: Context, op: int, arg: int) -> int:
    data = ctx.guest.copy_from_guest(arg, DOMAIN_ARGUMENT_SIZE)
    domid = int.from_bytes(data[:2], "little")
    if op in (HVMOP_set_param, HVMOP_get_param) and int.from_bytes(data[4:8], "little") >= HVM_NR_PARAMS:
        return -EINVAL
    is_own = domid in (DOMID_SELF, ctx.domain.domid)
    if not is_own and domid != 0:
        raise XenError(ESRCH, f"domain {domid}")
    if op == HVMOP_pagetable_dying and not is_own:
        return -EOPNOTSUPP
    if op == HVMOP_get_mem_type:
        check_target_domain(ctx, domid)
    return -EINVAL


def _xentrace(ctx: Context, arg: int) -> int:
    """A record for a trace that nobody takes."""
    data = ctx.guest.copy_from_guest(arg, XENTRACE_SIZE)
    event, extra_bytes = int.from_bytes(data[:2], "little"), int.from_bytes(data[2:4], "little")
    return -EINVAL if extra_bytes > XENTRACE_BYTES or event >= TRACE_EVENTS else 0
