"""The block device protocol: requests, responses, the ring that carries them (public/io/blkif.h).

A ring entry is as large as ``blkif_request``; ``blkif_sring.ring[0]`` starts right after the header.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from hypercalls.declare import ONLY32, ZERO, Array, Bytes, cstruct, cunion, s16, u8, u16, u32, u64
from hypercalls.public.grant_table import grant_ref_t

blkif_vdev_t: TypeAlias = u16
blkif_sector_t: TypeAlias = u64

BLKIF_OP_READ = 0
BLKIF_OP_WRITE = 1
BLKIF_OP_WRITE_BARRIER = 2
BLKIF_OP_FLUSH_DISKCACHE = 3
BLKIF_OP_RESERVED_1 = 4
BLKIF_OP_DISCARD = 5
BLKIF_OP_INDIRECT = 6

BLKIF_MAX_SEGMENTS_PER_REQUEST = 11
BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST = 8
BLKIF_DISCARD_SECURE = 1 << 0

BLKIF_RSP_EOPNOTSUPP = -2
BLKIF_RSP_ERROR = -1
BLKIF_RSP_OKAY = 0

# -- the back-end's "info" node
VDISK_CDROM = 0x1
VDISK_REMOVABLE = 0x2
VDISK_READONLY = 0x4


@cstruct
class blkif_request_segment:
    """Sectors ``first_sect`` to ``last_sect``, in units of 512 bytes, of the granted frame."""

    gref: grant_ref_t = 0
    first_sect: u8 = 0
    last_sect: u8 = 0


@cstruct
class blkif_request:
    """``sector_number`` counts 512 bytes whatever the sector size."""

    operation: u8 = 0
    nr_segments: u8 = 0
    handle: blkif_vdev_t = 0
    id: u64 = 0
    sector_number: blkif_sector_t = 0
    seg: Annotated[list[blkif_request_segment], Array(blkif_request_segment, BLKIF_MAX_SEGMENTS_PER_REQUEST)] = ZERO


@cstruct
class blkif_request_discard:
    operation: u8 = 0
    flag: u8 = 0
    handle: blkif_vdev_t = 0
    id: u64 = 0
    sector_number: blkif_sector_t = 0
    nr_sectors: u64 = 0


@cstruct
class blkif_request_indirect:
    operation: u8 = 0
    indirect_op: u8 = 0
    nr_segments: u16 = 0
    id: u64 = 0
    sector_number: blkif_sector_t = 0
    handle: blkif_vdev_t = 0
    indirect_grefs: Annotated[list[int], Array(grant_ref_t, BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST)] = ZERO
    pad: Annotated[u64, ONLY32] = 0


@cstruct
class blkif_response:
    id: u64 = 0
    operation: u8 = 0
    status: s16 = 0


@cunion
class blkif_sring_entry:
    req: blkif_request = ZERO
    rsp: blkif_response = ZERO


@cstruct
class blkif_sring:
    req_prod: u32 = 0
    req_event: u32 = 0
    rsp_prod: u32 = 0
    rsp_event: u32 = 0
    pvt: u32 = 0
    _pad: Annotated[bytes, Bytes(44)] = b""
    ring: Annotated[list[blkif_sring_entry], Array(blkif_sring_entry, 1)] = ZERO
