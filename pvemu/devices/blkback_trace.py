"""What a guest read of its disk, kept cheaply: sector ranges, joined as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.public.io.blkif import BLKIF_OP_READ, BLKIF_RSP_OKAY

if TYPE_CHECKING:
    from pvemu.devices.blkback_request import CompletedRequest

__all__ = ["ReadRanges"]


class ReadRanges:
    """An observer for :meth:`pvemu.devices.blkback.Blkback.observe` that remembers where successful reads were."""

    def __init__(self) -> None:
        self._log: list[tuple[int, int]] = []
        self._start = self._end = -1

    def __call__(self, done: CompletedRequest) -> None:
        """Note one request."""
        if done.operation != BLKIF_OP_READ or done.status != BLKIF_RSP_OKAY:
            return
        if done.sector != self._end:
            self._close_run()
            self._start = done.sector
        self._end = done.sector + done.nr_sectors

    def in_order(self) -> list[tuple[int, int]]:
        """(first sector, count) of each run of consecutive reads, in the order of reading."""
        runs = [*self._log, (self._start, self._end)] if self._end >= 0 else self._log
        return [(start, end - start) for start, end in runs]

    def ranges(self) -> list[tuple[int, int]]:
        """(first sector, count) of what was read at least once: sorted, apart from each other."""
        merged: list[list[int]] = []
        for start, count in sorted(self.in_order()):
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], start + count)
            else:
                merged.append([start, start + count])
        return [(start, end - start) for start, end in merged]

    def _close_run(self) -> None:
        if self._end >= 0:
            self._log.append((self._start, self._end))
