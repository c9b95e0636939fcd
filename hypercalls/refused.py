"""Hypercalls of the toolstack and of other guests: what Xen 4.17's default build tells an unprivileged PV domain.

Each function names the Xen file whose first checks it mirrors; none of them has an effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypercalls.arguments import u16, u32
from hypercalls.domctl import DOMCTL_HEADER, DOMCTL_SIZE, XEN_DOMCTL_INTERFACE_VERSION, XEN_DOMCTL_shadow_op
from hypercalls.domid import check_remote_domain_exists
from hypercalls.public.errno import E2BIG, EACCES, EINVAL, ENODATA, ENOSYS, EOPNOTSUPP, EPERM, ESRCH

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = [
    "do_console_io", "do_dm_op", "do_hypfs_op", "do_kexec_op", "do_mca",
    "do_paging_domctl_cont", "do_platform_op", "do_sysctl", "do_xenpmu_op", "do_xsm_op",
]  # fmt: skip

XENPF_INTERFACE_VERSION: Final = 0x03000001
XEN_SYSCTL_INTERFACE_VERSION: Final = 0x15


def _version(ctx: Context, arg: int) -> int:
    """The interface version of a struct xen_platform_op or xen_sysctl."""
    return int.from_bytes(ctx.guest.copy_from_guest(arg, 136)[4:8], "little")


def do_platform_op(ctx: Context, arg: int) -> int:
    """xen/arch/x86/platform_hypercall.c."""
    return -EPERM if _version(ctx, arg) == XENPF_INTERFACE_VERSION else -EACCES


def do_sysctl(ctx: Context, arg: int) -> int:
    """xen/common/sysctl.c."""
    return -EPERM if _version(ctx, arg) == XEN_SYSCTL_INTERFACE_VERSION else -EACCES


def do_paging_domctl_cont(ctx: Context, arg: int) -> int:
    """xen/arch/x86/mm/paging.c: the rest of an interrupted domctl."""
    cmd, version, domain = DOMCTL_HEADER.unpack_from(ctx.guest.copy_from_guest(arg, DOMCTL_SIZE))
    if version != XEN_DOMCTL_INTERFACE_VERSION or cmd != XEN_DOMCTL_shadow_op:
        return -EOPNOTSUPP
    return -EPERM if domain in (0, ctx.domain.domid) else -ESRCH


def do_console_io(_ctx: Context, _cmd: int, _count: int, _buffer: int) -> int:
    """xen/drivers/char/console.c: Xen's own console is dom0's; only a debug build lets others write to it."""
    return -EPERM


def do_kexec_op(_ctx: Context, _op: int, _arg: int) -> int:
    """xen/common/kexec.c."""
    return -EPERM


def do_mca(_ctx: Context, _arg: int) -> int:
    """xen/arch/x86/cpu/mcheck/mce.c."""
    return -EPERM


def do_hypfs_op(_ctx: Context, _cmd: int, _arg1: int, _arg2: int, _arg3: int, _arg4: int) -> int:
    """xen/common/hypfs.c."""
    return -EPERM


def do_xsm_op(_ctx: Context, _op: int) -> int:
    """xen/xsm/dummy.c: built without a security module."""
    return -ENOSYS


def do_xenpmu_op(_ctx: Context, _op: int, _arg: int) -> int:
    """xen/arch/x86/cpu/vpmu.c: virtual performance counters are off unless the host's administrator wants them."""
    return -EOPNOTSUPP


def do_dm_op(ctx: Context, domid: int, nr_bufs: int, bufs: int) -> int:
    """xen/common/dm.c: device models work for another domain."""
    domid, nr_bufs = u16(domid), u32(nr_bufs)
    if not nr_bufs:
        return -ENODATA
    if nr_bufs > 2:
        return -E2BIG
    ctx.guest.copy_from_guest(bufs, nr_bufs * 2 * ctx.abi.long_size)
    check_remote_domain_exists(ctx, domid)
    return -EINVAL  # domain 0 is no HVM domain
