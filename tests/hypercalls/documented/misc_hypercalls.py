"""Debug registers, segment bases, stack_switch and fpu_taskswitch (xen/arch/x86/pv/misc-hypercalls.c), and iret
(xen/arch/x86/pv/iret.c).
"""

from __future__ import annotations

from hypercalls.public import arch_x86
from hypercalls.public import errno as e
from tests.hypercalls.documented import Case, Family

NON_CANONICAL = 1 << 47
XEN64 = 0xFFFF_8000_0000_0000
DR7_GD = 1 << 13
#: a breakpoint on I/O, enabled
DR7_IO = 2 << 16 | 1



def not_canonical(which: int) -> Case:
    return Case("set_segment_base", e.EINVAL, lambda w: w.hypercall("set_segment_base", which, NON_CANONICAL), 64)


FAMILY = Family(
    documented={
        ("set_debugreg", e.ENODEV): "no such register; set_debugreg",
        ("set_debugreg", e.EPERM): "a breakpoint in Xen's part, GD, or on I/O without CR4.DE; set_debugreg",
        ("set_debugreg", e.EINVAL): "upper halves of DR6 and DR7, which a 32-bit guest cannot name; set_debugreg",
        ("get_debugreg", e.ENODEV): "no such register; x86emul_read_dr",
        ("set_segment_base", e.EINVAL): "no such base, or not canonical; do_set_segment_base",
        ("set_segment_base", e.ENOSYS): "a 32-bit guest; do_set_segment_base",
    },
    cases=[
        Case("set_debugreg", e.ENODEV, lambda w: w.hypercall("set_debugreg", 8, 0)),
        Case("set_debugreg", e.ENODEV, lambda w: w.hypercall("set_debugreg", -1, 0)),
        Case("set_debugreg", e.EPERM, lambda w: w.hypercall("set_debugreg", 0, XEN64), 64),
        Case("set_debugreg", e.EPERM, lambda w: w.hypercall("set_debugreg", 5, DR7_GD)),
        Case("set_debugreg", e.EPERM, lambda w: w.hypercall("set_debugreg", 7, DR7_GD)),
        Case("set_debugreg", e.EPERM, lambda w: w.hypercall("set_debugreg", 7, DR7_IO)),
        Case("set_debugreg", e.EINVAL, lambda w: w.hypercall("set_debugreg", 6, 1 << 32), 64),
        Case("set_debugreg", e.EINVAL, lambda w: w.hypercall("set_debugreg", 7, 1 << 32), 64),
        Case("get_debugreg", e.ENODEV, lambda w: w.hypercall("get_debugreg", 8)),
        Case("set_segment_base", e.EINVAL, lambda w: w.hypercall("set_segment_base", 4, 0), 64),
        *map(not_canonical, (arch_x86.SEGBASE_FS, arch_x86.SEGBASE_GS_USER, arch_x86.SEGBASE_GS_KERNEL)),
        Case("set_segment_base", e.ENOSYS, lambda w: w.hypercall("set_segment_base", arch_x86.SEGBASE_FS, 0), 32),
    ],
    never_fails={
        "stack_switch": "any stack will do until Xen needs it",
        "fpu_taskswitch": "any argument is yes or no",
        "iret": "it does not return; a frame that cannot be taken crashes the domain",
    },
)
