"""From machine addresses, which is what the engine tells of an access to memory, back to the guest's linear ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.frames import PAGE_MASK, PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pvemu.machine import Machine

__all__ = ["LinearAddresses"]

#: An operand's address is no further than this from the register it is built on, mostly.
_NEAR = 1 << 16


class LinearAddresses:
    """Remembers at which linear pages the CPU was handed a machine page. ``on_change`` is called before a linear page
    comes to mean another machine page.
    """

    def __init__(self, machine: Machine, on_change: Callable[[], None]) -> None:
        self._pages: dict[int, int] = {}
        self._holders: dict[int, list[int]] = {}
        self._on_change = on_change
        self.close = machine.engine.monitor_fills(self._filled)
        machine.engine.flush_tlb()  # to be told of what the CPU holds already

    def _filled(self, page: int, access: int, answer: tuple[int, int] | None) -> None:
        if answer is None:
            return
        maddr = answer[0]
        known = self._pages.get(page)
        if known == maddr:
            return
        if known is not None:
            self._on_change()
            self._holders[known].remove(page)
        self._pages[page] = maddr
        self._holders.setdefault(maddr, []).append(page)

    def of(self, maddr: int, registers: Sequence[int]) -> int:
        """The linear address of an access; where several pages are the same frame, the one nearest to a register. The
        machine address itself where none is known (an access by the CPU on its own).
        """
        offset = maddr & PAGE_MASK
        holders = self._holders.get(maddr >> PAGE_SHIFT << PAGE_SHIFT)
        if not holders:
            return maddr
        if len(holders) == 1:
            return holders[0] | offset
        places = [page | offset for page in holders]
        near = [place for place in places if any(abs(place - value) < _NEAR for value in registers)]
        return min(near or places, key=lambda place: min(abs(place - value) for value in registers))
