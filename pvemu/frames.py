"""Frame numbers and addresses, each its own type so that a mix-up is a type error (xen/include/xen/mm.h).

``Mfn`` is a machine frame, ``Pfn`` a guest pseudo-physical frame, ``Gfn`` what a guest writes into its tables (for PV
the machine frame), ``Maddr`` a machine byte address, ``Vaddr`` a guest linear address.
"""

from __future__ import annotations

from typing import NewType

__all__ = ["PAGE_MASK", "PAGE_SHIFT", "PAGE_SIZE", "Gfn", "Maddr", "Mfn", "Pfn", "Vaddr"]

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
PAGE_MASK = PAGE_SIZE - 1

Mfn = NewType("Mfn", int)
Pfn = NewType("Pfn", int)
Gfn = NewType("Gfn", int)
Maddr = NewType("Maddr", int)
Vaddr = NewType("Vaddr", int)
