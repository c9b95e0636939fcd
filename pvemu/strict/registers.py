"""Argument registers do not outlive a hypercall: Xen's debug builds overwrite them (clobber_regs of
xen/arch/x86/include/asm/hypercall.h). Guests that
kept a value in one have broken, on such a build or with a new compiler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.public.errno import ENOSYS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypercalls.abi import Abi
    from hypercalls.table import Row
    from pvemu.cpu.guest_cpu import GuestCpu
    from pvemu.hypervisor.hypercall import HypercallDispatcher

__all__ = ["clobber_arguments"]

_PATTERN = {64: 0xDEAD_BEEF_DEAD_F00D, 32: 0xDEAD_F00D}


def clobber_arguments(abi: Abi, cpu: GuestCpu, hypercalls: HypercallDispatcher) -> None:
    """Overwrite what each hypercall had as arguments: as many registers as it takes, unless it is not there (ENOSYS).
    Those within a multicall have none.
    """
    writers = [cpu.writer(name) for name in abi.arg_registers]
    pattern = _PATTERN[abi.bits]
    depth = 0

    def before(_row: Row, _args: Sequence[int]) -> None:
        nonlocal depth
        depth += 1

    def after(row: Row, _args: Sequence[int], result: int) -> None:
        nonlocal depth
        depth -= 1
        if not depth and result != -ENOSYS:
            for write in writers[: row.nargs_of(abi.bits)]:
                write(pattern)

    hypercalls.monitor(before, after)
