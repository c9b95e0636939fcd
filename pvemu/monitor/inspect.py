"""What is asked of a guest that stands still, in the process that holds it: the requests that a debuggee has no method
for itself, by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvemu.errors import ConfigError
from pvemu.monitor import views
from pvemu.monitor.code import call_length, call_size, return_addresses
from pvemu.monitor.gdb_registers import RegisterMap
from pvemu.monitor.memory import read_linear, write_linear
from pvemu.monitor.vcpus import VcpuState, registers_of, vcpu_states

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.control.debuggee import Debuggee

__all__ = ["inspect"]


def inspect(debuggee: Debuggee, name: str, arguments: tuple[Any, ...]) -> object:
    """Do one request. ConfigError for one that makes no sense."""
    function = _REQUESTS.get(name)
    if function is None:
        raise ConfigError(f"no request {name!r}")
    return function(debuggee, *arguments)


def _bits(debuggee: Debuggee) -> int:
    return debuggee.machine.abi.bits


def _registers(debuggee: Debuggee, vcpu_id: int = -1) -> bytes:
    with registers_of(debuggee.machine, vcpu_id):
        return RegisterMap(_bits(debuggee)).read_all(debuggee.machine)


def _register(debuggee: Debuggee, number: int, vcpu_id: int = -1) -> bytes:
    with registers_of(debuggee.machine, vcpu_id):
        return RegisterMap(_bits(debuggee)).read(debuggee.machine, number)


def _vcpus(debuggee: Debuggee) -> list[VcpuState]:
    return vcpu_states(debuggee.machine)


def _set_register(debuggee: Debuggee, number: int, data: bytes) -> bool:
    return RegisterMap(_bits(debuggee)).write(debuggee.machine, number, data)


def _set_registers(debuggee: Debuggee, data: bytes) -> None:
    registers, at = RegisterMap(_bits(debuggee)), 0
    for number, register in enumerate(registers.registers):
        size = register.bits // 8
        registers.write(debuggee.machine, number, data[at : at + size])
        at += size


def _read(debuggee: Debuggee, vaddr: int, size: int) -> bytes:
    return read_linear(debuggee.machine, vaddr, size)


def _write(debuggee: Debuggee, vaddr: int, data: bytes) -> None:
    write_linear(debuggee.machine, vaddr, data)


def _name(debuggee: Debuggee, vaddr: int) -> str | None:
    return debuggee.symbols.name(vaddr)


def _addresses(debuggee: Debuggee, name: str) -> list[int]:
    return debuggee.symbols.address(name)


def _names(debuggee: Debuggee, start: str) -> list[str]:
    found = {
        symbol.name for module in debuggee.symbols.modules() for symbol in module.table if symbol.name.startswith(start)
    }
    return sorted(found)[:200]


def _symbol_files(debuggee: Debuggee) -> list[tuple[str, str | None, int, tuple[tuple[int, int], ...]]]:
    return [
        (module.name, module.path if module.path and Path(module.path).is_file() else None, module.base, module.text)
        for module in debuggee.symbols.modules()
    ]


def _end(debuggee: Debuggee) -> list[str]:
    """What is to be said of a guest that has ended: Xen's crash text, or why it stopped."""
    machine = debuggee.machine
    lines = list(machine.crash_lines)
    if machine.domain.shutdown_reason is not None:
        lines.append(views.shutdown_line(machine))
    elif machine.outcome is not None:
        lines.append(f"the run ended: {machine.outcome.detail or machine.outcome.kind}")
    return lines


def _view(debuggee: Debuggee, name: str, words: list[str]) -> str:
    return views.show(debuggee, name, words)


def _call_at(debuggee: Debuggee, address: int) -> int:
    return call_length(debuggee, address)


def _call_size(debuggee: Debuggee, address: int) -> int:
    return call_size(debuggee, address)


def _rsp(debuggee: Debuggee) -> int:
    return debuggee.machine.engine.read("rsp")


def _return_addresses(debuggee: Debuggee, limit: int) -> list[int]:
    return return_addresses(debuggee, limit)


def _evaluate(debuggee: Debuggee, text: str) -> int:
    return views.evaluate(debuggee, text)


def _file_sectors(debuggee: Debuggee, vdev: str, path: str) -> list[tuple[int, int]]:
    from pvemu.monitor.disk_files import file_sectors

    return file_sectors(debuggee.machine, vdev, path)


_REQUESTS: dict[str, Callable[..., object]] = {
    "bits": _bits,
    "registers": _registers,
    "vcpus": _vcpus,
    "register": _register,
    "set_register": _set_register,
    "set_registers": _set_registers,
    "read": _read,
    "write": _write,
    "name": _name,
    "addresses": _addresses,
    "names": _names,
    "symbol_files": _symbol_files,
    "end": _end,
    "view": _view,
    "call_at": _call_at,
    "call_size": _call_size,
    "rsp": _rsp,
    "return_addresses": _return_addresses,
    "evaluate": _evaluate,
    "file_sectors": _file_sectors,
}
