"""A kernel's segments into its pages (``elf_load_binary`` of xen/common/libelf/libelf-loader.c).

One after the other, file bytes and then zeros, so that of segments that overlap the later one stands. Whatever would
not lie within the kernel's pages is left out, without a word, as is everything once they have been filled twice over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.frames import PAGE_SHIFT

if TYPE_CHECKING:
    from pvemu.builder.guest_pages import GuestPages
    from pvemu.builder.kernel import KernelImage
    from pvemu.builder.layout import Segment

__all__ = ["load_binary"]


def load_binary(image: KernelImage, kernel: Segment, pages: GuestPages) -> None:
    """Write ``image`` to the pages set aside as ``kernel``, which are zero at first."""
    base, size = kernel.pfn << PAGE_SHIFT, kernel.pages << PAGE_SHIFT
    remain_allow_copy = 2 * size
    filled: list[tuple[int, int]] = []
    for segment in image.segments:
        if remain_allow_copy < segment.memsz:
            break
        remain_allow_copy -= segment.memsz
        start = (segment.vaddr - image.v_start) % (1 << 64)
        end = start + len(segment.data)
        if segment.data and end <= size:
            pages.write(base + start, segment.data)
            filled.append((start, end))
        zeros, end = start + segment.filesz, start + segment.memsz
        if zeros < end <= size:
            for low, high in filled:
                if low < end and zeros < high:
                    first = max(low, zeros)
                    pages.write(base + first, bytes(min(high, end) - first))
