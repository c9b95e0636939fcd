"""Strictness: what Xen's ABI does not promise, and guests rely on all the same, taken away; what it allows, done.

Each aspect has a module and a stream of random numbers of its own, made from the seed alone, so that a run repeats bit
for bit and one aspect by itself does what it does among the others. Nothing here is imported unless it is asked for.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvemu.config import StrictConfig

__all__ = ["Strictness"]


class Strictness:
    """Which aspects are in force, and their random numbers."""

    def __init__(self, config: StrictConfig) -> None:
        self._config = config

    def __contains__(self, aspect: str) -> bool:
        return aspect in self._config.aspects

    def random(self, aspect: str, part: str = "") -> random.Random:
        """A stream of random numbers that depends on the seed, the aspect and the part of it, and on nothing else."""
        return random.Random(f"{self._config.seed}/{aspect}/{part}")  # noqa: S311 - to be repeated, not to be secret
