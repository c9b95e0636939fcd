"""The start_info page as the first vcpu finds it (``start_info_x86_*`` of tools/libs/guest/xg_dom_x86.c)."""

from __future__ import annotations

from hypercalls.abi import ABI32, ABI64
from hypercalls.public import xen

__all__ = ["encode_cmdline", "pack_start_info"]


def encode_cmdline(cmdline: str) -> bytes:
    """The command line as start_info holds it: cut to 1023 bytes, as libxc does, before a NUL."""
    raw = cmdline.encode("utf-8", "surrogateescape").split(b"\0", 1)[0]
    return raw[: xen.MAX_GUEST_CMDLINE - 1]


def pack_start_info(bits: int, info: xen.start_info) -> bytes:
    """The structure's bytes in a guest of that width; the rest of its page is zero."""
    return (ABI64 if bits == 64 else ABI32).pack(info)
