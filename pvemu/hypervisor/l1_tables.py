"""Level-1 tables: what their entries may map, whole tables validated at once, single entries replaced
(``get_page_from_l1e``, ``promote_l1_table``, ``mod_l1_entry`` of xen/arch/x86/mm.c).

A domain has 100,000s of such entries, so tables are gone through in one sweep, and those that a loader's map of all
memory is made of are taken as a whole.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from pvemu.cpu.paging import PTE_A, PTE_ADDR, PTE_D, PTE_P, PTE_RW, PTE_US
from pvemu.frames import PAGE_SHIFT, Mfn
from pvemu.memory.frame_table import FrameTable, Owner, PageType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pvemu.memory.ram import Ram

__all__ = ["PTE_AD", "PTE_CACHE_ATTRS", "PTE_G", "PTE_GUEST_KERNEL", "REVALIDATE", "L1Tables", "adjust_l1e"]

PTE_G = 1 << 8
PTE_GUEST_KERNEL = 1 << 52  #: Xen's mark on a kernel mapping of a 64-bit guest, which has no supervisor bit
PTE_AD = PTE_A | PTE_D
PTE_CACHE_ATTRS = (1 << 3) | (1 << 4) | (1 << 7)  #: PWT, PCD, PAT: for domains with devices only
#: What FASTPATH_FLAG_WHITELIST leaves out: a change of these needs references of its own.
REVALIDATE = PTE_ADDR | PTE_P | PTE_RW | PTE_CACHE_ATTRS
_INVALID_MFN = PTE_ADDR >> PAGE_SHIFT
_IO_MEMORY_END = 0x100  #: the first MiB counts as I/O memory

_ALL_GUEST = bytes([Owner.GUEST]) * 512
_ALL_WRITABLE = bytes([PageType.WRITABLE]) * 512


def adjust_l1e(entry: int) -> int:
    """adjust_guest_l1e: kernel mappings of a 64-bit guest get USER and a mark, user mappings get GLOBAL."""
    if entry & PTE_P:
        if not entry & PTE_US:
            entry |= PTE_GUEST_KERNEL | PTE_US
        if not entry & PTE_GUEST_KERNEL:
            entry |= PTE_G | PTE_US
    return entry


class L1Tables:
    """References that level-1 entries of one domain hold. ``adjust`` is what Xen makes of a present entry."""

    def __init__(self, ram: Ram, frames: FrameTable, adjust: Callable[[int], int]) -> None:
        self._ram = ram
        self._frames = frames
        self.adjust = adjust

    # -- entries -----------------------------------------------------------------------------------------------------
    def get_from_l1e(self, entry: int) -> None:
        """get_page_from_l1e: references for a present level-1 entry (a mapping of a frame)."""
        if entry & PTE_CACHE_ATTRS:
            raise XenError(e.EINVAL, f"Bad L1 flags {entry & PTE_CACHE_ATTRS:x}")
        frames = self._frames
        mfn = (entry & PTE_ADDR) >> PAGE_SHIFT
        i = mfn - frames.first_mfn
        if not 0 <= i < frames.nr_frames:
            raise self._refusal_outside(mfn)
        owner = frames.owner[i]
        if owner == Owner.GUEST or owner == Owner.SHARED:
            if entry & PTE_RW:
                if frames.type_count[i] and frames.type[i] != PageType.WRITABLE:
                    raise XenError(
                        e.EBUSY, f"mfn {mfn:x} is in use as {PageType(frames.type[i]).name}: no writable mapping"
                    )
                frames.type[i] = PageType.WRITABLE
                frames.type_count[i] += 1
            frames.refs[i] += 1
            return
        raise XenError(e.EBUSY, f"mfn {mfn:#x} is not the domain's")

    def _refusal_outside(self, mfn: int) -> XenError:
        """Why a frame that is none of the domain's memory cannot be mapped."""
        if _IO_MEMORY_END <= mfn < self._frames.first_mfn:
            return XenError(e.EBUSY, f"mfn {mfn:#x} is other RAM of the machine")
        return XenError(e.EINVAL if mfn == _INVALID_MFN else e.EPERM, f"mfn {mfn:#x} is MMIO space")

    def _refuse_for_io(self, entry: int) -> None:
        """get_page_from_l1e with DOMID_IO as the frames' owner: nothing that the domain may have is DOMID_IO's."""
        mfn = (entry & PTE_ADDR) >> PAGE_SHIFT
        if not 0 <= mfn - self._frames.first_mfn < self._frames.nr_frames:
            raise self._refusal_outside(mfn)
        raise XenError(e.EBUSY, f"mfn {mfn:#x} is not DOMID_IO's")

    def put_from_l1e(self, entry: int) -> None:
        """Drop what ``get_from_l1e`` took."""
        if entry & PTE_P:
            frames = self._frames
            i = ((entry & PTE_ADDR) >> PAGE_SHIFT) - frames.first_mfn
            if entry & PTE_RW:
                frames.type_count[i] -= 1
            frames.refs[i] -= 1
            if not frames.refs[i]:
                frames.release(Mfn(i + frames.first_mfn))

    # -- whole tables ------------------------------------------------------------------------------------------------
    def promote(self, mfn: int) -> None:
        """promote_l1_table: all references of the table in frame ``mfn``, or none and XenError. Entries in front of a
        bad one stay adjusted.
        """
        quads, start = self._ram.quads, self._ram.quad_index(mfn)
        entries = quads[start : start + 512].tolist()
        if self._promote_uniform(entries, start):
            return
        taken = 0
        try:
            for taken, entry in self._promote_entries(entries, start):  # noqa: B007 - how many to put back on failure
                self.get_from_l1e(entry)
        except XenError as error:
            for entry in quads[start : start + taken]:
                self.put_from_l1e(entry)
            reason = f"{error.reason}; failure in promote_l1_table {mfn:x}: slot {taken:#x}"
            raise XenError(error.errno, reason) from error

    def demote(self, mfn: int) -> None:
        """demote_l1_table."""
        start = self._ram.quad_index(mfn)
        entries = self._ram.quads[start : start + 512].tolist()
        if not self._demote_uniform(entries):
            self._demote_entries(entries)

    def _promote_uniform(self, entries: list[int], start: int) -> bool:
        """An L1 table that maps 512 frames in a row, all alike in flags and in use so far, as a loader's map of all
        memory is made of: taken as a whole. False, and nothing done, for any other.
        """
        entry = entries[0]
        frames = self._frames
        i = ((entry & PTE_ADDR) >> PAGE_SHIFT) - frames.first_mfn
        end = i + 512
        if not entry & PTE_P or entry & PTE_CACHE_ATTRS or i < 0 or end > frames.nr_frames:
            return False
        if entries != list(range(entry, entry + (512 << PAGE_SHIFT), 1 << PAGE_SHIFT)):
            return False
        uses, refs = frames.type_count[i], frames.refs[i]
        if frames.owner[i:end] != _ALL_GUEST or frames.refs[i:end] != array("I", (refs,)) * 512:
            return False
        if entry & PTE_RW:
            if frames.type_count[i:end] != array("I", (uses,)) * 512 or (uses and frames.type[i:end] != _ALL_WRITABLE):
                return False
            frames.type[i:end] = _ALL_WRITABLE
            frames.type_count[i:end] = array("I", (uses + 1,)) * 512
        frames.refs[i:end] = array("I", (refs + 1,)) * 512
        adjusted = self.adjust(entry)
        if adjusted != entry:
            self._ram.quads[start : start + 512] = memoryview(
                array("Q", range(adjusted, adjusted + (512 << PAGE_SHIFT), 1 << PAGE_SHIFT))
            )
        return True

    def _promote_entries(self, entries: list[int], start: int) -> Iterator[tuple[int, int]]:
        """Take what most entries need in one sweep (a domain has 100,000s); yield (slot, entry) for the others, which
        the caller must take or refuse before going on.
        """
        frames, quads = self._frames, self._ram.quads
        owner, kinds, counts, refs = frames.owner, frames.type, frames.type_count, frames.refs
        first, limit, writable = frames.first_mfn, frames.nr_frames, int(PageType.WRITABLE)
        marks, adjust = PTE_US | PTE_GUEST_KERNEL, self.adjust
        for slot, entry in enumerate(entries):
            if not entry & PTE_P:
                continue
            i = ((entry & PTE_ADDR) >> PAGE_SHIFT) - first
            if entry & PTE_CACHE_ATTRS or not 0 <= i < limit or owner[i] != 1:
                yield slot, entry
            elif entry & PTE_RW:
                if counts[i] and kinds[i] != writable:
                    yield slot, entry
                else:
                    kinds[i] = writable
                    counts[i] += 1
                    refs[i] += 1
            else:
                refs[i] += 1
            if entry & marks != marks:
                adjusted = adjust(entry)
                if adjusted != entry:
                    quads[start + slot] = adjusted

    def _demote_uniform(self, entries: list[int]) -> bool:
        """The reverse of ``_promote_uniform``, whatever the CPU has marked as accessed since. False, and nothing done,
        for any other table, and where a frame would lose its last reference.
        """
        entry = entries[0] & ~PTE_AD
        frames = self._frames
        i = ((entry & PTE_ADDR) >> PAGE_SHIFT) - frames.first_mfn
        end = i + 512
        if not entry & PTE_P or i < 0 or end > frames.nr_frames:
            return False
        if (entries[511] ^ entry + (511 << PAGE_SHIFT)) & ~PTE_AD:
            return False
        uses, refs = frames.type_count[i], frames.refs[i]
        if refs <= 1 or frames.refs[i:end] != array("I", (refs,)) * 512:
            return False
        if entry & PTE_RW and frames.type_count[i:end] != array("I", (uses,)) * 512:
            return False
        if [each & ~PTE_AD for each in entries] != list(range(entry, entry + (512 << PAGE_SHIFT), 1 << PAGE_SHIFT)):
            return False
        if entry & PTE_RW:
            frames.type_count[i:end] = array("I", (uses - 1,)) * 512
        frames.refs[i:end] = array("I", (refs - 1,)) * 512
        return True

    def _demote_entries(self, entries: list[int]) -> None:
        """``put_from_l1e`` for each, in one sweep: a domain has 100,000s."""
        frames = self._frames
        counts, refs, first, release = frames.type_count, frames.refs, frames.first_mfn, frames.release
        for entry in entries:
            if entry & PTE_P:
                i = ((entry & PTE_ADDR) >> PAGE_SHIFT) - first
                if entry & PTE_RW:
                    counts[i] -= 1
                refs[i] -= 1
                if not refs[i]:
                    release(Mfn(i + first))

    # -- changing one entry ------------------------------------------------------------------------------------------
    def replace_entry(self, maddr: int, new: int) -> int:
        """Store an entry whose references are taken already; returns the old one, whose references the caller drops."""
        old = self._ram.read_u64(maddr)
        self._ram.write_u64(maddr, new)
        return old

    def mod_l1_entry(self, maddr: int, new: int, preserve_ad: bool = False, is_io: bool = False) -> int:
        """mod_l1_entry: replace the level-1 entry at ``maddr``; returns the old one. ``is_io``: the caller names
        DOMID_IO as the owner of what is to be mapped.
        """
        ram = self._ram
        old = ram.quads[(maddr - ram.base) >> 3]
        if new & PTE_P:
            if new & PTE_CACHE_ATTRS:
                raise XenError(e.EINVAL, f"Bad L1 flags {new & PTE_CACHE_ATTRS:x}")
            new = self.adjust(new)
            if not (old ^ new) & REVALIDATE:
                ram.write_u64(maddr, new | (old & PTE_AD) if preserve_ad else new)
                return old
            if is_io:
                self._refuse_for_io(new)
            self.get_from_l1e(new)
        ram.write_u64(maddr, new | (old & PTE_AD) if preserve_ad else new)
        if old & PTE_P:
            self.put_from_l1e(old)
        return old

