"""The machine's memory for one domain: RAM, who owns its frames, the allocators, the machine-to-physical tables."""

from __future__ import annotations

from array import array

from pvemu.frames import Mfn
from pvemu.memory.allocator import FrameAllocator
from pvemu.memory.frame_table import FrameTable, Owner
from pvemu.memory.m2p import CompatMachineToPhys, MachineToPhys
from pvemu.memory.ram import Ram

__all__ = ["EXTENT", "MachineMemory"]

#: First machine frame: far from pfn 0, so that nothing can take one for the other.
_FIRST_MFN = Mfn(0x40000)
EXTENT = 512  #: frames that a domain gets at once
#: Frames of Xen's own beside the machine-to-physical table: shared_info, GDT, entry page, grant frames, and some.
_XEN_HEAP_FRAMES = 256


class MachineMemory:
    """Memory for a domain of ``nr_pages``: twice as much as it needs, so that it can exchange frames."""

    def __init__(self, nr_pages: int, is_compat: bool) -> None:
        domain_frames = -(-nr_pages // EXTENT) * EXTENT + EXTENT
        heap = _XEN_HEAP_FRAMES + MachineToPhys.frames_needed(_FIRST_MFN, 2 * domain_frames)
        if is_compat:
            heap += CompatMachineToPhys.frames_needed(_FIRST_MFN, 2 * domain_frames)
        heap = -(-heap // EXTENT) * EXTENT
        self.ram = ram = Ram(_FIRST_MFN, heap + domain_frames)
        self.frames = FrameTable(_FIRST_MFN, heap + domain_frames)
        self.allocator = FrameAllocator(_FIRST_MFN, heap, domain_frames)
        self.frames.assign(_FIRST_MFN, heap, Owner.XEN)
        self.m2p = MachineToPhys(ram, self.alloc_xen(MachineToPhys.frames_needed(_FIRST_MFN, ram.nr_frames)))
        if is_compat:
            frames = CompatMachineToPhys.frames_needed(_FIRST_MFN, ram.nr_frames)
            self.m2p.compat = CompatMachineToPhys(ram, self.alloc_xen(frames))
        self.m2p.show_others(self.alloc_xen())

    def alloc_xen(self, count: int = 1) -> Mfn:
        """Frames of Xen's own in a row."""
        return self.allocator.alloc_xen(count)

    def alloc_shared(self) -> Mfn:
        """share_xen_page_with_guest: a zeroed Xen heap frame that the guest may map writable."""
        mfn = self.alloc_xen()
        self.frames.share(mfn)
        return mfn

    def alloc_extent(self, order: int) -> Mfn:
        """2**order frames for the domain, as its builder populates it."""
        mfn = self.allocator.alloc_extent(order)
        if mfn is None:
            raise MemoryError("the machine is smaller than its domain")
        self.frames.assign(mfn, 1 << order, Owner.GUEST)
        return mfn

    def publish_p2m(self, p2m: array[int]) -> None:
        """Fill in the machine-to-physical table for a domain that was just populated."""
        for pfn in range(0, len(p2m), EXTENT):
            count = min(EXTENT, len(p2m) - pfn)
            piece = p2m[pfn : pfn + count]
            if piece == array("Q", range(piece[0], piece[0] + count)):
                self.m2p.set_range(Mfn(p2m[pfn]), pfn, count)
            else:
                for i in range(pfn, pfn + count):
                    self.m2p.set(p2m[i], i)
