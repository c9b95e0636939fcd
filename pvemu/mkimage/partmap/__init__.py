"""Partition tables, written by ourselves: bytes at places, so that nothing but the recipe decides them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvemu.mkimage.partmap.bsd import BSD_PARTITIONS, bsd_label
from pvemu.mkimage.partmap.gpt import GPT_PARTITIONS, gpt, gpt_space
from pvemu.mkimage.partmap.mbr import extended, mbr

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pvemu.mkimage.layout import PartitionTable

__all__ = ["PARTMAPS", "Partmap"]

_LOGICAL = 60  # how many GRUB and Linux go on counting is another matter; no recipe comes near


class Partmap(NamedTuple):
    """A kind of table. Sizes are in bytes, `write` gives the (offset, bytes) to put into its space.

    `head` is what the table takes before its first partition and `tail` what it takes at the end, for a sector size.
    """

    write: Callable[[PartitionTable, int, int], list[tuple[int, bytes]]]
    most: int
    head: Callable[[int], int]
    tail: Callable[[int], int]


PARTMAPS: Mapping[str, Partmap] = {
    "mbr": Partmap(mbr, 4, lambda sector: sector, lambda sector: 0),
    "gpt": Partmap(gpt, GPT_PARTITIONS, lambda sector: gpt_space(sector) + sector, gpt_space),
    "extended": Partmap(extended, _LOGICAL, lambda sector: sector, lambda sector: 0),
    "bsd": Partmap(bsd_label, BSD_PARTITIONS, lambda sector: 8192, lambda sector: 0),
}
"""Every kind that a recipe may name."""
