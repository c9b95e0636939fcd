"""A disk that answers late, in any order and in pieces, as one with many requests under way does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypercalls.public.io import blkif
from pvemu.devices.blkback import BlkifRing
from pvemu.devices.ring import FrontendProtocolError

if TYPE_CHECKING:
    import random

    from pvemu.devices.ring import BackRing

__all__ = ["UnorderedBlkifRing"]

_US = 1_000
_LONGEST_NS = 1_000 * _US
_OPERATION_AT = 0
#: Nothing overtakes these.
_BARRIERS = (blkif.BLKIF_OP_WRITE_BARRIER, blkif.BLKIF_OP_FLUSH_DISKCACHE)


class UnorderedBlkifRing(BlkifRing):
    """Requests are taken as they come, and carried out and answered later, some of them at a time, in any order. A
    flush or barrier waits for what was asked before it, and what comes after waits for it.
    """

    def __init__(self, rng: random.Random, **how: Any) -> None:
        self._rng = rng
        self._taken: list[bytes] = []
        self._is_scheduled = False
        super().__init__(**how)

    def process(self) -> None:
        """Take what is there; the answers come by and by."""
        if not self._is_running:
            return
        ring = self._ring
        try:
            for _ in range(ring.pending()):
                self._taken.append(ring.take_request())
            ring.final_check_for_requests()
        except FrontendProtocolError as error:
            self._halt(error)
            return
        self._again()

    def _again(self) -> None:
        if self._taken and not self._is_scheduled:
            self._is_scheduled = True
            self._clock.call_at(self._clock.now() + self._rng.randint(0, _LONGEST_NS), self._turn)

    def _turn(self) -> None:
        self._is_scheduled = False
        if not self._is_running:
            return
        cost = 0
        for _ in range(self._rng.randint(1, max(len(self._taken), 1))):
            if self._taken:
                cost += self._complete(self._ring, self._next())
        self._answer(cost)
        self.process()

    def _next(self) -> bytes:
        """One of those that nothing holds back."""
        free = next(
            (i for i, request in enumerate(self._taken) if request[_OPERATION_AT] in _BARRIERS), len(self._taken)
        )
        return self._taken.pop(self._rng.randrange(max(free, 1)))

    def _complete(self, ring: BackRing, request: bytes) -> int:
        cost = self._respond(ring, request)
        ring.rsp_prod_pvt = ring.rsp_prod_pvt + 1 & 0xFFFF_FFFF
        return cost

    def _answer(self, cost: int) -> None:
        notify = self._ring.push_responses_and_check_notify()
        self._requests.statistics.busy_ns += cost
        self._charge(cost)
        if notify:
            self._channel.notify()
