"""physdev_op and physdev_op_compat, of a domain without devices (xen/arch/x86/physdev.c, xen/drivers/pci/physdev.c,
xen/arch/x86/compat.c).
"""

from __future__ import annotations

from hypercalls.public import errno as e
from hypercalls.public import physdev as pd
from hypercalls.public.xen import DOMID_SELF
from tests.hypercalls.documented import Case, Family
from tests.hypercalls.documented.world import DOM0, DOMID, FREE, NOBODY, NOWHERE, READ_ONLY, World

NR_PIRQS = 56  #: one I/O APIC's 24 and 32 more


def _op(world: World, operation: int, argument: object) -> int:
    return world.hypercall("physdev_op", operation, argument)


def _case(name: str, error: int, argument: object = NOWHERE, bits: int = 0) -> Case:
    operation = getattr(pd, name)
    return Case(name, error, lambda world: _op(world, operation, argument), bits)


def _unknown(operation: int) -> Case:
    return Case("physdev_op", e.ENOSYS, lambda world: _op(world, operation, NOWHERE))


def _in_vain(name: str, argument: object) -> Case:
    """The answer cannot be written."""
    operation = getattr(pd, name)
    return Case(name, e.EFAULT, lambda world: _op(world, operation, world.put_read_only(argument)))


def _map(**fields: int) -> pd.physdev_map_pirq:
    return pd.physdev_map_pirq(**{"domid": DOMID_SELF, "type": pd.MAP_PIRQ_TYPE_GSI} | fields)


def _iobitmap(world: World, nr_ports: int, bitmap: int) -> int:
    return _op(world, pd.PHYSDEVOP_set_iobitmap, pd.physdev_set_iobitmap(bitmap=bitmap, nr_ports=nr_ports))


def _eoi_map(name: str, error: int) -> list[Case]:
    """A frame that is a page table; one that is nobody's; a second one."""
    operation = getattr(pd, name)

    def of(world: World, mfn: int) -> int:
        return _op(world, operation, pd.physdev_pirq_eoi_gmfn(gmfn=mfn))

    def twice(world: World) -> int:
        assert of(world, world.mfns[FREE]) == 0
        return of(world, world.mfns[FREE + 1])

    if error == e.EBUSY:
        return [Case(name, error, twice)]
    return [Case(name, error, lambda world: of(world, world.root)), Case(name, error, lambda world: of(world, 1))]


def _no_pirq_left(world: World) -> int:
    for _ in range(32):
        assert _op(world, pd.PHYSDEVOP_get_free_pirq, pd.physdev_get_free_pirq(type=pd.MAP_PIRQ_TYPE_MSI)) == 0
    return _op(world, pd.PHYSDEVOP_get_free_pirq, pd.physdev_get_free_pirq(type=pd.MAP_PIRQ_TYPE_MSI))


def _device_with_pxm(world: World) -> int:
    """What the flag says to follow lies behind the end of what is mapped."""
    add = pd.physdev_pci_device_add(flags=pd.XEN_PCI_DEV_PXM)
    place = READ_ONLY.stop - world.abi.sizeof(pd.physdev_pci_device_add)
    world.ram.write((world.mfn(READ_ONLY.stop - 1) << 12) + place % 4096, world.abi.pack(add))
    return _op(world, pd.PHYSDEVOP_pci_device_add, place)


#: operation -> its structure, where a copy of it is all that an unprivileged domain gets
_REFUSED: dict[str, object] = {
    "PHYSDEVOP_apic_read": pd.physdev_apic(), "PHYSDEVOP_apic_write": pd.physdev_apic(),
    "PHYSDEVOP_alloc_irq_vector": pd.physdev_irq(), "PHYSDEVOP_manage_pci_add": pd.physdev_manage_pci(),
    "PHYSDEVOP_manage_pci_remove": pd.physdev_manage_pci(), "PHYSDEVOP_manage_pci_add_ext": pd.physdev_manage_pci_ext(),
    "PHYSDEVOP_pci_device_add": pd.physdev_pci_device_add(), "PHYSDEVOP_pci_device_remove": pd.physdev_pci_device(),
    "PHYSDEVOP_prepare_msix": pd.physdev_pci_device(), "PHYSDEVOP_release_msix": pd.physdev_pci_device(),
    "PHYSDEVOP_restore_msi": pd.physdev_restore_msi(), "PHYSDEVOP_restore_msi_ext": pd.physdev_pci_device(),
    "PHYSDEVOP_setup_gsi": pd.physdev_setup_gsi(gsi=23),
    "PHYSDEVOP_map_pirq": _map(domid=DOM0), "PHYSDEVOP_unmap_pirq": pd.physdev_unmap_pirq(domid=DOMID),
}  # fmt: skip
_COPIED = (*_REFUSED, "PHYSDEVOP_eoi", "PHYSDEVOP_irq_status_query", "PHYSDEVOP_set_iopl", "PHYSDEVOP_set_iobitmap",
           "PHYSDEVOP_get_free_pirq", "PHYSDEVOP_pirq_eoi_gmfn_v1", "PHYSDEVOP_pirq_eoi_gmfn_v2",
           "PHYSDEVOP_pirq_eoi_gmfn")  # fmt: skip
_EOI_MAPS = ("PHYSDEVOP_pirq_eoi_gmfn_v1", "PHYSDEVOP_pirq_eoi_gmfn_v2", "PHYSDEVOP_pirq_eoi_gmfn")

FAMILY = Family(
    documented={
        ("physdev_op", e.ENOSYS): "no such operation; pci_physdev_op",
        ("physdev_op_compat", e.EFAULT): "the structure is not mapped; do_physdev_op_compat",
        ("physdev_op_compat", e.ENOSYS): "no such operation; do_physdev_op",
        ("PHYSDEVOP_free_irq_vector", e.ENOSYS): "long gone; pci_physdev_op",
        **{(name, e.EFAULT): "the structure is not mapped, or the answer cannot be written; do_physdev_op"
           for name in _COPIED},
        **{(name, e.EPERM): "for those with devices; xsm_apic, xsm_resource_*, xsm_map_domain_pirq, and the like"
           for name in _REFUSED},
        ("PHYSDEVOP_pci_mmcfg_reserved", e.EPERM): "for domain 0, before anything is copied; xsm_resource_setup_misc",
        ("PHYSDEVOP_dbgp_op", e.EPERM): "for the hardware domain, before anything is copied; do_physdev_op",
        ("PHYSDEVOP_eoi", e.EINVAL): "an interrupt that is not the domain's; do_physdev_op",
        ("PHYSDEVOP_irq_status_query", e.EINVAL): "an interrupt beyond what a domain may have; do_physdev_op",
        ("PHYSDEVOP_set_iopl", e.EINVAL): "a level beyond 3; do_physdev_op",
        ("PHYSDEVOP_set_iobitmap", e.EINVAL): "more than 65536 ports, or a bitmap in Xen's part; do_physdev_op",
        ("PHYSDEVOP_map_pirq", e.EINVAL): "several messages with a table's address; do_physdev_op",
        ("PHYSDEVOP_map_pirq", e.ESRCH): "no such domain; physdev_map_pirq",
        ("PHYSDEVOP_unmap_pirq", e.ESRCH): "no such domain; physdev_unmap_pirq",
        ("PHYSDEVOP_manage_pci_add_ext", e.EINVAL): "a flag that is neither 0 nor 1; do_physdev_op",
        ("PHYSDEVOP_restore_msi", e.ENODEV): "no such device; do_physdev_op",
        ("PHYSDEVOP_restore_msi_ext", e.ENODEV): "no such device; do_physdev_op",
        ("PHYSDEVOP_setup_gsi", e.EINVAL): "no such interrupt of the machine; do_physdev_op",
        ("PHYSDEVOP_get_free_pirq", e.ENOSPC): "none is left; get_free_pirq",
        **{(name, e.EINVAL): "a frame that cannot be written; do_physdev_op" for name in _EOI_MAPS},
        **{(name, e.EBUSY): "there is one already; do_physdev_op" for name in _EOI_MAPS},
    },
    cases=[
        *map(_unknown, (0, 18, 22, 32, -1)),
        Case("physdev_op_compat", e.EFAULT, lambda world: world.hypercall("physdev_op_compat", NOWHERE)),
        Case("physdev_op_compat", e.ENOSYS, lambda world: world.hypercall("physdev_op_compat", pd.physdev_op(cmd=99))),
        _case("PHYSDEVOP_free_irq_vector", e.ENOSYS),
        *(_case(name, e.EFAULT) for name in _COPIED),
        _in_vain("PHYSDEVOP_irq_status_query", pd.physdev_irq_status_query()),
        _in_vain("PHYSDEVOP_get_free_pirq", pd.physdev_get_free_pirq()),
        Case("PHYSDEVOP_pci_device_add", e.EFAULT, _device_with_pxm),
        *(_case(name, e.EPERM, argument) for name, argument in _REFUSED.items()),
        _case("PHYSDEVOP_map_pirq", e.EPERM, _map()), _case("PHYSDEVOP_map_pirq", e.EPERM, _map(domid=DOMID)),
        _case("PHYSDEVOP_pci_mmcfg_reserved", e.EPERM), _case("PHYSDEVOP_dbgp_op", e.EPERM),
        _case("PHYSDEVOP_eoi", e.EINVAL, pd.physdev_eoi()),
        _case("PHYSDEVOP_eoi", e.EINVAL, pd.physdev_eoi(irq=NR_PIRQS)),
        _case("PHYSDEVOP_irq_status_query", e.EINVAL, pd.physdev_irq_status_query(irq=NR_PIRQS)),
        _case("PHYSDEVOP_irq_status_query", e.EINVAL, pd.physdev_irq_status_query(irq=0xFFFF_FFFF)),
        _case("PHYSDEVOP_set_iopl", e.EINVAL, pd.physdev_set_iopl(iopl=4)),
        Case("PHYSDEVOP_set_iobitmap", e.EINVAL, lambda world: _iobitmap(world, 65537, 0)),
        Case("PHYSDEVOP_set_iobitmap", e.EINVAL, lambda world: _iobitmap(world, 0, world.xen)),
        Case("PHYSDEVOP_set_iobitmap", e.EINVAL, lambda world: _iobitmap(world, 0, world.xen - 8191), 32),
        _case("PHYSDEVOP_map_pirq", e.EINVAL, _map(type=pd.MAP_PIRQ_TYPE_MULTI_MSI, table_base=1 << 12)),
        _case("PHYSDEVOP_map_pirq", e.ESRCH, _map(domid=NOBODY)),
        _in_vain("PHYSDEVOP_map_pirq", _map(domid=NOBODY)),
        _case("PHYSDEVOP_unmap_pirq", e.ESRCH, pd.physdev_unmap_pirq(domid=NOBODY)),
        _case("PHYSDEVOP_manage_pci_add_ext", e.EINVAL, pd.physdev_manage_pci_ext(is_extfn=2)),
        _case("PHYSDEVOP_manage_pci_add_ext", e.EINVAL, pd.physdev_manage_pci_ext(is_virtfn=2)),
        _case("PHYSDEVOP_restore_msi", e.ENODEV, pd.physdev_restore_msi(bus=255)),
        _case("PHYSDEVOP_restore_msi_ext", e.ENODEV, pd.physdev_pci_device(seg=1)),
        _case("PHYSDEVOP_setup_gsi", e.EINVAL, pd.physdev_setup_gsi(gsi=24)),
        _case("PHYSDEVOP_setup_gsi", e.EINVAL, pd.physdev_setup_gsi(gsi=-1)),
        Case("PHYSDEVOP_get_free_pirq", e.ENOSPC, _no_pirq_left),
        *(case for name in _EOI_MAPS for error in (e.EINVAL, e.EBUSY) for case in _eoi_map(name, error)),
    ],
    unreachable={
        ("PHYSDEVOP_get_free_pirq", e.ENOMEM): "Xen's heap does not run out (pirq_get_info)",
        **{(name, e.ENOSPC): "Xen's mappings do not run out (__map_domain_page_global)" for name in _EOI_MAPS},
    },
    never_fails={"PHYSDEVOP_IRQ_UNMASK_NOTIFY": "pirq_guest_unmask: there is no argument"},
)  # fmt: skip
