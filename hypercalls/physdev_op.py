"""physdev_op and its legacy form (xen/arch/x86/physdev.c, xen/drivers/pci/physdev.c, xen/arch/x86/compat.c).

A domain without devices: it has an I/O privilege level and a port bitmap; what concerns interrupts and PCI is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypercalls.arguments import s32
from hypercalls.domid import check_existing_domain
from hypercalls.errors import XenError
from hypercalls.guest_handle import check_handle, patched
from hypercalls.public import physdev as pd
from hypercalls.public.errno import EINVAL, ENODEV, ENOSYS, EPERM

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercalls.context import Context

__all__ = ["do_physdev_op", "do_physdev_op_compat"]

IOBMP_BYTES: Final = 8192
#: interrupts of a domain without devices: one I/O APIC's 24 and 32 more (extra_guest_irqs)
NR_PIRQS: Final = 24 + 32


def do_physdev_op(ctx: Context, cmd: int, arg: int) -> int:
    """``cmd``: a PHYSDEVOP_*; ``arg``: its structure."""
    cmd = s32(cmd)
    handler = _HANDLERS.get(cmd)
    if handler is not None:
        return handler(ctx, arg)
    refusal = _REFUSED.get(cmd)
    if refusal is None:
        return -ENOSYS
    cls, errno = refusal
    if cls is not None:
        ctx.guest.copy_from_guest(arg, ctx.abi.sizeof(cls))
    return -errno


def do_physdev_op_compat(ctx: Context, uop: int) -> int:
    """``uop``: struct physdev_op, a command and its structure in one."""
    data = ctx.guest.copy_from_guest(uop, ctx.abi.sizeof(pd.physdev_op))
    (cmd,) = ctx.abi.reader(pd.physdev_op, "cmd").unpack(data)
    return do_physdev_op(ctx, cmd, uop + ctx.abi.offsetof(pd.physdev_op, "u"))


def _read(ctx: Context, cls: type, arg: int, *fields: str) -> tuple[int, ...]:
    layout = ctx.abi.reader(cls, *fields)
    return layout.unpack(ctx.guest.copy_from_guest(arg, layout.size))


def _write_back(ctx: Context, cls: type, arg: int, **values: int) -> None:
    """The whole structure with these values: XenError(EFAULT) where any part of it cannot be written."""
    ctx.guest.copy_to_guest(arg, patched(ctx, ctx.guest.copy_from_guest(arg, ctx.abi.sizeof(cls)), cls, **values))


def _eoi(ctx: Context, arg: int) -> int:
    (irq,) = _read(ctx, pd.physdev_eoi, arg)
    ctx.physdev.eoi(irq)
    return 0


def _set_iopl(ctx: Context, arg: int) -> int:
    (iopl,) = _read(ctx, pd.physdev_set_iopl, arg)
    if iopl > 3:
        return -EINVAL
    ctx.physdev.set_iopl(iopl)
    return 0


def _set_iobitmap(ctx: Context, arg: int) -> int:
    bitmap, nr_ports = _read(ctx, pd.physdev_set_iobitmap, arg)
    try:
        check_handle(ctx, bitmap, IOBMP_BYTES, 1)
    except XenError:
        return -EINVAL
    if nr_ports > 65536:
        return -EINVAL
    ctx.physdev.set_iobitmap(bitmap, nr_ports)
    return 0


def _irq_unmask_notify(_ctx: Context, _arg: int) -> int:
    return 0


def _irq_status_query(ctx: Context, arg: int) -> int:
    cls = pd.physdev_irq_status_query
    (irq,) = _read(ctx, cls, arg, "irq")
    if irq >= NR_PIRQS:
        return -EINVAL
    _write_back(ctx, cls, arg, flags=pd.XENIRQSTAT_needs_eoi)
    return 0


def _map_pirq(ctx: Context, arg: int) -> int:
    """The refusal is told after the structure is written back, with the type as Xen read it."""
    domid, type_, table_base = _read(ctx, pd.physdev_map_pirq, arg, "domid", "type", "table_base")
    if type_ == pd.MAP_PIRQ_TYPE_MULTI_MSI and table_base:
        return -EINVAL
    type_ = pd.MAP_PIRQ_TYPE_MSI if type_ == pd.MAP_PIRQ_TYPE_MSI_SEG else type_
    _write_back(ctx, pd.physdev_map_pirq, arg, type=type_)
    check_existing_domain(ctx, domid)
    return -EPERM


def _unmap_pirq(ctx: Context, arg: int) -> int:
    domid, _ = _read(ctx, pd.physdev_unmap_pirq, arg)
    check_existing_domain(ctx, domid)
    return -EPERM


def _manage_pci_add_ext(ctx: Context, arg: int) -> int:
    is_extfn, is_virtfn = _read(ctx, pd.physdev_manage_pci_ext, arg, "is_extfn", "is_virtfn")
    return -EINVAL if is_extfn > 1 or is_virtfn > 1 else -EPERM


def _restore_msi(ctx: Context, arg: int) -> int:
    bus, devfn = _read(ctx, pd.physdev_restore_msi, arg)
    return _restore_msi_of(0, bus, devfn)


def _restore_msi_ext(ctx: Context, arg: int) -> int:
    return _restore_msi_of(*_read(ctx, pd.physdev_pci_device, arg))


def _restore_msi_of(seg: int, bus: int, devfn: int) -> int:
    """Each machine has a host bridge, which is not the domain's; that is all that can be known of its devices."""
    return -ENODEV if seg or bus or devfn else -EPERM


def _pci_device_add(ctx: Context, arg: int) -> int:
    (flags,) = _read(ctx, pd.physdev_pci_device_add, arg, "flags")
    if flags & pd.XEN_PCI_DEV_PXM:
        ctx.guest.copy_from_guest(arg + ctx.abi.sizeof(pd.physdev_pci_device_add), 4)
    return -EPERM


def _setup_gsi(ctx: Context, arg: int) -> int:
    (gsi,) = _read(ctx, pd.physdev_setup_gsi, arg, "gsi")
    return -EPERM if 0 <= gsi < 24 else -EINVAL


def _pirq_eoi_gmfn(ctx: Context, arg: int) -> int:
    (gmfn,) = _read(ctx, pd.physdev_pirq_eoi_gmfn, arg)
    ctx.physdev.set_pirq_eoi_map(gmfn)
    return 0


def _get_free_pirq(ctx: Context, arg: int) -> int:
    """A number for an interrupt, which any domain may have; what to bind to it is for those with devices."""
    (type_,) = _read(ctx, pd.physdev_get_free_pirq, arg, "type")
    _write_back(ctx, pd.physdev_get_free_pirq, arg, pirq=ctx.physdev.get_free_pirq(type_))
    return 0


_HANDLERS: Final[dict[int, Callable[[Context, int], int]]] = {
    pd.PHYSDEVOP_get_free_pirq: _get_free_pirq,
    pd.PHYSDEVOP_IRQ_UNMASK_NOTIFY: _irq_unmask_notify,
    pd.PHYSDEVOP_irq_status_query: _irq_status_query,
    pd.PHYSDEVOP_set_iopl: _set_iopl,
    pd.PHYSDEVOP_set_iobitmap: _set_iobitmap,
    pd.PHYSDEVOP_eoi: _eoi,
    pd.PHYSDEVOP_map_pirq: _map_pirq,
    pd.PHYSDEVOP_unmap_pirq: _unmap_pirq,
    pd.PHYSDEVOP_manage_pci_add_ext: _manage_pci_add_ext,
    pd.PHYSDEVOP_pci_device_add: _pci_device_add,
    pd.PHYSDEVOP_restore_msi: _restore_msi,
    pd.PHYSDEVOP_restore_msi_ext: _restore_msi_ext,
    pd.PHYSDEVOP_setup_gsi: _setup_gsi,
    pd.PHYSDEVOP_pirq_eoi_gmfn_v1: _pirq_eoi_gmfn,
    pd.PHYSDEVOP_pirq_eoi_gmfn_v2: _pirq_eoi_gmfn,
}

#: command -> (what is copied first, errno)
_REFUSED: Final[dict[int, tuple[type | None, int]]] = {
    pd.PHYSDEVOP_apic_read: (pd.physdev_apic, EPERM),
    pd.PHYSDEVOP_apic_write: (pd.physdev_apic, EPERM),
    pd.PHYSDEVOP_alloc_irq_vector: (pd.physdev_irq, EPERM),
    pd.PHYSDEVOP_manage_pci_add: (pd.physdev_manage_pci, EPERM),
    pd.PHYSDEVOP_manage_pci_remove: (pd.physdev_manage_pci, EPERM),
    pd.PHYSDEVOP_prepare_msix: (pd.physdev_pci_device, EPERM),
    pd.PHYSDEVOP_release_msix: (pd.physdev_pci_device, EPERM),
    pd.PHYSDEVOP_pci_device_remove: (pd.physdev_pci_device, EPERM),
    pd.PHYSDEVOP_pci_mmcfg_reserved: (None, EPERM),
    pd.PHYSDEVOP_dbgp_op: (None, EPERM),
}
