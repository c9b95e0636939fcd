"""The PV domain builder in libxc's stages: ``parse_image``, ``mem_init``, ``build_image``, ``boot_image``.

Mirrors tools/libs/guest/xg_dom_core.c, xg_dom_boot.c and, of xg_dom_x86.c, ``meminit_pv`` and ``vcpu_x86_*``. Pinning,
types and ownership are the hypervisor's business after ``build_image``; shared_info likewise.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

from hypercalls.public import arch_x86, xen
from pvemu.builder.bzimage import XC_DOM_DECOMPRESS_MAX, check_gzip, do_gunzip
from pvemu.builder.guest_pages import GuestPages
from pvemu.builder.hypercall_page import hypercall_page
from pvemu.builder.kernel import KernelImage, parse_image
from pvemu.builder.layout import Layout, Segment, lay_out
from pvemu.builder.load_binary import load_binary
from pvemu.builder.pgtables import setup_pgtables
from pvemu.builder.start_info import encode_cmdline, pack_start_info
from pvemu.errors import KernelError
from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Mfn, Pfn, Vaddr

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.memory.ram import Ram

__all__ = ["BuiltDomain", "boot_image", "build_image", "mem_init", "parse_image"]

SUPERPAGE_2MB_SHIFT = 9
X86_EFLAGS_IF = 1 << 9
VMASST_TYPE_pae_extended_cr3 = 3


class BuiltDomain(NamedTuple):
    """A domain in memory, not started. Page-table pages are ``pt_pfns`` and, with INIT_P2M, ``p2m_pt_pfns``."""

    image: KernelImage
    bits: int
    nr_pages: int
    p2m: array[int]
    segments: tuple[Segment, ...]  #: in the order of pfns
    start_info_pfn: Pfn
    start_info_mfn: Mfn
    store_pfn: Pfn
    store_mfn: Mfn
    console_pfn: Pfn
    console_mfn: Mfn
    pt_root_pfn: Pfn  #: the L4, or the L3 of a 32-bit guest
    pt_root_mfn: Mfn
    pt_base: Vaddr
    pt_pfns: range
    p2m_pt_pfns: range
    mapped_end: Vaddr  #: end of the initial mapping, which starts at image.virt_base with pfn 0
    stack_top: Vaddr
    virt_entry: Vaddr
    virt_hypercall: Vaddr | None
    hypercall_mfn: Mfn | None
    mfn_list: Vaddr
    first_p2m_pfn: Pfn  #: 0 without INIT_P2M, as ``nr_p2m_frames``
    nr_p2m_frames: int
    mod_start: int  #: virtual address, or pfn when ``flags`` has SIF_MOD_START_PFN
    mod_len: int
    flags: int  #: what the builder itself sets in start_info.flags
    cmd_line: bytes
    registers: dict[str, int]  #: rip, rsp, rsi, rflags and selectors by these names in both widths; all others are 0
    vm_assist: int


def mem_init(alloc_extent: Callable[[int], Mfn], nr_pages: int) -> array[int]:
    """Populate the domain: 2 MiB extents, then single frames. The p2m, indexed by pfn.

    ``alloc_extent(order)`` gives the first of ``1 << order`` consecutive zeroed frames.
    """
    p2m = array("Q")
    for _ in range(nr_pages >> SUPERPAGE_2MB_SHIFT):
        mfn = alloc_extent(SUPERPAGE_2MB_SHIFT)
        p2m.extend(range(mfn, mfn + (1 << SUPERPAGE_2MB_SHIFT)))
    p2m.extend(alloc_extent(0) for _ in range(nr_pages - len(p2m)))
    return p2m


def _ramdisk_contents(ramdisk: bytes, image: KernelImage) -> tuple[bytes, int]:
    """What libxc puts in memory of a ramdisk, and how much room it takes (``xc_dom_build_module``).

    A gzip file is uncompressed into 16 bytes more than it says it holds; only its first member is. When that does not
    work out, the file goes in as it is.
    """
    if not ramdisk:
        raise KernelError(f"{image.name}: ramdisk is an empty file; leave it out or give a ramdisk (zero length file)")
    if len(ramdisk) > XC_DOM_DECOMPRESS_MAX:
        raise KernelError(f"{image.name}: ramdisk larger than 1 GiB; make it smaller (module 0 image too large)")
    unziplen = check_gzip(ramdisk)
    room = max(unziplen, len(ramdisk))
    if room > XC_DOM_DECOMPRESS_MAX:
        unziplen, room = 0, len(ramdisk)
    contents = do_gunzip(ramdisk, unziplen) if unziplen else None
    return (ramdisk if contents is None else contents), room


def _check_memory(image: KernelImage, nr_pages: int, extra: int) -> None:
    """Refuse early what cannot fit, before a ramdisk is uncompressed."""
    pages = extra >> PAGE_SHIFT
    if pages > nr_pages:
        raise KernelError(
            f"{image.name}: ramdisk needs {pages >> 8} MiB, the domain has {nr_pages >> 8} MiB: give more memory "
            f"(xc_dom_chk_alloc_pages: segment module0 too large ({pages:#x} > {nr_pages:#x} pages))"
        )


def build_image(image: KernelImage, ram: Ram, p2m: array[int], ramdisk: bytes | None, cmdline: str) -> BuiltDomain:
    """Place and write everything but start_info and the hypercall page into zeroed frames. Raises KernelError."""
    nr_pages = len(p2m)
    contents, ramdisk_room = b"", None
    if ramdisk is not None:
        _check_memory(image, nr_pages, max(len(ramdisk), check_gzip(ramdisk)))
        contents, ramdisk_room = _ramdisk_contents(ramdisk, image)
    layout = lay_out(image, nr_pages, ramdisk_room)
    pages = GuestPages(ram, p2m)
    load_binary(image, layout.segments["kernel"], pages)
    if ramdisk is not None:
        pages.write(layout.segments["ramdisk"].pfn << PAGE_SHIFT, contents)
    guest_p2m = p2m if layout.paging.sizeof_pfn == 8 else array("I", p2m)
    pages.write(layout.segments["phys2mach"].pfn << PAGE_SHIFT, memoryview(guest_p2m).cast("B"))
    setup_pgtables(layout.paging, layout.mappings, pages)
    return _built(image, layout, pages, ramdisk_given=ramdisk is not None, cmdline=cmdline)


def _built(image: KernelImage, layout: Layout, pages: GuestPages, *, ramdisk_given: bool, cmdline: str) -> BuiltDomain:
    segments = layout.segments
    start_info, tables, p2m_segment = segments["start info"], segments["page tables"], segments["phys2mach"]
    store, console, stack = segments["xenstore"], segments["console"], segments["boot stack"]
    flags = mod_start = mod_len = 0
    if ramdisk_given:
        ramdisk = segments["ramdisk"]
        mod_start, mod_len = ramdisk.vstart, ramdisk.vend - ramdisk.vstart
        if image.mod_start_pfn:
            flags, mod_start, mod_len = xen.SIF_MOD_START_PFN, ramdisk.pfn, ramdisk.pages << PAGE_SHIFT
    p2m_pt_pfns = range(0)
    if image.init_p2m is not None:
        nr_tables = layout.mappings[1].area.pgtables
        end = p2m_segment.pfn + p2m_segment.pages
        p2m_pt_pfns = range(end - nr_tables, end)
    _check_context(image, stack.vstart + PAGE_SIZE)
    hypercall_pfn = _hypercall_pfn(image, len(pages.p2m), range(tables.pfn, tables.pfn + tables.pages))
    return BuiltDomain(
        image=image,
        bits=image.bits,
        nr_pages=len(pages.p2m),
        p2m=pages.p2m,
        segments=tuple(sorted(segments.values(), key=lambda segment: segment.pfn)),
        start_info_pfn=Pfn(start_info.pfn),
        start_info_mfn=pages.mfn(start_info.pfn),
        store_pfn=Pfn(store.pfn),
        store_mfn=pages.mfn(store.pfn),
        console_pfn=Pfn(console.pfn),
        console_mfn=pages.mfn(console.pfn),
        pt_root_pfn=Pfn(tables.pfn),
        pt_root_mfn=pages.mfn(tables.pfn),
        pt_base=Vaddr(tables.vstart),
        pt_pfns=range(tables.pfn, tables.pfn + tables.pages),
        p2m_pt_pfns=p2m_pt_pfns,
        mapped_end=Vaddr(layout.virt_pgtab_end),
        stack_top=Vaddr(stack.vstart + PAGE_SIZE),
        virt_entry=Vaddr(image.virt_entry),
        virt_hypercall=None if image.virt_hypercall is None else Vaddr(image.virt_hypercall),
        hypercall_mfn=None if hypercall_pfn is None else pages.mfn(hypercall_pfn),
        mfn_list=Vaddr(layout.p2m_vaddr),
        first_p2m_pfn=Pfn(p2m_segment.pfn if image.init_p2m is not None else 0),
        nr_p2m_frames=p2m_segment.pages if image.init_p2m is not None else 0,
        mod_start=mod_start,
        mod_len=mod_len,
        flags=flags,
        cmd_line=encode_cmdline(cmdline),
        registers=_registers(image.bits, image.virt_entry, stack.vstart + PAGE_SIZE, start_info.vstart),
        vm_assist=1 << VMASST_TYPE_pae_extended_cr3 if image.pae_extended_cr3 else 0,
    )


def _hypercall_pfn(image: KernelImage, nr_pages: int, pt_pfns: range) -> int | None:
    """The page that Xen fills with its hypercall stubs, which may be any page of the domain; None without a note."""
    if image.virt_hypercall is None:
        return None
    pfn = ((image.virt_hypercall - image.virt_base) % (1 << 64)) >> PAGE_SHIFT
    note = f"{image.name}: HYPERCALL_PAGE note {image.virt_hypercall:#x}"
    if pfn >= nr_pages:
        raise KernelError(
            f"{note} is no page of the domain's memory: correct it "
            "(setup_hypercall_page: HYPERCALL_INIT failed: 22 - Invalid argument)"
        )
    if pfn in pt_pfns:
        raise KernelError(f"{note} is one of the initial page tables: correct it (bootlate_pv: pin_table failed)")
    return pfn


def _check_context(image: KernelImage, stack_top: int) -> None:
    """Refuse what Xen would not have in a vcpu's registers (arch_set_info_guest)."""
    for what, address in (("the entry", image.virt_entry), ("the boot stack", stack_top)):
        if image.bits == 64 and (address + (1 << 47)) % (1 << 64) >> 48:
            raise KernelError(
                f"{image.name}: {what} at {address:#x} is no canonical address: link the kernel elsewhere "
                "(vcpu_x86_64: SETVCPUCONTEXT failed)"
            )


def _registers(bits: int, entry: int, stack_top: int, start_info: int) -> dict[str, int]:
    """The registers that are not zero, and all selectors."""
    if bits == 64:
        cs, ss, ds = (
            arch_x86.FLAT_KERNEL_CS_X86_64,
            arch_x86.FLAT_KERNEL_SS_X86_64,
            arch_x86.FLAT_KERNEL_DS_X86_64,
        )
    else:
        cs, ss, ds = (
            arch_x86.FLAT_KERNEL_CS_X86_32,
            arch_x86.FLAT_KERNEL_SS_X86_32,
            arch_x86.FLAT_KERNEL_DS_X86_32,
        )
    return {
        "rip": entry, "rsp": stack_top, "rsi": start_info, "rflags": X86_EFLAGS_IF,
        "cs": cs, "ss": ss, "ds": ds, "es": ds, "fs": ds, "gs": ds,
    }  # fmt: skip


def boot_image(
    built: BuiltDomain, ram: Ram, shared_info_mfn: Mfn, store_evtchn: int, console_evtchn: int, flags: int
) -> None:
    """Fill start_info and the hypercall page; ``flags`` are SIF_* beside those the builder sets."""
    info = xen.start_info(
        magic=built.image.guest_type.encode(),
        nr_pages=built.nr_pages,
        shared_info=shared_info_mfn << PAGE_SHIFT,
        flags=built.flags | flags,
        store_mfn=built.store_mfn,
        store_evtchn=store_evtchn,
        console=xen.start_info_console(domU=xen.start_info_console_domU(mfn=built.console_mfn, evtchn=console_evtchn)),
        pt_base=built.pt_base,
        nr_pt_frames=len(built.pt_pfns),
        mfn_list=built.mfn_list,
        mod_start=built.mod_start,
        mod_len=built.mod_len,
        cmd_line=built.cmd_line,
        first_p2m_pfn=built.first_p2m_pfn,
        nr_p2m_frames=built.nr_p2m_frames,
    )
    page = pack_start_info(built.bits, info).ljust(PAGE_SIZE, b"\0")
    ram.write(built.start_info_mfn << PAGE_SHIFT, page)
    if built.hypercall_mfn is not None:
        ram.write(built.hypercall_mfn << PAGE_SHIFT, hypercall_page(built.bits))
