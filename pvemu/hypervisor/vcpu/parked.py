"""What the rooms that serve the running vcpu keep of the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pvemu.frames import Mfn

if TYPE_CHECKING:
    from pvemu.cpu.guest_cpu import SavedRegisters

__all__ = ["Descriptors", "Parked"]

_NONE = Mfn(0)


@dataclass(slots=True)
class Descriptors:
    """A vcpu's GDT and LDT (struct pv_vcpu): frames, sizes in entries, and the LDT's frames that the CPU looked at."""

    gdt_frames: list[Mfn] = field(default_factory=list)
    gdt_entries: int = 0
    ldt_vaddr: int = 0
    ldt_entries: int = 0
    ldt_frames: dict[int, int] = field(default_factory=dict)  #: mfn by page of the LDT


@dataclass(slots=True)
class Parked:
    """Page-table roots (v->arch.guest_table and guest_table_user), descriptor tables, and the CPU's registers; the last
    are None for a vcpu of a domain that has no other.
    """

    guest_root: Mfn = _NONE
    guest_root_user: Mfn = _NONE
    descriptors: Descriptors = field(default_factory=Descriptors)
    registers: SavedRegisters | None = None
