"""The domain's reservation: giving frames back, getting others, the pseudo-physical map (xen/common/memory.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Mfn
from pvemu.memory.frame_table import FrameTable, Owner
from pvemu.memory.m2p import INVALID_M2P_ENTRY, MachineToPhys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hypercalls.context import E820Entry
    from pvemu.memory.ram import Ram

__all__ = ["Reservation"]

#: Largest extent an unprivileged domain may ask for (xen/include/asm-x86/config.h domu_max_order: 2 MiB).
_DOMU_MAX_ORDER = 9
_E820MAX = 1024


class Reservation:
    """Frames of the guest. ``alloc_extent(order, bits)`` takes free machine frames (None when there are none)."""

    def __init__(
        self, ram: Ram, frames: FrameTable, m2p: MachineToPhys, max_pages: int,
        alloc_extent: Callable[[int, int], Mfn | None],
    ) -> None:  # fmt: skip
        self._ram = ram
        self._frames = frames
        self._m2p = m2p
        self._alloc_extent = alloc_extent
        self.max_pages = max_pages
        self.scrubbed_page = bytes(PAGE_SIZE)  #: what is in a page that a domain gets (scrub_one_page)
        #: shared_info's arch.max_pfn, which the guest fills in
        self.guest_max_pfn: Callable[[], int] = lambda: 0
        self._memory_map: list[E820Entry] | None = None

    def _require_order(self, order: int) -> None:
        if order > _DOMU_MAX_ORDER:
            raise XenError(e.EPERM, f"extent order {order} is beyond an unprivileged domain's limit")

    def _take(self, order: int, bits: int) -> Mfn:
        self._require_order(order)
        if self._frames.tot_pages + (1 << order) > self.max_pages:
            raise XenError(e.ENOMEM, f"{1 << order} more frames pass the limit of {self.max_pages}")
        mfn = self._alloc_extent(order, bits)
        if mfn is None:
            raise XenError(e.ENOMEM, "the machine has no free frames")
        self._hand_out(mfn, order)
        return mfn

    def _hand_out(self, mfn: Mfn, order: int) -> None:
        self._frames.assign(mfn, 1 << order, Owner.GUEST)
        self._ram.write(mfn << PAGE_SHIFT, self.scrubbed_page * (1 << order))

    def populate_physmap(self, gpfn: int, order: int, bits: int = 0) -> int:
        """XENMEM_populate_physmap for one extent: its first mfn."""
        mfn = self._take(order, bits)
        self._m2p.set_range(mfn, gpfn, 1 << order)
        return mfn

    def increase_reservation(self, order: int, bits: int = 0) -> int:
        """XENMEM_increase_reservation for one extent: its first mfn, not yet anywhere in the physical map."""
        return self._take(order, bits)

    def frame_freed(self, mfn: Mfn) -> None:
        """A frame went back to the machine: it has no pfn any more (mark_page_free)."""
        self._m2p.set(mfn, INVALID_M2P_ENTRY)

    def decrease_reservation(self, gmfn: int, order: int) -> None:
        """XENMEM_decrease_reservation for one extent (guest_remove_page). A frame that is still mapped, granted or a
        page table stays the guest's until that ends; given up twice, it is given up once.
        """
        self._require_order(order)
        for mfn in range(gmfn, gmfn + (1 << order)):
            if not self._ram.contains(mfn):
                raise XenError(e.EINVAL, f"frame {mfn:x} is not the machine's")
            if not self._frames.put_alloc_ref(mfn):
                raise XenError(e.ENXIO, f"frame {mfn:x} is not the domain's")

    def exchange_frames(self, in_mfns: Iterable[int], out_order: int, count: int, bits: int = 0) -> list[int]:
        """XENMEM_exchange, one chunk: give ``in_mfns`` back, take ``count`` extents, all or nothing. Only frames that
        nothing refers to can be exchanged (steal_page); the new ones have no pfn yet.
        """
        self._require_order(out_order)
        stolen: dict[int, None] = {}
        for mfn in in_mfns:
            if mfn in stolen or not self._frames.can_steal(mfn):
                raise XenError(e.EINVAL, f"frame {mfn:x} is not the domain's or in use")
            stolen[mfn] = None
        taken: list[Mfn] = []
        for _ in range(count):
            out = self._alloc_extent(out_order, bits)
            if out is None:
                for mfn in taken:
                    for i in range(1 << out_order):
                        self._frames.on_free(Mfn(mfn + i))
                raise XenError(e.ENOMEM, "the machine has no free extent")
            taken.append(out)
        for number in stolen:
            self._frames.put_alloc_ref(number)
        for out in taken:
            self._hand_out(out, out_order)
        return [int(mfn) for mfn in taken]

    def place_extent(self, mfn: int, gpfn: int, order: int) -> None:
        """guest_physmap_add_page: an extent is known by these pfns."""
        self._m2p.set_range(mfn, gpfn, 1 << order)

    # -- frames on their way to another owner (GNTTABOP_transfer) ------------------------------------------------------
    def steal(self, mfn: int) -> bool:
        """steal_page: take a frame that nothing refers to from the domain; False where that cannot be."""
        if not self._frames.can_steal(mfn):
            return False
        i = mfn - self._frames.first_mfn
        self._frames.tot_pages -= 1
        self._frames.owner[i] = Owner.FREE
        self._frames.refs[i] = self._frames.allocated[i] = 0
        return True

    def free_stolen(self, mfn: int) -> None:
        """Nobody takes the frame: it goes back to the machine."""
        self._frames.on_free(Mfn(mfn))

    def take_back(self, mfn: int, pfn: int) -> None:
        """The domain itself takes it, as ``pfn``, with its contents."""
        self._frames.assign(Mfn(mfn), 1, Owner.GUEST)
        self._m2p.set(mfn, pfn)

    # -- numbers -----------------------------------------------------------------------------------------------------
    def maximum_ram_page(self) -> int:
        """XENMEM_maximum_ram_page: the machine's highest frame number plus one."""
        return self._m2p.max_mfn

    def current_reservation(self) -> int:
        """XENMEM_current_reservation, in frames."""
        return self._frames.tot_pages

    def maximum_reservation(self) -> int:
        """XENMEM_maximum_reservation, in frames."""
        return self.max_pages

    def maximum_gpfn(self) -> int:
        """XENMEM_maximum_gpfn: a PV guest says itself how many pfns it has (domain_get_maximum_gpfn)."""
        return (self.guest_max_pfn() or 1) - 1

    def memory_map(self) -> list[E820Entry]:
        """XENMEM_memory_map; ENOSYS until the toolstack has set one."""
        if self._memory_map is None:
            raise XenError(e.ENOSYS, "no memory map was set")
        return self._memory_map

    def set_memory_map(self, entries: list[E820Entry]) -> None:
        """XENMEM_set_memory_map: at most E820MAX rows."""
        if len(entries) > _E820MAX:
            raise XenError(e.EINVAL, f"{len(entries)} rows in a memory map")
        self._memory_map = list(entries)
