"""The console back-end: what xenconsoled does with the PV console ring (tools/console/daemon/io.c).

The page is also watched from the guest's side: a guest that waits for a key reads the empty input ring over and over
without any hypercall, and only those reads tell that it does.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from hypercalls.abi import ABI64
from hypercalls.public.io.console import xencons_interface

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ConsoleBackend"]

_IN_SIZE = ABI64.fieldsize(xencons_interface, "in_")
_OUT_AT = ABI64.offsetof(xencons_interface, "out")
_OUT_SIZE = ABI64.fieldsize(xencons_interface, "out")
_IN_CONS_AT = ABI64.offsetof(xencons_interface, "in_cons")
_IN_PROD_AT = ABI64.offsetof(xencons_interface, "in_prod")
_OUT_CONS_AT = ABI64.offsetof(xencons_interface, "out_cons")
_INDICES = struct.Struct("<II")
_INDEX = struct.Struct("<I")
_U32 = 0xFFFF_FFFF
#: Looks at the empty input ring in a row that mean "waiting for a key".
_WAITING_POLLS = 4


class ConsoleBackend:
    """``page`` is the ring's live page; ``on_output`` gets each piece of output; ``on_poll`` is called when the guest
    looks at an empty input ring; ``notify`` raises the guest's channel.
    """

    def __init__(self, page: memoryview, on_output: Callable[[bytes], None], on_poll: Callable[[], None]) -> None:
        self._page = page
        self._on_output = on_output
        self._on_poll = on_poll
        self.notify: Callable[[], None] = lambda: None
        self._pending = b""
        self._polls = 0

    # -- output ------------------------------------------------------------------------------------------------------
    def kick(self) -> None:
        """The guest raised the channel: take its output, offer waiting input (buffer_append, handle_tty_read)."""
        cons, prod = _INDICES.unpack_from(self._page, _OUT_CONS_AT)
        size = (prod - cons) & _U32
        if 0 < size <= _OUT_SIZE:  # xenconsoled ignores impossible indices
            size = self._take(size)
            start = cons & (_OUT_SIZE - 1)
            ring = self._page[_OUT_AT : _OUT_AT + _OUT_SIZE]
            data = bytes(ring[start : start + size])
            if len(data) < size:
                data += bytes(ring[: size - len(data)])
            _INDEX.pack_into(self._page, _OUT_CONS_AT, (cons + size) & _U32)
            self._polls = 0
            self.notify()
            self._on_output(data)
        elif size:
            _INDEX.pack_into(self._page, _OUT_CONS_AT, prod)
        self._feed()

    @property
    def has_output(self) -> bool:
        """Whether the guest wrote something that is not taken yet."""
        cons, prod = _INDICES.unpack_from(self._page, _OUT_CONS_AT)
        return bool(cons != prod)

    def _take(self, size: int) -> int:
        """How many of ``size`` bytes of output to take now."""
        return size

    # -- input -------------------------------------------------------------------------------------------------------
    def send(self, data: bytes) -> None:
        """Type ``data``: into the ring as far as there is room, the rest when the guest has read."""
        self._pending += data
        self._polls = 0
        self._feed()

    def _feed(self) -> None:
        if not self._pending:
            return
        cons, prod = _INDICES.unpack_from(self._page, _IN_CONS_AT)
        used = (prod - cons) & _U32
        room = _IN_SIZE - used
        if not 0 < room <= _IN_SIZE:
            return
        room = self._give(room)
        data, self._pending = self._pending[:room], self._pending[room:]
        for i, byte in enumerate(data):
            self._page[(prod + i) & (_IN_SIZE - 1)] = byte
        _INDEX.pack_into(self._page, _IN_PROD_AT, (prod + len(data)) & _U32)
        self.notify()

    def _give(self, room: int) -> int:
        """How many typed bytes to put into a ring that has ``room``."""
        return room

    @property
    def is_input_taken(self) -> bool:
        """Whether the guest has read everything that was typed."""
        cons, prod = _INDICES.unpack_from(self._page, _IN_CONS_AT)
        return not self._pending and cons == prod

    @property
    def is_waiting(self) -> bool:
        """Whether the guest looks for a key that is not there."""
        return self._polls >= _WAITING_POLLS and self.is_input_taken

    # -- the guest's own accesses to the page ------------------------------------------------------------------------
    def guest_read(self, offset: int, size: int) -> int:
        """A load by the guest."""
        if offset == _IN_PROD_AT:
            cons, prod = _INDICES.unpack_from(self._page, _IN_CONS_AT)
            if cons == prod:
                if self._pending:
                    self._feed()
                else:
                    self._polls += 1
                    self._on_poll()
        return int.from_bytes(self._page[offset : offset + size], "little")

    def guest_write(self, offset: int, size: int, value: int) -> None:
        """A store by the guest."""
        self._page[offset : offset + size] = value.to_bytes(size, "little")
