"""physdev_op: interrupts and I/O ports (public/physdev.h)."""

from __future__ import annotations

from hypercalls.declare import ZERO, cstruct, cunion, guest_handle, s32, u8, u16, u32, u64, ulong, xen_pfn_t
from hypercalls.public.event_channel import domid_t  # noqa: TC001 - layouts evaluate annotations

PHYSDEVOP_eoi = 12
PHYSDEVOP_pirq_eoi_gmfn_v1 = 17
PHYSDEVOP_pirq_eoi_gmfn_v2 = 28
PHYSDEVOP_irq_status_query = 5
PHYSDEVOP_set_iopl = 6
PHYSDEVOP_set_iobitmap = 7
PHYSDEVOP_apic_read = 8
PHYSDEVOP_apic_write = 9
PHYSDEVOP_alloc_irq_vector = 10
PHYSDEVOP_free_irq_vector = 11
MAP_PIRQ_TYPE_MSI = 0x0
MAP_PIRQ_TYPE_GSI = 0x1
MAP_PIRQ_TYPE_UNKNOWN = 0x2
MAP_PIRQ_TYPE_MSI_SEG = 0x3
MAP_PIRQ_TYPE_MULTI_MSI = 0x4
PHYSDEVOP_map_pirq = 13
PHYSDEVOP_unmap_pirq = 14
PHYSDEVOP_manage_pci_add = 15
PHYSDEVOP_manage_pci_remove = 16
PHYSDEVOP_restore_msi = 19
PHYSDEVOP_manage_pci_add_ext = 20
PHYSDEVOP_setup_gsi = 21
PHYSDEVOP_get_free_pirq = 23
PHYSDEVOP_pci_mmcfg_reserved = 24
PHYSDEVOP_pci_device_add = 25
PHYSDEVOP_pci_device_remove = 26
PHYSDEVOP_restore_msi_ext = 27
PHYSDEVOP_prepare_msix = 30
PHYSDEVOP_release_msix = 31
PHYSDEVOP_dbgp_op = 29
PHYSDEVOP_pirq_eoi_gmfn = 28
PHYSDEVOP_IRQ_UNMASK_NOTIFY = 4

# -- physdev_irq_status_query.flags
XENIRQSTAT_needs_eoi = 1 << 0
XENIRQSTAT_shared = 1 << 1

# -- physdev_pci_device_add.flags
XEN_PCI_DEV_PXM = 0x4


@cstruct
class physdev_eoi:
    irq: u32 = 0


@cstruct
class physdev_pirq_eoi_gmfn:
    gmfn: xen_pfn_t = 0


@cstruct
class physdev_irq_status_query:
    irq: u32 = 0
    flags: u32 = 0


@cstruct
class physdev_set_iopl:
    iopl: u32 = 0


@cstruct
class physdev_set_iobitmap:
    bitmap: guest_handle = 0
    nr_ports: u32 = 0


@cstruct
class physdev_apic:
    apic_physbase: ulong = 0
    reg: u32 = 0
    value: u32 = 0


@cstruct
class physdev_irq:
    irq: u32 = 0
    vector: u32 = 0


@cstruct
class physdev_map_pirq:
    domid: domid_t = 0
    type: s32 = 0
    index: s32 = 0
    pirq: s32 = 0
    bus: s32 = 0
    devfn: s32 = 0
    entry_nr: s32 = 0
    table_base: u64 = 0


@cstruct
class physdev_unmap_pirq:
    domid: domid_t = 0
    pirq: s32 = 0


@cstruct
class physdev_manage_pci:
    bus: u8 = 0
    devfn: u8 = 0


@cstruct
class physdev_manage_pci_ext_physfn:
    bus: u8 = 0
    devfn: u8 = 0


@cstruct
class physdev_manage_pci_ext:
    bus: u8 = 0
    devfn: u8 = 0
    is_extfn: u32 = 0
    is_virtfn: u32 = 0
    physfn: physdev_manage_pci_ext_physfn = ZERO


@cstruct
class physdev_restore_msi:
    bus: u8 = 0
    devfn: u8 = 0


@cstruct
class physdev_setup_gsi:
    gsi: s32 = 0
    triggering: u8 = 0
    polarity: u8 = 0


@cstruct
class physdev_get_free_pirq:
    type: s32 = 0
    pirq: u32 = 0


@cstruct
class physdev_pci_mmcfg_reserved:
    address: u64 = 0
    segment: u16 = 0
    start_bus: u8 = 0
    end_bus: u8 = 0
    flags: u32 = 0


@cstruct
class physdev_pci_device:
    seg: u16 = 0
    bus: u8 = 0
    devfn: u8 = 0


@cstruct
class physdev_pci_device_add_physfn:
    bus: u8 = 0
    devfn: u8 = 0


@cstruct
class physdev_pci_device_add:
    """``flags`` may say that a proximity domain, a u32, follows."""

    seg: u16 = 0
    bus: u8 = 0
    devfn: u8 = 0
    flags: u32 = 0
    physfn: physdev_pci_device_add_physfn = ZERO


@cunion
class physdev_op_u:
    irq_status_query: physdev_irq_status_query = ZERO
    set_iopl: physdev_set_iopl = ZERO
    set_iobitmap: physdev_set_iobitmap = ZERO
    apic_op: physdev_apic = ZERO
    irq_op: physdev_irq = ZERO


@cstruct
class physdev_op:
    """The argument of physdev_op_compat."""

    cmd: u32 = 0
    u: physdev_op_u = ZERO
