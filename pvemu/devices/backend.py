"""What a dom0 back end is: the ports it uses, and the xenbus state machine that brings its device up and down.

Mirrors Linux' drivers/xen/xenbus/xenbus_{client,probe,probe_backend}.c and the ``frontend_changed`` that its back ends
share. A back end watches its front end's ``state`` node; what it does about a change happens a little later in virtual
time, so a guest that polls the back end's state sees the old one for a while, as it does under Xen.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from hypercalls.public.io import xenbus
from pvemu.devices.xenstore.wire import XsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

__all__ = [
    "CONNECT_NS",
    "DISCONNECT_NS",
    "WATCH_NS",
    "Backend",
    "BackendChannel",
    "BackendDriver",
    "BackendError",
    "Clock",
    "EventBinder",
    "EventError",
    "GrantError",
    "GrantMapper",
    "StoreAccess",
    "Timer",
    "XenbusBackend",
    "Xenstore",
    "scan_integer",
    "scan_unsigned",
]

#: From a write to the store until dom0 acts on it: xenstored wakes the xenwatch thread, which reads the state back.
#: Short, because a chainloaded loader that finds the state still Closed takes that for the end of its wait.
WATCH_NS = 10_000
#: What connecting takes besides: about twenty messages to xenstored, mapping the ring and starting a thread.
CONNECT_NS = 250_000
#: What disconnecting takes: stopping the thread, closing the channel and unmapping the ring.
DISCONNECT_NS = 100_000

_INTEGER = re.compile(rb"\s*(-?[0-9]+)")
_UNSIGNED = re.compile(rb"\s*([0-9]+)")


class GrantError(Exception):
    """The guest's grant cannot be mapped; ``status`` is the GNTST_* that says why (negative)."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class EventError(Exception):
    """The guest's event channel cannot be bound; ``errno`` is positive."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


class BackendError(Exception):
    """A device cannot be connected; ``errno`` is positive. Written to the store's ``error`` node, as Linux does."""

    def __init__(self, errno: int, reason: str) -> None:
        super().__init__(errno, reason)
        self.errno = errno
        self.reason = reason


class GrantMapper(Protocol):
    """Grants of one guest to dom0."""

    def map(self, ref: int, readonly: bool) -> memoryview:
        """The 4096 live bytes of the granted frame, writable unless ``readonly``; GrantError where Xen refuses."""

    def unmap(self, ref: int) -> None:
        """Undo one :meth:`map` of ``ref``; its bytes are not used any more."""


class BackendChannel(Protocol):
    """dom0's end of an event channel."""

    def notify(self) -> None:
        """Raise the guest's end."""

    def close(self) -> None:
        """Close dom0's end; the guest's becomes unbound."""


class EventBinder(Protocol):
    """EVTCHNOP_bind_interdomain from dom0."""

    def bind_backend(self, port: int, notify: Callable[[], None]) -> BackendChannel:
        """Bind the guest's unbound ``port``; ``notify`` runs when the guest sends. EventError where Xen refuses."""


class Timer(Protocol):
    """A call that waits for its time."""

    def cancel(self) -> None:
        """Do not make the call."""


class Clock(Protocol):
    """Virtual time in nanoseconds. Calls for the same time are made in the order in which they were asked for."""

    def now(self) -> int:
        """The time now."""

    def call_at(self, t_ns: int, fn: Callable[[], None], /) -> Timer:
        """Call ``fn`` when it is ``t_ns``."""


class StoreAccess(Protocol):
    """Reading and writing the store; every method raises XsError as xenstored refuses."""

    def read(self, path: str) -> bytes:
        """The value of a node."""

    def write(self, path: str, value: bytes) -> None:
        """Set a node, creating it and its parents."""

    def exists(self, path: str) -> bool:
        """Whether there is such a node."""


class Xenstore(StoreAccess, Protocol):
    """dom0's connection to the store."""

    def transaction(self) -> AbstractContextManager[StoreAccess]:
        """Changes that are made together at the end of the block, or not at all if it is left by an exception."""

    def watch(self, path: str, token: str, callback: Callable[[str, str], None]) -> object:
        """Call ``callback(path, token)`` for every change at or below ``path``, and once now."""


class Backend(Protocol):
    """What the machine does with a device of any kind."""

    def probe(self) -> None:
        """Announce the device and wait for the front end, before the guest runs."""

    def remove(self) -> None:
        """Let go of the guest's memory and channels and react to nothing any more."""


class BackendDriver(Protocol):
    """The part of a back end that knows its kind of device."""

    def connect(self) -> None:
        """Take up what the front end has written and publish the device; BackendError if that cannot be done."""

    def connected(self) -> None:
        """The back end's state is Connected now: begin to work."""

    def disconnect(self) -> None:
        """Let go of the front end's memory and channels; nothing if there are none."""


class XenbusBackend:
    """The state machine of one device: ``nodename`` is its directory, ``otherend`` the front end's.

    ``log`` receives what Linux would put in dom0's kernel log.
    """

    def __init__(
        self,
        *,
        nodename: str,
        otherend: str,
        store: Xenstore,
        clock: Clock,
        driver: BackendDriver,
        log: Callable[[str], None],
    ) -> None:
        self.nodename = nodename
        self.otherend = otherend
        self.state = xenbus.XenbusStateInitialising
        self._store = store
        self._clock = clock
        self._driver = driver
        self._log = log
        self._busy_until = 0
        self._removed = False

    def probe(self) -> None:
        """Go to InitWait and watch the front end."""
        self.switch_state(xenbus.XenbusStateInitWait)
        self._store.watch(f"{self.otherend}/state", self.nodename, self._watch_fired)

    def remove(self) -> None:
        """The device is gone: disconnect, say Closed, and react to nothing any more (xenbus_dev_remove)."""
        if not self._removed:
            self._removed = True
            self._driver.disconnect()
            self.switch_state(xenbus.XenbusStateClosed)

    def switch_state(self, state: xenbus.XenbusState) -> None:
        """Publish a new state; nothing if it is the state already or the toolstack has taken the node away."""
        if state == self.state or not self._store.exists(f"{self.nodename}/state"):
            return
        self._store.write(f"{self.nodename}/state", b"%d" % state)
        self.state = state

    def fatal(self, errno: int, reason: str) -> None:
        """Report an error that ends the connection: log, ``error`` node, state Closing (xenbus_dev_fatal)."""
        device = self.nodename.removeprefix("/local/domain/0/")
        kind, domid, number = self.nodename.split("/")[-3:]
        self._log(f"{kind} {kind}-{domid}-{number}: {errno} {reason}")
        self._store.write(f"/local/domain/0/error/{device}/error", f"{errno} {reason}".encode())
        self.switch_state(xenbus.XenbusStateClosing)

    def _watch_fired(self, path: str, token: str) -> None:
        if not self._removed:
            self._clock.call_at(max(self._clock.now() + WATCH_NS, self._busy_until), self._otherend_changed)

    def _otherend_changed(self) -> None:
        """Act on the front end's state as it is now (frontend_changed)."""
        if self._removed:
            return
        if self._clock.now() < self._busy_until:  # one thread serves all watches: it is still connecting
            self._clock.call_at(self._busy_until, self._otherend_changed)
            return
        state = self._read_otherend_state()
        match state:
            case xenbus.XenbusStateInitialising:
                if self.state == xenbus.XenbusStateClosed:
                    self._log(f"{self.nodename.removeprefix('/local/domain/0/')}: prepare for reconnect")
                    self.switch_state(xenbus.XenbusStateInitWait)
            case xenbus.XenbusStateInitialised | xenbus.XenbusStateConnected:
                if self.state != xenbus.XenbusStateConnected:
                    self._take(CONNECT_NS, self._connect)
            case xenbus.XenbusStateClosing:
                self.switch_state(xenbus.XenbusStateClosing)
            case xenbus.XenbusStateClosed:
                self._take(DISCONNECT_NS, self._close)
            case xenbus.XenbusStateUnknown:
                self.remove()
            case _:
                self.fatal(22, f"saw state {state} at frontend")

    def _take(self, duration: int, work: Callable[[], None]) -> None:
        """Do ``work`` after ``duration`` ns and nothing else before."""
        self._busy_until = self._clock.now() + duration
        self._clock.call_at(self._busy_until, work)

    def _close(self) -> None:
        if self._removed:
            return
        self._driver.disconnect()
        self.switch_state(xenbus.XenbusStateClosed)
        if not self._is_online():
            self.remove()

    def _connect(self) -> None:
        if self._removed:
            return
        self._driver.disconnect()
        try:
            self._driver.connect()
        except BackendError as error:
            self._driver.disconnect()
            self.fatal(error.errno, error.reason)
            return
        self.switch_state(xenbus.XenbusStateConnected)
        self._driver.connected()

    def _read_otherend_state(self) -> int:
        value = scan_integer(self._store, f"{self.otherend}/state")
        return xenbus.XenbusStateUnknown if value is None else value

    def _is_online(self) -> bool:
        return bool(scan_unsigned(self._store, f"{self.nodename}/online"))


def scan_integer(store: StoreAccess, path: str) -> int | None:
    """The number a node begins with, as the kernel's ``%d`` reads it; None if there is no node or no number."""
    return _scan(store, path, _INTEGER)


def scan_unsigned(store: StoreAccess, path: str) -> int | None:
    """The same for ``%u``: no sign, and cut to 32 bits."""
    value = _scan(store, path, _UNSIGNED)
    return None if value is None else value & 0xFFFFFFFF


def _scan(store: StoreAccess, path: str, pattern: re.Pattern[bytes]) -> int | None:
    try:
        match = pattern.match(store.read(path))
    except XsError:
        return None
    return int(match[1]) if match else None
