"""xen_version: what a guest may ask about the hypervisor (public/version.h)."""

from __future__ import annotations

from typing import Annotated

from hypercalls.declare import Bytes, cstruct, u32, ulong

XENVER_version = 0
XENVER_extraversion = 1
XENVER_compile_info = 2
XENVER_capabilities = 3
XENVER_changeset = 4
XENVER_platform_parameters = 5
XENVER_get_features = 6
XENVER_pagesize = 7
XENVER_guest_handle = 8
XENVER_commandline = 9
XENVER_build_id = 10

XEN_EXTRAVERSION_LEN = 16
XEN_CAPABILITIES_INFO_LEN = 1024
XEN_CHANGESET_INFO_LEN = 64
XEN_COMMANDLINE_LEN = 1024


@cstruct
class xen_compile_info:
    compiler: Annotated[bytes, Bytes(64)] = b""
    compile_by: Annotated[bytes, Bytes(16)] = b""
    compile_domain: Annotated[bytes, Bytes(32)] = b""
    compile_date: Annotated[bytes, Bytes(32)] = b""


@cstruct
class xen_platform_parameters:
    virt_start: ulong = 0


@cstruct
class xen_feature_info:
    submap_idx: u32 = 0
    submap: u32 = 0


@cstruct
class xen_build_id:
    """``len`` bytes of the id follow."""

    len: u32 = 0
