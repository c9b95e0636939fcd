"""Why libxc would not write a suspended guest to a file: what `xl save` says, of what the guest has left behind.

Mirrors tools/libs/guest/xg_sr_save_x86_pv.c, in its order: the p2m that shared_info names (a tree of frame lists, or a
list mapped by page tables), then every page table, then the first vcpu. Kernels that boot and run well fail here: one
that names no p2m, that still maps shared_info or a foreign page, or that gives SCHEDOP_shutdown no start_info frame.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NoReturn

from hypercalls.public import xen
from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Mfn
from pvemu.memory.frame_table import TABLE_LEVEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pvemu.machine import Machine

__all__ = ["save_refusal"]

_PAGE_PRESENT, _PAGE_PSE = 1 << 0, 1 << 7
_FRAME_MASK = (1 << 40) - 1
_ENTRIES = 512
_INVALID = {64: (1 << 64) - 1, 32: (1 << 32) - 1}
#: Addresses that libxc takes for Xen's: first and last.
_HYPERVISOR_VIRT = {64: (0xFFFF_8000_0000_0000, 0xFFFF_87FF_FFFF_FFFF), 32: (0xF580_0000, 0xFFFF_FFFF)}
#: Entries that Xen makes anew on the other side, by width and level of a table: first and last.
_XEN_ENTRIES = {(64, 4): (256, 271), (32, 3): (4, 511)}
_XEN_L2_ENTRIES = (0xF580_0000 >> 21 & 511, 511)
_PAE_XEN_L2 = 8


class _RefusedError(Exception):
    """libxc's line, in parentheses what it says of the frame."""


def save_refusal(machine: Machine) -> str | None:
    """The error that `xl save` would print of a guest that has suspended; None when it would be saved."""
    try:
        _Save(machine).check()
    except _RefusedError as refused:
        return str(refused)
    return None


class _Save:
    """``struct xc_sr_context``, as far as it matters here; ``max_pfn`` is the last pfn, not their number."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._bits = machine.abi.bits
        self._fpp = PAGE_SIZE * 8 // self._bits  #: p2m entries of a page
        self._max_mfn = machine.m2p.max_mfn
        self._max_pfn = (self._field("max_pfn") - 1) % (1 << 64)
        self._p2m: Sequence[int] = ()

    def check(self) -> None:
        """Raises _RefusedError."""
        leaves = self._list_leaves() if self._field("p2m_cr3") else self._tree_leaves()
        words: array[int] = array("Q" if self._bits == 64 else "I")
        for mfn in leaves:
            words.frombytes(self._page(mfn, "p2m frames"))
        self._p2m = words
        for x, mfn in enumerate(leaves):
            self._check_frame(mfn, f"Bad mfn in p2m_frame_list[{x}]")
        for pfn in range(min(self._max_pfn + 1, len(words))):
            self._check_page(words[pfn])
        self._check_vcpu()

    def _field(self, name: str) -> int:
        """A member of ``arch_shared_info``."""
        abi = self._machine.abi
        at = abi.offsetof(xen.shared_info, f"arch.{name}")
        return int.from_bytes(self._machine.shared_info.page[at : at + abi.long_size], "little")

    def _refuse(self, text: str) -> NoReturn:
        raise _RefusedError(text)

    def _page(self, mfn: int, what: str) -> bytes:
        machine = self._machine
        if not machine.frames.is_guest(mfn) and mfn != machine.shared_info_mfn:
            self._refuse(f"Failed to map {what} (mfn {mfn:#x} is not the guest's)")
        return machine.ram.read(mfn << PAGE_SHIFT, PAGE_SIZE)

    def _words(self, mfns: list[int], what: str) -> array[int]:
        words: array[int] = array("Q" if self._bits == 64 else "I")
        for mfn in mfns:
            words.frombytes(self._page(mfn, what))
        return words

    # -- the p2m -----------------------------------------------------------------------------------------------------
    def _tree_leaves(self) -> list[int]:
        """map_p2m_tree: the frames that hold the p2m."""
        fpp = self._fpp
        count = self._max_pfn // (fpp * fpp) + 1
        if count > fpp:
            self._refuse(f"max_pfn {self._max_pfn:#x} too large for p2m tree")
        top = self._field("pfn_to_mfn_frame_list_list")
        if not 0 < top <= self._max_mfn:
            self._refuse(f"Bad mfn {top:#x} for p2m frame list list")
        lists = list(self._words([top], f"p2m frame list list at {top:#x}")[:count])
        self._check_list(lists, "p2m frame list list")
        self._max_pfn = min(self._max_pfn, (_last_change(lists) + 1) * fpp * fpp - 1)
        count, leaves = self._max_pfn // (fpp * fpp) + 1, self._max_pfn // fpp + 1
        frames = list(self._words(lists[:count], "p2m frame list")[:leaves])
        self._check_list(frames, "p2m frame list")
        return frames

    def _check_list(self, mfns: list[int], what: str) -> None:
        for x, mfn in enumerate(mfns):
            if not 0 < mfn <= self._max_mfn:
                self._refuse(f"Bad mfn {mfn:#x} at index {x} (of {len(mfns)}) in {what}")

    def _list_leaves(self) -> list[int]:
        """map_p2m_list: the frames that the guest has mapped as its p2m, by its page tables."""
        bits, fpp = self._bits, self._fpp
        cr3 = self._field("p2m_cr3")
        root = cr3 >> 12 if bits == 64 else (cr3 >> 12 | cr3 << 20) & 0xFFFF_FFFF
        if root > self._max_mfn:
            self._refuse(f"Bad p2m_cr3 value {cr3:#x}")
        vaddr = self._field("p2m_vaddr")
        end = vaddr + (self._max_pfn // fpp + 1) * PAGE_SIZE - 1
        self._check_range(vaddr, end)
        mask = (1 << (48 if bits == 64 else 32)) - 1
        mfns, offset = [root], 0
        for level in range(4 if bits == 64 else 3, 0, -1):
            shift = level * 9 + 3
            entries: array[int] = array("Q")
            for mfn in mfns:
                entries.frombytes(self._page(mfn, f"{len(mfns)} page table pages for p2m list"))
            first, last = ((vaddr - offset) & mask) >> shift, ((end - offset) & mask) >> shift
            mfns = []
            for index in range(first, min(last, len(entries) - 1) + 1):
                mfn = entries[index] >> PAGE_SHIFT & _FRAME_MASK
                if not 0 < mfn <= self._max_mfn:
                    where = f"vaddr {offset + (index << shift):#x} at level {level} of p2m list"
                    self._refuse(f"Bad mfn {mfn:#x} during page table walk for {where}")
                mfns.append(mfn)
            if level == 2:  # tables that are the same at the end hold invalid entries alone
                changes = _last_change(mfns)
                changes += changes == last
                if (changes << 9) * fpp - 1 < self._max_pfn and changes:
                    self._max_pfn = (changes << 9) * fpp - 1
                    end = vaddr + ((self._max_pfn + fpp) // fpp) * PAGE_SIZE - 1
                    mfns = mfns[: changes + 1]
            offset = vaddr & (mask >> shift << shift)
        return mfns

    def _check_range(self, vaddr: int, end: int) -> None:
        first, last = _HYPERVISOR_VIRT[self._bits]
        is_address = (
            all((address + (1 << 47)) % (1 << 64) >> 48 == 0 for address in (vaddr, end)) and end < 1 << 64
            if self._bits == 64
            else end < 1 << 32
        )
        if not is_address or (vaddr <= last and end > first):
            self._refuse(f"Bad virtual p2m address range {vaddr:#x}-{end % (1 << 64):#x}")

    def _check_frame(self, mfn: int, line: str) -> None:
        """mfn_in_pseudophysmap: Xen's table and the guest's agree about a frame."""
        invalid = _INVALID[self._bits]
        pfn = self._machine.m2p.get(mfn) if mfn <= self._max_mfn else invalid
        if mfn <= self._max_mfn and pfn <= self._max_pfn and pfn < len(self._p2m) and self._p2m[pfn] == mfn:
            return
        known = f", p2m[{pfn:#x}] = {self._p2m[pfn]:#x}" if pfn <= self._max_pfn and pfn < len(self._p2m) else ""
        self._refuse(f"{line} (mfn {mfn:#x}: m2p says {pfn:#x}, max_pfn {self._max_pfn:#x}{known})")

    # -- pages and registers -----------------------------------------------------------------------------------------
    def _check_page(self, mfn: int) -> None:
        """normalise_pagetable: what a page table maps must be pages of the p2m."""
        machine = self._machine
        if not machine.frames.is_guest(mfn):
            return
        kind = machine.frames.type_of(mfn)
        level = TABLE_LEVEL[kind]
        if not level:
            return
        skipped = _XEN_L2_ENTRIES if kind == _PAE_XEN_L2 else _XEN_ENTRIES.get((self._bits, level), (_ENTRIES, 0))
        for i, entry in enumerate(machine.ram.frame(Mfn(mfn)).cast("Q")):
            if not entry & _PAGE_PRESENT or skipped[0] <= i <= skipped[1]:
                continue
            if level > 1 and entry & _PAGE_PSE:
                self._refuse(f"Cannot migrate superpage (L{level}[{i}]: {entry:#018x})")
            self._check_frame(entry >> PAGE_SHIFT & _FRAME_MASK, f"Bad mfn for L{level}[{i}]")

    def _check_vcpu(self) -> None:
        """write_one_vcpu_basic: the third argument of the hypercall, the GDT, the roots."""
        machine = self._machine
        record = machine.engine.read("rdx") & _INVALID[self._bits]
        self._check_frame(record, "Bad mfn for suspend record")
        for i, mfn in enumerate(machine.descriptor_tables.gdt_frames):
            self._check_frame(mfn, f"Bad mfn for frame {i} of vcpu0's GDT")
        self._check_frame(machine.mm.guest_root, "Bad mfn for vcpu0's cr3")
        if machine.mm.guest_root_user:
            self._check_frame(machine.mm.guest_root_user, "Bad mfn for vcpu0's cr1")


def _last_change(mfns: list[int]) -> int:
    """The index of the last entry that is not as the one before it."""
    return max((i for i, mfn in enumerate(mfns) if not i or mfn != mfns[i - 1]), default=0)
