"""xen_version: what the hypervisor says about itself (xen/common/kernel.c do_xen_version, xen/common/version.c).

Answers are those of Xen 4.17 to an unprivileged domain; build-time strings say that this is not a build of Xen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypercalls.arguments import s32
from hypercalls.public import features as feat
from hypercalls.public import version as xv
from hypercalls.public.arch_x86 import HYPERVISOR_VIRT_START_X86_32, HYPERVISOR_VIRT_START_X86_64
from hypercalls.public.errno import EINVAL, ENOSYS, EPERM
from hypercalls.public.xen import VMASST_TYPE_pae_extended_cr3

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = ["XEN_CAPABILITIES", "XEN_SUBVERSION", "XEN_VERSION", "do_xen_version"]

XEN_VERSION: Final = 4
XEN_SUBVERSION: Final = 17
#: interface names stayed at 3.0
XEN_CAPABILITIES: Final = b"xen-3.0-x86_64 xen-3.0-x86_32p "
XEN_CHANGESET: Final = b"unavailable"
COMPILE_INFO: Final = xv.xen_compile_info(compiler=b"none", compile_by=b"pvemu", compile_domain=b"", compile_date=b"")
DENIED: Final = b"<denied>"
PAGE_SIZE: Final = 4096
#: of every PV domain
FEATURES: Final = (
    1 << feat.XENFEAT_mmu_pt_update_preserve_ad
    | 1 << feat.XENFEAT_highmem_assist
    | 1 << feat.XENFEAT_gnttab_map_avail_bits
    | 1 << feat.XENFEAT_memory_op_vnode_supported
    | 1 << feat.XENFEAT_direct_mapped
)


def do_xen_version(ctx: Context, cmd: int, arg: int) -> int:
    """``cmd``: an XENVER_*; ``arg``: where the answer goes."""
    match s32(cmd):
        case xv.XENVER_version:
            return XEN_VERSION << 16 | XEN_SUBVERSION
        case xv.XENVER_extraversion:
            answer = _text(ctx.extra_version().encode("ascii", "replace"), xv.XEN_EXTRAVERSION_LEN)
        case xv.XENVER_compile_info:
            answer = ctx.abi.pack(COMPILE_INFO)
        case xv.XENVER_capabilities:
            answer = _text(XEN_CAPABILITIES, xv.XEN_CAPABILITIES_INFO_LEN)
        case xv.XENVER_changeset:
            answer = _text(XEN_CHANGESET, xv.XEN_CHANGESET_INFO_LEN)
        case xv.XENVER_platform_parameters:
            start = HYPERVISOR_VIRT_START_X86_64 if ctx.abi.bits == 64 else HYPERVISOR_VIRT_START_X86_32
            answer = ctx.abi.pack(xv.xen_platform_parameters(virt_start=start))
        case xv.XENVER_get_features:
            return _get_features(ctx, arg)
        case xv.XENVER_pagesize:
            return -EINVAL if arg else PAGE_SIZE
        case xv.XENVER_guest_handle:
            answer = ctx.domain.handle
        case xv.XENVER_commandline:
            answer = DENIED + b"\0"
        case xv.XENVER_build_id:
            return -EPERM
        case _:
            return -ENOSYS
    ctx.guest.copy_to_guest(arg, answer)
    return 0


def _text(text: bytes, size: int) -> bytes:
    """A C string in an array of ``size`` bytes."""
    return text[: size - 1].ljust(size, b"\0")


def _get_features(ctx: Context, arg: int) -> int:
    layout = ctx.abi.reader(xv.xen_feature_info)
    submap_idx, _ = layout.unpack(ctx.guest.copy_from_guest(arg, layout.size))
    if submap_idx >= feat.XENFEAT_NR_SUBMAPS:
        return -EINVAL
    pae = ctx.domain.has_vm_assist(VMASST_TYPE_pae_extended_cr3)
    ctx.guest.copy_to_guest(arg, layout.pack(submap_idx, FEATURES | pae << feat.XENFEAT_pae_pgdir_above_4gb))
    return 0
