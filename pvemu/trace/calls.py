"""Who called whom, and how many guest instructions each function took: a tree, or folded stacks for flame graphs.

Counted by translated block: a call or return at its end moves through the tree, and a block that is entered otherwise
in another function is a jump there (a tail call).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvemu.trace.code import Block, Disassembler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pvemu.debug.stages import Stage
    from pvemu.debug.symbols import Symbols
    from pvemu.machine import Machine

__all__ = ["CallTree", "Node"]

_MAX_DEPTH = 4096


class Node:
    """One function as called from one place in the tree. ``own`` instructions are its alone."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls = 0
        self.own = 0
        self.callees: dict[str, Node] = {}

    def callee(self, name: str) -> Node:
        """The node of a function called from here."""
        found = self.callees.get(name)
        if found is None:
            found = self.callees[name] = Node(name)
        return found

    def total(self) -> int:
        """Instructions of it and of all it called."""
        total, todo = 0, [self]
        while todo:
            node = todo.pop()
            total += node.own
            todo.extend(node.callees.values())
        return total


class _Code:
    """What is known of a block: its name (stage, module, function), and how it ends."""

    __slots__ = ("block", "name")

    def __init__(self, name: str, block: Block) -> None:
        self.name = name
        self.block = block


class CallTree:
    """Attached to ``machine`` from now until :meth:`close`; ``is_open`` says whether instructions count."""

    def __init__(
        self, machine: Machine, symbols: Symbols, *, is_open: bool = True,
        on_code: Callable[[int, int], None] | None = None,
    ) -> None:  # fmt: skip
        self.root = Node("all")
        self.is_open = is_open
        self._symbols = symbols
        self._disassembler = Disassembler(machine.abi.bits, machine.guest, symbols)
        self._code: dict[int, _Code] = {}
        self._stack: list[tuple[Node, int]] = [(self.root, -1)]  # with the address that each returns to
        self._last: Block | None = None
        self._on_code = on_code
        self._is_closed = False
        self._undo = machine.stages.observe(self._new_stage)
        self._recorder = machine.engine.record_blocks(self._take, on_code=self._translated)

    def open(self) -> None:
        """Count from here on."""
        self._recorder.flush()
        self.is_open = True

    def shut(self) -> None:
        """Count no more for now."""
        self._recorder.flush()
        self.is_open = False

    def close(self) -> None:
        """Look no longer."""
        if not self._is_closed:
            self._is_closed = True
            self._recorder.close()
            self._undo()

    def _new_stage(self, _stage: Stage) -> None:
        if not self._is_closed:
            self._recorder.flush()
        self._code.clear()
        self._stack = self._stack[:1]
        self._last = None

    def _translated(self, address: int, size: int) -> None:
        found = self._symbols.locate(address)
        if found is None:
            name = "?"
        else:
            name = f"stage{found.stage}:{found.module}" + (f":{found.function}" if found.function else "")
        fresh = _Code(name, self._disassembler.block(address, size))
        known = self._code.get(address)
        if known is None or known.block != fresh.block or known.name != fresh.name:
            if known is not None:
                self._recorder.flush()
            self._code[address] = fresh
        if self._on_code is not None:
            self._on_code(address, size)

    def _take(self, words: memoryview) -> None:
        stack, known, last = self._stack, self._code, self._last
        is_open = self.is_open
        node = stack[-1][0]
        unknown = Block(0, 0, is_call=False, is_return=False)
        for address in words[::2].tolist():
            code = known.get(address)
            name, block = (code.name, code.block) if code is not None else ("?", unknown)
            if last is not None and last.is_call and len(stack) < _MAX_DEPTH:
                node = node.callee(name)
                node.calls += 1
                stack.append((node, last.end))
            elif last is not None and last.is_return and self._return_to(address):
                node = stack[-1][0]
            elif node.name != name:  # the first of all, or a jump: the caller stays who it was
                if len(stack) > 1:
                    _node, back = stack.pop()
                else:
                    back = -1
                node = stack[-1][0].callee(name)
                node.calls += 1
                stack.append((node, back))
            if is_open:
                node.own += block.instructions
            last = block
        self._last = last

    def _return_to(self, address: int) -> bool:
        """Leave the innermost call that returns to ``address``, and those it made."""
        stack = self._stack
        for depth in range(len(stack) - 1, 0, -1):
            if stack[depth][1] == address:
                del stack[depth:]
                return True
        return False

    # -- what came of it -----------------------------------------------------------------------------------------------
    def text(self) -> Iterator[str]:
        """The tree, indented: instructions with callees, own instructions, calls, name; not what took nothing."""
        todo = [(0, node) for node in _by_weight(self.root)]
        yield f"{'total':>14} {'own':>14} {'calls':>9}  function"
        while todo:
            depth, node = todo.pop()
            total = node.total()
            if total:
                yield f"{total:14} {node.own:14} {node.calls:9}  {'  ' * depth}{node.name}"
                todo.extend((depth + 1, callee) for callee in _by_weight(node))

    def folded(self) -> Iterator[str]:
        """``a;b;c N``: own instructions of each stack, as flamegraph.pl and speedscope read it."""
        todo: list[tuple[tuple[str, ...], Node]] = [((), self.root)]
        while todo:
            path, node = todo.pop()
            here = path if node is self.root else (*path, node.name)
            if node.own and here:
                yield f"{';'.join(here)} {node.own}"
            todo.extend((here, callee) for callee in reversed(node.callees.values()))


def _by_weight(node: Node) -> list[Node]:
    """Callees, the heaviest last."""
    return sorted(node.callees.values(), key=lambda callee: (callee.total(), callee.name))
