"""Lists of observers: who is told when something happens. An empty list costs its call site one look."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["subscribe"]

T = TypeVar("T")


def subscribe(observers: list[T], observer: T) -> Callable[[], None]:
    """Add ``observer``; the returned callable takes it off, harmlessly more than once."""
    observers.append(observer)

    def undo() -> None:
        if observer in observers:
            observers.remove(observer)

    return undo
