"""What Xen prints when it crashes a PV domain, from the machine as it stands (xen/arch/x86/traps.c, x86_64/traps.c).

The wording is that of Xen 4.17: people grep for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import xen
from pvemu.cpu.paging_pae import HYPERVISOR_COMPAT_VIRT_START
from pvemu.memory.m2p import INVALID_M2P_ENTRY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pvemu.cpu.paging import PageWalker
    from pvemu.cpu.registers import Registers
    from pvemu.hypervisor.guest_access import GuestMemory
    from pvemu.hypervisor.vcpu import Vcpu
    from pvemu.memory.m2p import MachineToPhys

__all__ = ["execution_state", "page_walk", "recent_hypercalls"]

_CR0, _CR4 = 0x8005_0033, 0x660
_STACK_LINES, _WORDS_PER_LINE, _COMPAT_WORDS_PER_LINE = 20, 4, 8
_PAE_ROOT_LEVEL = 3
_STACK_SIZE = 8 * 4096
_PTE_P, _PTE_PSE, _PTE_ADDR = 1, 1 << 7, 0x000F_FFFF_FFFF_F000


def page_walk(walker: PageWalker, m2p: MachineToPhys, vaddr: int) -> list[str]:
    """show_page_walk: the entries that lead to ``vaddr``, each with the pfn its frame has."""
    lines = [f"Pagetable walk from {vaddr:016x}:"]
    if vaddr >> 47 not in (0, 0x1FFFF):
        return lines
    for level, slot, entry in walker.entries(vaddr):
        pfn = m2p.get((entry & _PTE_ADDR) >> 12)
        pse = " (PSE)" if level in (2, 3) and entry & _PTE_PSE else ""
        lines.append(f" L{level}[0x{slot:03x}] = {entry:016x} {pfn & INVALID_M2P_ENTRY:016x}{pse}")
    return lines


def execution_state(domid: int, vcpu: Vcpu, regs: Registers, walker: PageWalker, guest: GuestMemory) -> list[str]:
    """show_execution_state for a guest: version line, registers (by their 64-bit names in both widths), stack."""
    is_compat = walker.upper_levels[0] == _PAE_ROOT_LEVEL
    r = {name: regs.read(name) for name in (
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
        "rip", "rflags", "cs", "ss", "ds", "es", "fs", "gs", "fs_base", "gs_base",
    )}  # fmt: skip
    other_gs = vcpu.gs_base_user if vcpu.kernel_mode else vcpu.gs_base_kernel
    return [
        f"Domain {domid} (vcpu#{vcpu.vcpu_id}) crashed on cpu#0:",
        "----[ Xen-4.17.7  x86_64  debug=n  Not tainted ]----",
        "CPU:    0",
        f"RIP:    {r['cs']:04x}:[<{r['rip']:016x}>]",
        (
            f"RFLAGS: {r['rflags']:016x}   EM: {int(bool(vcpu.info.upcall_mask))}   "
            f"CONTEXT: pv guest (d{domid}v{vcpu.vcpu_id})"
        ),
        f"rax: {r['rax']:016x}   rbx: {r['rbx']:016x}   rcx: {r['rcx']:016x}",
        f"rdx: {r['rdx']:016x}   rsi: {r['rsi']:016x}   rdi: {r['rdi']:016x}",
        f"rbp: {r['rbp']:016x}   rsp: {r['rsp']:016x}   r8:  {r['r8']:016x}",
        f"r9:  {r['r9']:016x}   r10: {r['r10']:016x}   r11: {r['r11']:016x}",
        f"r12: {r['r12']:016x}   r13: {r['r13']:016x}   r14: {r['r14']:016x}",
        f"r15: {r['r15']:016x}   cr0: {_CR0:016x}   cr4: {_CR4:016x}",
        f"cr3: {walker.root_maddr:016x}   cr2: {vcpu.cr2:016x}",
        f"fsb: {r['fs_base']:016x}   gsb: {r['gs_base']:016x}   gss: {other_gs:016x}",
        (
            f"ds: {r['ds']:04x}   es: {r['es']:04x}   fs: {r['fs']:04x}   gs: {r['gs']:04x}   "
            f"ss: {r['ss']:04x}   cs: {r['cs']:04x}"
        ),
        *(_compat_guest_stack(r["rsp"], guest) if is_compat else _guest_stack(r["rsp"], guest)),
    ]


def _guest_stack(rsp: int, guest: GuestMemory) -> list[str]:
    """show_guest_stack: up to 20 lines of 4 words from ``rsp``, to the end of an 8-page stack."""
    lines = [f"Guest stack trace from rsp={rsp:016x}:"]
    words: list[str] = []
    fault = ""
    at = rsp
    for _ in range(_STACK_LINES * _WORDS_PER_LINE):
        if ((at - 1) ^ (at + 8 - 1)) & _STACK_SIZE:
            break
        try:
            words.append(f"{int.from_bytes(guest.copy_from_guest(at, 8), 'little'):016x}")
        except XenError:
            fault = "Fault while accessing guest memory."
            break
        at += 8
    lines += ["   " + " ".join(words[i : i + _WORDS_PER_LINE]) for i in range(0, len(words), _WORDS_PER_LINE)]
    if fault:
        lines.append(f"    {fault}" if words else f"   {fault}")
    elif not words:
        lines.append("   Stack empty.")
    return lines


def _compat_guest_stack(esp: int, guest: GuestMemory) -> list[str]:
    """compat_show_guest_stack: up to 20 lines of 8 words from ``esp``."""
    lines = [f"Guest stack trace from esp={esp:08x}:"]
    if esp + 4 > HYPERVISOR_COMPAT_VIRT_START:
        return [*lines, " Guest-inaccessible memory."]
    words: list[str] = []
    has_fault = False
    at = esp
    for _ in range(_STACK_LINES * _COMPAT_WORDS_PER_LINE):
        if ((at - 1) ^ (at + 4 - 1)) & _STACK_SIZE:
            break
        try:
            words.append(f"{int.from_bytes(guest.copy_from_guest(at, 4), 'little'):08x}")
        except XenError:
            has_fault = True
            break
        at += 4
    step = _COMPAT_WORDS_PER_LINE
    lines += ["  " + " ".join(words[i : i + step]) for i in range(0, len(words), step)]
    if has_fault:
        lines.append(f"{'    ' if words else ' '}Fault while accessing guest memory.")
    elif not words:
        lines.append(" Stack empty.")
    return lines


def recent_hypercalls(
    records: Sequence[tuple[int, int, int, tuple[int, ...], int]], start: int, nargs: Callable[[int], int],
    place: Callable[[int], str | None] = lambda rip: None,
) -> list[str]:  # fmt: skip
    """The last hypercalls, oldest first: guest time in seconds, return address, name, arguments, result, and the place
    where ``place`` has a name for it.
    """
    lines = []
    for time, rip, op, args, result in records:
        name = xen.NAMES.get(op, f"hypercall {op}")
        shown = ", ".join(f"{arg:#x}" for arg in args[: nargs(op)])
        where = place(rip)
        by_name = "" if where is None else f"  at {where}"
        lines.append(f"{(time - start) / 1e9:12.6f}  {rip:#x}  {name}({shown}) = {result}{by_name}")
    return lines
