"""Which frames a domain has, and what is in them: neither is promised.

libxc (tools/libs/guest: xg_dom_core.c xc_dom_alloc_segment, xg_dom_x86.c alloc_magic_pages_pv, start_info_x86_*) clears
the segments it loads (kernel, ramdisk, p2m, page tables), the two rings, and ``struct start_info`` without the rest of
its page. All other memory is as Xen's allocator gave it: scrubbed with a pattern in debug builds (scrub_one_page of
xen/common/page_alloc.c), with zeroes in others, and not at all when its last owner lives and gave it back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.abi import ABI32, ABI64
from hypercalls.public import xen
from pvemu.frames import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    import random
    from array import array
    from collections.abc import Iterable

    from pvemu.builder.build import BuiltDomain
    from pvemu.memory.ram import Ram

__all__ = ["make_junk", "shuffle_frames", "spoil_memory"]

#: SCRUB_BYTE_PATTERN of Xen's debug builds.
_SCRUB_BYTE = 0xC2
_START_INFO = "start info"
_UNCLEARED = (_START_INFO, "boot stack")


def shuffle_frames(p2m: array[int], rng: random.Random) -> None:
    """Give the domain's frames to other pfns, in place: in runs of any length, upwards and downwards, in any order."""
    frames = list(p2m)
    longest = rng.choice((1, 2, 7, 64, 500))
    runs = []
    at = 0
    while at < len(frames):
        length = rng.randint(1, longest)
        run = frames[at : at + length]
        if rng.random() < 0.5:
            run.reverse()
        runs.append(run)
        at += length
    rng.shuffle(runs)
    at = 0
    for run in runs:
        for mfn in run:
            p2m[at] = mfn
            at += 1


def make_junk(rng: random.Random) -> bytes:
    """A page as a domain may get it: what a debug build of Xen leaves, or what somebody else had there."""
    return bytes([_SCRUB_BYTE]) * PAGE_SIZE if rng.random() < 0.5 else rng.randbytes(PAGE_SIZE)


def spoil_memory(built: BuiltDomain, ram: Ram, domain_frames: Iterable[int], junk: bytes) -> None:
    """Fill what nobody cleared: the domain's own frames, and those that are nobody's yet: ``domain_frames``."""
    cleared: set[int] = set()
    for segment in built.segments:
        if segment.name not in _UNCLEARED:
            cleared.update(built.p2m[segment.pfn : segment.pfn + segment.pages])
    kept: set[int] = set()
    for segment in built.segments:
        if segment.name == _START_INFO:
            kept.add(built.p2m[segment.pfn])
    for mfn in domain_frames:
        if mfn in cleared:
            continue
        size = (ABI64 if built.bits == 64 else ABI32).sizeof(xen.start_info) if mfn in kept else 0
        start = (mfn << PAGE_SHIFT) - ram.base
        ram.bytes[start + size : start + PAGE_SIZE] = junk[size:]
