"""domctl: control of domains, by another (xen/common/domctl.c, xen/arch/x86/domctl.c, xen/common/vm_event.c).

An unprivileged domain is refused, but not before its arguments were looked at: the domain is searched for, and some
operations check what they were given before they ask who gave it. One is for everybody: which version of events there
is.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from hypercalls.public.errno import EACCES, EINVAL, EOPNOTSUPP, EPERM, ESRCH
from hypercalls.public.xen import DOMID_FIRST_RESERVED, DOMID_INVALID, DOMID_IO

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["DOMCTL_HEADER", "DOMCTL_SIZE", "XEN_DOMCTL_INTERFACE_VERSION", "XEN_DOMCTL_shadow_op", "do_domctl"]

XEN_DOMCTL_INTERFACE_VERSION: Final = 0x15
XEN_DOMCTL_createdomain: Final = 1
XEN_DOMCTL_getdomaininfo: Final = 5
XEN_DOMCTL_shadow_op: Final = 10
XEN_DOMCTL_irq_permission: Final = 19
XEN_DOMCTL_iomem_permission: Final = 20
XEN_DOMCTL_ioport_permission: Final = 21
XEN_DOMCTL_assign_device: Final = 37
XEN_DOMCTL_bind_pt_irq: Final = 38
XEN_DOMCTL_memory_mapping: Final = 39
XEN_DOMCTL_ioport_mapping: Final = 40
XEN_DOMCTL_test_assign_device: Final = 45
XEN_DOMCTL_set_target: Final = 46
XEN_DOMCTL_deassign_device: Final = 47
XEN_DOMCTL_unbind_pt_irq: Final = 48
XEN_DOMCTL_get_device_group: Final = 50
XEN_DOMCTL_vm_event_op: Final = 56
XEN_VM_EVENT_GET_VERSION: Final = 3
VM_EVENT_INTERFACE_VERSION: Final = 7

#: struct xen_domctl, the same in both widths: command, version, domain; the operation's part is 16 bytes in
DOMCTL_HEADER: Final = Struct("<IIH")
DOMCTL_SIZE: Final = 144
_PART: Final = 16
_U32, _PORTS, _MFNS, _MAPPING = Struct("<I"), Struct("<II"), Struct("<QQ"), Struct("<QQQ")
MAX_IOPORTS: Final = 65536
#: a domain's interrupts (see hypercalls.physdev_op)
NR_PIRQS: Final = 56
#: physical addresses of the machine have so many bits
PADDR_BITS: Final = 40


def do_domctl(ctx: Context, arg: int) -> int:
    """``arg``: a struct xen_domctl."""
    data = ctx.guest.copy_from_guest(arg, DOMCTL_SIZE)
    cmd, version, domain = DOMCTL_HEADER.unpack_from(data)
    if version != XEN_DOMCTL_INTERFACE_VERSION:
        return -EACCES
    is_found = domain in (0, ctx.domain.domid)
    if cmd == XEN_DOMCTL_getdomaininfo and not is_found:
        return -EINVAL if domain >= DOMID_FIRST_RESERVED else -EPERM if domain < ctx.domain.domid else -ESRCH
    if not is_found and not _is_for_nobody(cmd, domain):
        return -ESRCH
    if cmd == XEN_DOMCTL_vm_event_op:
        return _vm_event_op(ctx, arg, data, is_found)
    return -_refusal(ctx, cmd, domain, data)


def _is_for_nobody(cmd: int, domain: int) -> bool:
    """Operations that go on without a domain, or with that of I/O memory."""
    if cmd in (XEN_DOMCTL_assign_device, XEN_DOMCTL_deassign_device):
        return domain == DOMID_IO
    if cmd in (XEN_DOMCTL_test_assign_device, XEN_DOMCTL_vm_event_op):
        return domain == DOMID_INVALID
    return cmd == XEN_DOMCTL_createdomain


def _vm_event_op(ctx: Context, arg: int, data: bytes, is_found: bool) -> int:
    (op,) = _U32.unpack_from(data, _PART)
    if op != XEN_VM_EVENT_GET_VERSION:
        return -EPERM if is_found else -ESRCH
    answer = _U32.pack(VM_EVENT_INTERFACE_VERSION)
    ctx.guest.copy_to_guest(arg, data[: _PART + 8] + answer + data[_PART + 12 :])
    return 0


def _refusal(ctx: Context, cmd: int, domain: int, data: bytes) -> int:
    """What an operation finds wrong before it finds the caller wrong: an errno."""
    if cmd in (XEN_DOMCTL_bind_pt_irq, XEN_DOMCTL_unbind_pt_irq):
        return EINVAL  # for HVM domains
    if cmd in (XEN_DOMCTL_ioport_mapping, XEN_DOMCTL_get_device_group):
        return EOPNOTSUPP  # for HVM domains, and with an IOMMU
    if cmd == XEN_DOMCTL_set_target:
        target = _U32.unpack_from(data, _PART)[0] & 0xFFFF
        return EINVAL if target == domain else EOPNOTSUPP if target in (0, ctx.domain.domid) else ESRCH
    return EINVAL if _is_nonsense(cmd, data) else EPERM


def _is_nonsense(cmd: int, data: bytes) -> bool:
    """Interrupts, ports and frames that there cannot be."""
    if cmd == XEN_DOMCTL_irq_permission:
        return bool(_U32.unpack_from(data, _PART)[0] >= NR_PIRQS)
    if cmd == XEN_DOMCTL_iomem_permission:
        return _wraps(*_MFNS.unpack_from(data, _PART))
    if cmd == XEN_DOMCTL_ioport_permission:
        first, count = _PORTS.unpack_from(data, _PART)
        return not first < (first + count) % (1 << 32) <= MAX_IOPORTS
    if cmd == XEN_DOMCTL_memory_mapping:
        gfn, mfn, count = _MAPPING.unpack_from(data, _PART)
        return _wraps(mfn, count) or _wraps(gfn, count) or (mfn | mfn + count - 1) >> (PADDR_BITS - 12) != 0
    return False


def _wraps(first: int, count: int) -> bool:
    return (first + count - 1) % (1 << 64) < first
