"""Index arithmetic of shared request/response rings (public/io/ring.h). Indices are u32 and run freely."""

from __future__ import annotations

RING_IDX_MASK = 0xFFFFFFFF

#: bytes before the first entry of every sring
SRING_HEADER_SIZE = 64


def RING_SIZE(entry_size: int, ring_bytes: int) -> int:
    """Entries of a ring of ``ring_bytes`` bytes: as many as fit behind the header, rounded down to a power of two."""
    fits = (ring_bytes - SRING_HEADER_SIZE) // entry_size
    return 1 << (fits.bit_length() - 1) if fits > 0 else 0


def RING_REQUEST_PROD_OVERFLOW(req_prod: int, rsp_prod_pvt: int, nr_ents: int) -> bool:
    """Whether the front-end claims more requests than the ring holds."""
    return (req_prod - rsp_prod_pvt) & RING_IDX_MASK > nr_ents


def RING_PUSH_NOTIFY(new: int, old: int, event: int) -> bool:
    """Whether publishing producer index ``new`` after ``old`` passes the other side's ``event`` index."""
    return (new - event) & RING_IDX_MASK < (new - old) & RING_IDX_MASK
