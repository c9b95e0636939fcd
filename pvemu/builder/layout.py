"""Where everything goes: Xen's order of kernel, ramdisk, p2m, start_info, rings, page tables, stack.

Mirrors ``xc_dom_build_image`` of tools/libs/guest/xg_dom_core.c and ``alloc_pgtables_pv`` of xg_dom_x86.c. Virtual
addresses and pfns are given out together, from ``virt_base`` and pfn 0 up. A kernel with INIT_P2M gets its p2m (and the
tables that map it) last, a kernel with MOD_START_PFN its ramdisk behind the initial mapping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvemu.builder.pgtables import PAGING32, PAGING64, Mapping, MappingOverlapError, Paging, count_pgtables
from pvemu.config import MAX_MEMORY_MIB
from pvemu.errors import KernelError
from pvemu.frames import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from pvemu.builder.kernel import KernelImage

__all__ = ["Layout", "Segment", "lay_out"]

_PADDING_PAGES = (512 << 10) >> PAGE_SHIFT  #: room to spare behind the boot stack
_ALIGNMENT_MASK = (1 << 22) - 1  #: the initial mapping ends at a multiple of 4 MiB


class Segment(NamedTuple):
    """A named part (``struct xc_dom_seg``): virtual bytes [vstart, vend), pages from ``pfn`` on."""

    name: str
    vstart: int
    vend: int
    pfn: int
    pages: int


class Layout(NamedTuple):
    """Places of all parts of one domain. ``virt_pgtab_end`` is the end of the initial mapping."""

    paging: Paging
    segments: dict[str, Segment]  #: kernel, ramdisk, phys2mach, start info, xenstore, console, page tables, boot stack
    mappings: list[Mapping]
    virt_alloc_end: int
    virt_pgtab_end: int
    p2m_vaddr: int


class _Allocator:
    """``pfn_alloc_end`` and ``virt_alloc_end``, that go up together."""

    def __init__(self, image: KernelImage, nr_pages: int) -> None:
        self.image = image
        self.nr_pages = nr_pages
        self.pfn_alloc_end = 0
        self.virt_alloc_end = image.virt_base
        self.segments: dict[str, Segment] = {}

    def too_large(self, name: str, pages: int) -> KernelError:
        xen_name = "module0" if name == "ramdisk" else name
        advice = "give more memory" if pages <= MAX_MEMORY_MIB << 8 else "no guest has as much: link it again"
        return KernelError(
            f"{self.image.name}: {name} needs {_size(pages)}, but of the domain's {self.nr_pages >> 8} MiB only "
            f"{_size(self.nr_pages - self.pfn_alloc_end)} are left: {advice} (xc_dom_chk_alloc_pages: segment "
            f"{xen_name} too large ({pages:#x} > {self.nr_pages:#x} - {self.pfn_alloc_end:#x} pages))"
        )

    def take(self, name: str, pages: int) -> None:
        if pages > self.nr_pages - self.pfn_alloc_end:
            raise self.too_large(name, pages)
        self.pfn_alloc_end += pages
        self.virt_alloc_end += pages << PAGE_SHIFT

    def pad(self, boundary: int) -> None:
        """Move up to a virtual address."""
        self.take("padding", (boundary - self.virt_alloc_end) >> PAGE_SHIFT)

    def segment(self, name: str, size: int, start: int | None = None) -> Segment:
        if start is not None:
            self.pad(start)
        pages = (size + PAGE_MASK) >> PAGE_SHIFT
        vstart, pfn = self.virt_alloc_end, self.pfn_alloc_end
        self.take(name, pages)
        self.segments[name] = Segment(name, vstart, vstart + size, pfn, pages)
        return self.segments[name]


def _size(pages: int) -> str:
    return f"{pages >> 8} MiB" if pages >= 1 << 8 else f"{pages << 2} KiB"


def lay_out(image: KernelImage, nr_pages: int, ramdisk_size: int | None) -> Layout:
    """Place a kernel in ``nr_pages`` pages; ``ramdisk_size`` in bytes as it will lie in memory, None without one.

    Raises KernelError when the memory does not suffice or addresses are Xen's.
    """
    paging = PAGING64 if image.bits == 64 else PAGING32
    alloc = _Allocator(image, nr_pages)
    alloc.segment("kernel", image.v_end - image.v_start, image.v_start)
    if ramdisk_size is not None and not image.mod_start_pfn:
        alloc.segment("ramdisk", ramdisk_size)
    p2m_size = (nr_pages * paging.sizeof_pfn + PAGE_MASK) & ~PAGE_MASK
    p2m_vaddr = image.init_p2m
    if p2m_vaddr is None:
        p2m_vaddr = alloc.segment("phys2mach", p2m_size).vstart
    for name in ("start info", "xenstore", "console"):
        alloc.segment(name, PAGE_SIZE)
    mapping, virt_pgtab_end = _alloc_pgtables(alloc, paging)
    mappings = [mapping]
    alloc.segment("boot stack", PAGE_SIZE)
    virt_alloc_end = alloc.virt_alloc_end
    alloc.pad(virt_pgtab_end)
    if ramdisk_size is not None and image.mod_start_pfn:
        alloc.segment("ramdisk", ramdisk_size)
    if image.init_p2m is not None:
        mappings.append(_alloc_unmapped_p2m(alloc, paging, mappings, image.init_p2m, p2m_size))
    return Layout(paging, alloc.segments, mappings, virt_alloc_end, virt_pgtab_end, p2m_vaddr)


def _alloc_pgtables(alloc: _Allocator, paging: Paging) -> tuple[Mapping, int]:
    """The tables of the initial mapping, which covers them, the stack and some room: grown until it fits."""
    image = alloc.image
    extra_pages = _PADDING_PAGES + 1
    pages = extra_pages
    while True:
        last = (alloc.virt_alloc_end + (pages << PAGE_SHIFT)) | _ALIGNMENT_MASK
        if last >> image.bits:
            raise KernelError(
                f"{image.name}: the initial mapping from {image.virt_base:#x} does not fit below the end of the "
                f"{image.bits}-bit address space: link the kernel lower or give it a smaller ramdisk "
                "(get_pg_table: xc_dom_pfn_to_ptr failed)"
            )
        mapped = (last - image.virt_base) >> PAGE_SHIFT
        if mapped >= alloc.nr_pages:
            raise KernelError(
                f"{image.name}: initial mapping of {_size(mapped + 1)} does not fit the domain's "
                f"{alloc.nr_pages >> 8} MiB: give more memory (count_pgtables: not enough memory for initial mapping "
                f"({mapped:#x} > {alloc.nr_pages:#x}))"
            )
        mapping = count_pgtables(paging, [], image.virt_base, last, alloc.pfn_alloc_end)
        pages = mapping.area.pgtables + extra_pages
        if alloc.virt_alloc_end + (pages << PAGE_SHIFT) <= last + 1:
            break
    alloc.segment("page tables", mapping.area.pgtables << PAGE_SHIFT)
    return mapping, last + 1


def _alloc_unmapped_p2m(alloc: _Allocator, paging: Paging, earlier: list[Mapping], vaddr: int, size: int) -> Mapping:
    """The p2m at its own virtual address, and behind it in the same segment the tables that map it."""
    name, last = alloc.image.name, vaddr + size - 1
    try:
        mapping = count_pgtables(paging, earlier, vaddr, last, alloc.pfn_alloc_end + (size >> PAGE_SHIFT))
    except MappingOverlapError:
        raise KernelError(
            f"{name}: INIT_P2M {vaddr:#x} overlaps the initial mapping: correct the note "
            "(count_pgtables: overlapping mappings)"
        ) from None
    mapping.area.pfn = alloc.pfn_alloc_end
    alloc.segment("phys2mach", size + (mapping.area.pgtables << PAGE_SHIFT))
    return mapping
