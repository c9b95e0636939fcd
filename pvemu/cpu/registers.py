"""Names of the registers that Xen keeps for a PV vcpu (public/arch-x86/xen.h struct cpu_user_regs)."""

from __future__ import annotations

from typing import Protocol

__all__ = ["GENERAL_64", "Registers"]

#: General registers in the order Xen prints and saves them.
GENERAL_64 = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
              "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")  # fmt: skip


class Registers(Protocol):
    """Live registers of the running vcpu. Names: GENERAL_64, ``rip``, ``rflags``, selectors ``cs ss ds es fs gs``,
    ``fs_base``, ``gs_base``, ``cr0``, ``cr4``. Values are unsigned and as wide as the register.
    """

    def read(self, name: str) -> int:
        """The register's value."""

    def write(self, name: str, value: int) -> None:
        """Set it."""
