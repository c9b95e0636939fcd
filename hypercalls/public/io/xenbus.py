"""States of a split device (public/io/xenbus.h)."""

from __future__ import annotations

from enum import IntEnum


class XenbusState(IntEnum):
    """The number that a front-end or back-end writes in its ``state`` node."""

    XenbusStateUnknown = 0
    XenbusStateInitialising = 1
    XenbusStateInitWait = 2
    XenbusStateInitialised = 3
    XenbusStateConnected = 4
    XenbusStateClosing = 5
    XenbusStateClosed = 6
    XenbusStateReconfiguring = 7
    XenbusStateReconfigured = 8


XenbusStateUnknown = XenbusState.XenbusStateUnknown
XenbusStateInitialising = XenbusState.XenbusStateInitialising
XenbusStateInitWait = XenbusState.XenbusStateInitWait
XenbusStateInitialised = XenbusState.XenbusStateInitialised
XenbusStateConnected = XenbusState.XenbusStateConnected
XenbusStateClosing = XenbusState.XenbusStateClosing
XenbusStateClosed = XenbusState.XenbusStateClosed
XenbusStateReconfiguring = XenbusState.XenbusStateReconfiguring
XenbusStateReconfigured = XenbusState.XenbusStateReconfigured
