"""Instructions as they run: text with registers and memory, or a Tenet trace; all of them or the last ones.

The engine writes compact records (``pvemu.cpu.unicorn.recorder``); they become lines here, a buffer at a time. What is
slow (disassembly, names) is done once for each piece of code, when it is translated.
"""

from __future__ import annotations

from collections import deque
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from pvemu.cpu.recording import RECORDED, Chunk
from pvemu.trace.code import Disassembler
from pvemu.trace.linear_addresses import LinearAddresses

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.debug.stages import Stage
    from pvemu.debug.symbols import Symbols
    from pvemu.machine import Machine

__all__ = ["InstructionTrace", "tenet_lines", "text_lines"]

_ACCESS = 1 << 63
_WRITE = 17
_NAMES32 = tuple("e" + name[1:] for name in RECORDED[:8])


class _Piece(NamedTuple):
    """Records with all that is needed to make lines of them: ``text`` of the code as it was, the registers before the
    first, those after the last, and what linear addresses the accesses have.
    """

    words: bytes
    text: dict[int, str]
    registers: tuple[int, ...]
    after: tuple[int, ...]
    linear: LinearAddresses | None
    size: int
    first: int


def text_lines(piece: _Piece, names: tuple[str, ...]) -> list[str]:
    """A line for each instruction: its number, address, place, text, the registers it changed, its accesses."""
    text, registers, linear = piece.text, list(piece.registers), piece.linear
    number = piece.first
    lines: list[str] = []
    append, get = lines.append, text.get
    single = {1 << i: (i,) for i in range(len(names))}
    line = ""
    words = iter(memoryview(piece.words).cast("Q").tolist())
    for first in words:  # a few hundred nanoseconds each: there may be millions
        kind = next(words)
        if kind < _ACCESS:
            if kind:
                for i in single.get(kind) or _bits(kind):
                    registers[i] = value = next(words)
                    if i < len(names):
                        line += f"  {names[i]}={value:#x}"
            append(line)
            line = f"{number} {get(first) or hex(first)}"
            number += 1
        else:
            size = kind & 0xFF
            place = first if linear is None else linear.of(first, registers)
            value = next(words) & (1 << 8 * size) - 1
            line += f"  {'W' if kind >> 32 & 0xFF == _WRITE else 'R'}{size}[{place:#x}]={value:#x}"
    if line:
        for i, value in enumerate(piece.after):
            if value != registers[i] and i < len(names):
                line += f"  {names[i]}={value:#x}"
        append(line)
    return lines[1:]


def tenet_lines(piece: _Piece, names: tuple[str, ...]) -> list[str]:
    """Tenet's text traces: a line for each instruction that is reached, with the registers and the memory that the one
    before changed or touched; all registers in the first.
    """
    pc = "rip" if len(names) == len(RECORDED) else "eip"
    registers, linear = list(piece.registers), piece.linear
    lines: list[str] = []
    memory: list[str] = []
    is_first = True
    words = iter(memoryview(piece.words).cast("Q").tolist())
    for first in words:
        kind = next(words)
        if kind >= _ACCESS:
            size = kind & 0xFF
            place = first if linear is None else linear.of(first, registers)
            content = (next(words) & (1 << 8 * size) - 1).to_bytes(size, "little").hex()
            if lines:
                memory.append(f"{'mw' if kind >> 32 & 0xFF == _WRITE else 'mr'}={place:#x}:{content}")
            continue
        changed = _bits(kind)
        for i in changed:
            registers[i] = next(words)
        shown = range(len(names)) if is_first else [i for i in changed if i < len(names)]
        delta = [f"{names[i]}={registers[i]:#x}" for i in shown]
        lines.append(",".join([*delta, f"{pc}={first:#x}", *memory]))
        memory, is_first = [], False
    return lines


@cache
def _bits(mask: int) -> tuple[int, ...]:
    return tuple(i for i in range(16) if mask >> i & 1)


class InstructionTrace:
    """Attached to ``machine`` from now until :meth:`close`; lines go to ``write`` while the gate is open. ``last``
    keeps so many instructions and writes them at the end.
    """

    def __init__(
        self, machine: Machine, symbols: Symbols, write: Callable[[str], object],
        lines: Callable[[_Piece, tuple[str, ...]], list[str]] = text_lines, *, with_memory: bool = True,
        is_open: bool = True, last: int = 0, on_code: Callable[[int, int], None] | None = None, is_native: bool = True,
    ) -> None:  # fmt: skip
        self._write = write
        self._lines = lines
        self._is_text = lines is text_lines
        self._names = RECORDED if machine.abi.bits == 64 else _NAMES32
        self._code = Disassembler(machine.abi.bits, machine.guest, symbols)
        self._text: dict[int, str] = {}
        self._is_text_kept = False
        self._blocks: dict[int, int] = {}
        self._last = last
        self._kept: deque[_Piece] = deque()
        self._nr_kept = 0
        self._on_code = on_code
        self._is_closed = False
        self._first = 0
        self._linear = LinearAddresses(machine, self.flush) if with_memory else None
        self._undo = [machine.stages.observe(self._new_stage)]
        self._recorder = machine.engine.record_instructions(
            self._take, with_memory=with_memory, is_open=is_open, is_native=is_native, on_code=self._translated
        )
        self.is_native = self._recorder.is_native

    @property
    def count(self) -> int:
        """Instructions begun since the trace was attached, recorded or not."""
        return self._recorder.count

    def announce(self, count: int, callback: Callable[[], None]) -> None:
        """Call back when instruction ``count`` (from 1) is about to run."""
        self._recorder.announce(count, callback)

    def open(self) -> None:
        """Record from here on."""
        self._recorder.open()

    def shut(self) -> None:
        """Record no more for now."""
        self._recorder.shut()

    def close(self) -> None:
        """Write what is left and look no longer."""
        if self._is_closed:
            return
        self._is_closed = True
        self._recorder.close()
        for undo in self._undo:
            undo()
        if self._linear is not None:
            self._linear.close()
        lines = [line for piece in self._kept for line in self._lines(piece, self._names)]
        self._write("".join(f"{line}\n" for line in lines[-self._last :] if self._last))

    def flush(self) -> None:
        """Write what was recorded by now."""
        if not self._is_closed:
            self._recorder.flush()

    def _new_stage(self, _stage: Stage) -> None:
        self.flush()
        self._text = {}
        self._blocks.clear()

    def _translated(self, address: int, size: int) -> None:
        """Code is about to run that was not translated before, or was changed since."""
        if self._is_text:
            fresh = dict(self._code.lines(address, size))
            if any(self._text.get(at, line) != line for at, line in fresh.items()):
                self.flush()
                if self._is_text_kept:
                    self._text, self._is_text_kept = dict(self._text), False
            self._text.update(fresh)
        if self._on_code is not None:
            self._on_code(address, size)

    def _take(self, chunk: Chunk) -> None:
        words = bytes(chunk.words)
        size = chunk.next - chunk.first
        piece = _Piece(
            words, self._text, chunk.registers, self._recorder.registers(), self._linear, size, chunk.first
        )
        if self._last:
            self._keep(piece)
        else:
            self._write("\n".join([*self._lines(piece, self._names), ""]))

    def _keep(self, piece: _Piece) -> None:
        """The ring: as few pieces as hold the last instructions."""
        self._is_text_kept = True
        self._kept.append(piece)
        self._nr_kept += piece.size
        while self._nr_kept - self._kept[0].size >= self._last:
            self._nr_kept -= self._kept.popleft().size
