"""PAUSE as an exit, for a domain whose vcpus may wait for each other: a vcpu that spins says so by it.

The engine's CPU leaves its innermost loop at each PAUSE and comes back at once, through a function whose address is in
the CPU's class (x86_cpu_exec_exit). Ours stands there instead, and calls the other. It is called whenever the loop is
left, so it has to tell a PAUSE from what somebody asked for.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from unicorn.unicorn_py3.unicorn import uclib

from pvemu.cpu.unicorn.hidden_state import EngineError, find_requests

if TYPE_CHECKING:
    from pvemu.cpu.exits import ExitHandler
    from pvemu.cpu.unicorn.hooks import Hooks
    from pvemu.cpu.unicorn.native import Native

__all__ = ["exit_on_pause"]

_EXEC_EXIT = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
#: How much of QEMU's X86CPU is searched: what lies behind it may be left of another one.
_CPU_SIZE = 43 << 10


def exit_on_pause(native: Native, hooks: Hooks, handler: ExitHandler) -> None:
    """Tell ``handler`` of each PAUSE that guest code executes; rip is behind it."""
    try:
        address = ctypes.cast(uclib.x86_cpu_exec_exit_x86_64, ctypes.c_void_p).value or 0
    except AttributeError:
        raise EngineError("this Unicorn hides its CPU's class: use 2.1.4") from None
    if not native.cpu:
        raise EngineError("this Unicorn hides its CPU: use 2.1.4")
    words = (ctypes.c_uint64 * (_CPU_SIZE // 8)).from_address(native.cpu)
    place = next((i for i, word in enumerate(words) if word == address), None)
    if place is None:
        raise EngineError("this Unicorn keeps its CPU's class elsewhere: use 2.1.4")
    original = _EXEC_EXIT(address)
    stop_request, quit_request = (
        ctypes.c_ubyte.from_address(native.handle + at) for at in find_requests()
    )
    invalid_error = ctypes.c_int.from_address(native.handle + native.fault_address + 8)

    def leave(cpu: int) -> None:
        original(cpu)
        if stop_request.value or quit_request.value or invalid_error.value:
            return
        if hooks.undo_for is not None or hooks.is_entering:
            return
        try:
            hooks.note_exit(ends_block=True)
            handler.on_pause()
        except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
            hooks.keep_error(error)

    words[place] = ctypes.cast(native.keep(_EXEC_EXIT(leave)), ctypes.c_void_p).value or 0
