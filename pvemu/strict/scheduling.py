"""A vcpu may lose the CPU anywhere, and for long: slices of all lengths, where several vcpus share the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

__all__ = ["Slices"]

_US = 1_000
#: Slices last up to so many nanoseconds: a hypercall, a few, as usual, and a vcpu that the host has forgotten.
_LENGTHS = (2 * _US, 50 * _US, 1_000 * _US, 30_000 * _US)
_SHARES = (3, 3, 3, 1)


class Slices:
    """How long each next slice is."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def next_ns(self) -> int:
        """In nanoseconds of virtual time."""
        (longest,) = self._rng.choices(_LENGTHS, _SHARES)
        return self._rng.randint(1, longest)
