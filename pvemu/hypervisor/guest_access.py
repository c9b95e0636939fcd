"""Copies between the hypervisor and the running guest's address space (xen/arch/x86/usercopy.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from pvemu.cpu.exits import Access
from pvemu.cpu.paging import PTE_A, PTE_ADDR, PTE_D, PageWalker, table_slot
from pvemu.frames import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from pvemu.memory.ram import Ram

__all__ = ["GuestMemory"]


class GuestMemory:
    """Reads and writes at guest linear addresses through the tables of ``walker``."""

    def __init__(self, ram: Ram, walker: PageWalker) -> None:
        self._ram = ram
        self._walker = walker

    def copy_from_guest(self, vaddr: int, size: int) -> bytes:
        """``size`` bytes at ``vaddr``. XenError(EFAULT) where the guest has no mapping; none are fine anywhere."""
        if not size:
            return b""
        if not self._walker.access_ok(vaddr, size):
            raise XenError(e.EFAULT, f"guest pointer {vaddr:#x} is not in the guest's address space")
        offset = vaddr & PAGE_MASK
        if offset + size <= PAGE_SIZE:
            start = self._page(vaddr, Access.READ) - self._ram.base
            return bytes(self._ram.bytes[start : start + size])
        parts = []
        while size:
            chunk = min(size, PAGE_SIZE - (vaddr & PAGE_MASK))
            start = self._page(vaddr, Access.READ) - self._ram.base
            parts.append(bytes(self._ram.bytes[start : start + chunk]))
            vaddr += chunk
            size -= chunk
        return b"".join(parts)

    def copy_to_guest(self, vaddr: int, data: bytes) -> None:
        """Write ``data`` at ``vaddr``. XenError(EFAULT) where the guest has no writable mapping (pages before it are
        written, as on Xen).
        """
        if not data:
            return
        if not self._walker.access_ok(vaddr, len(data)):
            raise XenError(e.EFAULT, f"guest pointer {vaddr:#x} is not in the guest's address space")
        done = 0
        while done < len(data):
            chunk = min(len(data) - done, PAGE_SIZE - (vaddr & PAGE_MASK))
            self._ram.write(self._page(vaddr, Access.WRITE), data[done : done + chunk])
            vaddr += chunk
            done += chunk

    def read_string(self, vaddr: int, limit: int) -> bytes:
        """A NUL-terminated string of at most ``limit`` bytes, without the NUL; what can be read of it."""
        out = bytearray()
        try:
            while len(out) < limit:
                chunk = self.copy_from_guest(vaddr, min(PAGE_SIZE - (vaddr & PAGE_MASK), limit - len(out)))
                end = chunk.find(b"\0")
                if end >= 0:
                    return bytes(out + chunk[:end])
                out += chunk
                vaddr += len(chunk)
        except XenError:
            pass
        return bytes(out)

    def _page(self, vaddr: int, access: Access) -> int:
        ram = self._ram
        maddr = self._walker.lookup(vaddr, access)
        if maddr is None or not ram.contains(maddr >> PAGE_SHIFT):
            raise XenError(e.EFAULT, f"guest pointer {vaddr:#x} is not mapped for this")
        if access == Access.WRITE:
            self._mark_dirty(vaddr)
        return maddr

    def _mark_dirty(self, vaddr: int) -> None:
        """Xen writes through the guest's own mapping, so the CPU sets the dirty bit."""
        ram = self._ram
        table = self._walker.root_maddr
        for level in self._walker.upper_levels:
            table = ram.read_u64(table + 8 * table_slot(vaddr, level)) & PTE_ADDR
        at = table + 8 * table_slot(vaddr, 1)
        entry = ram.read_u64(at)
        if not entry & PTE_D:
            ram.write_u64(at, entry | PTE_D | PTE_A)
