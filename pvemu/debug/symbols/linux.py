"""A Linux kernel's symbols: from a System.map that fits it, else from the kallsyms tables in its own memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from pvemu.debug.symbols.kallsyms import find_kallsyms
from pvemu.debug.symbols.table import Module, Symbol, SymbolTable
from pvemu.frames import PAGE_MASK, PAGE_SIZE

if TYPE_CHECKING:
    from pathlib import Path

    from pvemu.debug.symbols.files import SymbolFiles
    from pvemu.hypervisor.guest_access import GuestMemory

__all__ = ["find_linux", "read_system_map"]

_BANNER = b"Linux version "
_NAME = "vmlinux"
#: How far a kernel reaches from its entry, each way.
_REACH = 64 << 20
#: Behind the entry of most kernels there is no more than what is for the start alone, then the domain's first tables.
_USUAL_REACH = 8 << 20
#: Read at once, before it is tried page by page.
_STEP = 1 << 20


def find_linux(guest: GuestMemory, bits: int, entry: int, files: SymbolFiles) -> Module | None:
    """The Linux whose entry is at ``entry``; None where there is another kernel."""
    for path in files.system_maps:
        symbols = read_system_map(path)
        banner = next((symbol.address for symbol in symbols if symbol.name == "linux_banner"), None)
        try:
            if banner is not None and guest.copy_from_guest(banner, len(_BANNER)) == _BANNER:
                return _module(symbols, str(path))
        except XenError:
            continue
    if bits != 64:
        return None
    for reach in (_USUAL_REACH, _REACH):
        start, image = _loaded_around(guest, entry, reach)
        table = find_kallsyms(image, start) if _BANNER in image else None
        if table is not None:
            first, last = table.reach()
            return Module(_NAME, first, last + PAGE_SIZE, table)
    return None


def read_system_map(path: Path) -> list[Symbol]:
    """The symbols of a System.map, without those of per-cpu sections and the like; damaged lines are left out."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if len(words) >= 3 and len(words[1]) == 1 and words[1] not in "aAUw":
            try:
                found.append(Symbol(int(words[0], 16), 0, words[2], words[1] in "tTwW"))
            except ValueError:
                continue
    return [symbol for symbol in found if symbol.address >= 0xC000_0000]


def _module(symbols: list[Symbol], path: str | None) -> Module:
    by_name = {symbol.name: symbol.address for symbol in symbols}
    low = by_name.get("_text", by_name.get("_stext", min(symbol.address for symbol in symbols)))
    high = by_name.get("_end", max(symbol.address for symbol in symbols) + PAGE_SIZE)
    return Module(_NAME, low, high, SymbolTable(symbol for symbol in symbols if low <= symbol.address < high), path)


def _loaded_around(guest: GuestMemory, entry: int, reach: int) -> tuple[int, bytes]:
    """(address, bytes) of the pages mapped in a row around the entry, ``reach`` bytes behind it at the most."""
    start = entry & ~PAGE_MASK
    above: list[bytes] = []
    at, step = start, _STEP
    while step and at - start < reach:
        try:
            above.append(guest.copy_from_guest(at, step))
            at += step
        except XenError:
            step = PAGE_SIZE if step > PAGE_SIZE else 0
    below: list[bytes] = []
    at, step = start, _STEP
    while step and at >= step and start - at < _REACH:
        try:
            below.append(guest.copy_from_guest(at - step, step))
            at -= step
        except XenError:
            step = PAGE_SIZE if step > PAGE_SIZE else 0
    return at, b"".join([*reversed(below), *above])
