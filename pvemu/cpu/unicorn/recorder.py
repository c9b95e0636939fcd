"""What guest code does, instruction by instruction or block by block, written into a buffer without Python's help.

The callbacks are native code (``recorder_code.py``); where none can run, Python callbacks do the same, slowly. They are
seen by code that is translated after them, so all code is translated anew when a recorder is attached; a gate opens and
closes the recording at once, at the cost of the callbacks all along.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from unicorn import unicorn_const

from pvemu.cpu.recording import RECORDED, Chunk
from pvemu.cpu.unicorn.hooks import ENTRY_VADDR
from pvemu.cpu.unicorn.native import U64, Native
from pvemu.cpu.unicorn.recorder_code import NativeCode, native_code
from pvemu.frames import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.cpu.unicorn.register_file import RegisterFile

__all__ = ["BlockRecorder", "InstructionRecorder"]

#: Words of the control block (recorder_code.py); the registers follow.
_CURSOR, _END, _ON_FULL, _SOURCE, _COUNT, _ANNOUNCED, _GATE, _ON_ANNOUNCED, _REGISTERS = range(9)
_CAPACITY = 1 << 20
_LONGEST_RECORD = 8 * (2 + len(RECORDED))
_NOT_AN_ADDRESS = (1 << 64) - 1
_ACCESS = 1 << 63

_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_CODE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, U64, ctypes.c_uint32, ctypes.c_void_p)
_MEM = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, U64, ctypes.c_int, U64, ctypes.c_void_p)
_EDGE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
#: Guest code runs everywhere but in the page from which the hypervisor enters it.
_EVERYWHERE = ((0, ENTRY_VADDR - 1), (ENTRY_VADDR + PAGE_SIZE, _NOT_AN_ADDRESS))


class _Recorder(ABC):
    """A buffer, a control block, and hooks."""

    def __init__(
        self, native: Native, retranslate: Callable[[], None], keep_error: Callable[[BaseException], None],
        *, is_native: bool,
    ) -> None:  # fmt: skip
        self._native = native
        self._keep_error = keep_error
        self._retranslate = retranslate
        self._code: NativeCode | None = native_code() if is_native else None
        self._buffer = (U64 * ((_CAPACITY + _LONGEST_RECORD) // 8))()
        self._start = ctypes.addressof(self._buffer)
        self._view = memoryview(self._buffer).cast("B").cast("Q")
        self._control = (U64 * (_REGISTERS + len(RECORDED)))()
        self._on_full = _CALLBACK(self._guarded(self.flush))
        self._control[_CURSOR], self._control[_END] = self._start, self._start + _CAPACITY
        self._control[_ON_FULL] = ctypes.cast(self._on_full, ctypes.c_void_p).value or 0
        self._hooks: list[int] = []
        self._keep: list[Any] = []

    @property
    def is_native(self) -> bool:
        """Whether the fast callbacks are at work."""
        return self._code is not None

    def _guarded(self, inner: Callable[[], None]) -> Callable[[int], None]:
        def call(_control: int) -> None:
            try:
                inner()
            except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
                self._control[_CURSOR] = self._start
                self._keep_error(error)

        return call

    def _hook(self, kind: int, label: str, fallback: Any) -> None:
        address = self._code.entry[label] if self._code is not None else ctypes.cast(fallback, ctypes.c_void_p).value
        self._keep.append(fallback)
        for begin, end in _EVERYWHERE:
            self._hooks.append(
                self._native.add_hook(kind, address or 0, ctypes.addressof(self._control), begin, end)
            )

    def _take(self) -> memoryview:
        """What was recorded since the last call."""
        words = self._view[: (self._control[_CURSOR] - self._start) // 8]
        self._control[_CURSOR] = self._start
        return words

    def _watch_code(self, on_code: Callable[[int, int], None]) -> None:
        def translated(_uc: int, block: int, _previous: int, _data: int) -> None:
            address = U64.from_address(block).value
            size = ctypes.c_uint16.from_address(block + 10).value  # uc_tb: pc, icount, size
            try:
                on_code(address, size)
            except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
                self._keep_error(error)

        callback = _EDGE(translated)
        self._keep.append(callback)
        address = ctypes.cast(callback, ctypes.c_void_p).value or 0
        for begin, end in _EVERYWHERE:
            self._hooks.append(self._native.add_hook(unicorn_const.UC_HOOK_EDGE_GENERATED, address, 0, begin, end))

    @abstractmethod
    def flush(self) -> None:
        """Hand on what is in the buffer."""

    def close(self) -> None:
        """Hand on what is left and take the hooks off."""
        self.flush()
        for hook in self._hooks:
            self._native.remove_hook(hook)
        if self._hooks:
            self._retranslate()
        self._hooks.clear()

    def _put(self, *words: int) -> None:
        """What native code does: append, and call when full."""
        control = self._control
        at = (control[_CURSOR] - self._start) // 8
        self._view[at : at + len(words)] = memoryview(bytes(b"".join(w.to_bytes(8, "little") for w in words))).cast("Q")
        control[_CURSOR] += 8 * len(words)
        if control[_CURSOR] >= control[_END]:
            self._on_full(0)


class InstructionRecorder(_Recorder):
    """Every instruction with its registers (and accesses, if ``with_memory``) to ``sink``, while the gate is open.

    ``count`` counts instructions whether the gate is open or not (an iteration of a string instruction is one);
    ``on_code(address, size)`` is told of code when it is translated, before it runs.
    """

    def __init__(
        self, native: Native, registers: RegisterFile, retranslate: Callable[[], None],
        keep_error: Callable[[BaseException], None], sink: Callable[[Chunk], None], *, with_memory: bool,
        is_open: bool, is_native: bool = True,
        on_code: Callable[[int, int], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(native, retranslate, keep_error, is_native=is_native)
        self._sink = sink
        self._regs = registers.in_memory(RECORDED) if self._code is not None else None
        if self._regs is None:
            self._code = None
        self._registers: tuple[int, ...] = ()
        self._is_announcing = False
        self._first = 1
        self._on_announced: Callable[[], None] = lambda: None
        self._announce = _CALLBACK(self._guarded(self._announced))
        control = self._control
        control[_ON_ANNOUNCED] = ctypes.cast(self._announce, ctypes.c_void_p).value or 0
        control[_SOURCE] = ctypes.addressof(self._regs) if self._regs is not None else 0
        self._read = registers.reader(*RECORDED)
        control[_GATE] = is_open
        self._note_registers()
        self._hook(unicorn_const.UC_HOOK_CODE, "instruction", _CODE(self._on_instruction))
        if with_memory:
            fallback = _MEM(self._on_access)
            for kind in (unicorn_const.UC_HOOK_MEM_WRITE, unicorn_const.UC_HOOK_MEM_READ_AFTER):
                self._hook(kind, "memory", fallback)
        if on_code is not None:
            self._watch_code(on_code)
        retranslate()

    @property
    def count(self) -> int:
        """Instructions begun so far; inside a callback of ``announce``, the one that is about to run too."""
        return self._control[_COUNT]

    def announce(self, count: int, callback: Callable[[], None]) -> None:
        """Call back when instruction ``count`` (from 1) is about to run; one such announcement at a time."""
        self._on_announced = callback
        self._control[_ANNOUNCED] = count

    def _next(self) -> int:
        """The number of the instruction that is recorded next: one that is announced is counted already."""
        return self._control[_COUNT] + (not self._is_announcing)

    def _announced(self) -> None:
        self._is_announcing = True
        try:
            self._on_announced()
        finally:
            self._is_announcing = False

    def open(self) -> None:
        """Record from here on."""
        if not self._control[_GATE]:
            self.flush()
            self._note_registers()
            self._first = self._next()
            self._control[_GATE] = 1

    def shut(self) -> None:
        """Record no more for now."""
        self.flush()
        self._control[_GATE] = 0

    def flush(self) -> None:
        """Hand on what is in the buffer."""
        registers = self._registers
        words = self._take()
        self._registers = tuple(self._control[_REGISTERS:])
        first, self._first = self._first, self._next()
        if words:
            self._sink(Chunk(words, registers, first, self._first))

    def registers(self) -> tuple[int, ...]:
        """The registers as they are."""
        return tuple(self._read())

    def _note_registers(self) -> None:
        values = self._read()
        self._registers = tuple(values)
        for i, value in enumerate(values):
            self._control[_REGISTERS + i] = value

    # -- the same in Python ------------------------------------------------------------------------------------------
    def _on_instruction(self, _uc: int, address: int, _size: int, _data: int) -> None:
        control = self._control
        control[_COUNT] += 1
        if control[_COUNT] == control[_ANNOUNCED]:
            self._announce(0)
        if not control[_GATE]:
            return
        mask, values = 0, []
        for i, value in enumerate(self._read()):
            if value != control[_REGISTERS + i]:
                control[_REGISTERS + i] = value
                values.append(value)
                mask |= 1 << i
        self._put(address, mask, *values)

    def _on_access(self, _uc: int, kind: int, address: int, size: int, value: int, _data: int) -> None:
        if self._control[_GATE]:
            self._put(address, _ACCESS | kind << 32 | size, value)


class BlockRecorder(_Recorder):
    """Every translated block that runs, as (address, size) pairs in ``words`` to ``sink``; none without a sink, for
    those who want ``on_code(address, size)`` alone: each block when it is translated, which is when it runs first.
    """

    def __init__(
        self, native: Native, retranslate: Callable[[], None], keep_error: Callable[[BaseException], None],
        sink: Callable[[memoryview], None] | None, *, is_native: bool = True,
        on_code: Callable[[int, int], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(native, retranslate, keep_error, is_native=is_native)
        self._sink = sink
        if sink is not None:
            self._hook(unicorn_const.UC_HOOK_BLOCK, "block", _CODE(self._on_block))
        if on_code is not None:
            self._watch_code(on_code)
        retranslate()

    def flush(self) -> None:
        """Hand on what is in the buffer."""
        words = self._take()
        if words and self._sink is not None:
            self._sink(words)

    def _on_block(self, _uc: int, address: int, size: int, _data: int) -> None:
        self._put(address, size)
