"""Consoles whose domain goes just when somebody comes: nothing is lost, nothing breaks."""

from __future__ import annotations

import socket
from types import SimpleNamespace

from pvemu.xl.console import attach, open_console


def test_a_domain_that_goes_without_having_heard_of_us() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(b"console\n")
        theirs.close()
        assert attach(ours) is None


def test_a_domain_that_goes_between_connecting_and_asking() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    assert open_console(SimpleNamespace(connect=lambda: ours)) is None  # type: ignore[arg-type]  # all that is used
    assert ours.fileno() == -1


def test_a_console_that_has_nothing_to_show() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(b"console\n")
        theirs.recv(100)
        theirs.close()
        assert attach(ours) == 0
