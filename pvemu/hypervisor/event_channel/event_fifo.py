"""Event delivery through queues of events, 16 priorities for each vcpu (xen/common/event_fifo.c).

The guest gives pages: a control block for each vcpu, with the head of every queue and a bit for each that has become
non-empty, and the event array, with one word for each port: flags, and the port behind it in its queue. Xen
keeps the tails. The guest may write anything into these pages at any time: nothing read from them is used as an index
here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.abi import ABI64
from hypercalls.errors import XenError
from hypercalls.public import errno as e
from hypercalls.public import event_channel as ec
from pvemu.frames import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pvemu.hypervisor.domain_page import DomainPages
    from pvemu.hypervisor.event_channel.evtchn import Evtchn

__all__ = ["FifoPorts"]

_WORDS_PER_PAGE = PAGE_SIZE // 4
_MAX_ARRAY_PAGES = ec.EVTCHN_FIFO_NR_CHANNELS // _WORDS_PER_PAGE
#: Both widths lay the control block out alike.
_BLOCK_SIZE = ABI64.sizeof(ec.evtchn_fifo_control_block)
_HEADS = ABI64.offsetof(ec.evtchn_fifo_control_block, "head") // 4
_PENDING, _MASKED, _LINKED = 1 << ec.EVTCHN_FIFO_PENDING, 1 << ec.EVTCHN_FIFO_MASKED, 1 << ec.EVTCHN_FIFO_LINKED
_BUSY, _LINK_MASK = 1 << ec.EVTCHN_FIFO_BUSY, ec.EVTCHN_FIFO_LINK_MASK
_FULL = 0xFFFF_FFFF


class _ControlBlock:
    """A vcpu's mapped control block: 32-bit words, word 0 the ready bits, and the tails of its queues."""

    def __init__(self, gfn: int, words: memoryview) -> None:
        self.gfn = gfn
        self.words = words
        self.tails = [0] * ec.EVTCHN_FIFO_MAX_QUEUES


class FifoPorts:
    """As :class:`pvemu.hypervisor.event_channel.evtchn.PortOps`; made by a domain's first EVTCHNOP_init_control."""

    max_evtchns = ec.EVTCHN_FIFO_NR_CHANNELS

    def __init__(
        self, domid: int, pages: DomainPages, nr_vcpus: int, mark_events_pending: Callable[[int], None],
        log: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._domid = domid
        self._pages = pages
        self._mark_events_pending = mark_events_pending
        self._log = log
        self._blocks: list[_ControlBlock | None] = [None] * nr_vcpus
        self._array: list[memoryview] = []
        self._array_gfns: list[int] = []

    # -- pages of the guest's ----------------------------------------------------------------------------------------
    def map_control_block(self, vcpu_id: int, gfn: int, offset: int) -> None:
        """A vcpu's control block at byte ``offset`` of a frame: EINVAL for a second one."""
        if self._blocks[vcpu_id] is not None:
            raise XenError(e.EINVAL, f"vcpu {vcpu_id} has a control block")
        page = self._pages.map(gfn)
        self._blocks[vcpu_id] = _ControlBlock(gfn, page[offset : offset + _BLOCK_SIZE].cast("I"))

    def expand_array(self, gfn: int, channels: Iterable[Evtchn]) -> list[int]:
        """One more page of words. Events that were raised when they had none are raised now: their ports."""
        if len(self._array) >= _MAX_ARRAY_PAGES:
            raise XenError(e.ENOSPC, "the event array is full")
        page = self._pages.map(gfn)
        first = len(self._array) * _WORDS_PER_PAGE
        self._array.append(page.cast("I"))
        self._array_gfns.append(gfn)
        raised = [chn for chn in channels if chn.pending and first <= chn.port < first + _WORDS_PER_PAGE]
        return [chn.port for chn in raised if self.set_pending(chn, chn.notify_vcpu_id)]

    def destroy(self) -> None:
        """evtchn_fifo_destroy: back to two levels."""
        for block in self._blocks:
            if block is not None:
                self._pages.unmap(block.gfn)
        for gfn in self._array_gfns:
            self._pages.unmap(gfn)
        self._blocks = [None] * len(self._blocks)
        self._array, self._array_gfns = [], []

    def _word(self, port: int) -> tuple[memoryview, int] | None:
        """evtchn_fifo_word_from_port: a page of the array and an index; None where there is no page yet."""
        page, index = divmod(port, _WORDS_PER_PAGE)
        return (self._array[page], index) if page < len(self._array) else None

    # -- evtchn_port_ops ---------------------------------------------------------------------------------------------
    def init(self, chn: Evtchn) -> None:
        """A channel starts with the default priority, also one that stands in a queue still: only a debug build of Xen
        says so.
        """
        chn.priority = ec.EVTCHN_FIFO_PRIORITY_DEFAULT

    def set_pending(self, chn: Evtchn, vcpu_id: int) -> bool:
        """Set PENDING, and link an unmasked event behind its queue's tail. True when PENDING was not set before."""
        place = self._word(chn.port)
        if place is None:
            chn.pending = True
            return False
        block = self._blocks[vcpu_id]
        if block is None:
            self._log(f"d{self._domid}v{vcpu_id} has no FIFO event channel control block")
            return False
        words, index = place
        before = words[index]
        words[index] = before | _PENDING
        if not before & (_MASKED | _LINKED):
            words[index] = before | _PENDING | _LINKED
            self._link(chn, block, vcpu_id)
        return not before & _PENDING

    def _link(self, chn: Evtchn, block: _ControlBlock, vcpu_id: int) -> None:
        """Put a channel, marked LINKED just now, at the end of a queue. Xen's tail may be one that the guest has
        unlinked since: then the queue is empty.
        """
        port, priority = chn.port, chn.priority
        old_block = self._blocks[chn.last_vcpu_id]
        if old_block is not None and old_block.tails[chn.last_priority] == port:
            old_block.tails[chn.last_priority] = 0
        chn.last_vcpu_id, chn.last_priority = vcpu_id, priority
        tail = block.tails[priority]
        block.tails[priority] = port
        if tail and self._set_link(tail, port):
            return
        block.words[_HEADS + priority] = port
        if not block.words[0] >> priority & 1:
            block.words[0] |= 1 << priority
            self._mark_events_pending(vcpu_id)

    def _set_link(self, tail: int, port: int) -> bool:
        """evtchn_fifo_set_link: name ``port`` in the tail's word; False when the guest has taken the tail already."""
        place = self._word(tail)
        if place is None:
            return False
        words, index = place
        word = words[index]
        if not word & _LINKED:
            return False
        words[index] = word & ~(_BUSY | _LINK_MASK) & _FULL | port
        return True

    def clear_pending(self, chn: Evtchn) -> None:
        """PENDING alone: the guest unlinks the event and finds it not pending."""
        self._clear(chn.port, _PENDING)

    def _clear(self, port: int, flag: int) -> None:
        place = self._word(port)
        if place is not None:
            words, index = place
            words[index] &= _FULL ^ flag

    def unmask(self, chn: Evtchn) -> None:
        """Clear MASKED; a pending event is linked now."""
        self._clear(chn.port, _MASKED)
        if self.is_pending(chn):
            self.set_pending(chn, chn.notify_vcpu_id)

    def _test(self, port: int, flag: int) -> bool:
        place = self._word(port)
        return place is not None and bool(place[0][place[1]] & flag)

    def is_pending(self, chn: Evtchn) -> bool:
        """PENDING of its word."""
        return self._test(chn.port, _PENDING)

    def is_busy(self, chn: Evtchn) -> bool:
        """LINKED: a closed port whose event the guest has not taken from the queue is not given out again."""
        return self._test(chn.port, _LINKED)

    def set_priority(self, chn: Evtchn, priority: int) -> None:
        """For events to come. EINVAL beyond the lowest."""
        if priority > ec.EVTCHN_FIFO_PRIORITY_MIN:
            raise XenError(e.EINVAL, f"priority {priority}")
        chn.priority = priority


def check_control_block(offset: int) -> None:
    """Where a control block may stand in its page: EINVAL where it would not fit, or is not 8-byte aligned."""
    if offset > PAGE_SIZE - _BLOCK_SIZE or offset & 7:
        raise XenError(e.EINVAL, f"a control block at offset {offset:#x}")
