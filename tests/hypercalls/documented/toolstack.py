"""Hypercalls of the toolstack, of dom0's drivers and of HVM guests, as an unprivileged PV domain has them
(hypercalls/refused.py, domctl.py, hvm_op.py and xenoprof_op.py name Xen's files).
"""

from __future__ import annotations

from hypercalls.public import errno as e
from hypercalls.public import xen
from hypercalls.public.xen import DOMID_INVALID, DOMID_IO, DOMID_SELF
from tests.hypercalls.documented import Case, Family
from tests.hypercalls.documented.world import DOM0, DOMID, NOBODY, NOWHERE, PAGES, World

XENPF_VERSION, SYSCTL_VERSION, DOMCTL_VERSION = 0x03000001, 0x15, 0x15
GET_BUFFER = 14  #: of xenoprof_op
#: domctl operations that are looked at here
(CREATE, GETDOMAININFO, SHADOW_OP, IRQ_PERMISSION, IOMEM_PERMISSION, IOPORT_PERMISSION, ASSIGN_DEVICE, BIND_PT_IRQ,
 MEMORY_MAPPING, IOPORT_MAPPING, TEST_ASSIGN_DEVICE, SET_TARGET, UNBIND_PT_IRQ, GET_DEVICE_GROUP, VM_EVENT_OP) = (
    1, 5, 10, 19, 20, 21, 37, 38, 39, 40, 45, 46, 48, 50, 56)  # fmt: skip
SET_PARAM, GET_PARAM, PAGETABLE_DYING, XENTRACE, GET_MEM_TYPE, UPCALL_VECTOR, VM_EVENT, ALTP2M = (
    0, 1, 9, 11, 15, 23, 24, 25)  # fmt: skip


def _case(name: str, error: int, *args: object) -> Case:
    return Case(name, error, lambda world: world.hypercall(name, *args))


def _words(*values: int) -> bytes:
    return b"".join((value & 0xFFFF_FFFF).to_bytes(4, "little") for value in values).ljust(144, b"\0")


def _domctl(error: int, command: int, domain: int, *part: int, version: int = DOMCTL_VERSION) -> Case:
    """``part``: the operation's own words."""
    return _case("domctl", error, _words(command, version, domain, 0, *part))


def _hvm(error: int, operation: int, *words: int) -> Case:
    return _case("hvm_op", error, operation, _words(*words))


def _page_end(world: World) -> int:
    """A structure that is not all mapped."""
    return world.hypercall("domctl", PAGES.stop + 0x4000 - 143)


def _second_buffer(world: World) -> int:
    assert world.hypercall("xenoprof_op", GET_BUFFER, bytes(24)) == 0
    return world.hypercall("xenoprof_op", GET_BUFFER, bytes(24))


FAMILY = Family(
    documented={
        ("platform_op", e.EFAULT): "the structure is not mapped; do_platform_op",
        ("platform_op", e.EACCES): "another version of the interface; do_platform_op",
        ("platform_op", e.EPERM): "for domain 0; xsm_platform_op",
        ("sysctl", e.EFAULT): "the structure is not mapped; do_sysctl",
        ("sysctl", e.EACCES): "another version of the interface; do_sysctl",
        ("sysctl", e.EPERM): "for domain 0; xsm_sysctl",
        ("domctl", e.EFAULT): "the structure is not mapped; do_domctl",
        ("domctl", e.EACCES): "another version of the interface; do_domctl",
        ("domctl", e.ESRCH): "no such domain, or target; do_domctl",
        ("domctl", e.EPERM): "for domain 0; xsm_domctl",
        ("domctl", e.EINVAL): "what cannot be is looked at before who asks; do_domctl, arch_do_domctl",
        ("domctl", e.EOPNOTSUPP): "for HVM domains, or with an IOMMU; do_domctl, arch_do_domctl, iommu_do_domctl",
        ("paging_domctl_cont", e.EFAULT): "the structure is not mapped; do_paging_domctl_cont",
        ("paging_domctl_cont", e.EOPNOTSUPP): "not the operation that goes on; do_paging_domctl_cont",
        ("paging_domctl_cont", e.ESRCH): "no such domain; do_paging_domctl_cont",
        ("paging_domctl_cont", e.EPERM): "for domain 0; xsm_domctl",
        ("kexec_op", e.EPERM): "for domain 0; xsm_kexec",
        ("mca", e.EPERM): "for domain 0; xsm_do_mca",
        ("hypfs_op", e.EPERM): "for domain 0; xsm_hypfs_op",
        ("console_io", e.EPERM): "for domain 0, without a verbose debug build; xsm_console_io",
        ("xsm_op", e.ENOSYS): "no security module; xsm_do_xsm_op",
        ("xenpmu_op", e.EOPNOTSUPP): "virtual counters are off; do_xenpmu_op",
        ("tmem_op", e.ENOSYS): "gone since 4.13; pv_hypercall",
        ("argo_op", e.ENOSYS): "not built; pv_hypercall",
        ("xenoprof_op", e.EINVAL): "no such operation; do_xenoprof_op",
        ("xenoprof_op", e.EPERM): "for the domain that profiles; do_xenoprof_op",
        ("xenoprof_op", e.EFAULT): "XENOPROF_init, get_buffer: the structure is not mapped; xenoprof_op_init",
        ("xenoprof_op", e.ENODEV): "XENOPROF_init: a CPU that it does not know; xenoprof_arch_init",
        ("xenoprof_op", e.EBUSY): "XENOPROF_get_buffer: the domain has it; share_xenoprof_page_with_guest",
        ("dm_op", e.ENODATA): "no buffers; do_dm_op",
        ("dm_op", e.E2BIG): "more than two; do_dm_op",
        ("dm_op", e.EFAULT): "the list of buffers is not mapped; do_dm_op",
        ("dm_op", e.ESRCH): "no such domain, DOMID_SELF; rcu_lock_remote_domain_by_id",
        ("dm_op", e.EPERM): "oneself; rcu_lock_remote_domain_by_id",
        ("dm_op", e.EINVAL): "domain 0, which is no HVM domain; dm_op",
        ("hvm_op", e.ENOSYS): "no such operation; do_hvm_op",
        ("hvm_op", e.EFAULT): "the structure is not mapped; do_hvm_op",
        ("hvm_op", e.ESRCH): "no such domain; do_hvm_op",
        ("hvm_op", e.EPERM): "domain 0; xsm_hvm_param",
        ("hvm_op", e.EINVAL): "the domain is no HVM domain, or an event that cannot be; do_hvm_op",
        ("hvm_op", e.EOPNOTSUPP): "another domain's page tables; no alternate ones; do_hvm_op, do_altp2m_op",
    },
    cases=[
        _case("platform_op", e.EFAULT, NOWHERE), _case("platform_op", e.EACCES, bytes(136)),
        _case("platform_op", e.EPERM, _words(0, XENPF_VERSION)),
        _case("sysctl", e.EFAULT, NOWHERE), _case("sysctl", e.EACCES, bytes(136)),
        _case("sysctl", e.EPERM, _words(0, SYSCTL_VERSION)),
        _case("domctl", e.EFAULT, NOWHERE), Case("domctl", e.EFAULT, _page_end),
        _domctl(e.EACCES, CREATE, DOM0, version=0x14),
        _domctl(e.ESRCH, SHADOW_OP, NOBODY), _domctl(e.ESRCH, SHADOW_OP, DOMID_SELF),
        _domctl(e.ESRCH, GETDOMAININFO, NOBODY), _domctl(e.ESRCH, ASSIGN_DEVICE, DOMID_INVALID),
        _domctl(e.ESRCH, SET_TARGET, DOM0, NOBODY), _domctl(e.ESRCH, VM_EVENT_OP, DOMID_INVALID, 1),
        _domctl(e.EPERM, CREATE, NOBODY), _domctl(e.EPERM, SHADOW_OP, DOMID), _domctl(e.EPERM, 9999, DOM0),
        _domctl(e.EPERM, GETDOMAININFO, DOMID - 1), _domctl(e.EPERM, ASSIGN_DEVICE, DOMID_IO),
        _domctl(e.EPERM, TEST_ASSIGN_DEVICE, DOMID_INVALID), _domctl(e.EPERM, VM_EVENT_OP, DOMID, 1),
        _domctl(e.EPERM, IRQ_PERMISSION, DOM0, 55), _domctl(e.EPERM, IOMEM_PERMISSION, DOM0, 5, 0, 1, 0),
        _domctl(e.EPERM, IOPORT_PERMISSION, DOM0, 65535, 1), _domctl(e.EPERM, MEMORY_MAPPING, DOM0, 0, 0, 5, 0, 1, 0),
        _domctl(e.EINVAL, GETDOMAININFO, DOMID_SELF), _domctl(e.EINVAL, IRQ_PERMISSION, DOM0, 56),
        _domctl(e.EINVAL, IOMEM_PERMISSION, DOM0, 5, 0, 0, 0), _domctl(e.EINVAL, IOPORT_PERMISSION, DOM0, 5, 0),
        _domctl(e.EINVAL, IOPORT_PERMISSION, DOM0, 65535, 2), _domctl(e.EINVAL, IOPORT_PERMISSION, DOM0, 2, -1),
        _domctl(e.EINVAL, BIND_PT_IRQ, DOM0), _domctl(e.EINVAL, UNBIND_PT_IRQ, DOMID),
        _domctl(e.EINVAL, MEMORY_MAPPING, DOM0), _domctl(e.EINVAL, MEMORY_MAPPING, DOM0, 0, 0, 1 << 28, 0, 1, 0),
        _domctl(e.EINVAL, SET_TARGET, DOMID, DOMID),
        _domctl(e.EOPNOTSUPP, IOPORT_MAPPING, DOM0), _domctl(e.EOPNOTSUPP, GET_DEVICE_GROUP, DOM0),
        _domctl(e.EOPNOTSUPP, SET_TARGET, DOMID, DOM0),
        _case("paging_domctl_cont", e.EFAULT, NOWHERE),
        _case("paging_domctl_cont", e.EOPNOTSUPP, _words(SHADOW_OP + 1, DOMCTL_VERSION)),
        _case("paging_domctl_cont", e.EOPNOTSUPP, _words(SHADOW_OP, 0)),
        _case("paging_domctl_cont", e.ESRCH, _words(SHADOW_OP, DOMCTL_VERSION, NOBODY)),
        _case("paging_domctl_cont", e.EPERM, _words(SHADOW_OP, DOMCTL_VERSION, DOM0)),
        _case("paging_domctl_cont", e.EPERM, _words(SHADOW_OP, DOMCTL_VERSION, DOMID)),
        _case("kexec_op", e.EPERM, 0, NOWHERE), _case("mca", e.EPERM, NOWHERE), _case("hypfs_op", e.EPERM, 0, NOWHERE),
        *(_case("console_io", e.EPERM, command, count, NOWHERE)
          for command in (xen.CONSOLEIO_write, xen.CONSOLEIO_read, 99) for count in (0, 1, 0xFFFF_FFFF)),
        _case("xsm_op", e.ENOSYS, NOWHERE), _case("xenpmu_op", e.EOPNOTSUPP, 0, NOWHERE),
        _case("tmem_op", e.ENOSYS, NOWHERE), _case("argo_op", e.ENOSYS, 0, NOWHERE),
        _case("xenoprof_op", e.EINVAL, 18), _case("xenoprof_op", e.EINVAL, -1), _case("xenoprof_op", e.EPERM, 1),
        _case("xenoprof_op", e.EPERM, 13), _case("xenoprof_op", e.EPERM, 17),
        _case("xenoprof_op", e.EFAULT, 0, NOWHERE), _case("xenoprof_op", e.ENODEV, 0, bytes(72)),
        _case("xenoprof_op", e.EFAULT, GET_BUFFER, NOWHERE), Case("xenoprof_op", e.EBUSY, _second_buffer),
        _case("dm_op", e.ENODATA, DOM0, 0, NOWHERE), _case("dm_op", e.E2BIG, NOBODY, 3, NOWHERE),
        _case("dm_op", e.EFAULT, DOM0, 1, NOWHERE), _case("dm_op", e.ESRCH, NOBODY, 1, bytes(32)),
        _case("dm_op", e.ESRCH, DOMID_SELF, 1, bytes(32)), _case("dm_op", e.EPERM, DOMID, 1, bytes(32)),
        _case("dm_op", e.EINVAL, DOM0, 1, bytes(32)),
        _case("hvm_op", e.ENOSYS, 2, NOWHERE), _case("hvm_op", e.ENOSYS, 26, NOWHERE),
        *(_case("hvm_op", e.EFAULT, operation, NOWHERE)
          for operation in (SET_PARAM, GET_PARAM, PAGETABLE_DYING, 10, XENTRACE, GET_MEM_TYPE)),
        *(_hvm(e.ESRCH, operation, NOBODY) for operation in (SET_PARAM, GET_PARAM, PAGETABLE_DYING, GET_MEM_TYPE)),
        _hvm(e.EPERM, GET_MEM_TYPE, DOM0),
        *(_hvm(e.EINVAL, operation, DOMID_SELF) for operation in (SET_PARAM, GET_PARAM, PAGETABLE_DYING, GET_MEM_TYPE)),
        _hvm(e.EINVAL, GET_PARAM, NOBODY, 39), _hvm(e.EINVAL, XENTRACE, 29 << 16), _hvm(e.EINVAL, XENTRACE, 1 << 12),
        _hvm(e.EINVAL, UPCALL_VECTOR), _hvm(e.EINVAL, VM_EVENT), _case("hvm_op", e.EINVAL, 5, 0),
        _hvm(e.EOPNOTSUPP, PAGETABLE_DYING, DOM0), _hvm(e.EOPNOTSUPP, ALTP2M),
    ],
)  # fmt: skip
