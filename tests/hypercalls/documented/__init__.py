"""Every error that Xen 4.17 gives an unprivileged PV guest, provoked through the handlers with the real ports behind.

One module per hypercall or family of them. Each has a :class:`Family` named ``FAMILY``: a literal table of what can be
returned and when, and cases that make it happen in a :class:`tests.hypercalls.documented.world.World`. What belongs
together is checked in ``test_documented``: each row has a case, each case its row, and no hypercall is forgotten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.hypercalls.documented.world import World

__all__ = ["Case", "Family", "Key"]

#: An operation (or a hypercall without any) by its public name, and an errno (EINVAL) or a status (GNTST_bad_gntref).
Key: TypeAlias = tuple[str, int]


class Case(NamedTuple):
    """``provoke`` makes the hypercall in a fresh world, and returns what the guest gets: ``-errno``, or the status."""

    operation: str
    error: int
    provoke: Callable[[World], int]
    bits: int = 0  #: 0 is both widths

    @property
    def key(self) -> Key:
        """The row that it belongs to."""
        return self.operation, self.error


class Family(NamedTuple):
    """``documented`` and ``unreachable`` tell the condition and Xen's function, or why no guest of pvemu's gets there;
    ``never_fails`` has operations that no argument makes fail, and why.
    """

    documented: Mapping[Key, str]
    cases: Sequence[Case]
    unreachable: Mapping[Key, str] = {}
    never_fails: Mapping[str, str] = {}

    @property
    def operations(self) -> set[str]:
        """What it has something to say about."""
        return {name for name, _ in (*self.documented, *self.unreachable)} | set(self.never_fails)
