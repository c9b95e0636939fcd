"""The hypercall page: 128 slots of 32 bytes that load a hypercall number and trap into Xen.

Mirrors xen/arch/x86/pv/hypercall.c (``pv_ring3_init_hypercall_page``, ``pv_ring1_init_hypercall_page``). The iret slot
is jumped to, never called: it does not return and leaves Xen the frame it expects.
"""

from __future__ import annotations

from hypercalls.public.xen import __HYPERVISOR_iret
from pvemu.frames import PAGE_SIZE

__all__ = ["hypercall_page"]

_SLOT = 32
_FILL = b"\xcc"  # int3


def hypercall_page(bits: int) -> bytes:
    """The page's bytes for a guest of 64 or 32 bits."""
    slot = _slot64 if bits == 64 else _slot32
    return b"".join(slot(number).ljust(_SLOT, _FILL) for number in range(PAGE_SIZE // _SLOT))


def _slot64(number: int) -> bytes:
    """``push rcx; push r11; mov eax, number; syscall; pop r11; pop rcx; ret``; iret pushes rax too and stays away."""
    load = b"\xb8" + number.to_bytes(4, "little")
    if number == __HYPERVISOR_iret:
        return b"\x51\x41\x53\x50" + load + b"\x0f\x05"
    return b"\x51\x41\x53" + load + b"\x0f\x05\x41\x5b\x59\xc3"


def _slot32(number: int) -> bytes:
    """``mov eax, number; int 0x82; ret``; iret pushes eax first and stays away."""
    load = b"\xb8" + number.to_bytes(4, "little")
    if number == __HYPERVISOR_iret:
        return b"\x50" + load + b"\xcd\x82"
    return load + b"\xcd\x82\xc3"
