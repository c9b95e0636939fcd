"""Arrays and fields behind guest handles (xen/include/xen/guest_access.h).

Arrays are copied in large pieces. Where a piece is not all mapped, it is taken element by element, so that a handler
sees exactly the elements before the fault, as with Xen's one-by-one copies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.arguments import addr_ok
from hypercalls.errors import XenError
from hypercalls.public.arch_x86 import HYPERVISOR_VIRT_START_X86_32
from hypercalls.public.errno import EFAULT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from struct import Struct

    from hypercalls.context import Context

__all__ = [
    "check_handle", "check_native_handle", "copy_array", "copy_field_to_guest", "handle_ok", "patched", "put_array",
    "put_longs", "read_array", "read_longs",
]  # fmt: skip

#: elements copied at once
CHUNK = 1024


def handle_ok(ctx: Context, vaddr: int, count: int, size: int) -> bool:
    """``guest_handle_okay``, of 32 bits ``compat_handle_okay``: whether ``count`` elements of ``size`` bytes lie
    outside of Xen's part.
    """
    if ctx.abi.bits == 64:
        return _native_handle_ok(vaddr, count, size)
    return count < 0xFFFF_FFFF // size and vaddr + max(count * size - 1, 0) < HYPERVISOR_VIRT_START_X86_32


def _native_handle_ok(vaddr: int, count: int, size: int) -> bool:
    """Only the first element is looked at: others will fault."""
    return count < 0xFFFF_FFFF_FFFF_FFFF // size and addr_ok(vaddr & 0xFFFF_FFFF_FFFF_FFFF)


def check_handle(ctx: Context, vaddr: int, count: int, size: int) -> None:
    """XenError(EFAULT) unless :func:`handle_ok`."""
    if not handle_ok(ctx, vaddr, count, size):
        raise XenError(EFAULT, f"handle {vaddr:#x}")


def check_native_handle(ctx: Context, vaddr: int, count: int, size: int) -> None:
    """``guest_handle_okay`` in code that both widths share: no address of 32 bits is one of Xen's own."""
    if not _native_handle_ok(vaddr, count, size):
        raise XenError(EFAULT, f"handle {vaddr:#x}")


def copy_array(ctx: Context, vaddr: int, count: int, size: int) -> Iterator[bytes]:
    """Whole elements in pieces of up to ``CHUNK``; XenError(EFAULT) after the last element that could be copied."""
    copy = ctx.guest.copy_from_guest
    done = 0
    while done < count:
        todo = min(CHUNK, count - done)
        start = vaddr + done * size
        try:
            piece = copy(start, todo * size)
        except XenError:
            for index in range(todo):
                yield copy(start + index * size, size)
        else:
            yield piece
        done += todo


def read_array(ctx: Context, vaddr: int, count: int, element: Struct) -> Iterator[tuple[int, ...]]:
    """``count`` elements as tuples; XenError(EFAULT) at the first that is not mapped."""
    for piece in copy_array(ctx, vaddr, count, element.size):
        yield from element.iter_unpack(piece)


def read_longs(ctx: Context, vaddr: int, count: int, size: int = 0) -> Iterator[int]:
    """``count`` longs (frames, addresses) of the caller's width, or of ``size`` bytes each."""
    size = size or ctx.abi.long_size
    for piece in copy_array(ctx, vaddr, count, size):
        yield from memoryview(piece).cast("Q" if size == 8 else "I")


def put_longs(ctx: Context, vaddr: int, values: Sequence[int], size: int = 0) -> int:
    """Write longs of the caller's width, or of ``size`` bytes; returns how many could be written (all of them, unless
    memory is missing).
    """
    size, copy = size or ctx.abi.long_size, ctx.guest.copy_to_guest
    mask = (1 << size * 8) - 1
    if not values:
        return 0
    encoded = b"".join([(value & mask).to_bytes(size, "little") for value in values])
    try:
        copy(vaddr, encoded)
    except XenError:
        for index in range(len(values)):
            try:
                copy(vaddr + index * size, encoded[index * size : (index + 1) * size])
            except XenError:
                return index
    return len(values)


def put_array(ctx: Context, vaddr: int, values: Sequence[int], size: int) -> bool:
    """Write integers of ``size`` bytes wherever memory can be written; False when some could not be."""
    if not values:
        return True
    encoded = [value.to_bytes(size, "little") for value in values]
    try:
        ctx.guest.copy_to_guest(vaddr, b"".join(encoded))
    except XenError:
        for index, data in enumerate(encoded):
            try:
                ctx.guest.copy_to_guest(vaddr + index * size, data)
            except XenError:
                continue
        return False
    return True


def copy_field_to_guest(ctx: Context, vaddr: int, cls: type, field: str, value: int) -> None:
    """Store one integer field of the structure at ``vaddr``; XenError(EFAULT) where it is not mapped writable."""
    size = ctx.abi.fieldsize(cls, field)
    data = (value & ((1 << size * 8) - 1)).to_bytes(size, "little")
    ctx.guest.copy_to_guest(vaddr + ctx.abi.offsetof(cls, field), data)


def patched(ctx: Context, data: bytes, cls: type, **values: int) -> bytes:
    """A structure's bytes with other values in some of its integer fields; padding stays as the guest had it."""
    result = bytearray(data)
    for field, value in values.items():
        offset, size = ctx.abi.offsetof(cls, field), ctx.abi.fieldsize(cls, field)
        result[offset : offset + size] = (value & ((1 << size * 8) - 1)).to_bytes(size, "little")
    return bytes(result)
