"""A domain's buffer for profiling samples, which nobody takes (xen/common/xenoprof.c alloc_xenoprof_struct)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hypercalls.errors import XenError
from hypercalls.public.errno import EBUSY, ENOMEM
from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Mfn
from pvemu.memory.frame_table import Owner

if TYPE_CHECKING:
    from pvemu.memory.machine_memory import MachineMemory

__all__ = ["Xenoprof"]

#: Pages that a domain gets at most.
_MAX_OPROF_SHARED_PAGES = 32
#: struct xenoprof_buf with one struct event_log, and one of those, by the width of the guest.
_SIZES = {64: (64, 16), 32: (60, 12)}


class _Buffer(NamedTuple):
    first: Mfn
    npages: int
    bufsize: int


class Xenoprof:
    """For a domain of ``bits`` with ``nr_vcpus``. Frames come from Xen's heap when first asked for, and stay."""

    def __init__(self, memory: MachineMemory, bits: int, nr_vcpus: int) -> None:
        self._memory = memory
        self._bits = bits
        self._nr_vcpus = nr_vcpus
        self._buffer: _Buffer | None = None

    def get_buffer(self, max_samples: int) -> tuple[int, int, int]:
        """XENOPROF_get_buffer: (number of buffers, size of each, machine address of the first). EBUSY while the domain
        has it.
        """
        frames = self._memory.frames
        if self._buffer is None:
            self._buffer = self._alloc(max_samples)
        elif any(frames.owner_of(mfn) == Owner.SHARED for mfn in self._frames(self._buffer)):
            raise XenError(EBUSY, "the domain has its xenoprof buffer")
        for mfn in self._frames(self._buffer):
            frames.share(Mfn(mfn))
        for number in range(self._nr_vcpus):  # event_head and event_tail
            self._memory.ram.write((self._buffer.first << PAGE_SHIFT) + number * self._buffer.bufsize, bytes(8))
        return self._nr_vcpus, self._buffer.bufsize, self._buffer.first << PAGE_SHIFT

    @staticmethod
    def _frames(buffer: _Buffer) -> range:
        return range(buffer.first, buffer.first + buffer.npages)

    def _alloc(self, max_samples: int) -> _Buffer:
        bufsize, sample = _SIZES[self._bits]
        most = (_MAX_OPROF_SHARED_PAGES * PAGE_SIZE // self._nr_vcpus - bufsize) // sample + 1
        max_samples = min(max_samples, most)
        bufsize += (max_samples - 1) * sample
        npages = (self._nr_vcpus * bufsize - 1) // PAGE_SIZE + 1
        try:
            first = self._memory.alloc_xen(npages)
        except MemoryError:
            raise XenError(ENOMEM, "no room in Xen's heap for a xenoprof buffer") from None
        ram = self._memory.ram
        ram.write(first << PAGE_SHIFT, bytes(npages * PAGE_SIZE))
        for vcpu_id in range(self._nr_vcpus):  # event_size and vcpu_id
            at = (first << PAGE_SHIFT) + vcpu_id * bufsize + 8
            ram.write(at, max_samples.to_bytes(4, "little") + vcpu_id.to_bytes(4, "little"))
        return _Buffer(first, npages, bufsize)
