"""Names for guest addresses: which stage, module, function and source line an address belongs to.

``Symbols`` is what observers ask; ``SymbolFiles`` is where the user's ELF files, GRUB modules and System.maps are. What
no file says is read from the guest's own memory: GRUB's tables of modules and symbols, Linux' kallsyms.
"""

from __future__ import annotations

from pvemu.debug.symbols.files import SymbolFiles
from pvemu.debug.symbols.lookup import Symbols
from pvemu.debug.symbols.table import Location, Module, Symbol, SymbolTable

__all__ = ["Location", "Module", "Symbol", "SymbolFiles", "SymbolTable", "Symbols"]
