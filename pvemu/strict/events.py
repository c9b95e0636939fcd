"""Events come when they come: back-ends hear of a notification later, their answers are heard later, in another order,
and an upcall may find nothing to do (as after VCPUOP_register_vcpu_info).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from hypercalls.table import Row
    from pvemu.hypervisor.event_channel import BackendChannel, EventChannels
    from pvemu.hypervisor.hypercall import HypercallDispatcher
    from pvemu.hypervisor.time import VirtualClock
    from pvemu.hypervisor.vcpu import Vcpu

__all__ = ["AwkwardChannel", "AwkwardChannels", "Later", "raise_spurious_upcalls"]

_US = 1_000
#: What a notification takes to arrive, in nanoseconds: at once, soon, when dom0 is busy, when it is very busy.
_DELAYS = ((0.3, 0), (0.4, 50 * _US), (0.25, 500 * _US), (0.05, 5_000 * _US))
#: One hypercall in so many finds an upcall pending afterwards.
_SPURIOUS_ONE_IN = 12


class Later:
    """Runs things after a while, each after its own."""

    def __init__(self, clock: VirtualClock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng

    def delay(self) -> int:
        """How long the next thing takes, in nanoseconds."""
        draw = self._rng.random()
        for share, longest in _DELAYS:
            draw -= share
            if draw < 0:
                return self._rng.randint(0, longest)
        return 0

    def __call__(self, what: Callable[[], None]) -> None:
        """Run it, at once or later."""
        delay = self.delay()
        if delay:
            self._clock.call_at(self._clock.now() + delay, what)
        else:
            what()


class AwkwardChannel:
    """A back end's end of a channel, whose notifications reach the guest late."""

    def __init__(self, channel: BackendChannel, later: Later) -> None:
        self._channel = channel
        self._later = later
        self._is_open = True

    def notify(self) -> None:
        """Raise the guest's port, some time."""
        self._later(self._now)

    def _now(self) -> None:
        if self._is_open:
            self._channel.notify()

    def close(self) -> None:
        """Unbind it; what is under way is lost."""
        self._is_open = False
        self._channel.close()


class AwkwardChannels:
    """Binds back ends so that both directions take their time. What is under way when a channel closes is lost."""

    def __init__(self, channels: EventChannels, clock: VirtualClock, rng: random.Random) -> None:
        self._channels = channels
        self._later = Later(clock, rng)

    def bind_backend(self, port: int, notify: Callable[[], None]) -> AwkwardChannel:
        """As EventChannels.bind_backend."""
        return AwkwardChannel(self._channels.bind_backend(port, lambda: self._later(notify)), self._later)


def raise_spurious_upcalls(current: Callable[[], Vcpu], hypercalls: HypercallDispatcher, rng: random.Random) -> None:
    """Leave an upcall pending behind some hypercalls, once the guest has a handler for it."""
    from hypercalls.public.callback import CALLBACKTYPE_event

    def after(_row: Row, _args: Sequence[int], _result: int) -> None:
        vcpu = current()
        if vcpu.callbacks.get(CALLBACKTYPE_event) and not rng.randrange(_SPURIOUS_ONE_IN):
            vcpu.info.upcall_pending = 1

    hypercalls.monitor(lambda row, args: None, after)
