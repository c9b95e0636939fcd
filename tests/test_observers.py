"""The list of observers itself."""

from __future__ import annotations

from pvemu.observers import subscribe


def test_subscribe_and_undo() -> None:
    observers: list[int] = []
    undo = subscribe(observers, 1)
    subscribe(observers, 2)
    undo()
    undo()
    assert observers == [2]
