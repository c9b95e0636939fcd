"""A kernel file parsed: what there is to load and where, and what its notes ask for (stage ``parse_image``).

Mirrors tools/libs/guest/xg_dom_core.c (``xc_dom_parse_image``, the loaders in libxc's order), xg_dom_elfloader.c and
the checks at the end of xen/common/libelf/libelf-dominfo.c. Nothing is allocated here for what a file only claims.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hypercalls.public import features
from pvemu.builder.bsdsyms import parse_bsdsyms
from pvemu.builder.bzimage import extract_payload, is_bzimage, try_gunzip
from pvemu.builder.dominfo import elf_xen_parse
from pvemu.builder.elf import NO_LOADER, ElfBinary, elf_init, is_elf
from pvemu.builder.elfnotes import XEN_PAE_BIMODAL, XEN_PAE_EXTCR3, XEN_PAE_NO, ElfDomParms
from pvemu.errors import KernelError
from pvemu.frames import PAGE_MASK, PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HYPERVISOR_HOLE32", "HYPERVISOR_HOLE64", "KernelImage", "KernelSegment", "parse_image"]

HYPERVISOR_HOLE64 = (0xFFFF_8000_0000_0000, 0xFFFF_8800_0000_0000)  #: Xen's own addresses in a 64-bit guest
HYPERVISOR_HOLE32 = (0xF580_0000, 1 << 32)
_LOWER_HALF_END = 1 << 47


class KernelSegment(NamedTuple):
    """``memsz`` bytes at ``vaddr``, the first ``filesz`` of them from the file, the rest zero; ``data`` is empty where
    the file is cut short.
    """

    vaddr: int
    data: memoryview
    memsz: int
    filesz: int


class KernelImage(NamedTuple):
    """A PV kernel ready to be placed. Addresses are guest virtual byte addresses; ``v_start`` is page aligned."""

    name: str
    bits: int  #: 64 (pv64) or 32 (pv32pae)
    guest_type: str  #: Xen's capability word; also start_info's magic
    notes: ElfDomParms
    virt_base: int
    virt_entry: int
    virt_hypercall: int | None
    paddr_offset: int
    init_p2m: int | None
    mod_start_pfn: bool  #: takes its ramdisk unmapped, by pfn
    segments: tuple[KernelSegment, ...]
    v_start: int
    v_end: int
    guest_os: str
    guest_version: str
    loader: str
    features: int  #: XENFEAT_* bits it supports
    required_features: int
    pae_extended_cr3: bool  #: 32 bit: the root may lie above 4 GiB (VMASST_TYPE_pae_extended_cr3)
    doubts: tuple[str, ...] = ()  #: what libxc takes without a word, and hardly anybody means; a sentence each


def parse_image(data: bytes, name: str) -> KernelImage:
    """Parse a kernel file (bzImage, or ELF, plain or gzip). Raises KernelError, one line that starts with ``name``."""
    if not data:
        raise KernelError(f"{name}: empty file; give a PV kernel ('{name}': zero length file)")
    data = try_gunzip(data, name)
    if is_bzimage(data):
        data = extract_payload(data, name)
        if not is_elf(data):
            raise KernelError(f"{name}: bzImage whose payload is not an ELF file: not a PV kernel ({NO_LOADER})")
    elf = elf_init(data, name)
    parms = elf_xen_parse(elf)
    if parms.f_required & (1 << features.XENFEAT_dom0):
        raise KernelError(
            f"{name}: kernel for the control domain only (requires feature dom0): build it for unprivileged domains "
            "(xc_dom_parse_elf_kernel: Kernel does not support unprivileged (DomU) operation)"
        )
    if parms.f_required & (1 << features.XENFEAT_auto_translated_physmap):
        raise KernelError(
            f"{name}: requires feature auto_translated_physmap, which Xen has no more: build it without "
            "(PV Autotranslate guests no longer supported)"
        )
    guest_type = _guest_type(elf, parms)
    return _image(elf, parms, guest_type)


def _guest_type(elf: ElfBinary, parms: ElfDomParms) -> str:
    if elf.guest_bits == 64:
        return "xen-3.0-x86_64"
    if parms.pae == XEN_PAE_NO:
        raise KernelError(
            f"{elf.name}: i386 kernel without PAE (no PAE_MODE note): build it with PAE "
            "(xc_dom_compat_check: guest type xen-3.0-x86_32 not supported by xen kernel, sorry)"
        )
    return "xen-3.0-x86_32p"


def _image(elf: ElfBinary, parms: ElfDomParms, guest_type: str) -> KernelImage:
    assert parms.virt_base is not None
    assert parms.virt_entry is not None
    assert parms.elf_paddr_offset is not None
    virt_offset = parms.virt_base - parms.elf_paddr_offset
    segments = [
        KernelSegment((p.p_paddr + virt_offset) % (1 << 64), elf.file_bytes(p), p.p_memsz, p.p_filesz)
        for p in elf.loadable
        if p.p_memsz
    ]
    v_start = (elf.pstart + virt_offset) % (1 << 64)
    v_end = (elf.pend + virt_offset) % (1 << 64)
    if parms.bsd_symtab:
        symtab, pend = parse_bsdsyms(elf, v_end - virt_offset)
        segments += [KernelSegment(paddr + virt_offset, data, len(data), len(data)) for paddr, data in symtab]
        v_end = pend + virt_offset
    _check_extent(elf, parms, v_start, v_end)
    return KernelImage(
        name=elf.name,
        bits=elf.guest_bits,
        guest_type=guest_type,
        notes=parms,
        virt_base=parms.virt_base,
        virt_entry=parms.virt_entry,
        virt_hypercall=parms.virt_hypercall,
        paddr_offset=parms.elf_paddr_offset,
        init_p2m=_init_p2m(elf, parms),
        mod_start_pfn=parms.unmapped_initrd,
        segments=tuple(segments),
        v_start=v_start,
        v_end=v_end,
        guest_os=parms.guest_os,
        guest_version=parms.guest_ver,
        loader=parms.loader,
        features=parms.f_supported,
        required_features=parms.f_required,
        pae_extended_cr3=elf.guest_bits == 32 and parms.pae in (XEN_PAE_EXTCR3, XEN_PAE_BIMODAL),
        doubts=tuple(_doubts(elf, parms, v_start, v_end)),
    )


def _doubts(elf: ElfBinary, parms: ElfDomParms, v_start: int, v_end: int) -> Iterator[str]:
    """Sentences about a kernel that Xen builds a domain from, and that will hardly run."""
    yield from (f"{elf.name}: {doubt}" for doubt in elf.doubts)
    if parms.phys_entry is not None and not parms.has_entry:
        yield (
            f"{elf.name}: PHYS32_ENTRY note, but no ENTRY note: a kernel for PVH, not for PV; "
            f"started at its ELF entry {elf.entry:#x}, as Xen does"
        )
    bits = elf.guest_bits
    hole, after = HYPERVISOR_HOLE64 if bits == 64 else HYPERVISOR_HOLE32
    first_bad = _LOWER_HALF_END if bits == 64 else hole
    if v_start < after and v_end > first_bad:
        yield (
            f"{elf.name}: the kernel at {v_start:#x}-{v_end:#x} reaches into addresses a {bits}-bit PV guest may not "
            f"have ({first_bad:#x}-{after - 1:#x}); Xen maps its own there"
        )
    page = parms.virt_hypercall
    if page is not None and (page & PAGE_MASK or not v_start <= page < v_end):
        yield (
            f"{elf.name}: HYPERCALL_PAGE note {page:#x} is not a page of the image {v_start:#x}-{v_end:#x}: "
            "Xen writes its hypercall page over whatever is there"
        )


def _init_p2m(elf: ElfBinary, parms: ElfDomParms) -> int | None:
    """INIT_P2M where libxc heeds it: 64 bit, below VIRT_BASE, page aligned; ignored otherwise."""
    base = parms.p2m_base
    assert parms.virt_base is not None
    if base is None or elf.guest_bits == 32 or base >= parms.virt_base or base & PAGE_MASK:
        return None
    return base


def _check_extent(elf: ElfBinary, parms: ElfDomParms, v_start: int, v_end: int) -> None:
    """Start, end and entry fit together and lie where a guest may have them."""
    name, entry, base = elf.name, parms.virt_entry, parms.virt_base
    assert entry is not None
    assert base is not None
    out_of_bounds = f"(ERROR: ELF start or entries are out of bounds; {NO_LOADER})"
    if not any(p.p_memsz for p in elf.loadable):
        raise KernelError(f"{name}: nothing to load (no PT_LOAD program header): link it again {out_of_bounds}")
    if v_start > v_end or base > v_start:
        raise KernelError(
            f"{name}: would load at {v_start:#x}-{v_end:#x}, outside the 64-bit space above VIRT_BASE "
            f"{base:#x}: correct the VIRT_BASE and PADDR_OFFSET notes {out_of_bounds}"
        )
    if not v_start <= entry <= v_end:
        raise KernelError(
            f"{name}: entry {entry:#x} lies outside the image {v_start:#x}-{v_end:#x}: "
            f"correct the ENTRY note {out_of_bounds}"
        )
    p2m = parms.p2m_base
    if p2m is not None and v_start <= p2m < v_end:
        raise KernelError(
            f"{name}: INIT_P2M {p2m:#x} lies inside the image {v_start:#x}-{v_end:#x}: correct the note "
            f"(ERROR: P->M table base is out of bounds; {NO_LOADER})"
        )
    if v_start & PAGE_MASK:
        raise KernelError(
            f"{name}: image starts at {v_start:#x}, not on a page: align it to {PAGE_SIZE} "
            f"(xc_dom_alloc_pad: segment boundary isn't page aligned ({v_start:#x}))"
        )
