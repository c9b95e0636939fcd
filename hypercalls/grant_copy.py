"""Requests of GNTTABOP_copy as the port takes them, from the structures of either width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypercalls.arguments import u32
from hypercalls.public import grant_table as gt

if TYPE_CHECKING:
    from hypercalls.context import CopySide

__all__ = ["COPY_FIELDS", "decode_copy"]

#: What ``abi.reader`` reads of a gnttab_copy for ``decode_copy``.
COPY_FIELDS: Final = (
    *[f"{side}.{field}" for side in ("source", "dest") for field in ("u.gmfn", "domid", "offset")],
    "len", "flags",
)  # fmt: skip


def decode_copy(values: tuple[int, ...]) -> tuple[CopySide, CopySide, int]:
    """(source, destination, bytes) of the COPY_FIELDS of one request."""
    source, source_dom, source_offset, dest, dest_dom, dest_offset, length, flags = values
    from_ref, to_ref = bool(flags & gt.GNTCOPY_source_gref), bool(flags & gt.GNTCOPY_dest_gref)
    return (
        (from_ref, u32(source) if from_ref else source, source_dom, source_offset),
        (to_ref, u32(dest) if to_ref else dest, dest_dom, dest_offset),
        length,
    )
