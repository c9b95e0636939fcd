"""Names of the ring layouts, as a front-end writes them in its ``protocol`` node (public/io/protocols.h)."""

from __future__ import annotations

XEN_IO_PROTO_ABI_X86_32 = "x86_32-abi"
XEN_IO_PROTO_ABI_X86_64 = "x86_64-abi"
