"""Instructions as text, and who called whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvemu.monitor.memory import read_linear

if TYPE_CHECKING:
    from pvemu.control.debuggee import Debuggee

__all__ = ["backtrace", "call_length", "call_size", "disassemble", "return_addresses"]

_LONGEST = 15
_STACK_WORDS = 256
#: Sizes of call instructions, the likeliest first: e8 rel32, then indirect ones.
_CALL_SIZES = (5, 2, 3, 6, 7)


def _decoder(debuggee: Debuggee) -> Any:
    import capstone

    mode = capstone.CS_MODE_64 if debuggee.machine.abi.bits == 64 else capstone.CS_MODE_32
    return capstone.Cs(capstone.CS_ARCH_X86, mode)


def disassemble(debuggee: Debuggee, address: int, count: int) -> str:
    """``count`` instructions from ``address`` on, with names; the next to run is marked."""
    decoder = _decoder(debuggee)
    code = read_linear(debuggee.machine, address, count * _LONGEST)
    rip = debuggee.machine.engine.read("rip")
    lines = []
    for instruction in decoder.disasm(code, address, count):
        mark = "=>" if instruction.address == rip else "  "
        name = debuggee.symbols.name(instruction.address) or ""
        target = ""
        if instruction.op_str.startswith("0x") and instruction.mnemonic[0] in "cj":
            target = debuggee.symbols.name(int(instruction.op_str, 16)) or ""
        text = f"{instruction.mnemonic} {instruction.op_str}".strip()
        lines.append(f"{mark} {instruction.address:#x}  {name:<44} {text}" + (f"  ; {target}" if target else ""))
    if not lines:
        lines.append(f"{address:#x}: no instruction can be read there")
    return "\n".join(lines)


def call_length(debuggee: Debuggee, address: int) -> int:
    """The size of the instruction at ``address`` if it is a call, or repeats itself; else 0."""
    code = read_linear(debuggee.machine, address, _LONGEST)
    found = next(_decoder(debuggee).disasm_lite(code, address, 1), None)
    return int(found[1]) if found is not None and found[2].startswith(("call", "rep")) else 0


def call_size(debuggee: Debuggee, address: int) -> int:
    """The size of the call instruction that ends at ``address``; 0 where there is none."""
    decoder = _decoder(debuggee)
    for size in _CALL_SIZES:
        code = read_linear(debuggee.machine, address - size, size)
        found = next(decoder.disasm_lite(code, address - size, 1), None)
        if found is not None and found[1] == size and found[2] == "call":
            return size
    return 0


def return_addresses(debuggee: Debuggee, limit: int) -> list[int]:
    """Likely return addresses on the stack, innermost first: those behind a call instruction in code that is known."""
    machine = debuggee.machine
    size = machine.abi.long_size
    stack = read_linear(machine, machine.engine.read("rsp"), _STACK_WORDS * size)
    found = []
    for at in range(0, len(stack) - size + 1, size):
        address = int.from_bytes(stack[at : at + size], "little")
        if debuggee.symbols.name(address) is not None and call_size(debuggee, address):
            found.append(address)
            if len(found) >= limit:
                break
    return found


def backtrace(debuggee: Debuggee, limit: int) -> str:
    """Where it stands, and the return addresses that lie on the stack. There are no frame pointers in GRUB or Linux to
    go by: an old one may be among them.
    """
    rip = debuggee.machine.engine.read("rip")
    lines = []
    for number, address in enumerate([rip, *return_addresses(debuggee, limit)]):
        line = debuggee.symbols.line(address)
        where = debuggee.symbols.name(address) or ""
        lines.append(f"#{number:<2} {address:#x} {where}" + (f" at {line}" if line else ""))
    return "\n".join(lines)
