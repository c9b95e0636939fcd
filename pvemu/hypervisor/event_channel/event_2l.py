"""Event delivery through two levels of bits: shared_info's maps, and a selector word in vcpu_info
(xen/common/event_2l.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import errno as e

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.hypervisor.event_channel.evtchn import Evtchn
    from pvemu.hypervisor.shared_info import SharedInfo, VcpuInfo

__all__ = ["TwoLevelPorts"]


class TwoLevelPorts:
    """As :class:`pvemu.hypervisor.event_channel.evtchn.PortOps`; ``mark_events_pending`` is told which vcpu has an
    upcall to take.
    """

    def __init__(
        self, shared_info: SharedInfo, vcpu_infos: list[VcpuInfo], mark_events_pending: Callable[[int], None]
    ) -> None:
        self._pending = shared_info.pending
        self._mask = shared_info.mask
        self._bits = shared_info.bits_per_word
        self._full = (1 << self._bits) - 1
        self._vcpu_infos = vcpu_infos
        self._mark_events_pending = mark_events_pending
        self.max_evtchns = shared_info.words_per_map * self._bits

    def init(self, chn: Evtchn) -> None:
        """Nothing: an event of before stays (evtchn_free cleared it)."""

    def set_pending(self, chn: Evtchn, vcpu_id: int) -> bool:
        """Set the pending bit; unless it is masked the selector's, and with a new one of these the upcall's."""
        word, bit = divmod(chn.port, self._bits)
        value = 1 << bit
        if self._pending[word] & value:
            return False
        self._pending[word] |= value
        if not self._mask[word] & value:
            self._select(vcpu_id, word)
        return True

    def _select(self, vcpu_id: int, word: int) -> None:
        info = self._vcpu_infos[vcpu_id]
        if not info.pending_sel >> word & 1:
            info.pending_sel |= 1 << word
            self._mark_events_pending(vcpu_id)

    def clear_pending(self, chn: Evtchn) -> None:
        """The pending bit alone."""
        word, bit = divmod(chn.port, self._bits)
        self._pending[word] &= self._full ^ 1 << bit

    def unmask(self, chn: Evtchn) -> None:
        """Clear the mask bit; if it was set, a pending event is delivered now."""
        word, bit = divmod(chn.port, self._bits)
        if self._mask[word] >> bit & 1:
            self._mask[word] &= self._full ^ 1 << bit
            if self._pending[word] >> bit & 1:
                self._select(chn.notify_vcpu_id, word)

    def is_pending(self, chn: Evtchn) -> bool:
        """The pending bit."""
        word, bit = divmod(chn.port, self._bits)
        return bool(self._pending[word] >> bit & 1)

    def is_busy(self, chn: Evtchn) -> bool:
        """A closed port is free at once."""
        return False

    def set_priority(self, chn: Evtchn, priority: int) -> None:
        """ENOSYS: there are none."""
        raise XenError(e.ENOSYS, f"priority {priority} of port {chn.port} in the 2-level ABI")
