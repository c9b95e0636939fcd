"""Handles of grant mappings (xen/common/grant_table.c get_maptrack_handle, put_maptrack_handle).

Each vcpu has a list of free handles, grown by a frame of them at a time, and gets back the ones that it gave out. When
the domain may have no more frames, a vcpu takes from the others.
"""

from __future__ import annotations

from collections import defaultdict, deque

__all__ = ["Maptrack"]

#: MAPTRACK_PER_PAGE
_PER_FRAME = 256


class Maptrack:
    """``max_frames`` limits how many handles there are; ``vcpu`` is the id of the one that asks."""

    def __init__(self, max_frames: int) -> None:
        self.max_frames = max_frames
        self.vcpu = 0
        self._free: defaultdict[int, deque[int]] = defaultdict(deque)
        self._vcpu_of: list[int] = []  #: by handle, whose list it is on

    def get(self) -> int | None:
        """The handle that has been free for longest; one always stays in the list."""
        free, first = self._free[self.vcpu], len(self._vcpu_of)
        if len(free) > 1:
            return free.popleft()
        if first < self.max_frames * _PER_FRAME:
            self._vcpu_of += [self.vcpu] * _PER_FRAME
            free.extendleft(range(first + _PER_FRAME - 1, first, -1))
            return first
        if not free:
            last = self._steal()
            if last is None:
                return None
            free.append(last)
        return self._steal()

    def _steal(self) -> int | None:
        """steal_maptrack_handle; Xen begins at a random vcpu, this at the first."""
        for vcpu in sorted(self._free):
            if len(self._free[vcpu]) > 1:
                handle = self._free[vcpu].popleft()
                self._vcpu_of[handle] = self.vcpu
                return handle
        return None

    def put(self, handle: int) -> None:
        """The handle is free: last in the list of the vcpu whose it is."""
        self._free[self._vcpu_of[handle]].append(handle)
