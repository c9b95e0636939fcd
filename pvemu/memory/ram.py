"""Machine memory: every frame the domain and the hypervisor own, addressed by machine frame number.

One anonymous host mapping backs it (pages cost nothing until touched). The engine maps the same bytes, so a write
here is seen by the guest at once; frames that hold translated code are announced through ``on_code_write``.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import TYPE_CHECKING

from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Mfn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Ram"]

#: Linux' MAP_NORESERVE (asm-generic/mman-common.h), which Python's mmap module does not name.
_MAP_NORESERVE = 0x4000


class Ram:
    """``nr_frames`` machine frames starting at ``first_mfn``.

    ``bytes`` is a writable view of it all (index: maddr - base), ``quads`` the same as little-endian u64. Writers that
    may hit guest code use :meth:`write`, which drops stale translations.
    """

    def __init__(self, first_mfn: Mfn, nr_frames: int) -> None:
        self.first_mfn = first_mfn
        self.nr_frames = nr_frames
        self.base = first_mfn << PAGE_SHIFT  #: machine address of the first byte
        self.size = nr_frames << PAGE_SHIFT
        self.mapping = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        self.bytes = memoryview(self.mapping)
        self.quads = self.bytes.cast("Q")
        self.code_frames: set[int] = set()  #: mfns the engine has translated code from
        self.on_code_write: Callable[[Mfn], None] = lambda mfn: None

    def host_address(self) -> int:
        """Address of the first byte in this process, for the engine."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self.mapping))

    def contains(self, mfn: int) -> bool:
        """Whether ``mfn`` is a frame of this machine."""
        return 0 <= mfn - self.first_mfn < self.nr_frames

    def quad_index(self, mfn: int) -> int:
        """Index in ``quads`` of a frame's first u64."""
        return (mfn - self.first_mfn) << (PAGE_SHIFT - 3)

    def frame(self, mfn: Mfn) -> memoryview:
        """The 4096 bytes of one frame, writable, no copy. Callers that write code frames use :meth:`write`."""
        start = (mfn - self.first_mfn) << PAGE_SHIFT
        return self.bytes[start : start + PAGE_SIZE]

    def read(self, maddr: int, size: int) -> bytes:
        """``size`` bytes at a machine address."""
        start = maddr - self.base
        return bytes(self.bytes[start : start + size])

    def write(self, maddr: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` at a machine address and drop translations of the code frames it touches."""
        start = maddr - self.base
        self.bytes[start : start + len(data)] = data
        if self.code_frames and data:
            for mfn in range(maddr >> PAGE_SHIFT, ((maddr + len(data) - 1) >> PAGE_SHIFT) + 1):
                if mfn in self.code_frames:
                    self.on_code_write(Mfn(mfn))

    def read_u64(self, maddr: int) -> int:
        """The aligned u64 at a machine address."""
        return self.quads[(maddr - self.base) >> 3]

    def write_u64(self, maddr: int, value: int) -> None:
        """Store an aligned u64 (page-table entries)."""
        self.quads[(maddr - self.base) >> 3] = value
        if self.code_frames and (maddr >> PAGE_SHIFT) in self.code_frames:
            self.on_code_write(Mfn(maddr >> PAGE_SHIFT))

    def touched_ranges(self) -> list[tuple[int, int]]:
        """(offset, size) of the parts that were ever written or read, in 1 MiB steps: what a search need look at."""
        libc = ctypes.CDLL(None, use_errno=True)
        pages = self.size >> PAGE_SHIFT
        resident = (ctypes.c_ubyte * pages)()
        if libc.mincore(ctypes.c_void_p(self.host_address()), ctypes.c_size_t(self.size), resident) != 0:
            return [(0, self.size)]
        flags, step = bytes(resident), 256
        return [
            (first << PAGE_SHIFT, min(step, pages - first) << PAGE_SHIFT)
            for first in range(0, pages, step)
            if any(flags[first : first + step])
        ]
