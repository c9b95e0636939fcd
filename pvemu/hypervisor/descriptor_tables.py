"""The guest's GDT and LDT, and what the guest sees of Xen's own address space (xen/arch/x86/pv/descriptor-tables.c).

Xen keeps both tables in its per-domain area; the CPU reads descriptors there. The last reserved frame of the GDT holds
Xen's flat segments (``0xe033`` and so on).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import arch_x86
from hypercalls.public import errno as e
from pvemu.cpu.exits import Access
from pvemu.cpu.paging import PTE_ADDR, PTE_P
from pvemu.frames import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, Mfn
from pvemu.hypervisor.vcpu.parked import Descriptors
from pvemu.memory.frame_table import FrameTable, PageType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.mm import Mm
    from pvemu.hypervisor.page_types import PageTypes
    from pvemu.hypervisor.vcpu.vcpu import Vcpu
    from pvemu.memory.ram import Ram

__all__ = ["GDT_VADDR", "DescriptorTables", "check_descriptor", "gdt_vaddr"]

#: PERDOMAIN_VIRT_START: where the CPU finds vcpu 0's GDT, then its LDT; those of the others follow.
GDT_VADDR = 0xFFFF_8200_0000_0000
LDT_VADDR = GDT_VADDR + 0x10000
_VCPU_SIZE = 0x20000  # 1 << GDT_LDT_VCPU_VA_SHIFT
FIRST_RESERVED_GDT_ENTRY = 14 * 512
_RESERVED_PAGE = 14
_ENTRIES_PER_PAGE = 512
_MAX_LDT_ENTRIES = 8192

_SEGMENT_P, _SEGMENT_S, _SEGMENT_TYPE, _SEGMENT_DPL = 1 << 15, 1 << 12, 0xF00, 3 << 13
_CALL_GATE = 0xC00

#: Xen's flat segments by byte offset in the reserved page (boot_gdt of xen/arch/x86/desc.c), accessed bit set.
_FLAT = {
    0x008: 0x00AF_9B00_0000_FFFF,  # ring 0 code, 64 bit
    0x010: 0x00CF_9300_0000_FFFF,  # ring 0 data
    0x020: 0x00CF_FB00_0000_FFFF,  # ring 3 code, compatibility
    0x028: 0x00CF_F300_0000_FFFF,  # ring 3 data
    0x030: 0x00AF_FB00_0000_FFFF,  # ring 3 code, 64 bit
    0x038: 0x00CF_9B00_0000_FFFF,  # ring 0 code, compatibility
}  # fmt: skip


def check_descriptor(desc: int) -> int | None:
    """The descriptor as a 64-bit guest may have it: privilege 3 forced, call gates kept for emulation; None where Xen
    refuses it.
    """
    a, b = desc & 0xFFFF_FFFF, desc >> 32
    if not b & _SEGMENT_P:
        return desc
    dpl = 3  # __fixup_guest_selector: a 64-bit guest has no other ring
    b = (b & ~_SEGMENT_DPL) | (dpl << 13)
    if b & _SEGMENT_S:
        return b << 32 | a
    kind = b & _SEGMENT_TYPE
    if kind == 0:
        return desc
    if kind != _CALL_GATE:
        return None
    selector = a >> 16
    if selector >> 3 >= FIRST_RESERVED_GDT_ENTRY and selector != arch_x86.FLAT_KERNEL_CS64 and not selector & 4:
        return None  # guest_gate_selector_okay: in the guest's part of the GDT, in the LDT, or Xen's own flat one
    b &= ~_SEGMENT_DPL
    if b & 0xFF:
        return None
    return b << 32 | (a & 0xFFFF) | ((selector & ~3 | dpl) << 16)


def gdt_vaddr(vcpu_id: int) -> int:
    """GDT_VIRT_START."""
    return GDT_VADDR + vcpu_id * _VCPU_SIZE


class DescriptorTables:
    """The running vcpu's GDT frames and LDT. ``refresh`` makes the CPU forget cached descriptors' pages."""

    flat_segments = _FLAT
    check_descriptor = staticmethod(check_descriptor)

    def __init__(
        self, ram: Ram, frames: FrameTable, types: PageTypes, mm: Mm, reserved_mfn: Mfn, refresh: Callable[[], None]
    ) -> None:
        self._ram = ram
        self._frames = frames
        self._types = types
        self._mm = mm
        self._refresh = refresh
        self._reserved_mfn = reserved_mfn
        self.gdt_frames: list[Mfn] = []
        self.gdt_entries = 0
        self.ldt_vaddr = 0
        self.ldt_entries = 0
        self._ldt_frames: dict[int, int] = {}  # mfn by page of the LDT
        self._base = GDT_VADDR
        #: Tell the CPU where the LDT is, and how many entries it has.
        self.load_ldt: Callable[[int, int], None] = lambda vaddr, entries: None
        #: A zeroed frame of Xen's own: what the CPU reads behind the guest's GDT once there is one.
        self.alloc_zero_page: Callable[[], Mfn | None] = lambda: None
        self._zero_mfn: Mfn | None = None
        types.validate_segdesc = self._validate_page
        mm.on_set_ldt = self.set_ldt
        mm.on_destroy_ldt = self.destroy_ldt
        page = bytearray(PAGE_SIZE)
        for offset, descriptor in self.flat_segments.items():
            struct.pack_into("<Q", page, offset, descriptor)
        ram.write(reserved_mfn << PAGE_SHIFT, page)

    def page_at(self, vaddr: int, access: int) -> int | None:
        """Machine address behind a page of the per-domain area; None where nothing is mapped."""
        page = (vaddr - self._base) >> PAGE_SHIFT
        if page == _RESERVED_PAGE:
            return self._reserved_mfn << PAGE_SHIFT
        if 0 <= page < len(self.gdt_frames):
            return self.gdt_frames[page] << PAGE_SHIFT
        if 0 <= page < _RESERVED_PAGE and self._zero_mfn is not None:
            return self._zero_mfn << PAGE_SHIFT
        offset = vaddr - self._ldt_base
        if 0 <= offset < self.ldt_entries * 8 and access != Access.FETCH:
            return self._ldt_page(offset)
        return None

    def segment_base(self, selector: int) -> int:
        """Base address in the descriptor of a selector; 0 where there is none."""
        desc = self.read_descriptor(selector)
        return desc >> 16 & 0xFF_FFFF | desc >> 32 & 0xFF00_0000

    def read_descriptor(self, selector: int) -> int:
        """The descriptor that the CPU finds for a selector; 0 where there is none."""
        if selector & 4 and selector >> 3 >= self.ldt_entries:
            return 0
        at = (self._ldt_base if selector & 4 else self._base) + (selector & 0xFFF8)
        page = self.page_at(at & ~PAGE_MASK, Access.READ)
        return 0 if page is None else self._ram.read_u64(page | at & PAGE_MASK)

    def _ldt_page(self, offset: int) -> int | None:
        """pv_map_ldt_shadow_page: the LDT's pages become descriptor pages when the CPU first looks at them, and stay so
        until ``destroy_ldt``.
        """
        page = offset >> PAGE_SHIFT
        mfn = self._ldt_frames.get(page)
        if mfn is None:
            at = self._mm.l1_entry_address(self.ldt_vaddr + offset)
            entry = 0 if at is None else self._ram.read_u64(at)
            if not entry & PTE_P:
                return None
            mfn = (entry & PTE_ADDR) >> PAGE_SHIFT
            try:
                self._types.get_page_and_type(mfn, PageType.SEG_DESC)
            except XenError:
                return None
            self._ldt_frames[page] = mfn
        return mfn << PAGE_SHIFT

    def destroy_ldt(self) -> None:
        """pv_destroy_ldt: let go of the LDT's pages; they are looked up again when the CPU needs them."""
        if self._ldt_frames:
            for mfn in self._ldt_frames.values():
                self._types.put_page_and_type(mfn)
            self._ldt_frames.clear()
            self._refresh()

    def _validate_page(self, mfn: int) -> None:
        """validate_segdesc_page."""
        quads = self._ram.frame(Mfn(mfn)).cast("Q")
        for i, quad in enumerate(quads.tolist()):
            checked = self.check_descriptor(quad)
            if checked is None:
                raise XenError(e.EINVAL, f"bad descriptor {quad:#x} in frame {mfn:x}")
            quads[i] = checked

    def set_gdt(self, frames: list[int], entries: int) -> None:
        """HYPERVISOR_set_gdt (pv_set_gdt)."""
        if entries > FIRST_RESERVED_GDT_ENTRY:
            raise XenError(e.EINVAL, f"GDT of {entries} entries")
        taken: list[Mfn] = []
        try:
            for mfn in frames[: -(-entries // _ENTRIES_PER_PAGE)]:
                self._types.get_page_and_type(mfn, PageType.SEG_DESC)
                taken.append(Mfn(mfn))
        except XenError:
            for mfn in taken:
                self._types.put_page_and_type(mfn)
            raise XenError(e.EINVAL, "a GDT frame cannot be a descriptor page") from None
        for mfn in self.gdt_frames:
            self._types.put_page_and_type(mfn)
        self.gdt_frames, self.gdt_entries = taken, entries
        if self._zero_mfn is None:
            self._zero_mfn = self.alloc_zero_page()
        self._refresh()

    def update_descriptor(self, maddr: int, desc: int) -> None:
        """HYPERVISOR_update_descriptor."""
        checked = self.check_descriptor(desc)
        if maddr & 7 or checked is None:
            raise XenError(e.EINVAL, f"descriptor {desc:#x} at {maddr:#x}")
        mfn = maddr >> PAGE_SHIFT
        kind = self._frames.type_of(mfn)
        self._types.get_page_and_type(mfn, kind if kind == PageType.SEG_DESC else PageType.WRITABLE)
        self._ram.write(maddr, checked.to_bytes(8, "little"))
        self._types.put_page_and_type(mfn)

    @property
    def _ldt_base(self) -> int:
        return self._base + LDT_VADDR - GDT_VADDR

    def reload_ldt(self) -> None:
        """load_LDT: tell the CPU of the running vcpu's."""
        self.load_ldt(self._ldt_base, self.ldt_entries)

    def park(self, vcpu: Vcpu) -> None:
        """The vcpu that ran gives up the CPU; its tables stay its own."""
        vcpu.parked.descriptors = Descriptors(
            self.gdt_frames, self.gdt_entries, self.ldt_vaddr, self.ldt_entries, self._ldt_frames
        )

    def take_up(self, vcpu: Vcpu) -> None:
        """Go on with a vcpu's own tables: they have addresses of their own, so the TLB may keep those of others."""
        its = vcpu.parked.descriptors
        self.gdt_frames, self.gdt_entries, self._ldt_frames = its.gdt_frames, its.gdt_entries, its.ldt_frames
        self.ldt_vaddr, self.ldt_entries = its.ldt_vaddr, its.ldt_entries
        self._base = gdt_vaddr(vcpu.vcpu_id)

    def set_ldt(self, vaddr: int, entries: int) -> None:
        """MMUEXT_SET_LDT."""
        if vaddr & PAGE_MASK or entries > _MAX_LDT_ENTRIES:
            raise XenError(e.EINVAL, f"LDT of {entries} entries at {vaddr:#x}")
        if (vaddr, entries) != (self.ldt_vaddr, self.ldt_entries):
            self.destroy_ldt()
            self.ldt_vaddr, self.ldt_entries = vaddr, entries
            self.reload_ldt()
            self._refresh()  # a CPU that found no page there may remember that
