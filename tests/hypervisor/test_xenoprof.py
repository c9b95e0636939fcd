"""XENOPROF_get_buffer: pages of Xen's that the domain may map (xen/common/xenoprof.c)."""

from __future__ import annotations

from contextlib import suppress

import pytest

from hypercalls.errors import XenError
from hypercalls.public.errno import EBUSY, ENOMEM
from pvemu.hypervisor.xenoprof import Xenoprof
from pvemu.memory.frame_table import Owner, PageType
from pvemu.memory.machine_memory import MachineMemory


def quads(memory: MachineMemory, maddr: int, count: int) -> list[int]:
    return [memory.ram.read_u64(maddr + 8 * i) for i in range(count)]


@pytest.mark.parametrize(
    ("bits", "vcpus", "max_samples", "bufsize", "pages"),
    [
        (64, 1, 100, 64 + 99 * 16, 1), (64, 1, 1, 64, 1), (64, 1, 0, 48, 1), (64, 2, 128, 64 + 127 * 16, 2),
        (64, 1, 0xFFFF_FFFF, 32 * 4096, 32), (64, 3, 1 << 20, 43680, 32),
        (32, 1, 100, 60 + 99 * 12, 1), (32, 1, 0xFFFF_FFFF, 131064, 32),
    ],
)  # fmt: skip
def test_as_many_samples_as_asked_for_or_as_32_pages_hold(
    bits: int, vcpus: int, max_samples: int, bufsize: int, pages: int
) -> None:
    memory = MachineMemory(64, bits == 32)
    nbuf, size, maddr = Xenoprof(memory, bits, vcpus).get_buffer(max_samples)
    assert (nbuf, size) == (vcpus, bufsize)
    first = maddr >> 12
    assert [memory.frames.owner_of(first + i) for i in range(pages)] == [Owner.SHARED] * pages
    assert memory.frames.owner_of(first + pages) == Owner.XEN
    assert memory.frames.type_of(first) == PageType.WRITABLE
    samples = min(max_samples, (bufsize - 48) // (16 if bits == 64 else 12))
    for vcpu_id in range(vcpus):
        header = memory.ram.read(maddr + vcpu_id * bufsize, 48)
        assert [int.from_bytes(header[i : i + 4], "little") for i in (0, 4, 8, 12)] == [0, 0, samples, vcpu_id]
        assert not any(header[16:])


def test_it_is_had_once_and_again_when_it_was_given_up() -> None:
    memory = MachineMemory(64, False)
    xenoprof = Xenoprof(memory, 64, 1)
    answer = xenoprof.get_buffer(5)
    with pytest.raises(XenError) as caught:
        xenoprof.get_buffer(5)
    assert caught.value.errno == EBUSY
    memory.ram.write(answer[2], b"\x11" * 64)
    memory.frames.put_alloc_ref(answer[2] >> 12)
    assert xenoprof.get_buffer(99) == answer
    assert quads(memory, answer[2], 2) == [0, 0x1111_1111_1111_1111]  # head and tail alone are reset


def test_a_heap_without_room() -> None:
    memory = MachineMemory(64, False)
    with suppress(MemoryError):
        while True:
            memory.alloc_xen(8)
    with pytest.raises(XenError) as caught:
        Xenoprof(memory, 64, 1).get_buffer(1 << 20)
    assert caught.value.errno == ENOMEM
